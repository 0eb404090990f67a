//! Servers and daemons that are killed at any moment: no acknowledged event is lost, and none is there twice.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rand::SeedableRng as _;
use rand::rngs::StdRng;
use serde_json::{Value, json};

use crate::app::{Db, Options, TestRun, block_on};
use crate::feed::{Feeder, Tally, settle};
use crate::processes::{ServerProcess, daemon, repository, some_ms, tail};
use crate::remote::Remote;
use crate::summary;

/// Ten messages every 50 ms, until it is told that this is enough; then its last word, with how many they were.
const TALKS_UNTIL_ENOUGH: &str = r#"
    i=0
    while [ ! -e "$1/enough" ] && [ $i -lt 40000 ]; do
        j=0; while [ $j -lt 10 ]; do echo '{"type":"assistant","n":'$i'}'; i=$((i+1)); j=$((j+1)); done
        sleep 0.05
    done
    echo '{"type":"result","subtype":"success","is_error":false,"said":'$i'}'
"#;
/// Three hundred messages at once, and a last word.
const BURSTS: &str = r#"
    i=0
    while [ $i -lt 300 ]; do echo '{"type":"assistant","n":'$i'}'; i=$((i+1)); done
    echo '{"type":"result","subtype":"success","is_error":false,"said":300}'
"#;
/// How a shell says that SIGKILL ended a process.
const KILLED: i32 = 137;
/// Exit code of a daemon that found its agent gone.
const AGENT_LOST: i32 = 70;
/// Longest wait for a daemon's end.
const PATIENCE: Duration = Duration::from_secs(90);

#[test]
fn fifty_kills_on_postgres() {
    survive("postgres", Db::Postgres, 50, 16, 1);
}

#[test]
fn five_kills_on_sqlite() {
    survive("sqlite", Db::Sqlite, 5, 2, 2);
}

fn survive(name: &str, db: Db, kills: u32, victims: usize, seed: u64) {
    let folder = tempfile::tempdir().unwrap();
    let repo = folder.path().join("repo");
    std::fs::create_dir(&repo).unwrap();
    repository(&repo);
    let database = Options::new(db).settings;
    let settings: Vec<_> = database.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let mut server = ServerProcess::new(folder.path(), &settings, None);
    let mut random = StdRng::seed_from_u64(seed);
    block_on(async {
        let remote = server.remote.clone();
        // The first kills meet a server that makes its tables and keys.
        let early = kills.div_ceil(10);
        for _ in 0..early {
            server.cell.start();
            tokio::time::sleep(some_ms(&mut random, 0, 150)).await;
            server.cell.kill();
        }
        server.start().await;

        let mut feeds = Vec::new();
        for n in 0..4 {
            let run = remote.run(&format!("client-{n}"), "c", "s").await;
            feeds.push(Feeder::new(&remote, &run, 0).start());
        }
        let steady = Talker::new(&remote, folder.path(), "steady").await;
        let mut steady_daemon = daemon(&remote.url, &steady.run, &steady.folder, &repo, TALKS_UNTIL_ENOUGH);
        steady_daemon.start();
        let mut talkers = Vec::new();
        for n in 0..victims {
            talkers.push(Talker::new(&remote, folder.path(), &format!("victim-{n}")).await);
        }
        let killed_daemons = actix_web::rt::spawn(kill_daemons(remote.url.clone(), repo, talkers, seed));

        for _ in early..kills {
            // Some while it starts, most while it works.
            if rand::Rng::random_bool(&mut random, 0.2) {
                tokio::time::sleep(some_ms(&mut random, 0, 200)).await;
            } else {
                remote.until_ready().await;
                tokio::time::sleep(some_ms(&mut random, 50, 500)).await;
            }
            assert!(!server.cell.has_ended(), "the server ended: {}", tail(&folder.path().join("server.log")));
            assert_eq!(server.cell.kill(), KILLED);
            server.cell.start();
        }
        remote.until_ready().await;
        std::fs::write(steady.folder.join("enough"), "").unwrap();

        let sent: u64 = feeds.iter().map(|feed| feed.book.sent.get()).sum();
        let acknowledged: usize = feeds.iter().map(super::feed::Feeding::acknowledged).sum();
        let unanswered: u64 = feeds.iter().map(|feed| feed.book.unanswered.get()).sum();
        assert!(unanswered >= u64::from(kills) / 2, "the kills met nobody: {unanswered}");
        // One more each is on its way.
        assert!(acknowledged as u64 + 4 >= sent);
        let clients = settle(&remote, feeds).await;

        let code = steady_daemon.ended("the daemon", PATIENCE).await;
        assert_eq!(code, 0, "{}", tail(&steady.folder.join("daemon.log")));
        let (mut all, said) = steady.read(&remote).await;
        assert_eq!(said.last, json!({"type": "result", "subtype": "success", "is_error": false, "said": said.numbers}));
        assert!(said.numbers > 100);
        let row = remote.row(&steady.run).await;
        assert_eq!((&row["terminalKind"], &row["counters"]["gaps"]), (&json!("done"), &json!(0)), "{row}");

        let (talkers, daemon_kills) = killed_daemons.await.unwrap();
        let mut messages = said.numbers;
        for (talker, code) in talkers {
            let (tally, said) = talker.read(&remote).await;
            all.add(&tally);
            messages += said.numbers;
            match code {
                0 => assert_eq!((said.numbers, &said.last["said"]), (300, &json!(300))),
                AGENT_LOST => assert_eq!(said.last["error_info"], "daemon restarted; the agent is gone"),
                other => panic!("exit code {other}: {}", tail(&talker.folder.join("daemon.log"))),
            }
        }
        summary(&format!(
            "{name}: kills of server {kills}, kills of daemon {daemon_kills}; clients: events sent {}, acknowledged {}, \
             stored {}, requests without answer {unanswered}, duplicates refused {}, lost {}, twice {}; daemons: \
             envelopes stored {}, messages {messages}, duplicates refused {}, lost {}, twice {}",
            clients.stored,
            clients.stored,
            clients.stored,
            clients.duplicates_refused,
            clients.lost,
            clients.twice,
            all.stored,
            all.duplicates_refused,
            all.lost,
            all.twice,
        ));
    });
}

/// Daemons, one after the other, each killed once or twice and started again with its spool. Their exit codes, and
/// the number of kills.
async fn kill_daemons(url: String, repo: PathBuf, talkers: Vec<Talker>, seed: u64) -> (Vec<(Talker, i32)>, u32) {
    let mut random = StdRng::seed_from_u64(seed ^ 0xdae);
    let mut done = Vec::new();
    let mut kills = 0;
    for (n, talker) in talkers.into_iter().enumerate() {
        let bursts = n % 2 == 1;
        let script = if bursts { BURSTS } else { TALKS_UNTIL_ENOUGH };
        let mut daemon = daemon(&url, &talker.run, &talker.folder, &repo, script);
        daemon.start();
        let mut ended = None;
        let first = if bursts { some_ms(&mut random, 50, 600) } else { some_ms(&mut random, 200, 1500) };
        for wait in [first, some_ms(&mut random, 0, 300)] {
            tokio::time::sleep(wait).await;
            let code = daemon.kill();
            if code != KILLED {
                // It was faster.
                ended = Some(code);
                break;
            }
            kills += 1;
            daemon.start();
        }
        let code = match ended {
            Some(code) => code,
            None => daemon.ended("a daemon that was killed", PATIENCE).await,
        };
        done.push((talker, code));
    }
    (done, kills)
}

/// A run with a daemon.
struct Talker {
    run: TestRun,
    folder: PathBuf,
}

/// What an agent's messages came to.
struct Said {
    numbers: u64,
    last: Value,
}

impl Talker {
    async fn new(remote: &Remote, folder: &Path, name: &str) -> Self {
        let folder = folder.join(name);
        std::fs::create_dir(&folder).unwrap();
        Self { run: remote.run(name, "c", "s").await, folder }
    }

    /// Every message once and in order: the numbers count up from 0, and one last word follows.
    async fn read(&self, remote: &Remote) -> (Tally, Said) {
        let events = remote.events(&self.run).await;
        let seqs: Vec<_> = events.iter().map(|event| event["seq"].as_u64().unwrap()).collect();
        assert_eq!(seqs, (0..events.len() as u64).collect::<Vec<_>>());
        let mut messages: Vec<_> =
            events.iter().flat_map(|event| event["messages"].as_array().unwrap().clone()).collect();
        let last = messages.pop().expect("a last word");
        let numbers: Vec<_> = messages.iter().map(|message| message["n"].as_u64().expect("a number")).collect();
        let said = numbers.len() as u64;
        let twice = numbers.iter().zip(numbers.iter().skip(1)).filter(|(one, next)| one >= next).count() as u64;
        let missing = numbers.iter().max().map_or(0, |most| most + 1 + twice - said);
        assert_eq!(numbers, (0..said).collect::<Vec<_>>(), "{missing} lost, {twice} twice");
        let row = remote.row(&self.run).await;
        assert_eq!(row["counters"]["accepted"], json!(events.len()), "{row}");
        let duplicates_refused = row["counters"]["duplicate"].as_u64().unwrap();
        (Tally { stored: events.len() as u64, lost: missing, twice, duplicates_refused }, Said { numbers: said, last })
    }
}
