//! The eleven cases of section 4 over HTTP.

use serde_json::json;
use sha2::Digest as _;

use crate::app::{Db, Options, TestServer, block_on, v1, v2, with};
use crate::on_both;

on_both!(case_1_a_daemon_needs_its_own_token, |db| {
    block_on(async {
        let server = TestServer::start(db);
        let run = server.run("t", "c", "s").await;
        let other = server.run("t", "c2", "s").await;
        let body = v2(&run, 0).to_string();
        let (status, answer) = server.event_raw(None, body.clone()).await;
        assert_eq!((status, &answer["code"]), (401, &json!("permission_denied")));
        let tampered = format!("{}x", run.token);
        for token in ["", "nonsense", "a.b.c", tampered.as_str()] {
            let (status, answer) = server.event_raw(Some(token), body.clone()).await;
            assert_eq!((status, &answer["code"]), (401, &json!("signature_mismatch")), "{token}");
        }
        let (status, answer) = server.event_raw(Some(&other.token), body).await;
        assert_eq!((status, &answer["code"]), (403, &json!("binding_mismatch")));
        assert!(server.events(&run).await.is_empty() && server.quarantine("t").await.is_empty());
    });
});

on_both!(case_3_strict_quarantines_and_legacy_accepts, |db| {
    block_on(async {
        let server = TestServer::start(db);
        let strict = server.run("t", "c", "s").await;
        let (status, ack) = server.event(&strict, &v1(&strict, "hello")).await;
        assert_eq!((status, &ack["status"], &ack["reason"]), (202, &json!("quarantined"), &json!("missing_run_id")));
        assert_eq!((&ack["acknowledgedEventId"], &ack["acknowledgedSeq"]), (&json!(null), &json!(null)));
        let row = server.row(&strict).await;
        assert_eq!((&row["status"], &row["lastAcceptedSeq"]), (&json!("booting"), &json!(null)));
        assert_eq!(row["counters"]["quarantined"], 1);
        // A retry is the same row.
        server.event(&strict, &v1(&strict, "hello")).await;
        let items = server.quarantine("t").await;
        assert_eq!(items.len(), 1);
        assert_eq!((&items[0]["reason"], &items[0]["runIdOrNull"]), (&json!("missing_run_id"), &json!(null)));
        assert_eq!(items[0]["activeRunId"], json!(strict.id));

        server.flag("daemonRunIdStrict", false).await;
        let legacy = server.run("t2", "c", "s").await;
        let (status, ack) = server.event(&legacy, &v1(&legacy, "one")).await;
        assert_eq!((status, &ack["success"], &ack["reason"]), (200, &json!(true), &json!("legacy_mode")));
        assert_eq!(server.event(&legacy, &v1(&legacy, "one")).await.1["reason"], "duplicate_event");
        assert_eq!(server.event(&legacy, &v1(&legacy, "two")).await.0, 200);
        let seqs: Vec<_> = server.events(&legacy).await.iter().map(|event| event["seq"].clone()).collect();
        assert_eq!(seqs, [json!(0), json!(1)]);
        let reasons: Vec<_> = server.quarantine("t2").await.iter().map(|item| item["reason"].clone()).collect();
        assert_eq!(reasons, [json!("legacy_mode"), json!("legacy_mode")]);
    });
});

on_both!(case_4_a_superseded_run_meets_a_mismatch_in_both_modes, |db| {
    block_on(async {
        let server = TestServer::start(db);
        for strict in [true, false] {
            server.flag("daemonRunIdStrict", strict).await;
            let thread = format!("t-{strict}");
            let old = server.run(&thread, "c", "s1").await;
            assert_eq!(server.event(&old, &v2(&old, 0)).await.0, 200);
            let new = server.run(&thread, "c", "s2").await;
            for late in [v2(&old, 1), v1(&old, "late"), with(v2(&old, 5), json!({"runId": new.id}))] {
                let (status, ack) = server.event(&old, &late).await;
                assert_eq!((status, &ack["reason"]), (202, &json!("mismatch")), "{late}");
            }
            // And the new run's daemon with the old run's id.
            let (status, ack) = server.event(&new, &with(v2(&new, 0), json!({"runId": old.id}))).await;
            assert_eq!((status, &ack["reason"]), (202, &json!("mismatch")));
            assert_eq!(server.events(&old).await.len(), 1);
            assert!(server.events(&new).await.is_empty());
            assert_eq!(server.quarantine(&thread).await.len(), 4);
        }
    });
});

on_both!(cases_5_and_6_versions_do_not_mix, |db| {
    block_on(async {
        let server = TestServer::start(db);
        let run = server.run("t", "c", "s").await;
        for unusable in [json!({"seq": null}), json!({"eventId": null}), json!({"seq": -1}), json!({"seq": 0.5})] {
            let (status, ack) = server.event(&run, &with(v2(&run, 0), unusable.clone())).await;
            assert_eq!((status, &ack["reason"]), (202, &json!("payload_version_mismatch")), "{unusable}");
            assert_eq!(ack["acknowledgedSeq"], *unusable.get("seq").unwrap_or(&json!(0)));
        }
        assert_eq!(server.event(&run, &v2(&run, 0)).await.0, 200);
        let (status, ack) = server.event(&run, &with(v1(&run, "old"), json!({"runId": run.id}))).await;
        assert_eq!((status, &ack["reason"]), (202, &json!("payload_version_mismatch")));
        let row = server.row(&run).await;
        assert_eq!((&row["daemonPayloadVersion"], &row["lastAcceptedSeq"]), (&json!(2), &json!(0)));
        assert_eq!(row["counters"]["quarantined"], 5);
    });
});

on_both!(cases_7_and_9_retries_and_late_events, |db| {
    block_on(async {
        let server = TestServer::start(db);
        let run = server.run("t", "c", "s").await;
        let (status, ack) = server.event(&run, &v2(&run, 0)).await;
        assert_eq!(status, 200);
        assert_eq!(ack["acknowledgedEventId"], v2(&run, 0)["eventId"]);
        assert_eq!(ack["acknowledgedSeq"], 0);
        let (status, ack) = server.event(&run, &v2(&run, 0)).await;
        assert_eq!((status, &ack["reason"], &ack["acknowledgedSeq"]), (202, &json!("duplicate_event"), &json!(0)));
        assert_eq!(server.event(&run, &v2(&run, 4)).await.0, 200);
        // The same id under a higher number is the same event.
        let renumbered = with(v2(&run, 0), json!({"seq": 9}));
        assert_eq!(server.event(&run, &renumbered).await.1["reason"], "duplicate_event");
        // Never stored: kept.
        let (status, ack) = server.event(&run, &v2(&run, 2)).await;
        assert_eq!((status, &ack["reason"], &ack["acknowledgedSeq"]), (202, &json!("out_of_order_seq"), &json!(2)));
        server.event(&run, &v2(&run, 2)).await;
        // Stored under another id: nothing to keep.
        let twin = with(v2(&run, 4), json!({"eventId": "another"}));
        assert_eq!(server.event(&run, &twin).await.1["reason"], "out_of_order_seq");
        let row = server.row(&run).await;
        assert_eq!(
            row["counters"],
            json!({"accepted": 2, "duplicate": 2, "outOfOrder": 3, "quarantined": 1, "gaps": 1})
        );
        assert_eq!(row["lastAcceptedSeq"], 4);
        let items = server.quarantine("t").await;
        assert_eq!((items.len(), &items[0]["reason"]), (1, &json!("late_gap")));
    });
});

on_both!(two_runs_may_use_the_same_event_ids, |db| {
    block_on(async {
        let server = TestServer::start(db);
        let (one, two) = (server.run("t1", "c", "s").await, server.run("t2", "c", "s").await);
        for run in [&one, &two] {
            let (status, ack) = server.event(run, &with(v2(run, 0), json!({"eventId": "event-1"}))).await;
            assert_eq!((status, &ack["status"]), (200, &json!("accepted")));
        }
    });
});

on_both!(whatever_else_a_daemon_says_is_kept, |db| {
    block_on(async {
        let server = TestServer::start(db);
        let run = server.run("t", "c", "s").await;
        let envelope =
            with(v2(&run, 0), json!({"messages": [], "deltas": [{"text": "é\u{1F600}"}], "meta": {"a": 1.5}}));
        assert_eq!(server.event(&run, &envelope).await.0, 200);
        let events = server.events(&run).await;
        assert_eq!((&events[0]["deltas"], &events[0]["meta"]), (&envelope["deltas"], &envelope["meta"]));
        assert_eq!(events[0]["messages"], json!([]));
        assert!(events[0]["receivedAt"].as_str().unwrap().ends_with('Z'));
    });
});

on_both!(a_large_quarantined_payload_goes_to_the_object_store, |db| {
    block_on(async {
        let server = TestServer::start(db);
        let run = server.run("t", "c", "s").await;
        for n in 0..22 {
            let large = with(v1(&run, &format!("{n}")), json!({"pad": "é".repeat(12_000)}));
            let (status, ack) = server.event(&run, &large).await;
            assert_eq!((status, &ack["reason"]), (202, &json!("missing_run_id")));
        }
        let items = server.quarantine("t").await;
        let keys: Vec<_> = items.iter().filter_map(|item| item["payloadR2Key"].as_str()).collect();
        // Twenty a minute for one repository; unless a minute ended in between, the rest has prefix and hash only.
        assert!(keys.len() == 20 || keys.len() == 22, "{}", keys.len());
        for item in &items {
            assert!(item["payloadPrefix2k"].as_str().unwrap().len() <= 2048);
            assert!(item["payloadBytes"].as_u64().unwrap() > 24_000);
        }
        let object = std::fs::read(server.data_dir.join("objects").join(keys[0])).unwrap();
        let row = items.iter().find(|item| item["payloadR2Key"] == keys[0]).unwrap();
        assert_eq!(json!(hex::encode(sha2::Sha256::digest(&object))), row["payloadHash"]);
    });
});

on_both!(quarantine_comes_in_pages_newest_first, |db| {
    block_on(async {
        let server = TestServer::start(db);
        let run = server.run("t", "c", "s").await;
        for n in 0..130 {
            server.event(&run, &v1(&run, &format!("{n}"))).await;
        }
        let (_, first) = server.get("/api/internal/quarantine?threadId=t").await;
        assert_eq!(first["items"].as_array().unwrap().len(), 100);
        let next = first["next"].as_str().unwrap();
        let (_, second) = server.get(&format!("/api/internal/quarantine?threadId=t&before={next}")).await;
        assert_eq!((second["items"].as_array().unwrap().len(), &second["next"]), (30, &json!(null)));
        let prefix =
            |page: &serde_json::Value, n: usize| page["items"][n]["payloadPrefix2k"].as_str().unwrap().to_owned();
        assert!(prefix(&first, 0).contains("\"129\"") && prefix(&second, 29).contains("\"0\""));
        assert_eq!(server.get("/api/internal/quarantine").await.0, 400);
        assert_eq!(server.get("/api/internal/quarantine?threadId=t&before=x").await.0, 400);
    });
});

#[test]
fn an_idle_actor_goes_away_and_nothing_is_lost_by_it() {
    block_on(async {
        let server = TestServer::with(Options::new(Db::Sqlite).set("ACTOR_IDLE_SECONDS", "1"));
        let run = server.run("t", "c", "s").await;
        assert_eq!(server.event(&run, &v2(&run, 0)).await.0, 200);
        let stopped = || async {
            let text = server.http.get(format!("{}/metrics", server.url)).send().await.unwrap().text().await.unwrap();
            text.lines().any(|line| line.starts_with("runwarden_run_actors") && line.contains("stopped_idle"))
        };
        for _ in 0..200 {
            if stopped().await {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        assert!(stopped().await, "the actor stays");
        assert_eq!(server.event(&run, &v2(&run, 0)).await.1["reason"], "duplicate_event");
        assert_eq!(server.event(&run, &v2(&run, 1)).await.0, 200);
        assert_eq!(server.row(&run).await["counters"]["gaps"], 0);
    });
}
