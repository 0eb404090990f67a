//! Readers: section 4.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use runwarden_actors::testing::FaultyStore;
use serde_json::{Value, json};

use crate::app::{Db, INTERNAL_KEY, Options, TestRun, TestServer, block_on, v2, with};
use crate::on_both;

/// A live reader that collects `id` and `data` of each event.
struct Sse {
    body: std::pin::Pin<Box<dyn futures_util::Stream<Item = reqwest::Result<actix_web::web::Bytes>>>>,
    text: String,
}

impl Sse {
    async fn open(server: &TestServer, run: &TestRun, query: &str, last_event_id: Option<&str>) -> Self {
        let mut request = server
            .http
            .get(format!("{}/api/internal/runs/{}/events{query}", server.url, run.id))
            .header("X-Internal-Service-Key", INTERNAL_KEY)
            .header("accept", "text/event-stream");
        if let Some(id) = last_event_id {
            request = request.header("Last-Event-ID", id);
        }
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["cache-control"], "no-cache, no-transform");
        Self { body: Box::pin(response.bytes_stream()), text: String::new() }
    }

    async fn next(&mut self) -> Option<(i64, Value)> {
        loop {
            if let Some((event, rest)) = self.text.split_once("\n\n") {
                let (event, rest) = (event.to_owned(), rest.to_owned());
                self.text = rest;
                let field = |name: &str| event.lines().find_map(|line| line.strip_prefix(name).map(str::to_owned));
                if let (Some(id), Some(data)) = (field("id: "), field("data: ")) {
                    return Some((id.parse().unwrap(), serde_json::from_str(&data).unwrap()));
                }
                continue;
            }
            let chunk = tokio::time::timeout(Duration::from_secs(20), self.body.next()).await.expect("something comes");
            self.text.push_str(std::str::from_utf8(&chunk?.ok()?).unwrap());
        }
    }

    async fn seqs(&mut self, count: usize) -> Vec<i64> {
        let mut seqs = Vec::new();
        while seqs.len() < count {
            seqs.push(self.next().await.expect("the stream goes on").0);
        }
        seqs
    }
}

on_both!(pages_follow_each_other, |db| {
    block_on(async {
        let server = TestServer::start(db);
        let run = server.run("t", "c", "s").await;
        for seq in 0..510 {
            assert_eq!(server.event(&run, &v2(&run, seq)).await.0, 200);
        }
        let page = |after: &str| {
            let path = format!("/api/internal/runs/{}/events{after}", run.id);
            let server = &server;
            async move { server.get(&path).await.1 }
        };
        let first = page("").await;
        assert_eq!((first["events"].as_array().unwrap().len(), &first["nextAfter"]), (500, &json!(499)));
        let second = page("?after=499").await;
        assert_eq!((second["events"].as_array().unwrap().len(), &second["nextAfter"]), (10, &json!(509)));
        let end = page("?after=509").await;
        assert_eq!((&end["events"], &end["nextAfter"]), (&json!([]), &json!(509)));
    });
});

on_both!(replay_then_live_without_gap_or_repeat, |db| {
    block_on(async {
        let server = TestServer::start(db);
        let run = server.run("t", "c", "s").await;
        for seq in 0..30 {
            server.event(&run, &v2(&run, seq)).await;
        }
        let mut whole = Sse::open(&server, &run, "", None).await;
        let mut resumed = Sse::open(&server, &run, "?after=3", Some("19")).await;
        let writer = async {
            for seq in 30..60 {
                server.event(&run, &v2(&run, seq)).await;
            }
        };
        let ((), all, rest) = futures_util::join!(writer, whole.seqs(60), resumed.seqs(40));
        assert_eq!(all, (0..60).collect::<Vec<_>>());
        assert_eq!(rest, (20..60).collect::<Vec<_>>());
    });
});

on_both!(a_payload_with_line_breaks_stays_one_event, |db| {
    block_on(async {
        let server = TestServer::start(db);
        let run = server.run("t", "c", "s").await;
        let pretty = serde_json::to_string_pretty(&with(v2(&run, 0), json!({"deltas": [1, {"a": "b\n"}]}))).unwrap();
        assert_eq!(server.event_raw(Some(&run.token), pretty.replace('\n', "\r\n")).await.0, 200);
        let mut sse = Sse::open(&server, &run, "", None).await;
        let (_, event) = sse.next().await.unwrap();
        assert_eq!(event["deltas"], json!([1, {"a": "b\n"}]));
    });
});

#[test]
fn a_thousand_readers_cost_one_read_of_the_store() {
    block_on(async {
        let (sender, receiver) = std::sync::mpsc::channel();
        let server = TestServer::with(Options::new(Db::Sqlite).dress(move |deps| {
            let store = Arc::new(FaultyStore::new(deps.store));
            sender.send(Arc::clone(&store)).unwrap();
            runwarden_actors::run::Deps::new(
                store,
                deps.coordination,
                deps.evidence,
                deps.sandbox,
                deps.clock,
                deps.ids,
                deps.observer,
            )
        }));
        let store = receiver.recv().unwrap();
        let run = server.run("t", "c", "s").await;
        for seq in 0..20 {
            server.event(&run, &v2(&run, seq)).await;
        }
        let before = store.reads();
        let mut readers = futures_util::future::join_all((0..1000).map(|_| Sse::open(&server, &run, "", None))).await;
        let replays = futures_util::future::join_all(readers.iter_mut().map(|reader| reader.seqs(20))).await;
        assert!(replays.iter().all(|seqs| *seqs == (0..20).collect::<Vec<_>>()));
        let opened = store.reads();
        for seq in 20..25 {
            server.event(&run, &v2(&run, seq)).await;
        }
        let lives = futures_util::future::join_all(readers.iter_mut().map(|reader| reader.seqs(5))).await;
        assert!(lives.iter().all(|seqs| *seqs == (20..25).collect::<Vec<_>>()));
        // Opening takes the run, a page and a look behind it; a commit takes a page and a look; and the feed looks
        // for other servers' commits twice a second. A thousand readers of their own would take thousands.
        let total = store.reads();
        println!("1000 readers: {} reads to open and replay, {} for 5 live events", opened - before, total - opened);
        assert!(opened - before < 40 && total - opened < 40, "{before}, {opened}, {total}");
    });
}

on_both!(live_readers_end_when_the_server_goes_down, |db| {
    block_on(async {
        let mut server = TestServer::start(db);
        let run = server.run("t", "c", "s").await;
        server.event(&run, &v2(&run, 0)).await;
        let mut sse = Sse::open(&server, &run, "", None).await;
        assert_eq!(sse.seqs(1).await, [0]);
        let stopping = std::thread::spawn(move || server.stop());
        assert!(sse.next().await.is_none());
        stopping.join().unwrap();
    });
});
