//! SIGTERM while events are in flight, to the real program.

use std::time::Duration;

use awc::ws::CloseCode;
use nix::sys::signal::Signal;
use serde_json::json;
use sqlx::{Connection as _, Executor as _, PgConnection};

use crate::app::{Db, Options, block_on, v2};
use crate::feed::{Feeder, settle};
use crate::processes::{ServerProcess, tail};
use crate::socket::{Heard, Socket};
use crate::summary;

/// The limit that the servers are given, and some time for a slow machine.
const LIMIT_SECONDS: &str = "20";
const PATIENCE: Duration = Duration::from_secs(30);

fn server(db: Db, folder: &std::path::Path) -> (ServerProcess, Option<String>) {
    let database = Options::new(db).settings;
    let mut settings: Vec<_> = database.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    settings.push(("SHUTDOWN_TIMEOUT_SECONDS", LIMIT_SECONDS));
    let url = database.iter().find(|(name, _)| name == "DATABASE_URL").map(|(_, url)| url.clone());
    (ServerProcess::new(folder, &settings, None), url)
}

#[test]
fn busy_servers_end_well_and_keep_what_they_have_acknowledged() {
    for db in [Db::Sqlite, Db::Postgres] {
        let folder = tempfile::tempdir().unwrap();
        let (mut server, _) = server(db, folder.path());
        block_on(async {
            server.start().await;
            let remote = server.remote.clone();
            let mut feeds = Vec::new();
            for n in 0..6 {
                let run = remote.run(&format!("t-{n}"), "c", "s").await;
                feeds.push(Feeder::new(&remote, &run, 0).start());
            }
            for _ in 0..3 {
                for feed in &feeds {
                    feed.goes_on(10).await;
                }
                server.cell.signal(Signal::SIGTERM);
                let code = server.cell.ended("the server", PATIENCE).await;
                assert_eq!(code, 0, "{}", tail(&folder.path().join("server.log")));
                server.start().await;
            }
            for feed in &feeds {
                feed.goes_on(10).await;
            }
            let tally = settle(&remote, feeds).await;
            summary(&format!("{db:?}: SIGTERM 3 times while 6 clients send: {tally:?}"));
        });
    }
}

#[test]
fn what_is_in_flight_is_answered_and_streams_are_told_to_come_back() {
    let folder = tempfile::tempdir().unwrap();
    let (mut server, url) = server(Db::Postgres, folder.path());
    block_on(async {
        server.start().await;
        let remote = server.remote.clone();
        let (run, streamed) = (remote.run("t", "c", "s").await, remote.run("stream", "c", "s").await);
        let mut idle = Socket::open(&remote.url, &run).await;
        let mut busy = Socket::open(&remote.url, &streamed).await;
        let mut operator = PgConnection::connect(&url.unwrap()).await.unwrap();
        let mut lock = operator.begin().await.unwrap();
        lock.execute("lock table thread_run_progress in access exclusive mode").await.unwrap();
        let asked = actix_web::rt::spawn({
            let (remote, run) = (remote.clone(), run.clone());
            async move { remote.event(&run, &v2(&run, 0)).await }
        });
        busy.say(&v2(&streamed, 0)).await;
        // Until both are on their way: two batches, or one for both.
        loop {
            let waiting: i64 = sqlx::query_scalar("select count(*) from pg_locks where not granted")
                .fetch_one(&mut *lock)
                .await
                .unwrap();
            if waiting > 0 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
        server.cell.signal(Signal::SIGTERM);
        // A stream with nothing on its way ends at once; the server waits for the others.
        assert!(matches!(idle.hear().await, Heard::Closed(CloseCode::Restart)));
        assert!(!server.cell.has_ended());
        lock.rollback().await.unwrap();
        let answer = asked.await.unwrap().expect("an answer");
        assert_eq!((answer.status, &answer.body["acknowledgedSeq"]), (200, &json!(0)));
        let Heard::Frame(ack) = busy.hear().await else { panic!("no acknowledgement") };
        assert_eq!((&ack["type"], &ack["acknowledgedSeq"]), (&json!("ack"), &json!(0)));
        assert!(matches!(busy.hear().await, Heard::Closed(CloseCode::Restart)));
        drop((idle, busy));
        assert_eq!(server.cell.ended("the server", PATIENCE).await, 0, "{}", tail(&folder.path().join("server.log")));
        server.start().await;
        assert_eq!(remote.events(&run).await.len() + remote.events(&streamed).await.len(), 2);
    });
}
