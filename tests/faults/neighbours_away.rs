//! Redis or the object store away, with servers that share them.

use serde_json::{Value, json};

use crate::actors::faulty;
use crate::app::{Db, Options, TestRun, TestServer, block_on, v1, v2, with};
use crate::redis::RedisServer;
use crate::remote::Remote;
use crate::s3::{ACCESS_KEY, S3Server, SECRET_KEY};
use crate::socket::{Heard, Socket};
use crate::two_servers::wait_for;

/// Belongs into quarantine, and is too large for its row.
fn large(run: &TestRun, text: &str) -> Value {
    with(v1(run, text), json!({"pad": "x".repeat(20_000)}))
}

/// A large payload is set aside nowhere while the part is away; what needs no part goes on; and then it is.
async fn survives(remote: &Remote, part: &str, stop: impl FnOnce(), start: impl FnOnce()) -> Value {
    remote.until_ready().await;
    let run = remote.run("t", "c", "s").await;
    assert_eq!(remote.event(&run, &v2(&run, 0)).await.expect("an answer").status, 200);
    let mut socket = Socket::open(&remote.url, &run).await;
    stop();
    remote.until_missing(part).await;
    remote.event(&run, &large(&run, "late")).await.expect("an answer").assert_store_unavailable();
    // Neither events of the run nor small payloads in quarantine need it.
    assert_eq!(remote.event(&run, &v2(&run, 1)).await.expect("an answer").status, 200);
    let small = remote.event(&run, &v1(&run, "small")).await.expect("an answer");
    assert_eq!((small.status, &small.body["reason"]), (202, &json!("missing_run_id")));
    socket.say(&v2(&run, 2)).await;
    let Heard::Frame(ack) = socket.hear().await else { panic!("no acknowledgement") };
    assert_eq!(ack["status"], "accepted");
    socket.say(&large(&run, "late")).await;
    let Heard::Frame(error) = socket.hear().await else { panic!("no reason") };
    assert_eq!(error["code"], "store_unavailable");
    assert!(matches!(socket.hear().await, Heard::Closed(awc::ws::CloseCode::Again)));
    assert_eq!(remote.quarantine("t").await.len(), 1);
    start();
    remote.until_ready().await;
    let answer = remote.event(&run, &large(&run, "late")).await.expect("an answer");
    assert_eq!((answer.status, &answer.body["reason"]), (202, &json!("missing_run_id")));
    let again = remote.event(&run, &large(&run, "late")).await.expect("an answer");
    assert_eq!(again.status, 202);
    let mut items = remote.quarantine("t").await;
    assert_eq!((items.len(), remote.events(&run).await.len()), (2, 3));
    items.swap_remove(0)
}

#[test]
fn redis_that_is_stopped_and_started_again() {
    let mut redis = RedisServer::spawn(None);
    block_on(async {
        let options = Options::new(Db::Postgres).set("REDIS_URL", redis.url()).set("SWEEP_INTERVAL_SECONDS", "1");
        let (server, store) = faulty(options);
        let remote = Remote::new(&server.url);
        wait_for(|| store.sweeps() > 0).await;
        let redis = std::cell::RefCell::new(&mut redis);
        let asleep = std::cell::Cell::new(0);
        let row = survives(
            &remote,
            "coordination",
            || {
                redis.borrow_mut().stop();
                // One that had the lease already may still be under way.
                std::thread::sleep(std::time::Duration::from_millis(500));
                asleep.set(store.sweeps());
            },
            || {
                // Intervals of the sweep, so that there was something to be missed.
                std::thread::sleep(std::time::Duration::from_millis(2_500));
                assert_eq!(store.sweeps(), asleep.get(), "a sweep without a lease");
                redis.borrow_mut().start();
            },
        )
        .await;
        assert!(server.data_dir.join("objects").join(row["payloadR2Key"].as_str().unwrap()).is_file());
        wait_for(|| store.sweeps() > asleep.get() + 1).await;
    });
}

#[test]
fn an_object_store_that_is_stopped_and_started_again() {
    let mut objects = S3Server::spawn(&["bucket"]);
    let redis = RedisServer::spawn(None);
    block_on(async {
        let options = Options::new(Db::Postgres)
            .set("REDIS_URL", redis.url())
            .set("OBJECT_STORE_URL", "s3://bucket/place")
            .set("AWS_ENDPOINT_URL", objects.endpoint())
            .set("AWS_ACCESS_KEY_ID", ACCESS_KEY)
            .set("AWS_SECRET_ACCESS_KEY", SECRET_KEY);
        let server = TestServer::with(options);
        let remote = Remote::new(&server.url);
        let bucket = objects.bucket("bucket");
        let objects = std::cell::RefCell::new(&mut objects);
        let row = survives(&remote, "objects", || objects.borrow_mut().stop(), || objects.borrow_mut().start()).await;
        let object = std::fs::read(bucket.join("place").join(row["payloadR2Key"].as_str().unwrap())).unwrap();
        assert_eq!(json!(object.len()), row["payloadBytes"]);
    });
}
