//! Runs, flags, chats: section 3.

use reqwest::Method;
use serde_json::json;

use crate::app::{TestServer, block_on, start_body, v2, with};
use crate::on_both;

on_both!(a_known_start_request_returns_its_run, |db| {
    block_on(async {
        let server = TestServer::start(db);
        let (status, first) = server.post("/api/internal/runs", start_body("t", "c", "s-1")).await;
        assert_eq!((status, &first["status"]), (201, &json!("booting")));
        assert_eq!(first["payloadVersion"], 2);
        assert_eq!(
            first["frozenFlagSnapshot"],
            json!({"sandboxPreview": true, "daemonRunIdStrict": true, "rolloutPhase": "internal"})
        );
        let (status, again) = server.post("/api/internal/runs", start_body("t", "c", "s-1")).await;
        assert_eq!((status, &again), (200, &first));
        let (status, other) = server.post("/api/internal/runs", start_body("t", "c2", "s-1")).await;
        assert_eq!(status, 201);
        assert_ne!(other["runId"], first["runId"]);
    });
});

on_both!(many_starts_at_once_leave_one_active_run, |db| {
    block_on(async {
        let server = TestServer::start(db);
        let starts = (0..12).map(|n| server.post("/api/internal/runs", start_body("t", "c", &format!("s-{n}"))));
        let answers = futures_util::future::join_all(starts).await;
        let mut created = Vec::new();
        for (status, body) in answers {
            match status {
                201 => created.push(body["runId"].as_str().unwrap().to_owned()),
                409 => assert_eq!(body["code"], "conflict"),
                other => panic!("{other}: {body}"),
            }
        }
        let mut active = 0;
        for run in &created {
            let (_, row) = server.get(&format!("/api/internal/runs/{run}")).await;
            let is_active = ["booting", "running", "validating"].contains(&row["status"].as_str().unwrap());
            active += usize::from(is_active);
            assert_eq!(row["isActive"], is_active);
        }
        assert_eq!(active, 1, "{created:?}");
        let (_, chat) = server.get("/api/internal/threads/t/chats/c").await;
        assert!(created.contains(&chat["context"]["activeRunId"].as_str().unwrap().to_owned()));
    });
});

on_both!(a_new_run_ends_the_one_before_and_binding_follows_the_pointer, |db| {
    block_on(async {
        let server = TestServer::start(db);
        let old = server.run("t", "c", "s-1").await;
        let new = server.run("t", "c", "s-2").await;
        let old_row = server.row(&old).await;
        assert_eq!((&old_row["status"], &old_row["isActive"]), (&json!("finished"), &json!(false)));
        let bind = json!({"codesandboxId": "box", "sandboxProvider": "docker", "runStartSha": "a".repeat(40)});
        let (status, body) = server.post(&format!("/api/internal/runs/{}/bind", old.id), bind.clone()).await;
        assert_eq!((status, &body["code"]), (409, &json!("run_not_active")));
        let (status, body) = server.post(&format!("/api/internal/runs/{}/bind", new.id), bind.clone()).await;
        assert_eq!(
            (status, &body["codesandboxId"], &body["runStartSha"]),
            (200, &json!("box"), &json!("a".repeat(40)))
        );
        // The alias is read; the start commit is written once.
        let alias = json!({"sandboxInstanceId": "box", "sandboxProvider": "docker", "runStartSha": "b".repeat(40)});
        let (status, body) = server.post(&format!("/api/internal/runs/{}/bind", new.id), alias).await;
        assert_eq!((status, &body["code"]), (409, &json!("run_not_active")));
        let (_, chat) = server.get("/api/internal/threads/t/chats/c").await;
        assert_eq!(chat["context"]["activeCodesandboxId"], "box");
        assert_eq!(chat["uiValidation"], json!(null));
    });
});

on_both!(a_run_is_bound_to_any_provider_that_runs_elsewhere, |db| {
    block_on(async {
        let server = TestServer::start(db);
        for provider in ["docker", "daytona", "e2b"] {
            let run = server.run("t", provider, "s").await;
            let bind = json!({"codesandboxId": "box", "sandboxProvider": provider, "runStartSha": "a".repeat(40)});
            let (status, body) = server.post(&format!("/api/internal/runs/{}/bind", run.id), bind).await;
            assert_eq!((status, &body["sandboxProvider"]), (200, &json!(provider)));
        }
    });
});

on_both!(flags_are_frozen_when_the_run_is_made, |db| {
    block_on(async {
        let server = TestServer::start(db);
        let before = server.run("t", "c1", "s").await;
        let flag = "/api/internal/flags/daemonRunIdStrict";
        let put =
            |query: &'static str, enabled: bool| server.internal(Method::PUT, query, Some(json!({"enabled": enabled})));
        assert_eq!(put("/api/internal/flags/daemonRunIdStrict", false).await.0, 200);
        assert_eq!(put("/api/internal/flags/daemonRunIdStrict?repoFullName=acme/web", true).await.0, 200);
        assert_eq!(put("/api/internal/flags/daemonRunIdStrict?userId=u-1", false).await.0, 200);
        let (_, user) = server.get(&format!("{flag}?userId=u-1&repoFullName=acme/web")).await;
        assert_eq!((&user["enabled"], &user["source"]), (&json!(false), &json!("user")));
        let (_, repo) = server.get(&format!("{flag}?userId=u-2&repoFullName=acme/web")).await;
        assert_eq!((&repo["enabled"], &repo["source"]), (&json!(true), &json!("repo")));
        let (_, default) = server.get(flag).await;
        assert_eq!((&default["enabled"], &default["source"]), (&json!(false), &json!("default")));

        let after = server.run("t", "c2", "s").await;
        assert_eq!(server.row(&before).await["frozenFlagSnapshot"]["daemonRunIdStrict"], true);
        assert_eq!(server.row(&after).await["frozenFlagSnapshot"]["daemonRunIdStrict"], false);
        // What happens to a run follows its snapshot.
        let envelope = with(v2(&before, 0), json!({"runId": null}));
        assert_eq!(server.event(&before, &envelope).await.1["reason"], "missing_run_id");
        let envelope = with(v2(&after, 0), json!({"runId": null}));
        assert_eq!(server.event(&after, &envelope).await.1["reason"], "legacy_mode");

        let gone = format!("{flag}?userId=u-1");
        assert_eq!(server.internal(Method::DELETE, &gone, None).await.0, 204);
        assert_eq!(server.internal(Method::DELETE, &gone, None).await.0, 404);
    });
});

on_both!(the_internal_api_asks_for_its_key, |db| {
    block_on(async {
        let server = TestServer::start(db);
        let run = server.run("t", "c", "s").await;
        for path in [
            format!("/api/internal/runs/{}", run.id),
            format!("/api/internal/runs/{}/events", run.id),
            "/api/internal/quarantine?threadId=t".to_owned(),
            "/api/internal/flags/sandboxPreview".to_owned(),
            "/api/internal/threads/t/chats/c".to_owned(),
            "/api/internal/nothing-here".to_owned(),
        ] {
            for key in [None, Some("wrong"), Some("")] {
                let mut request = server.http.get(format!("{}{path}", server.url));
                if let Some(key) = key {
                    request = request.header("X-Internal-Service-Key", key);
                }
                let response = request.send().await.unwrap();
                assert_eq!(response.status(), 403, "{path} with {key:?}");
                assert!(response.text().await.unwrap().contains("permission_denied"));
            }
        }
        let patch = server.http.patch(format!("{}/api/internal/runs", server.url)).send().await.unwrap();
        assert_eq!(patch.status(), 403);
        assert_eq!(server.get("/api/internal/nothing-here").await.0, 404);
    });
});
