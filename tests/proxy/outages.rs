//! Redis or Postgres away: nobody is let in on a guess, streams do not outlive what nobody can check, and all is well
//! again by itself.

use std::time::{Duration, Instant};

use rustix::process::{Signal, kill_process};
use serde_json::json;
use tokio::time::{sleep, timeout};

use crate::app::{Db, Options, block_on};
use crate::cable::{Cable, Mode};
use crate::preview::Stage;
use crate::raw::{Answer, Raw};
use crate::redis_server::RedisServer;
use crate::revocation::{KINDS, endless, open};

fn assert_cache_unavailable(what: &str, answer: &Answer) {
    let body = answer.json();
    assert!(answer.is(503, "cache_unavailable"), "{what}: {} {body}", answer.head);
    let seconds: u64 = answer.header("retry-after").expect("Retry-After").parse().unwrap();
    assert_eq!(body["retryAfterMs"], json!(seconds * 1000), "{what}");
    assert!(body["backoffHint"].is_string(), "{what}: {body}");
    assert!(!body.to_string().to_ascii_lowercase().contains("redis"), "{what}: {body}");
}

#[test]
fn a_token_that_was_used_is_not_good_again_where_redis_has_lost_everything() {
    let redis = RedisServer::spawn(None);
    block_on(async {
        let upstream = endless().await;
        let options = Options::new(Db::Sqlite).set("REDIS_URL", redis.url());
        let stage = Stage::new(options, upstream.address).await;
        let session = stage.start().await;
        let (id, token) = (session["previewSessionId"].as_str().unwrap(), session["exchangeToken"].as_str().unwrap());
        let exchange = format!(
            "POST /api/preview/session/{id}/exchange HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\r\n"
        );
        let url = &stage.server.url;
        assert_eq!(Raw::ask(url, &exchange).await.status, 200);
        assert!(Raw::ask(url, &exchange).await.is(409, "token_replay"));
        let client = redis::Client::open(redis.url()).unwrap();
        let mut connection = client.get_multiplexed_async_connection().await.unwrap();
        redis::cmd("FLUSHALL").exec_async(&mut connection).await.unwrap();
        // The server remembers the key for some seconds; what was used it does not.
        let answer = Raw::ask(url, &exchange).await;
        assert!(answer.is(401, "signature_mismatch"), "{} {}", answer.head, answer.json());
    });
}

#[test]
fn without_redis_nothing_is_let_in_and_streams_end() {
    let redis = RedisServer::spawn(None);
    block_on(async {
        let upstream = endless().await;
        let options = Options::new(Db::Sqlite).set("REDIS_URL", redis.url()).set("PREVIEW_WEBSOCKET", "on");
        let stage = Stage::new(options, upstream.address).await;
        let browser = stage.open().await;
        let session = stage.start().await;
        let url = &stage.server.url;
        let mut streams = Vec::new();
        for kind in &KINDS[1..] {
            streams.push((*kind, open(url, &browser, kind).await));
        }
        let seen = upstream.heads().len();
        // Frozen, it keeps what it knows; a call to it hangs, which is worse than a refused one.
        let process = redis.process();
        kill_process(process, Signal::STOP).unwrap();
        let since = Instant::now();
        let (id, token) = (session["previewSessionId"].as_str().unwrap(), session["exchangeToken"].as_str().unwrap());
        let exchange = format!(
            "POST /api/preview/session/{id}/exchange HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\r\n"
        );
        let subscription = browser.head("POST", "/.runwarden/subscription-token", "Content-Length: 0\r\n");
        let (proxied, exchanged, subscribed) = futures_util::join!(
            Raw::ask(url, browser.head("GET", "/", "")),
            Raw::ask(url, &exchange),
            Raw::ask(url, &subscription),
        );
        assert_cache_unavailable("proxied", &proxied);
        assert_cache_unavailable("exchange", &exchanged);
        assert_cache_unavailable("subscription token", &subscribed);
        assert_eq!(upstream.heads().len(), seen);
        for (kind, mut raw) in streams {
            let ended = timeout(Duration::from_secs(15), async { while !raw.try_rest().await {} }).await;
            assert!(ended.is_ok(), "{kind} goes on though nobody can say whether it may");
            println!("redis away to cut: {:?} for {kind}", since.elapsed());
        }
        kill_process(process, Signal::CONT).unwrap();
        let again = async {
            while Raw::ask(url, browser.head("GET", "/", "")).await.status != 200 {
                sleep(Duration::from_millis(100)).await;
            }
        };
        timeout(Duration::from_secs(15), again).await.expect("the same cookie is good again");
        // The exchange that failed did not use the token up, or it did: never twice.
        let answers = [Raw::ask(url, &exchange).await.status, Raw::ask(url, &exchange).await.status];
        assert!(matches!(answers, [200 | 409, 409]), "{answers:?}");
    });
}

#[test]
fn a_redis_that_comes_back_empty_takes_new_sessions() {
    let mut redis = RedisServer::spawn(None);
    block_on(async {
        let upstream = endless().await;
        let options = Options::new(Db::Sqlite).set("REDIS_URL", redis.url());
        let stage = Stage::new(options, upstream.address).await;
        let browser = stage.open().await;
        redis.stop();
        assert_cache_unavailable("stopped", &Raw::ask(&stage.server.url, browser.head("GET", "/", "")).await);
        redis.start();
        // Its keys are gone, and with them every cookie; a new session has new ones.
        let again = async {
            loop {
                let (status, session) = stage.start_with(json!({})).await;
                if status == 201 && session["exchangeToken"].is_string() {
                    return crate::preview::Browser::exchange(&stage.server, &session).await;
                }
                sleep(Duration::from_millis(200)).await;
            }
        };
        let fresh = timeout(Duration::from_secs(15), again).await.expect("a new session");
        assert_eq!(fresh.get("/").await.status(), 200);
    });
}

#[test]
fn without_postgres_streams_go_on_and_nothing_new_begins() {
    let redis = RedisServer::spawn(None);
    let database = std::thread::spawn(|| {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
            .block_on(crate::postgres::new_database())
    });
    let database = database.join().unwrap();
    let port: u16 = database.rsplit_once(':').unwrap().1.split('/').next().unwrap().parse().unwrap();
    let cable = Cable::to(port);
    let through = database.replace(&format!(":{port}/"), &format!(":{}/", cable.port));
    block_on(async {
        let upstream = endless().await;
        let options = Options::new(Db::Sqlite).set("DATABASE_URL", through).set("REDIS_URL", redis.url());
        let stage = Stage::new(options, upstream.address).await;
        let browser = stage.open().await;
        let url = &stage.server.url;
        let mut ticks = Raw::connect(url).await;
        ticks.send(browser.head("GET", "/ticks", "")).await;
        ticks.until("tick").await.expect("a tick");
        cable.set(Mode::Refuses);
        cable.cut();
        // The live flag is believed for two seconds; after them nobody can say whether previews are on.
        sleep(Duration::from_millis(2_100)).await;
        let patient = Raw::ask_patiently(url, browser.head("GET", "/", ""), Duration::from_secs(25)).await;
        assert!(patient.is(503, "store_unavailable"), "{} {}", patient.head, patient.text());
        assert!(patient.header("retry-after").is_some());
        let started =
            tokio::time::timeout(Duration::from_secs(25), stage.start_with(json!({}))).await.expect("an answer");
        assert_eq!((started.0, &started.1["code"]), (503, &json!("store_unavailable")), "{}", started.1);
        // What Redis alone can vouch for goes on.
        ticks.rest_so_far().await;
        ticks.until("tick").await.expect("the stream goes on");
        cable.set(Mode::Relays);
        let again = async {
            while Raw::ask_patiently(url, browser.head("GET", "/", ""), Duration::from_secs(25)).await.status != 200 {
                sleep(Duration::from_millis(100)).await;
            }
        };
        timeout(Duration::from_secs(25), again).await.expect("the same session is good again");
    });
}
