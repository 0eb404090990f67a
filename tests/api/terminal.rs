//! How runs end: section 4, terminal, against a real repository in the process provider.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::app::{Db, Options, TestRun, TestServer, block_on, v1, v2, with};
use crate::on_both;

fn git(dir: &Path, args: &[&str]) -> String {
    let output = Command::new("git")
        .args(["-c", "user.name=t", "-c", "user.email=t@example.com", "-c", "init.defaultBranch=main"])
        .args(args)
        .current_dir(dir)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

fn commit(dir: &Path, file: &str) -> String {
    std::fs::write(dir.join(file), file).unwrap();
    git(dir, &["add", "."]);
    git(dir, &["commit", "-qm", file]);
    git(dir, &["rev-parse", "HEAD"])
}

struct Bench {
    server: TestServer,
    repo: tempfile::TempDir,
    start: String,
}

impl Bench {
    fn new(db: Db, settings: &[(&str, &str)]) -> Self {
        let repo = tempfile::tempdir().unwrap();
        git(repo.path(), &["init", "-q"]);
        let start = commit(repo.path(), "readme.txt");
        let mut options = Options::new(db).set("PROCESS_SANDBOX_ROOT", repo.path().display().to_string());
        for (name, value) in settings {
            options = options.set(name, *value);
        }
        Self { server: TestServer::with(options), repo, start }
    }

    async fn bound(&self, thread: &str) -> TestRun {
        let run = self.server.run(thread, "c", "s").await;
        let bind = json!({
            "codesandboxId": "local", "sandboxProvider": "process", "runStartSha": self.start,
            "repoDir": self.repo.path(),
        });
        let (status, body) = self.server.post(&format!("/api/internal/runs/{}/bind", run.id), bind).await;
        assert_eq!(status, 200, "{body}");
        run
    }
}

fn end(run: &TestRun, seq: i64, sha: &str) -> Value {
    with(v2(run, seq), json!({"messages": [{"type": "result", "subtype": "success"}], "endSha": sha}))
}

on_both!(the_daemons_end_is_compared_with_the_real_head, |db| {
    block_on(async {
        let bench = Bench::new(db, &[]);
        let run = bench.bound("t").await;
        let head = commit(bench.repo.path(), "work.txt");
        assert_eq!(bench.server.event(&run, &v2(&run, 0)).await.0, 200);
        let (status, ack) = bench.server.event(&run, &end(&run, 1, &head)).await;
        assert_eq!((status, &ack["status"]), (200, &json!("accepted")));
        let row = bench.server.until(&run, |row| row["status"] == "finished").await;
        assert_eq!((&row["diffSource"], &row["diffSourceContext"]["reason"]), (&json!("sha"), &json!("head_matches")));
        assert_eq!((&row["terminalKind"], &row["runEndSha"]), (&json!("done"), &json!(head)));
        assert!(row["endedAt"].is_string());
        let (status, ack) = bench.server.event(&run, &v2(&run, 2)).await;
        assert_eq!((status, &ack["reason"]), (202, &json!("run_terminal")));
        assert_eq!(bench.server.event(&run, &end(&run, 1, &head)).await.1["reason"], "duplicate_event");
    });
});

on_both!(another_head_falls_back_to_the_working_tree, |db| {
    block_on(async {
        let bench = Bench::new(db, &[]);
        let run = bench.bound("t").await;
        let claimed = commit(bench.repo.path(), "claimed.txt");
        let live = commit(bench.repo.path(), "pushed-after.txt");
        bench.server.event(&run, &end(&run, 0, &claimed)).await;
        let row = bench.server.until(&run, |row| row["status"] == "finished").await;
        assert_eq!(row["diffSource"], "working-tree-fallback");
        assert_eq!(row["diffSourceContext"], json!({"reason": "head_mismatch", "endSha": claimed, "headSha": live}));
    });
});

on_both!(an_unreadable_head_falls_back_and_says_why, |db| {
    block_on(async {
        let bench = Bench::new(db, &[]);
        let unbound = bench.server.run("t1", "c", "s").await;
        bench.server.event(&unbound, &end(&unbound, 0, &bench.start)).await;
        let row = bench.server.until(&unbound, |row| row["status"] == "finished").await;
        assert_eq!(row["diffSourceContext"]["detail"], "sandbox_not_bound");
        let gone = bench.bound("t2").await;
        std::fs::remove_dir_all(bench.repo.path().join(".git")).unwrap();
        bench.server.event(&gone, &end(&gone, 0, &bench.start)).await;
        let row = bench.server.until(&gone, |row| row["status"] == "finished").await;
        assert_eq!(
            (&row["diffSource"], &row["diffSourceContext"]["reason"]),
            (&json!("working-tree-fallback"), &json!("head_unreadable"))
        );
    });
});

on_both!(errors_and_stops_end_a_run_too, |db| {
    block_on(async {
        let bench = Bench::new(db, &[]);
        for (thread, message, kind, status) in [
            ("t1", json!({"type": "result", "is_error": true}), "failed", "failed"),
            ("t2", json!({"type": "custom-error"}), "failed", "failed"),
            ("t3", json!({"type": "custom-stop"}), "stopped", "finished"),
        ] {
            let run = bench.bound(thread).await;
            let event = with(end(&run, 0, &bench.start), json!({"messages": [message]}));
            assert_eq!(bench.server.event(&run, &event).await.0, 200);
            let row = bench.server.until(&run, |row| row["endedAt"].is_string()).await;
            assert_eq!((&row["terminalKind"], &row["status"]), (&json!(kind), &json!(status)));
        }
    });
});

on_both!(a_terminal_without_end_sha_waits_and_the_sweep_ends_it, |db| {
    block_on(async {
        let bench = Bench::new(db, &[("MISSING_END_SHA_TIMEOUT_SECONDS", "1"), ("SWEEP_INTERVAL_SECONDS", "1")]);
        let run = bench.bound("t").await;
        let event = with(v2(&run, 0), json!({"messages": [{"type": "result"}]}));
        let (status, ack) = bench.server.event(&run, &event).await;
        assert_eq!((status, &ack["reason"]), (202, &json!("missing_end_sha")));
        assert_eq!(bench.server.events(&run).await.len(), 1);
        assert_eq!(bench.server.quarantine("t").await[0]["reason"], "missing_end_sha");
        let row = bench.server.until(&run, |row| row["status"] == "failed").await;
        assert_eq!(row["failureReason"], "missing_end_sha_timeout");
        assert_eq!(bench.server.event(&run, &v2(&run, 1)).await.1["reason"], "run_terminal");
    });
});

on_both!(a_legacy_run_is_classified_by_what_it_changed, |db| {
    block_on(async {
        let bench = Bench::new(db, &[]);
        bench.server.flag("daemonRunIdStrict", false).await;
        for (thread, file, outcome) in [("t1", "notes.txt", "not_required"), ("t2", "page.css", "inconclusive")] {
            let run = bench.bound(thread).await;
            std::fs::write(bench.repo.path().join(file), "changed").unwrap();
            assert_eq!(bench.server.event(&run, &v1(&run, "working")).await.0, 200);
            let done = with(v1(&run, "done"), json!({"messages": [{"type": "result"}]}));
            assert_eq!(bench.server.event(&run, &done).await.0, 200);
            bench.server.until(&run, |row| row["status"] == "finished").await;
            let path = format!("/api/internal/threads/{thread}/chats/c");
            let mut seen = Value::Null;
            for _ in 0..200 {
                seen = bench.server.get(&path).await.1["uiValidation"].clone();
                if seen["uiValidationOutcome"] == outcome {
                    break;
                }
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            }
            assert_eq!(seen["uiValidationOutcome"], outcome, "{seen}");
            assert_eq!(seen["latestRunId"], json!(run.id));
        }
    });
});
