//! What the server refuses, and what the daemon does about it.

use runwarden::daemon::spool::SpoolError;
use runwarden::daemon::{DaemonError, ExecOptions, Limits, exec};
use runwarden_actors::contract::RunId;
use serde_json::{Value, json};

use crate::server::{Scripted, Server, Stream, TOKEN};
use crate::support::{Place, eventually, quick, run_id, says};

#[actix_web::test]
async fn http_is_used_where_the_stream_is_refused() {
    for stream in [
        Stream::Refused(404),
        Stream::Refused(426),
        Stream::Refused(501),
        Stream::Refused(500),
        Stream::ClosesAtFirstEnvelope,
        Stream::Silent,
    ] {
        let place = Place::new();
        let server = Server::start(run_id());
        server.state().stream = stream;
        let (options, _switch) = place.options(&server.url, &says(20));
        let ack_timeout = std::time::Duration::from_millis(50);
        let options = ExecOptions { limits: Limits { ack_timeout, ..quick() }, ..options };
        exec(options).await.unwrap();
        let state = server.state();
        assert_eq!(state.numbers(), (0..20).collect::<Vec<_>>(), "{stream:?}");
        assert!(state.posts > 0 && state.streams > 0 && state.late_gaps.is_empty(), "{stream:?}");
    }
}

#[actix_web::test]
async fn the_stream_is_tried_again_later() {
    let place = Place::new();
    let server = Server::start(run_id());
    server.state().stream = Stream::Refused(501);
    let script = format!("{}; while [ ! -e \"$1/go\" ]; do sleep 0.02; done; echo '{{\"n\":10}}'", says(10));
    let (options, _switch) = place.options(&server.url, &script);
    let offer = async {
        eventually("ten messages over HTTP", || server.state().numbers().len() == 10).await;
        let before = {
            let mut state = server.state();
            state.stream = Stream::Works;
            state.http_down = Some(503);
            state.streams
        };
        eventually("another stream", || server.state().streams > before).await;
        std::fs::write(place.path("go"), "").unwrap();
    };
    let (outcome, ()) = tokio::join!(exec(options), offer);
    outcome.unwrap();
    assert_eq!(server.state().numbers(), (0..=10).collect::<Vec<_>>());
}

/// Its other codes may be the agent's own.
#[test]
fn a_wrong_option_has_an_exit_code_of_its_own() {
    let ended = |arguments: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_runwarden"));
        command.args(arguments).env_remove("RUNWARDEN_DAEMON_TOKEN").output().unwrap()
    };
    let run =
        ["daemon", "exec", "--server", "http://127.0.0.1:9", "--thread", "t", "--chat", "c", "--run", "r", "--", "a"];
    for wrong in [&["daemon", "exec", "--bogus"][..], &["daemon", "exec"], &["daemon", "none-such"], &["daemon"], &run]
    {
        let output = ended(wrong);
        assert_eq!(output.status.code(), Some(64), "{wrong:?}: {}", String::from_utf8_lossy(&output.stderr));
        assert!(!output.stderr.is_empty());
    }
    assert_eq!(ended(&["daemon", "exec", "--help"]).status.code(), Some(0));
    assert_eq!(ended(&["serve", "--bogus"]).status.code(), Some(2), "other commands");
}

#[actix_web::test]
async fn a_useless_token_is_found_before_the_agent_starts() {
    let place = Place::new();
    let server = Server::start(run_id());
    server.state().token = "another".to_owned();
    let (options, _switch) = place.options(&server.url, "touch \"$1/started\"");
    let error = exec(options).await.unwrap_err();
    assert!(matches!(error, DaemonError::Unauthorized { status: 401, .. }), "{error}");
    assert_eq!(error.exit_code(), 77);
    assert!(!error.to_string().contains(TOKEN));
    assert!(!place.path("started").exists());
}

#[actix_web::test]
async fn a_token_of_another_run_is_found_before_the_agent_starts() {
    let place = Place::new();
    let server = Server::start(RunId::parse("01935d3e-7c00-7000-8000-000000000002").unwrap());
    let (options, _switch) = place.options(&server.url, "touch \"$1/started\"");
    let error = exec(options).await.unwrap_err();
    assert!(matches!(error, DaemonError::WrongRun { .. }), "{error}");
    assert!(!place.path("started").exists());
}

#[actix_web::test]
async fn a_token_taken_away_keeps_everything_for_the_next_start() {
    for stream in [Stream::Works, Stream::Refused(501)] {
        let place = Place::new();
        let server = Server::start(run_id());
        {
            let mut state = server.state();
            state.stream = stream;
            state.revoke_after = Some(3);
        }
        let (options, _switch) = place.options(&server.url, &says(60));
        let error = exec(options.clone()).await.unwrap_err();
        let DaemonError::Unauthorized { status: 401, held, spool } = &error else { panic!("{error}") };
        assert!(*held > 0);
        assert_eq!(*spool, place.spool());
        assert!(error.to_string().contains("start the same command again"));

        {
            let mut state = server.state();
            state.token = TOKEN.to_owned();
            state.revoke_after = None;
        }
        let outcome = exec(options).await.unwrap();
        assert_eq!((outcome.exit_code, outcome.resumed), (0, true));
        let state = server.state();
        assert_eq!(state.numbers(), (0..60).collect::<Vec<_>>());
        assert_eq!(state.last_message()["type"], "result");
    }
}

#[actix_web::test]
async fn without_a_token_a_full_spool_ends_the_agent_instead_of_holding_it_for_ever() {
    let place = Place::new();
    let server = Server::start(run_id());
    server.state().revoke_after = Some(1);
    let (options, _switch) = place.options(&server.url, "while :; do echo '{\"type\":\"assistant\"}'; done");
    let options = ExecOptions { limits: Limits { spool_bytes: 4096, ..quick() }, ..options };
    let error = exec(options).await.unwrap_err();
    assert!(matches!(error, DaemonError::Unauthorized { .. }), "{error}");
}

#[actix_web::test]
async fn a_refused_envelope_is_set_aside_and_the_rest_goes_on() {
    for (status, code) in [(413, "payload_too_large"), (400, "invalid_request")] {
        let place = Place::new();
        let server = Server::start(run_id());
        {
            let mut state = server.state();
            state.stream = Stream::Refused(501);
            state.scripted.push_back(Scripted { status, body: json!({ "code": code, "message": "no" }) });
        }
        let (options, _switch) = place.options(&server.url, &says(30));
        let outcome = exec(options).await.unwrap();
        assert_eq!(outcome.deliveries.rejected, 1);

        let aside = std::fs::read_to_string(place.path("run.spool.rejected")).unwrap();
        let lines: Vec<Value> = aside.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), 1);
        assert_eq!((&lines[0]["status"], &lines[0]["code"]), (&json!(status), &json!(code)));
        let mut numbers: Vec<_> = lines[0]["envelope"]["messages"].as_array().unwrap().clone();
        let first = numbers.len() as u64;
        assert_eq!(numbers.remove(0)["n"], 0);
        assert_eq!(server.state().numbers(), (first..30).collect::<Vec<_>>());
    }
}

#[actix_web::test]
async fn an_answer_counts_only_with_both_identities() {
    let place = Place::new();
    let server = Server::start(run_id());
    let ack = |id: Value, seq: Value| Scripted {
        status: 200,
        body: json!({ "success": true, "acknowledgedEventId": id, "acknowledgedSeq": seq, "status": "accepted" }),
    };
    {
        let mut state = server.state();
        state.stream = Stream::Refused(501);
        state.scripted.extend([
            ack(json!("another"), json!(0)),
            ack(Value::Null, json!(0)),
            ack(Value::Null, Value::Null),
            Scripted { status: 200, body: json!({ "ok": true }) },
            Scripted { status: 429, body: json!({ "code": "rate_limited" }) },
            Scripted { status: 503, body: json!({ "code": "store_unavailable" }) },
            Scripted { status: 302, body: json!({}) },
            Scripted { status: 408, body: json!({}) },
        ]);
    }
    let (options, _switch) = place.options(&server.url, &says(10));
    let outcome = exec(options).await.unwrap();
    assert_eq!(server.state().numbers(), (0..10).collect::<Vec<_>>());
    assert_eq!(outcome.deliveries.rejected, 0);
}

#[actix_web::test]
async fn a_server_that_is_not_there_starts_no_agent() {
    let place = Place::new();
    let (options, _switch) = place.options("http://127.0.0.1:9", "touch \"$1/started\"");
    let start_timeout = std::time::Duration::from_millis(50);
    let error = exec(ExecOptions { limits: Limits { start_timeout, ..quick() }, ..options }).await.unwrap_err();
    assert!(matches!(error, DaemonError::ServerUnreachable { .. }), "{error}");
    assert!(!place.path("started").exists());
}

#[actix_web::test]
async fn a_stop_while_delivering_gives_up_and_keeps_everything() {
    let place = Place::new();
    let server = Server::start(run_id());
    {
        let mut state = server.state();
        state.stream = Stream::Refused(501);
        state.http_down = Some(503);
    }
    let (options, switch) = place.options(&server.url, &format!("{}; touch \"$1/done\"", says(10)));
    let stop = async {
        eventually("the agent's end", || place.path("done").exists()).await;
        // The first one may still meet the agent; one of them meets the delivery.
        loop {
            switch.request();
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    let error = tokio::select! {
        outcome = exec(options.clone()) => outcome.unwrap_err(),
        () = stop => unreachable!(),
    };
    assert!(matches!(error, DaemonError::Undelivered { .. }), "{error}");
    assert_eq!(error.exit_code(), 75);

    server.state().http_down = None;
    let (_, stop) = runwarden::daemon::stop_switch();
    exec(ExecOptions { stop, ..options }).await.unwrap();
    assert_eq!(server.state().numbers(), (0..10).collect::<Vec<_>>());
}

#[actix_web::test]
async fn a_second_daemon_on_one_spool_is_refused() {
    let place = Place::new();
    let server = Server::start(run_id());
    let script = "echo '{\"n\":0}'; while [ ! -e \"$1/go\" ]; do sleep 0.02; done";
    let (options, _switch) = place.options(&server.url, script);
    let second = async {
        eventually("the first daemon's work", || !server.state().events.is_empty()).await;
        let error = exec(options.clone()).await.unwrap_err();
        assert!(matches!(error, DaemonError::Spool(SpoolError::Locked { .. })), "{error}");
        std::fs::write(place.path("go"), "").unwrap();
    };
    let (outcome, ()) = tokio::join!(exec(options.clone()), second);
    outcome.unwrap();
}
