//! Bodies: streamed both ways, bounded, and never ended cleanly where they were not.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use runwarden::proxy::ProxyTimeouts;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::{Notify, mpsc};
use tokio::time::{sleep, timeout};

use crate::app::{Db, Options, block_on};
use crate::preview::Stage;
use crate::raw::Raw;
use crate::upstream::{TestUpstream, header, healthy, is_closed, ok, send_all};

const MIB: usize = 1024 * 1024;

/// A server whose proxy waits `http` for a whole answer.
pub fn hasty(http: Duration) -> Options {
    Options::new(Db::Sqlite).refit(move |mut parts| {
        parts.timeouts = ProxyTimeouts { http, ..parts.timeouts };
        parts
    })
}

#[test]
fn uploads_and_answers_stream_both_ways() {
    block_on(async {
        let (sender, mut arrived) = mpsc::unbounded_channel::<Vec<u8>>();
        let upstream = TestUpstream::acting(move |head, mut stream| {
            let sender = sender.clone();
            Box::pin(async move {
                if let Some(up) = healthy(&head) {
                    return send_all(stream, up).await;
                }
                // The answer begins before the upload has ended, and ends after it.
                stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nearly\r\n").await.ok()?;
                let mut all = Vec::new();
                let mut bytes = [0; 1024];
                while !all.ends_with(b"last") && !all.ends_with(b"0\r\n\r\n") {
                    let count = stream.read(&mut bytes).await.ok()?;
                    all.extend_from_slice(&bytes[..count]);
                    sender.send(bytes[..count].to_vec()).ok()?;
                }
                send_all(stream, "4\r\nlate\r\n0\r\n\r\n").await
            })
        })
        .await;
        let stage = Stage::new(Options::new(Db::Sqlite), upstream.address).await;
        let browser = stage.open().await;
        for (framing, first, last) in [
            ("Transfer-Encoding: chunked\r\n", "5\r\nfirst\r\n", "4\r\nlast\r\n0\r\n\r\n"),
            ("Content-Length: 9\r\n", "first", "last"),
        ] {
            let mut raw = Raw::connect(&stage.server.url).await;
            raw.send(browser.head("POST", "/up", framing)).await;
            raw.send(first).await;
            let got = timeout(Duration::from_secs(5), arrived.recv()).await.expect("the first part arrives alone");
            assert!(String::from_utf8(got.unwrap()).unwrap().contains("first"));
            raw.until("early").await.expect("the answer begins");
            raw.send(last).await;
            raw.until("late").await.expect("the answer ends");
            assert!(raw.until("0\r\n\r\n").await.is_some());
            assert!(
                upstream.last().to_ascii_lowercase().contains(&framing.to_ascii_lowercase()),
                "{}",
                upstream.last()
            );
            while arrived.try_recv().is_ok() {}
        }
    });
}

#[test]
fn too_large_a_body_is_refused_whether_announced_or_counted() {
    block_on(async {
        let taken = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&taken);
        let upstream = TestUpstream::acting(move |head, mut stream| {
            let counter = Arc::clone(&counter);
            Box::pin(async move {
                if let Some(up) = healthy(&head) {
                    return send_all(stream, up).await;
                }
                if let Some(length) = header(&head, "content-length") {
                    let mut body = vec![0; length.parse().unwrap()];
                    stream.read_exact(&mut body).await.ok()?;
                    return send_all(stream, ok(&body.len().to_string())).await;
                }
                let mut bytes = vec![0; 64 * 1024];
                while let Ok(count @ 1..) = stream.read(&mut bytes).await {
                    counter.fetch_add(count as u64, Ordering::SeqCst);
                }
                None
            })
        })
        .await;
        let stage = Stage::new(Options::new(Db::Sqlite), upstream.address).await;
        let browser = stage.open().await;

        let fits = vec![b'x'; 2 * MIB];
        let whole = browser.request(reqwest::Method::PUT, "/").body(fits.clone()).send().await.unwrap();
        assert_eq!(whole.text().await.unwrap(), (2 * MIB).to_string());
        let sent = upstream.heads().len();

        // Announced: before a byte of it is read, and the connection goes no further.
        let mut raw = Raw::connect(&stage.server.url).await;
        raw.send(browser.head("POST", "/", &format!("Content-Length: {}\r\n", 2 * MIB + 1))).await;
        let answer = raw.answer().await.expect("an answer");
        assert!(answer.is(413, "payload_too_large"), "{}", answer.text());
        assert_eq!(upstream.heads().len(), sent);

        // Counted, while the client still sends.
        let mut raw = Raw::connect(&stage.server.url).await;
        raw.send(browser.head("POST", "/", "Transfer-Encoding: chunked\r\n")).await;
        let chunk = [format!("{:x}\r\n", 64 * 1024).into_bytes(), vec![b'x'; 64 * 1024], b"\r\n".to_vec()].concat();
        for _ in 0..40 {
            if !raw.try_send(&chunk).await {
                break;
            }
        }
        let answer = raw.answer().await.expect("an answer");
        assert!(answer.is(413, "payload_too_large"), "{} {}", answer.head, answer.text());
        assert!(raw.is_over().await, "a client that goes on is not listened to");
        assert!(taken.load(Ordering::SeqCst) <= 2 * MIB as u64 + 64 * 1024);

        // Neither kept a slot.
        for _ in 0..20 {
            assert_eq!(browser.request(reqwest::Method::PUT, "/").body("x").send().await.unwrap().status(), 200);
        }
    });
}

#[test]
fn a_client_that_breaks_off_takes_its_upstream_request_with_it() {
    block_on(async {
        let closed = Arc::new(Notify::new());
        let noted = Arc::clone(&closed);
        let upstream = TestUpstream::acting(move |head, mut stream| {
            let noted = Arc::clone(&noted);
            Box::pin(async move {
                if let Some(up) = healthy(&head) {
                    return send_all(stream, up).await;
                }
                if head.starts_with("GET ") {
                    stream
                        .write_all(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\n")
                        .await
                        .ok()?;
                }
                if is_closed(&mut stream).await {
                    noted.notify_one();
                }
                None
            })
        })
        .await;
        let stage = Stage::new(Options::new(Db::Sqlite), upstream.address).await;
        let browser = stage.open().await;
        let mut upload = Raw::connect(&stage.server.url).await;
        upload.send(format!("{}abc", browser.head("POST", "/", "Content-Length: 100\r\n"))).await;
        while upstream.heads().is_empty() {
            sleep(Duration::from_millis(10)).await;
        }
        drop(upload);
        timeout(Duration::from_secs(5), closed.notified()).await.expect("the upload's upstream is let go");
        let mut stream = Raw::connect(&stage.server.url).await;
        stream.send(browser.head("GET", "/", "")).await;
        stream.until("data: 1").await.expect("an event");
        drop(stream);
        timeout(Duration::from_secs(5), closed.notified()).await.expect("the stream's upstream is let go");
    });
}

#[test]
fn an_upstream_that_is_slow_is_given_up() {
    block_on(async {
        let upstream = TestUpstream::acting(|head, mut stream| {
            Box::pin(async move {
                if let Some(up) = healthy(&head) {
                    return send_all(stream, up).await;
                }
                if head.starts_with("GET /head ") {
                    sleep(Duration::from_secs(20)).await;
                }
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n").await;
                // Never silent, and never done.
                while stream.write_all(b"drip").await.is_ok() {
                    sleep(Duration::from_millis(20)).await;
                }
                None
            })
        })
        .await;
        let stage = Stage::new(hasty(Duration::from_millis(400)), upstream.address).await;
        let browser = stage.open().await;
        let answer = Raw::ask(&stage.server.url, browser.head("GET", "/head", "")).await;
        assert!(answer.is(504, "upstream_timeout"), "{}", answer.text());
        let asked = Raw::ask(&stage.server.url, browser.head("GET", "/body", ""));
        let answer = timeout(Duration::from_secs(10), asked).await.expect("a body that never pauses ends in time too");
        assert!(answer.status == 200 && !answer.whole && answer.text().starts_with("drip"), "{}", answer.head);
        // An upload that stops half-way is given up with it.
        let mut raw = Raw::connect(&stage.server.url).await;
        raw.send(format!("{}abc", browser.head("POST", "/head-of-upload", "Content-Length: 100\r\n"))).await;
        let answer = raw.answer().await.expect("an answer");
        assert!(matches!(answer.status, 200 | 504) && raw.is_over().await, "{}", answer.head);
    });
}

#[test]
fn nobody_listens_is_502() {
    block_on(async {
        let upstream = TestUpstream::acting(|head, stream| {
            Box::pin(async move {
                match healthy(&head) {
                    Some(up) => send_all(stream, up).await,
                    None => None,
                }
            })
        })
        .await;
        let stage = Stage::new(Options::new(Db::Sqlite), upstream.address).await;
        let browser = stage.open().await;
        let answer = Raw::ask(&stage.server.url, browser.head("GET", "/", "")).await;
        assert!(answer.is(502, "upstream_unreachable"), "{}", answer.text());
    });
}

#[test]
fn answers_without_bodies_and_parts_of_bodies() {
    block_on(async {
        let upstream = TestUpstream::answering(|head| {
            if let Some(up) = healthy(head) {
                return up;
            }
            if head.starts_with("HEAD ") {
                return "HTTP/1.1 200 OK\r\nContent-Length: 1234\r\nX-App: head\r\n\r\n".to_owned();
            }
            match head.split(' ').nth(1).unwrap_or_default() {
                "/204" => "HTTP/1.1 204 No Content\r\nX-App: none\r\n\r\n".to_owned(),
                "/304" => "HTTP/1.1 304 Not Modified\r\nETag: \"1\"\r\nContent-Length: 99\r\n\r\n".to_owned(),
                "/early-hints" => format!("HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n{}", ok("late")),
                "/empty" => ok(""),
                _ => {
                    let range = header(head, "range").unwrap_or_default();
                    format!("HTTP/1.1 206 Partial Content\r\nContent-Range: {range}/10\r\nContent-Length: 2\r\n\r\nab")
                }
            }
        })
        .await;
        let stage = Stage::new(Options::new(Db::Sqlite), upstream.address).await;
        let browser = stage.open().await;
        let mut raw = Raw::connect(&stage.server.url).await;
        // One connection for all of them: none leaves anything behind for the next.
        for _ in 0..2 {
            raw.send(browser.head("HEAD", "/", "")).await;
            let answer = raw.answer_to("HEAD").await.expect("an answer");
            assert_eq!((answer.status, answer.header("content-length").as_deref()), (200, Some("1234")));
            raw.send(browser.head("GET", "/204", "")).await;
            let answer = raw.answer().await.expect("an answer");
            assert_eq!((answer.status, answer.header("content-length")), (204, None), "{}", answer.head);
            raw.send(browser.head("GET", "/304", "If-None-Match: \"1\"\r\n")).await;
            let answer = raw.answer().await.expect("an answer");
            assert_eq!((answer.status, answer.header("etag").as_deref()), (304, Some("\"1\"")), "{}", answer.head);
            assert_ne!(
                answer.header("content-length").as_deref(),
                Some("0"),
                "a 304 does not say that the body is empty"
            );
            raw.send(browser.head("GET", "/range", "Range: bytes=0-1\r\n")).await;
            let answer = raw.answer().await.expect("an answer");
            assert_eq!((answer.status, answer.text().as_str()), (206, "ab"));
            assert_eq!(answer.header("content-range").as_deref(), Some("bytes=0-1/10"));
            raw.send(browser.head("GET", "/early-hints", "")).await;
            let answer = raw.answer().await.expect("an answer");
            assert_eq!((answer.text().as_str(), answer.header("link")), ("late", None));
            raw.send(browser.head("GET", "/empty", "")).await;
            let answer = raw.answer().await.expect("an answer");
            assert_eq!(answer.header("content-length").as_deref(), Some("0"));
        }
        assert!(upstream.connections() <= 3, "{} connections", upstream.connections());
    });
}

#[test]
fn events_arrive_one_by_one_and_silence_ends_the_stream() {
    block_on(async {
        let next = Arc::new(Notify::new());
        let go_on = Arc::clone(&next);
        let upstream = TestUpstream::acting(move |head, mut stream| {
            let go_on = Arc::clone(&go_on);
            Box::pin(async move {
                if let Some(up) = healthy(&head) {
                    return send_all(stream, up).await;
                }
                let head = "HTTP/1.1 200 OK\r\nContent-Type: Text/Event-Stream; charset=utf-8\r\nCache-Control: public\r\n\
                    Content-Length: 100000\r\nX-Accel-Buffering: yes\r\n\r\n";
                stream.write_all(format!("{head}data: 1\n\n").as_bytes()).await.ok()?;
                go_on.notified().await;
                stream.write_all(b"data: 2\n\n").await.ok()?;
                is_closed(&mut stream).await.then_some(())?;
                go_on.notify_one();
                None
            })
        })
        .await;
        // Streams outlive the limit of ordinary answers; silence ends them.
        let options = Options::new(Db::Sqlite).refit(|mut parts| {
            parts.timeouts.http = Duration::from_millis(300);
            parts.timeouts.stream_idle = Duration::from_millis(1_500);
            parts
        });
        let stage = Stage::new(options, upstream.address).await;
        let browser = stage.open().await;
        let mut raw = Raw::connect(&stage.server.url).await;
        raw.send(browser.head("GET", "/events", "Last-Event-ID: 7\r\nAccept-Encoding: gzip\r\n")).await;
        let head = raw.head().await.expect("a head").to_ascii_lowercase();
        for line in
            ["cache-control: no-cache, no-transform\r\n", "x-accel-buffering: no\r\n", "transfer-encoding: chunked\r\n"]
        {
            assert!(head.contains(line), "{head}");
        }
        assert!(!head.contains("content-length") && !head.contains("public"));
        assert_eq!(header(&upstream.last(), "last-event-id").as_deref(), Some("7"));
        assert_eq!(header(&upstream.last(), "accept-encoding"), None);
        raw.until("data: 1").await.expect("the first event, alone");
        sleep(Duration::from_millis(600)).await;
        next.notify_one();
        raw.until("data: 2").await.expect("the second event");
        let rest = raw.rest().await;
        assert!(!rest.ends_with(b"0\r\n\r\n"), "a stream that was cut does not end cleanly");
        timeout(Duration::from_secs(5), next.notified()).await.expect("the upstream is let go");
    });
}

#[test]
fn a_client_that_does_not_read_costs_little_and_is_cut_like_any_other() {
    block_on(async {
        let written = Arc::new(AtomicU64::new(0));
        let (counter, gone) = (Arc::clone(&written), Arc::new(Notify::new()));
        let noted = Arc::clone(&gone);
        let upstream = TestUpstream::acting(move |head, mut stream| {
            let (counter, noted) = (Arc::clone(&counter), Arc::clone(&noted));
            Box::pin(async move {
                if let Some(up) = healthy(&head) {
                    return send_all(stream, up).await;
                }
                stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n").await.ok()?;
                let block = vec![b'x'; 64 * 1024];
                while stream.write_all(&block).await.is_ok() {
                    counter.fetch_add(block.len() as u64, Ordering::SeqCst);
                }
                noted.notify_one();
                None
            })
        })
        .await;
        let stage = Stage::new(Options::new(Db::Sqlite), upstream.address).await;
        let browser = stage.open().await;
        let mut raw = Raw::connect(&stage.server.url).await;
        raw.send(browser.head("GET", "/flood", "")).await;
        raw.head().await.expect("a head");
        // The kernel's buffers fill up, and then nothing more is taken from the upstream.
        let mut before = u64::MAX;
        for _ in 0..50 {
            sleep(Duration::from_millis(100)).await;
            let now = written.load(Ordering::SeqCst);
            if now == before {
                break;
            }
            before = now;
        }
        assert_eq!(written.load(Ordering::SeqCst), before, "the upstream is read on and on");
        assert!(before < 64 * MIB as u64, "{before} bytes for a client that reads nothing");
        let start = std::time::Instant::now();
        stage.revoke(&browser.id).await;
        timeout(Duration::from_secs(3), gone.notified()).await.expect("the upstream is let go though nobody reads");
        println!("revocation to cut: {:?} for an answer that nobody reads", start.elapsed());
    });
}

#[test]
fn an_upstream_that_answers_early_does_not_keep_its_connection() {
    block_on(async {
        let upstream = TestUpstream::acting(|head, stream| {
            Box::pin(async move {
                if head.starts_with("POST ") {
                    // The rest of the upload would be read as the next request here.
                    return send_all(stream, "HTTP/1.1 400 Bad Request\r\nContent-Length: 5\r\n\r\nearly").await;
                }
                send_all(stream, ok("next")).await
            })
        })
        .await;
        let stage = Stage::new(Options::new(Db::Sqlite), upstream.address).await;
        let browser = stage.open().await;
        let mut raw = Raw::connect(&stage.server.url).await;
        raw.send(format!("{}abc", browser.head("POST", "/", "Content-Length: 100\r\n"))).await;
        let answer = raw.answer().await.expect("an answer before the upload has ended");
        assert_eq!((answer.status, answer.text().as_str()), (400, "early"));
        let answer = timeout(Duration::from_secs(5), browser.get("/next")).await.expect("a connection of its own");
        assert_eq!(answer.text().await.unwrap(), "next");
        assert!(upstream.heads().iter().all(|head| head.starts_with("POST ") || head.starts_with("GET /next ")));
    });
}
