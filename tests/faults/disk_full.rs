//! A disk without room: 503 and no acknowledgement, and everything goes on when there is room again.

use crate::app::{Db, Options, TestServer, block_on};
use crate::database::Database;
use crate::feed::{Feeder, Feeding, settle};
use crate::processes::{ServerProcess, tail};
use crate::remote::Remote;
use crate::summary;

const ROUNDS: usize = 3;

/// Payloads that fill what is left between two blocks soon.
async fn feed(remote: &Remote) -> Vec<Feeding> {
    let mut feeds = Vec::new();
    for n in 0..3 {
        let run = remote.run(&format!("t-{n}"), "c", "s").await;
        feeds.push(Feeder::new(remote, &run, 10_000).start());
    }
    feeds
}

#[test]
fn sqlite_on_a_full_disk() {
    let folder = tempfile::tempdir().unwrap();
    let mut server = ServerProcess::new(folder.path(), &[], Some("48m"));
    block_on(async {
        server.start().await;
        let feeds = feed(&server.remote).await;
        for _ in 0..ROUNDS {
            for feed in &feeds {
                feed.goes_on(10).await;
            }
            let refused: Vec<_> = feeds.iter().map(Feeding::refused).collect();
            server.cell.fill_disk();
            for (feed, before) in feeds.iter().zip(refused) {
                feed.is_refused(before + 2).await;
            }
            // What is there can still be read.
            assert!(!server.remote.events(&feeds[0].run).await.is_empty());
            server.cell.empty_disk();
        }
        for feed in &feeds {
            feed.goes_on(10).await;
        }
        assert!(!server.cell.has_ended(), "{}", tail(&folder.path().join("server.log")));
        let unanswered: u64 = feeds.iter().map(|feed| feed.book.unanswered.get()).sum();
        assert_eq!(unanswered, 0);
        let refused: u64 = feeds.iter().map(Feeding::refused).sum();
        let tally = settle(&server.remote, feeds).await;
        summary(&format!("sqlite's disk full {ROUNDS} times: {refused} answers 503, {tally:?}"));
    });
}

#[test]
fn postgres_on_a_full_disk() {
    let mut database = Database::start_new(Some("96m"));
    block_on(async {
        let options = Options::new(Db::Sqlite).set("DATABASE_URL", Database::url(database.port));
        let server = TestServer::with(options);
        let remote = Remote::new(&server.url);
        let feeds = feed(&remote).await;
        let mut crashes = 0;
        for _ in 0..ROUNDS {
            for feed in &feeds {
                feed.goes_on(10).await;
            }
            let refused: Vec<_> = feeds.iter().map(Feeding::refused).collect();
            database.cell.fill_disk();
            for (feed, before) in feeds.iter().zip(refused) {
                feed.is_refused(before + 1).await;
            }
            database.cell.empty_disk();
            // Without room for its log Postgres gives up, and somebody starts it again.
            if database.cell.has_ended() {
                crashes += 1;
                database.cell.wait();
                database.start();
            }
        }
        for feed in &feeds {
            feed.goes_on(10).await;
        }
        let refused: u64 = feeds.iter().map(Feeding::refused).sum();
        let tally = settle(&remote, feeds).await;
        summary(&format!(
            "postgres' disk full {ROUNDS} times, gave up {crashes} times: {refused} answers 503, {tally:?}"
        ));
    });
}
