//! Health, metrics, start and stop: section 13.

use std::sync::Arc;

use runwarden::clock::SystemClock;
use runwarden_actors::ports::Clock as _;
use runwarden_actors::run::{Deps, SweepOptions, sweep_once};
use runwarden_actors::testing::{TestClock, TestCoordination};
use serde_json::json;

use crate::app::{Db, Options, TestServer, block_on, v1, v2, with};
use crate::on_both;

on_both!(health_and_readiness_name_their_parts, |db| {
    block_on(async {
        let server = TestServer::start(db);
        assert_eq!(server.get("/healthz").await.1["status"], "ok");
        let (status, body) = server.get("/readyz").await;
        assert_eq!(status, 200, "{body}");
        for part in ["database", "coordination", "objects"] {
            assert_eq!(body[part], json!({"ok": true}));
        }
    });
});

#[test]
fn counters_are_there_for_prometheus() {
    block_on(async {
        let server = TestServer::start(Db::Sqlite);
        let run = server.run("t", "c", "s").await;
        server.event(&run, &v2(&run, 0)).await;
        server.event(&run, &v2(&run, 0)).await;
        let mut strict = v2(&run, 1);
        strict.as_object_mut().unwrap().remove("runId");
        server.event(&run, &strict).await;
        let text = server.http.get(format!("{}/metrics", server.url)).send().await.unwrap().text().await.unwrap();
        for line in [
            "runwarden_envelopes{outcome=\"accepted\"}",
            "runwarden_envelopes{outcome=\"duplicate\"}",
            "preview_strict_mismatch{repo=\"acme/web\",user=\"u-1\",provider=\"unbound\"}",
            "runwarden_quarantined{reason=\"missing_run_id\",repo=\"acme/web\"}",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
        // Neither a token nor a key is a label.
        assert!(!text.contains(&run.token) && !text.contains(crate::app::INTERNAL_KEY));
    });
}

on_both!(a_restart_forgets_nothing, |db| {
    block_on(async {
        let folder = tempfile::tempdir().unwrap();
        let options = Options::new(db);
        let settings = options.settings.clone();
        let dir = folder.path().display().to_string();
        let mut server = TestServer::with(options.set("DATA_DIR", dir.clone()));
        let run = server.run("t", "c", "s").await;
        assert_eq!(server.event(&run, &v2(&run, 0)).await.0, 200);
        server.stop();
        let mut again = Options::new(Db::Sqlite).set("DATA_DIR", dir);
        again.settings.extend(settings);
        let server = TestServer::with(again);
        // The token's key and the dedupe are still there.
        assert_eq!(server.event(&run, &v2(&run, 0)).await.1["reason"], "duplicate_event");
        assert_eq!(server.event(&run, &v2(&run, 1)).await.0, 200);
        let (status, same) = server.post("/api/internal/runs", crate::app::start_body("t", "c", "s")).await;
        assert_eq!((status, &same["daemonToken"]), (200, &json!(run.token)));
    });
});

on_both!(old_quarantine_is_aggregated_and_goes_with_its_objects, |db| {
    block_on(async {
        let (sender, receiver) = std::sync::mpsc::channel();
        let clock = Arc::new(TestClock::default());
        let theirs = Arc::clone(&clock);
        let server = TestServer::with(Options::new(db).dress(move |deps| {
            let deps = Deps { clock: theirs, ..deps };
            sender.send(deps.clone()).unwrap();
            deps
        }));
        // The server's own sweep has the lease; this one has leases of its own.
        let deps = Deps { coordination: Arc::new(TestCoordination::default()), ..receiver.recv().unwrap() };
        let run = server.run("t", "c", "s").await;
        server.event(&run, &with(v1(&run, "large"), json!({"pad": "x".repeat(20_000)}))).await;
        server.event(&run, &v1(&run, "small")).await;
        let object = server.quarantine("t").await[1]["payloadR2Key"].as_str().unwrap().to_owned();
        let sweep = || sweep_once(&deps, SweepOptions::default(), "the test");
        clock.advance_ms(29 * 86_400_000);
        assert!(sweep().await.unwrap().purged.is_empty());
        assert!(deps.evidence.get(&object).await.unwrap().is_some());
        clock.advance_ms(2 * 86_400_000);
        let swept = sweep().await.unwrap();
        assert_eq!(swept.purged.iter().map(|day| day.rows).sum::<i64>(), 2);
        assert!(server.quarantine("t").await.is_empty());
        assert_eq!(deps.evidence.get(&object).await.unwrap(), None);
    });
});

/// Runs the real program and gives its exit code and what it said on standard error.
fn program(arguments: &[&str], settings: &[(&str, &str)]) -> (Option<i32>, String) {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_runwarden"))
        .args(arguments)
        .envs(settings.iter().copied())
        .output()
        .unwrap();
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn a_taken_port_is_an_error_with_advice_and_no_panic() {
    let folder = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let (code, said) = program(&["serve"], &[("PORT", &port), ("DATA_DIR", folder.path().to_str().unwrap())]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("set HOST and PORT to a free address") && !said.contains("panicked"), "{said}");
}

#[test]
fn a_bypass_that_is_over_or_too_long_stops_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let now = SystemClock.now();
    for until in [now.plus_millis(-1_000), now.plus_millis(4 * 3_600_000 + 60_000)] {
        let until = until.to_rfc3339();
        let settings = [
            ("PORT", "0"),
            ("DATA_DIR", folder.path().to_str().unwrap()),
            ("REDIS_URL", "redis://127.0.0.1:1/"),
            ("PREVIEW_BYPASS_USERS", "u-1"),
            ("PREVIEW_BYPASS_UNTIL", until.as_str()),
        ];
        let (code, said) = program(&["serve"], &settings);
        assert_eq!(code, Some(2), "{said}");
        assert!(said.contains("PREVIEW_BYPASS_UNTIL is `") && said.contains("at most 4 hours ahead"), "{said}");
        assert!(!said.contains("is configured"), "{said}");
    }
}

#[test]
fn a_daemon_with_the_token_of_another_chat_is_told_at_once() {
    block_on(async {
        let server = TestServer::start(Db::Sqlite);
        let run = server.run("t", "c", "s").await;
        let folder = tempfile::tempdir().unwrap();
        let spool = folder.path().join("spool").display().to_string();
        let arguments =
            ["daemon", "exec", "--server", &server.url, "--thread", "t", "--chat", "another", "--run", &run.id];
        let rest = ["--spool", &spool, "--", "sh", "-c", "echo '{\"type\":\"assistant\"}'"];
        let arguments: Vec<String> = arguments.iter().chain(&rest).map(ToString::to_string).collect();
        let token = run.token.clone();
        let (code, said) = actix_web::web::block(move || {
            let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
            program(&arguments, &[("RUNWARDEN_DAEMON_TOKEN", &token)])
        })
        .await
        .unwrap();
        assert_eq!(code, Some(77), "{said}");
        // By the error frame and then HTTP, not by acknowledgements that never come.
        assert!(said.contains("binding_mismatch") && !said.contains("no acknowledgement within"), "{said}");
        assert!(!said.contains(&run.token));
        assert!(server.events(&run).await.is_empty());
    });
}
