//! What is written down of those who were refused, and what is not; and how often strangers may ask.

use std::sync::Arc;
use std::time::Duration;

use runwarden_actors::ports::{Upstream, UpstreamReach};
use runwarden_actors::testing::{FakeSandbox, RecordingObserver};
use tokio::time::sleep;
use uuid::Uuid;

use crate::app::{Db, Options, block_on};
use crate::preview::{Stage, reported};
use crate::raw::{Answer, Raw};
use crate::upstream::{TestUpstream, ok};

/// `STRANGER_LOOKUPS_MAX`, typed in again.
const LOOKUPS: usize = 60;

fn watched(options: Options) -> (Options, Arc<RecordingObserver>) {
    let observer = Arc::new(RecordingObserver::default());
    let theirs = Arc::clone(&observer);
    let options = options.dress(move |mut deps| {
        deps.observer = theirs;
        deps
    });
    (options, observer)
}

#[test]
fn a_request_that_shows_nothing_is_counted_and_one_that_shows_something_wrong_is_audited() {
    block_on(async {
        let upstream = TestUpstream::answering(|_| ok("")).await;
        let (options, observer) = watched(Options::new(Db::Sqlite));
        let stage = Stage::new(options, upstream.address).await;
        let browser = stage.open().await;
        let ask = async |path: &str, cookie: &str| {
            let path = browser.path(path);
            Raw::ask(&stage.server.url, format!("GET {path} HTTP/1.1\r\nHost: x\r\n{cookie}\r\n")).await
        };
        for cookie in ["", "Cookie: a=b\r\n", "Cookie: rw_preview=\r\n", "Authorization: Bearer x\r\n"] {
            assert!(ask("/", cookie).await.is(401, "permission_denied"), "{cookie}");
            assert!(ask("/../x", cookie).await.is(403, "proxy_path_denied"), "{cookie}");
        }
        assert_eq!(observer.count("without_credential"), 8);
        for reason in ["permission_denied", "proxy_path_denied"] {
            assert_eq!(observer.count(&format!("preview_denied:{reason}")), 0, "{reason}");
        }
        let own = format!("Cookie: {}\r\n", browser.cookie);
        assert!(ask("/../x", &own).await.is(403, "proxy_path_denied"));
        assert!(ask("/", "Cookie: rw_preview=x.y.z\r\n").await.is(401, "signature_mismatch"));
        for reason in ["proxy_path_denied", "signature_mismatch"] {
            // Each names its request.
            assert_eq!(observer.count(&format!("preview_denied:{reason}")), 1, "{reason}");
            assert_eq!(observer.count(&format!("proxy_denied:{reason}")), 1, "{reason}");
        }
        assert_eq!(observer.count("without_credential"), 8);
    });
}

#[test]
fn a_rebinding_is_audited_with_the_request_that_met_it() {
    block_on(async {
        let upstream = TestUpstream::answering(|_| ok("")).await;
        let sandbox = Arc::new(FakeSandbox::default());
        sandbox.set_upstream(Ok(reported(upstream.address)));
        let (options, observer) = watched(Options::new(Db::Sqlite));
        let (stage, clock) = Stage::timed(options, Arc::clone(&sandbox)).await;
        let browser = stage.open().await;
        let inner = "10.0.0.1".parse().unwrap();
        let moved =
            Upstream { host: "10.0.0.1".into(), reach: UpstreamReach::Reported(inner), ..reported(upstream.address) };
        sandbox.set_upstream(Ok(moved));
        clock.advance_ms(5_001);
        let answer = Raw::ask(&stage.server.url, browser.head("GET", "/", "")).await;
        assert!(answer.is(403, "proxy_ssrf_blocked"), "{}", answer.text());
        assert_eq!(observer.count("preview_denied:proxy_ssrf_blocked"), 1);
        assert_eq!(observer.count("proxy_denied:proxy_ssrf_blocked"), 1);
    });
}

#[test]
fn a_provider_that_does_not_answer_is_no_attack() {
    block_on(async {
        let upstream = TestUpstream::answering(|_| ok("")).await;
        let sandbox = Arc::new(FakeSandbox::default());
        sandbox.set_upstream(Ok(reported(upstream.address)));
        let (options, observer) = watched(Options::new(Db::Sqlite));
        let (stage, clock) = Stage::timed(options, Arc::clone(&sandbox)).await;
        let browser = stage.open().await;
        sandbox.set_upstream(Err(runwarden_actors::ports::SandboxError::ProviderUnavailable("away".into())));
        clock.advance_ms(5_001);
        let answer = Raw::ask(&stage.server.url, browser.head("GET", "/", "")).await;
        assert!(answer.is(502, "upstream_unreachable"), "{}", answer.text());
        assert_eq!(observer.count("preview_denied:proxy_ssrf_blocked"), 0);
    });
}

#[test]
fn strangers_may_ask_for_few_sessions_and_whoever_was_let_in_is_none() {
    block_on(async {
        let upstream = TestUpstream::answering(|_| ok("in")).await;
        let stage = Stage::new(Options::new(Db::Sqlite).set("ACTOR_IDLE_SECONDS", "1"), upstream.address).await;
        let browser = stage.open().await;
        let url = &stage.server.url;
        let unknown = async |cookie: &str| -> Answer {
            let path = format!("/api/preview/proxy/{}/", Uuid::new_v4());
            Raw::ask(url, format!("GET {path} HTTP/1.1\r\nHost: x\r\n{cookie}\r\n")).await
        };
        // Another session's cookie proves nothing about this one.
        let own = format!("Cookie: {}\r\n", browser.cookie);
        for (n, cookie) in ["", own.as_str(), "Cookie: rw_preview=x.y.z\r\n"].iter().cycle().take(LOOKUPS).enumerate() {
            assert!(unknown(cookie).await.is(404, "not_found"), "{n}");
        }
        let answer = unknown("").await;
        assert!(answer.is(429, "rate_limited"), "{}", answer.text());
        assert_eq!(answer.json()["limiter"], "ip");
        let wait: u64 = answer.header("retry-after").expect("Retry-After").parse().unwrap();
        assert!((1..=10).contains(&wait), "{wait}");
        // What is no id needs no look-up.
        let upper = Uuid::new_v4().to_string().to_uppercase();
        for path in ["/api/preview/proxy/x/".to_owned(), format!("/api/preview/proxy/{upper}/")] {
            let answer = Raw::ask(url, format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n")).await;
            assert!(answer.is(404, "not_found"), "{path}: {}", answer.text());
        }
        // A session that is open here costs no look-up; its own cookie is asked for as always.
        let without = browser.head("GET", "/", "").replace(&browser.cookie, "a=b");
        assert_eq!(Raw::ask(url, browser.head("GET", "/", "")).await.text(), "in");
        assert!(Raw::ask(url, &without).await.is(401, "permission_denied"));
        // Nobody has used it for a while: only its cookie leads to the database now.
        let mut refused = Raw::ask(url, &without).await;
        for _ in 0..30 {
            if refused.status == 429 {
                break;
            }
            assert!(refused.is(401, "permission_denied"), "{}", refused.text());
            sleep(Duration::from_millis(1500)).await;
            while unknown("").await.status == 404 {}
            refused = Raw::ask(url, &without).await;
        }
        assert!(refused.is(429, "rate_limited"), "{}", refused.text());
        assert_eq!(Raw::ask(url, browser.head("GET", "/", "")).await.text(), "in");
    });
}
