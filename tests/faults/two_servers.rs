//! Two servers on one Postgres and one Redis.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use futures_util::StreamExt as _;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use runwarden_actors::contract::names::KEY_SWEEP_LEASE;
use serde_json::{Value, json};

use crate::actors::faulty;
use crate::app::{Db, INTERNAL_KEY, Options, TestRun, TestServer, block_on, v2, with};
use crate::redis::RedisServer;
use crate::remote::Remote;
use crate::socket::{Heard, Socket};
use crate::summary;

/// Two sets of settings that name the same servers.
fn pair(redis: &RedisServer, more: &[(&str, &str)]) -> [Options; 2] {
    let settings = Options::new(Db::Postgres).set("REDIS_URL", redis.url()).settings;
    [(); 2].map(|()| {
        let mut options = Options { settings: settings.clone(), ..Options::new(Db::Sqlite) };
        for (name, value) in more {
            options = options.set(name, *value);
        }
        options
    })
}

/// What the clients of one run have heard: how often each outcome was said of each `seq`.
#[derive(Default)]
struct Heards(BTreeMap<i64, BTreeMap<String, u64>>);

/// Tries for one event: a server that loses too many races in a row asks its client to come again.
const TRIES_MAX: u32 = 1_000;

impl Heards {
    fn note(&mut self, seq: i64, ack: &Value) {
        assert_eq!(ack["acknowledgedSeq"], json!(seq), "{ack}");
        let outcome = ack["reason"].as_str().unwrap_or(ack["status"].as_str().unwrap()).to_owned();
        *self.0.entry(seq).or_default().entry(outcome).or_default() += 1;
    }

    fn total(&self, outcome: &str) -> u64 {
        self.0.values().filter_map(|outcomes| outcomes.get(outcome)).sum()
    }
}

/// What the clients share: which event comes next, and what was heard.
struct Work {
    next: i64,
    end: i64,
    random: StdRng,
    heard: Heards,
    come_again: u64,
}

impl Work {
    /// Two or three new events in order, with some of the last ones again in between.
    fn some(&mut self) -> Vec<i64> {
        let mut some = Vec::new();
        for _ in 0..self.random.random_range(2..4) {
            if self.next < self.end {
                some.push(self.next);
                self.next += 1;
            }
            if self.next > 0 && self.random.random_bool(0.5) {
                some.push((self.next - self.random.random_range(1..8)).max(0));
            }
        }
        some
    }
}

async fn post(remote: Remote, run: TestRun, work: Rc<RefCell<Work>>) {
    while work.borrow().next < work.borrow().end {
        let some = work.borrow_mut().some();
        for seq in some {
            let mut tries = 0;
            loop {
                let answer = remote.event(&run, &v2(&run, seq)).await.expect("an answer");
                if answer.status != 503 {
                    work.borrow_mut().heard.note(seq, &answer.body);
                    break;
                }
                answer.assert_store_unavailable();
                work.borrow_mut().come_again += 1;
                tries += 1;
                assert!(tries < TRIES_MAX, "{seq} never gets through");
            }
        }
    }
}

async fn stream(url: String, run: TestRun, work: Rc<RefCell<Work>>) {
    let mut socket = Socket::open(&url, &run).await;
    let mut tries = 0;
    while work.borrow().next < work.borrow().end {
        // Two helpings at once, so that several envelopes become one commit.
        let mut some = work.borrow_mut().some();
        some.extend(work.borrow_mut().some());
        while !some.is_empty() {
            for seq in &some {
                socket.say(&v2(&run, *seq)).await;
            }
            let mut acknowledged = 0;
            while acknowledged < some.len() {
                let Heard::Frame(frame) = socket.hear().await else { panic!("the stream ended") };
                if frame["type"] == "error" {
                    assert_eq!(frame["code"], "store_unavailable");
                    assert!(matches!(socket.hear().await, Heard::Closed(awc::ws::CloseCode::Again)));
                    socket = Socket::open(&url, &run).await;
                    work.borrow_mut().come_again += 1;
                    tries += 1;
                    assert!(tries < TRIES_MAX, "{some:?} never get through");
                    break;
                }
                work.borrow_mut().heard.note(some[acknowledged], &frame);
                acknowledged += 1;
            }
            some.drain(..acknowledged);
        }
    }
}

#[test]
fn one_run_fed_through_both_servers_at_once() {
    let redis = RedisServer::spawn(None);
    block_on(async {
        let [one, two] = pair(&redis, &[]);
        let (one, two) = (TestServer::with(one), TestServer::with(two));
        let (a, b) = (Remote::new(&one.url), Remote::new(&two.url));
        let run = a.run("t", "c", "s").await;
        let reader = actix_web::rt::spawn(read_live(b.url.clone(), run.clone()));
        let end = 1_500;
        let work = Rc::new(RefCell::new(Work {
            next: 0,
            end,
            random: StdRng::seed_from_u64(5),
            heard: Heards::default(),
            come_again: 0,
        }));
        let mut clients = Vec::new();
        for remote in [&a, &b] {
            for _ in 0..3 {
                clients.push(actix_web::rt::spawn(post(remote.clone(), run.clone(), Rc::clone(&work))));
            }
            for _ in 0..2 {
                clients.push(actix_web::rt::spawn(stream(remote.url.clone(), run.clone(), Rc::clone(&work))));
            }
        }
        for client in clients {
            client.await.unwrap();
        }
        // One last event of which nobody else knows, so that the reader knows where to stop.
        let sha = "a".repeat(40);
        let last = with(v2(&run, end), json!({"messages": [{"type": "result"}], "endSha": sha}));
        assert_eq!(a.event(&run, &last).await.expect("an answer").status, 200);

        let events = b.events(&run).await;
        let stored: Vec<_> = events.iter().map(|event| event["seq"].as_i64().unwrap()).collect();
        let set_aside = a.quarantine("t").await;
        let late: BTreeSet<_> = set_aside
            .iter()
            .map(|item| {
                assert_eq!(item["reason"], "late_gap");
                serde_json::from_str::<Value>(item["payloadPrefix2k"].as_str().unwrap()).unwrap()["seq"]
                    .as_i64()
                    .unwrap()
            })
            .collect();
        assert_eq!(late.len(), set_aside.len(), "a row twice");
        assert!(stored.is_sorted_by(|one, next| one < next), "a row twice, or out of order");
        let ids: BTreeSet<_> = events.iter().map(|event| event["eventId"].to_string()).collect();
        assert_eq!(ids.len(), events.len());

        // Every event was acknowledged, and is stored or set aside, never both.
        let (heard, come_again) = {
            let mut work = work.borrow_mut();
            (std::mem::take(&mut work.heard), work.come_again)
        };
        assert_eq!(heard.0.keys().copied().collect::<Vec<_>>(), (0..end).collect::<Vec<_>>());
        let kept: BTreeSet<_> = stored.iter().copied().filter(|seq| *seq < end).collect();
        assert!(kept.is_disjoint(&late));
        assert_eq!(kept.len() + late.len(), heard.0.len());
        for (seq, outcomes) in &heard.0 {
            // Whoever was told so was the only one, and an event that was told so is there.
            let accepted = outcomes.get("accepted").copied().unwrap_or(0);
            assert_eq!(accepted, u64::from(kept.contains(seq)), "{seq}: {outcomes:?}");
            assert_eq!(outcomes.contains_key("out_of_order_seq"), late.contains(seq), "{seq}: {outcomes:?}");
        }

        // The counters are what was answered and what there is.
        let gaps = stored.iter().scan(-1, |last, seq| Some(std::mem::replace(last, *seq) + 1 != *seq));
        let counters = json!({
            "accepted": stored.len(), "duplicate": heard.total("duplicate_event"),
            "outOfOrder": heard.total("out_of_order_seq"), "quarantined": late.len(),
            "gaps": gaps.filter(|gap| *gap).count(),
        });
        assert_eq!(a.row(&run).await["counters"], counters);
        assert_eq!(b.row(&run).await["counters"], counters);
        assert!(heard.total("duplicate_event") > 100 && !late.is_empty(), "{counters}");

        let live = tokio::time::timeout(Duration::from_secs(20), reader).await.expect("the reader ends").unwrap();
        assert_eq!(live, stored, "what the live reader of the second server saw");
        // Who has lost some races makes the other server wait, so none loses them all.
        assert_eq!(come_again, 0);
        summary(&format!(
            "two servers, one run, 10 clients: {counters}; told to come again {} times; a live reader saw {} events",
            come_again,
            live.len()
        ));
    });
}

/// Reads live until the run's terminal event.
async fn read_live(url: String, run: TestRun) -> Vec<i64> {
    let request = reqwest::Client::new()
        .get(format!("{url}/api/internal/runs/{}/events", run.id))
        .header("X-Internal-Service-Key", INTERNAL_KEY)
        .header("accept", "text/event-stream");
    let mut body = Box::pin(request.send().await.unwrap().bytes_stream());
    let (mut text, mut seqs) = (String::new(), Vec::new());
    while let Some(chunk) = body.next().await {
        text.push_str(std::str::from_utf8(&chunk.unwrap()).unwrap());
        while let Some((event, rest)) = text.split_once("\n\n") {
            let field = |name: &str| event.lines().find_map(|line| line.strip_prefix(name));
            if let (Some(id), Some(data)) = (field("id: "), field("data: ")) {
                seqs.push(id.parse().unwrap());
                if data.contains("\"result\"") {
                    return seqs;
                }
            }
            text = rest.to_owned();
        }
    }
    panic!("the stream ended after {seqs:?}");
}

#[test]
fn a_run_that_another_server_supersedes_takes_no_more() {
    let redis = RedisServer::spawn(None);
    block_on(async {
        let [one, two] = pair(&redis, &[]);
        let (one, two) = (TestServer::with(one), TestServer::with(two));
        let (a, b) = (Remote::new(&one.url), Remote::new(&two.url));
        let old = b.run("t", "c", "s-1").await;
        let mut socket = Socket::open(&b.url, &old).await;
        socket.say(&v2(&old, 0)).await;
        let Heard::Frame(ack) = socket.hear().await else { panic!("no acknowledgement") };
        assert_eq!(ack["status"], "accepted");
        // The actor on the second server believes that its run is the active one.
        let new = a.run("t", "c", "s-2").await;
        socket.say(&v2(&old, 1)).await;
        let Heard::Frame(ack) = socket.hear().await else { panic!("no acknowledgement") };
        assert_eq!((&ack["status"], &ack["reason"]), (&json!("quarantined"), &json!("mismatch")));
        let answer = b.event(&old, &v2(&old, 2)).await.expect("an answer");
        assert_eq!((answer.status, &answer.body["reason"]), (202, &json!("mismatch")));
        assert_eq!(b.event(&new, &v2(&new, 0)).await.expect("an answer").status, 200);
        assert_eq!((a.events(&old).await.len(), a.events(&new).await.len()), (1, 1));
        let row = a.row(&old).await;
        assert_eq!((&row["status"], &row["isActive"]), (&json!("finished"), &json!(false)));
    });
}

#[test]
fn one_of_the_two_sweeps_and_the_other_takes_over() {
    let redis = RedisServer::spawn(None);
    block_on(async {
        let settings = [("SWEEP_INTERVAL_SECONDS", "1"), ("MISSING_END_SHA_TIMEOUT_SECONDS", "1")];
        let [one, two] = pair(&redis, &settings);
        let (one, first) = faulty(one);
        let (two, second) = faulty(two);
        let mut servers = vec![(one, first), (two, second)];
        let remote = Remote::new(&servers[0].0.url);
        let run = remote.run("t", "c", "s").await;
        let terminal = with(v2(&run, 0), json!({"messages": [{"type": "result"}]}));
        let answer = remote.event(&run, &terminal).await.expect("an answer");
        assert_eq!((answer.status, &answer.body["reason"]), (202, &json!("missing_end_sha")));
        // Whoever came first has the lease for as long as it lives.
        let leader = usize::from(servers[0].1.sweeps() == 0);
        let row = servers[0].0.until(&run, |row| row["status"] == "failed").await;
        assert_eq!(row["failureReason"], "missing_end_sha_timeout");
        let before = servers[leader].1.sweeps();
        wait_for(|| servers[leader].1.sweeps() >= before + 2).await;
        assert_eq!(servers[1 - leader].1.sweeps(), 0);
        // A dead node's lease runs out.
        let (dead, _) = servers.remove(leader);
        drop(dead);
        redis.tell(&format!("DEL {KEY_SWEEP_LEASE}")).unwrap();
        wait_for(|| servers[0].1.sweeps() >= 2).await;
    });
}

/// Polls until it is so; fails after half a minute.
pub async fn wait_for(so: impl Fn() -> bool) {
    for _ in 0..600 {
        if so() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("never");
}
