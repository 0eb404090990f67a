//! A Postgres that is stopped, cut off or hangs: 503 and no acknowledgement while it is away, and everything goes on
//! by itself when it is back.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use crate::app::{Db, Options, TestServer, block_on, v2};
use crate::cable::{Cable, Mode};
use crate::database::Database;
use crate::feed::{Feeder, Feeding, settle};
use crate::processes::some_ms;
use crate::remote::Remote;
use crate::socket::{Heard, Socket};
use crate::summary;

fn server_on(port: u16) -> (TestServer, Remote) {
    let server = TestServer::with(Options::new(Db::Sqlite).set("DATABASE_URL", Database::url(port)));
    let remote = Remote::new(&server.url);
    (server, remote)
}

async fn feed(remote: &Remote, clients: usize) -> Vec<Feeding> {
    let mut feeds = Vec::new();
    for n in 0..clients {
        let run = remote.run(&format!("t-{n}"), "c", "s").await;
        feeds.push(Feeder::new(remote, &run, 0).start());
    }
    feeds
}

/// The stream's last envelope is refused, and then the stream is closed with 1013.
async fn assert_closed_for_now(mut socket: Socket) {
    let Heard::Frame(error) = socket.hear().await else { panic!("no reason") };
    assert_eq!((error["type"].as_str(), error["code"].as_str()), (Some("error"), Some("store_unavailable")), "{error}");
    assert!(matches!(socket.hear().await, Heard::Closed(awc::ws::CloseCode::Again)));
}

#[test]
fn a_database_that_is_stopped_and_started_again() {
    let mut database = Database::start_new(None);
    block_on(async {
        let (_server, remote) = server_on(database.port);
        let feeds = feed(&remote, 3).await;
        let run = remote.run("stream", "c", "s").await;
        let rounds = 2;
        for round in 0..rounds {
            for feed in &feeds {
                feed.goes_on(20).await;
            }
            let mut socket = Socket::open(&remote.url, &run).await;
            let refused: Vec<_> = feeds.iter().map(Feeding::refused).collect();
            database.stop();
            socket.say(&v2(&run, round)).await;
            assert_closed_for_now(socket).await;
            remote.until_missing("database").await;
            for (feed, before) in feeds.iter().zip(refused) {
                // The first of them met a connection that broke; the next one finds no connection at all.
                feed.is_refused(before + 1).await;
            }
            let answer = remote.internal(reqwest::Method::GET, &format!("/api/internal/runs/{}", run.id), None).await;
            answer.expect("an answer").assert_store_unavailable();
            database.start();
            remote.until_ready().await;
            let mut socket = Socket::open(&remote.url, &run).await;
            socket.say(&v2(&run, round)).await;
            let Heard::Frame(ack) = socket.hear().await else { panic!("no acknowledgement") };
            assert_eq!((ack["type"].as_str(), ack["acknowledgedSeq"].as_i64()), (Some("ack"), Some(round)), "{ack}");
        }
        for feed in &feeds {
            feed.goes_on(20).await;
        }
        let tally = settle(&remote, feeds).await;
        assert_eq!(i64::try_from(remote.events(&run).await.len()), Ok(rounds));
        summary(&format!("postgres stopped {rounds} times: {tally:?}"));
    });
}

#[test]
fn a_database_that_refuses_connections_is_known_long_before_a_call_ends() {
    let mut database = Database::start_new(None);
    block_on(async {
        let (_server, remote) = server_on(database.port);
        let run = remote.run("t", "c", "s").await;
        assert_eq!(remote.event(&run, &v2(&run, 0)).await.expect("an answer").status, 200);
        database.stop();
        // A pool that tries a refused connection again gives up after 5 s.
        let patience = Duration::from_secs(3);
        for _ in 0..3 {
            let event = v2(&run, 1);
            let answer = tokio::time::timeout(patience, remote.event(&run, &event)).await.expect("an answer in time");
            answer.expect("an answer").assert_store_unavailable();
            let row = format!("/api/internal/runs/{}", run.id);
            let answer = tokio::time::timeout(patience, remote.internal(reqwest::Method::GET, &row, None)).await;
            answer.expect("an answer in time").expect("an answer").assert_store_unavailable();
        }
        database.start();
        remote.until_ready().await;
        assert_eq!(remote.event(&run, &v2(&run, 1)).await.expect("an answer").status, 200);
    });
}

#[test]
fn connections_that_are_cut_lossy_or_refused() {
    let database = Database::start_new(None);
    let cable = Cable::to(database.port);
    let mut random = StdRng::seed_from_u64(3);
    block_on(async {
        let (_server, remote) = server_on(cable.port);
        let feeds = feed(&remote, 4).await;
        let cuts = 40;
        for _ in 0..cuts {
            // Answers that are lost just before a cut: the commit is there, and nobody here knows it.
            let mode = [Mode::Relays, Mode::LosesAnswers, Mode::LosesAnswers, Mode::Refuses][random.random_range(0..4)];
            cable.set(mode);
            tokio::time::sleep(some_ms(&mut random, 0, 30)).await;
            cable.set(Mode::Relays);
            cable.cut();
            for feed in &feeds {
                feed.goes_on(1).await;
            }
        }
        remote.until_ready().await;
        let refused: u64 = feeds.iter().map(Feeding::refused).sum();
        let tally = settle(&remote, feeds).await;
        assert!(refused > cuts / 4 && tally.duplicates_refused > 0, "{refused} refused, {tally:?}");
        summary(&format!("{cuts} cuts between server and postgres: {refused} answers 503, {tally:?}"));
    });
}

/// What makes the database hang, and what ends it.
fn hang(database: &mut Database, server_port: u16, start: impl FnOnce(&mut Database), end: impl FnOnce(&mut Database)) {
    block_on(async {
        let (_server, remote) = server_on(server_port);
        let run = remote.run("t", "c", "s").await;
        let streamed = remote.run("stream", "c", "s").await;
        assert_eq!(remote.event(&run, &v2(&run, 0)).await.expect("an answer").status, 200);
        let mut socket = Socket::open(&remote.url, &streamed).await;
        start(database);
        socket.say(&v2(&streamed, 0)).await;
        // The client's patience is longer than the limit of a call to the store, and shorter than two of them.
        let (one, two) = (v2(&run, 1), v2(&run, 2));
        let patience = Duration::from_secs(18);
        let (first, second, missing) = futures_util::join!(
            tokio::time::timeout(patience, remote.event(&run, &one)),
            tokio::time::timeout(patience, remote.event(&run, &two)),
            tokio::time::timeout(patience, remote.until_missing("database")),
        );
        first.expect("an answer in time").expect("an answer").assert_store_unavailable();
        second.expect("an answer in time").expect("an answer").assert_store_unavailable();
        missing.expect("not ready");
        assert_closed_for_now(socket).await;
        end(database);
        remote.until_ready().await;
        // Whether they were written before the database hung, nobody knows; now they are, once.
        for seq in [1, 2] {
            let answer = loop {
                let answer = remote.event(&run, &v2(&run, seq)).await.expect("an answer");
                if answer.status != 503 {
                    break answer;
                }
            };
            assert!(answer.status == 200 || answer.body["reason"] == "duplicate_event", "{answer:?}");
        }
        let seqs: Vec<_> = remote.events(&run).await.iter().map(|event| event["seq"].as_i64().unwrap()).collect();
        assert_eq!(seqs, [0, 1, 2]);
        assert_eq!(remote.row(&run).await["counters"]["accepted"], 3);
    });
}

#[test]
fn a_database_that_is_frozen() {
    let mut database = Database::start_new(None);
    let port = database.port;
    hang(&mut database, port, Database::freeze, Database::thaw);
}

#[test]
fn a_database_behind_a_line_that_hangs() {
    let mut database = Database::start_new(None);
    let cable = Cable::to(database.port);
    hang(&mut database, cable.port, |_| cable.set(Mode::Hangs), |_| cable.set(Mode::Relays));
}
