//! Where connections go: to the address that was checked, and nowhere else.

use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use runwarden_actors::ports::store::PreviewUpstream;
use runwarden_actors::ports::{
    NameAnswers, Names, ProbeAnswer, ResolveError, SandboxError, Scheme, Upstream, UpstreamProbe, UpstreamReach,
};
use runwarden_actors::testing::FakeSandbox;
use serde_json::json;
use sqlx::Connection as _;

use crate::app::{Db, Options, block_on};
use crate::preview::{Browser, Stage, reported};
use crate::raw::{Answer, Raw};
use crate::upstream::{TestUpstream, ok};

#[test]
fn an_address_outside_of_the_operators_networks_is_never_shown() {
    block_on(async {
        let upstream = TestUpstream::answering(|_| ok("")).await;
        for (networks, shown) in [("127.0.0.1/32", true), ("10.0.0.0/8", false), ("", false), ("127.0.0.2/31", false)] {
            let sandbox = Arc::new(FakeSandbox::default());
            sandbox.set_upstream(Ok(reported(upstream.address)));
            let options = Options::new(Db::Sqlite);
            let stage = Stage::on(options.set("ALLOWED_UPSTREAM_NETWORKS", networks), sandbox).await;
            let session = stage.start().await;
            let (expected, why) = if shown { ("ready", json!(null)) } else { ("unsupported", json!("proxy_denied")) };
            assert_eq!(
                (session["state"].as_str(), &session["unsupportedReason"]),
                (Some(expected), &why),
                "{networks}: {session}"
            );
            assert_eq!(session["exchangeToken"].is_string(), shown);
        }
        // Nothing was even looked at but where it was allowed.
        assert_eq!(upstream.connections(), 1);
    });
}

#[test]
fn a_container_may_move_once_and_not_twice() {
    block_on(async {
        let first = TestUpstream::answering(|_| ok("1")).await;
        let sandbox = Arc::new(FakeSandbox::default());
        // The same port on other addresses of this machine, so that only the address changes.
        let place = |last: u8| {
            let address: std::net::IpAddr = Ipv4Addr::new(127, 0, 0, last).into();
            Upstream { host: address.to_string(), reach: UpstreamReach::Reported(address), ..reported(first.address) }
        };
        sandbox.set_upstream(Ok(place(1)));
        let options = Options::new(Db::Sqlite).set("ALLOWED_UPSTREAM_NETWORKS", "127.0.0.0/8");
        let (stage, clock) = Stage::timed(options, Arc::clone(&sandbox)).await;
        let browser = stage.open().await;
        assert_eq!(browser.get("/").await.status(), 200);
        sandbox.set_upstream(Ok(place(2)));
        // What was checked is believed for a few seconds, and asked again after them.
        let asked = sandbox.looked_up();
        assert_eq!(browser.get("/").await.status(), 200);
        assert_eq!(sandbox.looked_up(), asked);
        clock.advance_ms(5_001);
        // The one refresh is had; nobody listens at the new address, and the old one is not asked.
        let before = first.heads().len();
        assert_eq!(browser.get("/").await.status(), 502);
        assert_eq!(first.heads().len(), before);
        sandbox.set_upstream(Ok(place(3)));
        clock.advance_ms(5_001);
        let answer = Raw::ask(&stage.server.url, browser.head("GET", "/", "")).await;
        assert!(answer.is(403, "proxy_ssrf_blocked"), "{}", answer.text());
        let answer = Raw::ask(&stage.server.url, browser.head("GET", "/", "")).await;
        assert!(answer.is(401, "revoked"), "{}", answer.text());
        let (_, session) = stage.server.get(&format!("/api/internal/preview/session/{}", browser.id)).await;
        assert_eq!(session["state"], "revoked");
    });
}

#[test]
fn a_container_that_moves_out_of_the_networks_is_cut_off_at_once() {
    block_on(async {
        let upstream = TestUpstream::answering(|_| ok("")).await;
        let sandbox = Arc::new(FakeSandbox::default());
        sandbox.set_upstream(Ok(reported(upstream.address)));
        let (stage, clock) = Stage::timed(Options::new(Db::Sqlite), Arc::clone(&sandbox)).await;
        let browser = stage.open().await;
        let away = Upstream {
            reach: UpstreamReach::Reported("169.254.169.254".parse().unwrap()),
            ..reported(upstream.address)
        };
        sandbox.set_upstream(Ok(away));
        clock.advance_ms(5_001);
        let answer = Raw::ask(&stage.server.url, browser.head("GET", "/", "")).await;
        assert!(answer.is(403, "proxy_ssrf_blocked"), "{}", answer.text());
        assert!(Raw::ask(&stage.server.url, browser.head("GET", "/", "")).await.is(401, "revoked"));

        // A provider that does not answer is no proof of anything: refused, not taken back.
        sandbox.set_upstream(Ok(reported(upstream.address)));
        let browser = stage.open().await;
        sandbox.set_upstream(Err(SandboxError::Timeout("slow".into())));
        clock.advance_ms(5_001);
        assert!(Raw::ask(&stage.server.url, browser.head("GET", "/", "")).await.is(502, "upstream_unreachable"));
        sandbox.set_upstream(Ok(reported(upstream.address)));
        assert_eq!(browser.get("/").await.status(), 200);
    });
}

/// A name server whose answers a test sets.
#[derive(Default)]
struct FakeNames(Mutex<Option<NameAnswers>>);

impl FakeNames {
    fn set(&self, v4: &[[u8; 4]], chain: &[&str]) {
        *self.0.lock().unwrap() = Some(NameAnswers {
            v4: v4.iter().map(|octets| Ipv4Addr::from(*octets)).collect(),
            v6: Vec::new(),
            cname_chain: chain.iter().map(|name| (*name).to_owned()).collect(),
            ttl_seconds: 30,
        });
    }
}

#[async_trait]
impl Names for FakeNames {
    async fn resolve(&self, _: &str) -> Result<NameAnswers, ResolveError> {
        self.0.lock().unwrap().clone().ok_or_else(|| ResolveError("no answer".into()))
    }
}

/// Whatever is looked at is up.
struct AlwaysUp;

#[async_trait]
impl UpstreamProbe for AlwaysUp {
    async fn probe(&self, _: &PreviewUpstream, _: &str) -> ProbeAnswer {
        ProbeAnswer::Status(200)
    }
}

/// A ready session whose upstream is a name, asked of `names`.
async fn named(scheme: Scheme, names: &Arc<FakeNames>) -> (Stage, Arc<crate::preview::MovedClock>, Browser) {
    let sandbox = Arc::new(FakeSandbox::default());
    sandbox.set_upstream(Ok(Upstream {
        scheme,
        host: "5173-box.preview.example".into(),
        port: 9,
        reach: UpstreamReach::Named { trusted_suffix: ".preview.example".into() },
        auth_headers: Vec::new(),
    }));
    let theirs = Arc::clone(names);
    let options = Options::new(Db::Sqlite).refit(move |mut parts| {
        parts.names = theirs;
        parts.probe = Arc::new(AlwaysUp);
        // The addresses are real ones of others: nobody waits for them.
        parts.timeouts.connect = Duration::from_millis(20);
        parts
    });
    let (stage, clock) = Stage::timed(options, sandbox).await;
    let browser = stage.open().await;
    (stage, clock, browser)
}

#[test]
fn a_name_that_is_rebound_ends_its_session() {
    block_on(async {
        // With TLS the anchor counts, without it the address; either may change once.
        for (scheme, chain) in [(Scheme::Http, &[][..]), (Scheme::Https, &["edge.preview.example"][..])] {
            let names = Arc::new(FakeNames::default());
            names.set(&[[192, 88, 98, 1]], chain);
            let (stage, clock, browser) = named(scheme, &names).await;
            let ask = async || Raw::ask(&stage.server.url, browser.head("GET", "/", "")).await;
            // Passed all checks; who answers there, if anybody, is not asked.
            let passed =
                |answer: &Answer| !matches!(answer.json()["code"].as_str(), Some("proxy_ssrf_blocked" | "revoked"));
            let answer = ask().await;
            assert!(passed(&answer), "{scheme:?}: {} {}", answer.head, answer.text());
            names.set(&[[10, 0, 0, 1]], chain);
            assert!(passed(&ask().await), "nothing is looked up before its time");
            names.set(&[[192, 88, 98, 2]], if scheme == Scheme::Https { &["other.preview.example"] } else { chain });
            clock.advance_ms(30_001);
            let answer = ask().await;
            assert!(passed(&answer), "the one refresh, {scheme:?}: {}", answer.text());
            names.set(&[[192, 88, 98, 3]], if scheme == Scheme::Https { &["edge.evil.example"] } else { chain });
            clock.advance_ms(30_001);
            assert!(ask().await.is(403, "proxy_ssrf_blocked"));
            assert!(ask().await.is(401, "revoked"));
        }
    });
}

#[test]
fn a_name_that_turns_inward_ends_its_session_though_its_refresh_is_unused() {
    block_on(async {
        for inner in [[127, 0, 0, 1], [10, 0, 0, 1], [169, 254, 169, 254], [100, 64, 0, 1], [192, 0, 2, 1]] {
            let names = Arc::new(FakeNames::default());
            names.set(&[[192, 88, 98, 1]], &[]);
            let (stage, clock, browser) = named(Scheme::Http, &names).await;
            // One bad address among good ones spoils them all.
            names.set(&[[192, 88, 98, 1], inner], &[]);
            clock.advance_ms(30_001);
            let answer = Raw::ask(&stage.server.url, browser.head("GET", "/", "")).await;
            assert!(answer.is(403, "proxy_ssrf_blocked"), "{inner:?}: {}", answer.text());
            assert!(Raw::ask(&stage.server.url, browser.head("GET", "/", "")).await.is(401, "revoked"));
        }
        // Silence is no rebinding.
        let names = Arc::new(FakeNames::default());
        names.set(&[[192, 88, 98, 1]], &[]);
        let (stage, clock, browser) = named(Scheme::Http, &names).await;
        *names.0.lock().unwrap() = None;
        clock.advance_ms(30_001);
        assert!(Raw::ask(&stage.server.url, browser.head("GET", "/", "")).await.is(502, "upstream_unreachable"));
        let (_, session) = stage.server.get(&format!("/api/internal/preview/session/{}", browser.id)).await;
        assert_eq!(session["state"], "ready");
    });
}

#[test]
fn a_row_that_was_changed_leads_nowhere() {
    block_on(async {
        let upstream = TestUpstream::answering(|_| ok("own")).await;
        let elsewhere = TestUpstream::answering(|_| ok("elsewhere")).await;
        let stage = Stage::new(Options::new(Db::Sqlite), upstream.address).await;
        let database = format!("sqlite://{}", stage.server.data_dir.join("runwarden.sqlite3").display());
        let mut database = sqlx::SqliteConnection::connect(&database).await.unwrap();
        // Whoever can write there has gone around the rules of the schema too.
        let rules: Vec<(String,)> =
            sqlx::query_as("select name from sqlite_master where type = 'trigger' and tbl_name = 'preview_session'")
                .fetch_all(&mut database)
                .await
                .unwrap();
        for (rule,) in rules {
            sqlx::query(sqlx::AssertSqlSafe(format!("drop trigger {rule}"))).execute(&mut database).await.unwrap();
        }
        let origin = format!("http://{}", elsewhere.address);
        let other =
            "upstream_origin_token = (select upstream_origin_token from preview_session order by created_at limit 1)";
        let untouched = stage.open().await;
        for change in [format!("upstream_origin = '{origin}'"), "upstream_origin_token = 'x.y.z'".into(), other.into()]
        {
            // Nobody has asked for it yet: the server has still to read the row.
            let session = stage.start().await;
            let change = format!("update preview_session set {change} where hex(preview_session_id) = ?");
            let id = session["previewSessionId"].as_str().unwrap().replace('-', "").to_ascii_uppercase();
            let changed = sqlx::query(sqlx::AssertSqlSafe(change)).bind(id).execute(&mut database).await.unwrap();
            assert_eq!(changed.rows_affected(), 1);
            let browser = Browser::exchange(&stage.server, &session).await;
            let answer = Raw::ask(&stage.server.url, browser.head("GET", "/", "")).await;
            assert!(answer.is(403, "proxy_ssrf_blocked"), "{} {}", answer.head, answer.text());
        }
        assert_eq!(elsewhere.connections(), 0);
        assert_eq!(Raw::ask(&stage.server.url, untouched.head("GET", "/", "")).await.text(), "own");
    });
}
