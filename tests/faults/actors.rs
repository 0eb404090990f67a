//! A run's actor that dies, or whose commit has an unknown end; and races that a new run loses.

use std::sync::{Arc, mpsc};

use runwarden_actors::run::Deps;
use runwarden_actors::testing::{Fault, FaultyStore};
use serde_json::json;

use crate::app::{Db, Options, TestServer, block_on, start_body, v2};
use crate::remote::Remote;
use crate::socket::{Heard, Socket};

/// Puts a store that fails on demand before the real one.
pub fn faulty(options: Options) -> (TestServer, Arc<FaultyStore>) {
    let (sender, receiver) = mpsc::channel();
    let server = TestServer::with(options.dress(move |deps| {
        let store = Arc::new(FaultyStore::new(deps.store));
        sender.send(Arc::clone(&store)).unwrap();
        Deps::new(store, deps.coordination, deps.evidence, deps.sandbox, deps.clock, deps.ids, deps.observer)
    }));
    (server, receiver.recv().unwrap())
}

/// What the commit of event 1 meets, on each database; whether its first answer is a 503; and the reason that the
/// acknowledgement then has. Afterwards every event is there once.
fn meets(faults: &[Fault], refused: bool, then: Option<&str>) {
    for db in [Db::Sqlite, Db::Postgres] {
        let (server, store) = faulty(Options::new(db));
        let remote = Remote::new(&server.url);
        block_on(async {
            let run = remote.run("t", "c", "s").await;
            let other = remote.run("t2", "c", "s").await;
            for seq in [0, 1, 2] {
                if seq == 1 {
                    for fault in faults {
                        store.fail_next_commit(*fault);
                    }
                }
                let mut answer = remote.event(&run, &v2(&run, seq)).await.expect("an answer");
                if seq == 1 && refused {
                    answer.assert_store_unavailable();
                    // The next may still come before the actor has gone, and is refused with those that waited.
                    for _ in 0..100 {
                        if answer.status != 503 {
                            break;
                        }
                        answer = remote.event(&run, &v2(&run, seq)).await.expect("an answer");
                    }
                }
                let reason = then.filter(|_| seq == 1);
                assert_eq!(
                    (answer.status, answer.body["reason"].as_str()),
                    (if reason.is_some() { 202 } else { 200 }, reason),
                    "{seq}"
                );
            }
            // What was acknowledged is acknowledged again, and is not stored again.
            let again = remote.event(&run, &v2(&run, 1)).await.expect("an answer");
            assert_eq!(again.body["reason"], "duplicate_event");
            assert_eq!(remote.event(&other, &v2(&other, 0)).await.expect("an answer").status, 200);
            let seqs: Vec<_> = remote.events(&run).await.iter().map(|event| event["seq"].clone()).collect();
            assert_eq!(seqs, [json!(0), json!(1), json!(2)]);
            let row = remote.row(&run).await;
            assert_eq!((&row["counters"]["accepted"], &row["counters"]["gaps"]), (&json!(3), &json!(0)));
        });
    }
}

#[test]
fn an_actor_that_panics_is_rebuilt_within_the_same_request() {
    meets(&[Fault::Panic], false, None);
    meets(&[Fault::Panic, Fault::Panic, Fault::Panic], false, None);
}

#[test]
fn an_actor_that_panics_again_and_again_is_given_up_for_this_request() {
    meets(&[Fault::Panic; 4], true, None);
}

#[test]
fn a_commit_that_failed_is_sent_again() {
    meets(&[Fault::FailBefore], true, None);
}

#[test]
fn a_commit_whose_answer_is_lost_is_recognised() {
    meets(&[Fault::FailAfter], true, Some("duplicate_event"));
}

#[test]
fn a_commit_that_never_answers_is_recognised() {
    meets(&[Fault::HangAfter], true, Some("duplicate_event"));
}

#[test]
fn a_commit_that_loses_races_is_decided_again() {
    meets(&[Fault::Conflict; 8], false, None);
    meets(&[Fault::Conflict; 9], true, None);
}

#[test]
fn a_stream_goes_on_with_a_rebuilt_actor_and_ends_where_the_outcome_is_unknown() {
    let (server, store) = faulty(Options::new(Db::Sqlite));
    let remote = Remote::new(&server.url);
    block_on(async {
        let run = remote.run("t", "c", "s").await;
        let mut socket = Socket::open(&remote.url, &run).await;
        store.fail_next_commit(Fault::Panic);
        socket.say(&v2(&run, 0)).await;
        let Heard::Frame(ack) = socket.hear().await else { panic!("no acknowledgement") };
        assert_eq!((&ack["type"], &ack["acknowledgedSeq"]), (&json!("ack"), &json!(0)));
        store.fail_next_commit(Fault::FailAfter);
        socket.say(&v2(&run, 1)).await;
        let Heard::Frame(error) = socket.hear().await else { panic!("no reason") };
        assert_eq!((&error["type"], &error["code"]), (&json!("error"), &json!("store_unavailable")));
        assert!(matches!(socket.hear().await, Heard::Closed(awc::ws::CloseCode::Again)));
        let mut socket = Socket::open(&remote.url, &run).await;
        socket.say(&v2(&run, 1)).await;
        let Heard::Frame(ack) = socket.hear().await else { panic!("no acknowledgement") };
        assert_eq!((&ack["status"], &ack["reason"]), (&json!("ignored"), &json!("duplicate_event")));
        assert_eq!(remote.events(&run).await.len(), 2);
    });
}

#[test]
fn a_new_run_may_lose_five_races_and_not_six() {
    for db in [Db::Sqlite, Db::Postgres] {
        let (server, store) = faulty(Options::new(db));
        block_on(async {
            store.conflict_next_creates(5);
            let (status, made) = server.post("/api/internal/runs", start_body("t", "c", "s-1")).await;
            assert_eq!(status, 201, "{made}");
            store.conflict_next_creates(6);
            let (status, refused) = server.post("/api/internal/runs", start_body("t", "c", "s-2")).await;
            assert_eq!((status, &refused["code"]), (409, &json!("conflict")));
            // The chat still stands where it stood, and the start request is still free.
            let (_, chat) = server.get("/api/internal/threads/t/chats/c").await;
            assert_eq!(chat["context"]["activeRunId"], made["runId"]);
            let (_, run) = server.get(&format!("/api/internal/runs/{}", made["runId"].as_str().unwrap())).await;
            assert_eq!((&run["status"], &run["isActive"]), (&json!("booting"), &json!(true)));
            let (status, second) = server.post("/api/internal/runs", start_body("t", "c", "s-2")).await;
            assert_eq!(status, 201);
            assert_ne!(second["runId"], made["runId"]);
        });
    }
}
