//! Tokens at the routes: each is good for one thing, for one session, for its time, and some for one use.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, Mac as _};
use runwarden::auth::{PreviewKeyRings, PreviewTokens};
use runwarden_actors::contract::{KeyNamespace, OpenMode, PreviewSessionId, Timestamp};
use runwarden_actors::ports::PreviewKey;
use runwarden_actors::ports::store::PreviewSession;
use serde_json::{Value, json};
use sha2::Sha256;

use crate::app::{Db, Options, block_on};
use crate::preview::{Browser, Stage};
use crate::raw::{Answer, Raw};
use crate::upstream::{TestUpstream, ok};

/// A stage with one ready session, and the keys of its server.
struct Bench {
    stage: Stage,
    session: Value,
    row: PreviewSession,
}

/// What a token is made of.
#[derive(Clone)]
struct Forged {
    namespace: KeyNamespace,
    header: Value,
    claims: Value,
    secret: [u8; 32],
}

impl Forged {
    fn sign(&self) -> String {
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let text = format!("{}.{}", part(&self.header), part(&self.claims));
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.secret).unwrap();
        mac.update(text.as_bytes());
        format!("{text}.{}", URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes()))
    }

    fn with(mut self, name: &str, value: Value) -> Self {
        self.claims[name] = value;
        self
    }
}

impl Bench {
    async fn new(options: Options) -> Self {
        let upstream = TestUpstream::answering(|_| ok("in")).await;
        let stage = Stage::new(options, upstream.address).await;
        let session = stage.start().await;
        assert_eq!(session["state"], "ready", "{session}");
        let row = Self::row(&stage, &session).await;
        Self { stage, session, row }
    }

    async fn row(stage: &Stage, session: &Value) -> PreviewSession {
        let id = PreviewSessionId::parse(session["previewSessionId"].as_str().unwrap()).unwrap();
        stage.deps.store.load_preview(id).await.unwrap().unwrap()
    }

    fn tokens(&self) -> PreviewTokens {
        let deps = &self.stage.deps;
        let keys = PreviewKeyRings::new(deps.coordination.clone(), deps.clock.clone(), deps.ids.clone());
        PreviewTokens::new(keys, deps.clock.clone(), deps.ids.clone())
    }

    /// As the server would make it.
    async fn forged(&self, namespace: KeyNamespace) -> Forged {
        let none = PreviewKey { kid: "unused".into(), secret: [0; 32], created_at: Timestamp::default() };
        let key = self.stage.deps.coordination.key_ring(namespace, &none).await.unwrap().active;
        let now = self.stage.deps.clock.now().as_millis() / 1000;
        let mut claims = serde_json::to_value(self.row.binding()).unwrap();
        for (name, value) in [
            ("iss", json!("terragon-preview")),
            ("aud", json!(namespace.audience())),
            ("iat", json!(now)),
            ("nbf", json!(now)),
            ("exp", json!(now + 50)),
            ("jti", json!(self.stage.deps.ids.uuid_v7().to_string())),
            ("nonce", json!(self.stage.deps.ids.uuid_v7().to_string())),
            ("schemaVersion", json!(1)),
            ("channelType", json!("preview")),
            ("revocationVersion", json!(self.row.revocation_version)),
        ] {
            claims[name] = value;
        }
        let header = json!({"alg": "HS256", "typ": "JWT", "kid": key.kid});
        Forged { namespace, header, claims, secret: key.secret }
    }

    async fn exchange(&self, token: &str) -> Answer {
        let id = self.session["previewSessionId"].as_str().unwrap();
        let request = format!(
            "POST /api/preview/session/{id}/exchange HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\nContent-Length: 0\r\n\r\n"
        );
        Raw::ask(&self.stage.server.url, request).await
    }

    async fn proxied(&self, cookie: &str) -> Answer {
        let id = self.session["previewSessionId"].as_str().unwrap();
        let request =
            format!("GET /api/preview/proxy/{id}/ HTTP/1.1\r\nHost: x\r\nCookie: rw_preview_frame={cookie}\r\n\r\n");
        Raw::ask(&self.stage.server.url, request).await
    }
}

/// Variants of a good token, each with what it is refused for.
async fn variants(bench: &Bench, good: &Forged) -> Vec<(&'static str, String, u16, &'static str)> {
    let other = bench
        .forged(if good.namespace == KeyNamespace::Cookie { KeyNamespace::Exchange } else { KeyNamespace::Cookie })
        .await;
    let now = good.claims["iat"].as_i64().unwrap();
    let aged = |from: i64, to: i64| {
        good.clone().with("iat", json!(now + from)).with("nbf", json!(now + from)).with("exp", json!(now + to)).sign()
    };
    let head = |header: Value| Forged { header, ..good.clone() }.sign();
    let kid = good.header["kid"].clone();
    let none = Forged { header: json!({"alg": "none", "kid": kid}), ..good.clone() }.sign();
    let unsigned = none.rsplit_once('.').unwrap().0.to_owned() + ".";
    let mismatch = "signature_mismatch";
    let whole = good.sign();
    vec![
        ("expired", aged(-200, -61), 401, "expired"),
        ("not yet valid", aged(90, 120), 401, mismatch),
        ("too long a life", good.clone().with("exp", json!(now + 100_000)).sign(), 401, mismatch),
        ("wrong audience", good.clone().with("aud", other.claims["aud"].clone()).sign(), 401, mismatch),
        ("wrong issuer", good.clone().with("iss", json!("terragon")).sign(), 401, mismatch),
        ("of another namespace", other.sign(), 401, mismatch),
        ("another namespace's key", Forged { secret: other.secret, ..good.clone() }.sign(), 401, mismatch),
        ("another namespace's kid", head(other.header.clone()), 401, mismatch),
        ("unknown kid", head(json!({"alg": "HS256", "kid": "nobody"})), 401, mismatch),
        ("a pointer's name as kid", head(json!({"alg": "HS256", "kid": "active_kid"})), 401, mismatch),
        ("no kid", head(json!({"alg": "HS256"})), 401, mismatch),
        ("alg none", none, 401, mismatch),
        ("alg none, unsigned", unsigned, 401, mismatch),
        ("alg HS512", head(json!({"alg": "HS512", "kid": kid})), 401, mismatch),
        ("alg RS256", head(json!({"alg": "RS256", "kid": kid})), 401, mismatch),
        ("key in the token", head(json!({"alg": "HS256", "jwk": {"kty": "oct", "k": "AAAA"}})), 401, mismatch),
        ("cut off", whole[..whole.len() - 4].to_owned(), 401, mismatch),
        ("no token", "nonsense".to_owned(), 401, mismatch),
        ("too long", "x".repeat(5_000), 401, mismatch),
        (
            "other session",
            good.clone().with("previewSessionId", json!("01935d3e-7c00-7000-8000-000000000001")).sign(),
            403,
            "binding_mismatch",
        ),
        ("other user", good.clone().with("userId", json!("u-2")).sign(), 403, "binding_mismatch"),
        ("other thread", good.clone().with("threadId", json!("t-2")).sign(), 403, "binding_mismatch"),
        ("other chat", good.clone().with("threadChatId", json!("c-2")).sign(), 403, "binding_mismatch"),
        (
            "other run",
            good.clone().with("runId", json!("01935d3e-7c00-7000-8000-000000000001")).sign(),
            403,
            "binding_mismatch",
        ),
        ("other sandbox", good.clone().with("codesandboxId", json!("box-2")).sign(), 403, "binding_mismatch"),
        ("other provider", good.clone().with("sandboxProvider", json!("daytona")).sign(), 403, "binding_mismatch"),
    ]
}

#[test]
fn an_exchange_takes_one_good_token_once() {
    block_on(async {
        let bench = Bench::new(
            Options::new(Db::Sqlite).set("LIMIT_EXCHANGE_USER", "1000/1000").set("LIMIT_EXCHANGE_IP", "1000/1000"),
        )
        .await;
        let good = bench.forged(KeyNamespace::Exchange).await;
        for (what, token, status, code) in variants(&bench, &good).await {
            let answer = bench.exchange(&token).await;
            assert!(answer.is(status, code), "{what}: {} {}", answer.head, answer.text());
            assert_eq!(answer.all("set-cookie"), Vec::<String>::new(), "{what}");
        }
        // None of them used it up.
        assert_eq!(bench.exchange(&good.sign()).await.status, 200);
        assert!(bench.exchange(&good.sign()).await.is(409, "token_replay"));
        // Either mark alone is enough to know it again.
        let jti = good.clone().with("nonce", json!("another"));
        assert!(bench.exchange(&jti.sign()).await.is(409, "token_replay"));
        let nonce = good.clone().with("jti", json!("another"));
        assert!(bench.exchange(&nonce.sign()).await.is(409, "token_replay"));

        // In a URL it is no token.
        let (id, token) =
            (bench.session["previewSessionId"].as_str().unwrap(), bench.session["exchangeToken"].as_str().unwrap());
        for query in [format!("?token={token}"), format!("?access_token={token}")] {
            let request = format!(
                "POST /api/preview/session/{id}/exchange{query} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"
            );
            assert!(Raw::ask(&bench.stage.server.url, request).await.is(401, "permission_denied"));
        }
        let request = format!("GET /api/preview/session/{id}/exchange?token={token} HTTP/1.1\r\nHost: x\r\n\r\n");
        assert_eq!(Raw::ask(&bench.stage.server.url, request).await.status, 404);
        for (body, status) in [("", 401), ("{}", 400), ("[\"x\"]", 400), ("{\"token\":1}", 400), ("nonsense", 400)] {
            let request = format!(
                "POST /api/preview/session/{id}/exchange HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            );
            assert_eq!(Raw::ask(&bench.stage.server.url, request).await.status, status, "{body}");
        }
        // In the body it is.
        let body = json!({"token": token}).to_string();
        let request = format!(
            "POST /api/preview/session/{id}/exchange HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let answer = Raw::ask(&bench.stage.server.url, request).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert!(!answer.text().contains(token), "an answer does not repeat the token");
    });
}

#[test]
fn a_cookie_is_good_for_its_session_and_its_time() {
    block_on(async {
        let bench = Bench::new(Options::new(Db::Sqlite)).await;
        let good = bench.forged(KeyNamespace::Cookie).await;
        for (what, token, status, code) in variants(&bench, &good).await {
            let answer = bench.proxied(&token).await;
            assert!(answer.is(status, code), "{what}: {} {}", answer.head, answer.text());
        }
        assert_eq!(bench.proxied(&good.sign()).await.status, 200);
        let version = bench.row.revocation_version;
        let old = bench.proxied(&good.clone().with("revocationVersion", json!(version - 1)).sign()).await;
        assert!(old.is(401, "revoked"), "{}", old.text());
        // A version that nobody has committed is asked for once, and refused.
        for ahead in [1, 1_000_000] {
            let answer = bench.proxied(&good.clone().with("revocationVersion", json!(version + ahead)).sign()).await;
            assert!(answer.is(403, "binding_mismatch"), "{}", answer.text());
        }
        assert_eq!(bench.proxied(&good.sign()).await.status, 200);
        // Found among cookies of other makers, wherever it stands.
        let both = format!("nonsense; rw_preview={}; rw_preview=", good.sign());
        assert_eq!(bench.proxied(&both).await.status, 200);
        bench.stage.revoke(bench.session["previewSessionId"].as_str().unwrap()).await;
        assert!(bench.proxied(&good.sign()).await.is(401, "revoked"));
    });
}

#[test]
fn another_sessions_token_opens_nothing_here() {
    block_on(async {
        let bench = Bench::new(Options::new(Db::Sqlite)).await;
        let second = bench.stage.start().await;
        let theirs = Bench::row(&bench.stage, &second).await;
        let answer = bench.exchange(second["exchangeToken"].as_str().unwrap()).await;
        assert!(answer.is(403, "binding_mismatch"), "{}", answer.text());
        let cookie = bench.tokens().mint_cookie(&theirs.binding(), 1, theirs.expires_at).await.unwrap();
        assert!(bench.proxied(&cookie).await.is(403, "binding_mismatch"));
        // A refusal did not use it up.
        Browser::exchange(&bench.stage.server, &second).await;
    });
}

#[test]
fn cookies_have_exactly_their_attributes_and_a_mode_change_clears_the_other() {
    block_on(async {
        for (sandbox, mode, set, cleared) in [
            (
                "on",
                OpenMode::Iframe,
                "rw_preview_frame; HttpOnly; Secure; SameSite=None; Partitioned",
                "rw_preview; HttpOnly; Secure; SameSite=None",
            ),
            (
                "on",
                OpenMode::NewTab,
                "rw_preview; HttpOnly; Secure; SameSite=None",
                "rw_preview_frame; HttpOnly; Secure; SameSite=None; Partitioned",
            ),
            (
                "off",
                OpenMode::Iframe,
                "rw_preview_frame; HttpOnly; Secure; SameSite=None; Partitioned",
                "rw_preview; HttpOnly; Secure; SameSite=Lax",
            ),
            (
                "off",
                OpenMode::NewTab,
                "rw_preview; HttpOnly; Secure; SameSite=Lax",
                "rw_preview_frame; HttpOnly; Secure; SameSite=None; Partitioned",
            ),
        ] {
            let mut bench = Bench::new(Options::new(Db::Sqlite).set("PREVIEW_PATH_SANDBOX", sandbox)).await;
            let (status, session) = bench.stage.start_with(json!({"openMode": mode})).await;
            assert_eq!(status, 201, "{session}");
            bench.session = session;
            let answer = bench.exchange(bench.session["exchangeToken"].as_str().unwrap()).await;
            assert_eq!(answer.status, 200, "{}", answer.text());
            let id = bench.session["previewSessionId"].as_str().unwrap();
            let cookies = answer.all("set-cookie");
            let [first, second] = &cookies[..] else { panic!("{cookies:?}") };
            let (name, attributes) = cleared.split_once("; ").unwrap();
            assert_eq!(*first, format!("{name}=; Path=/api/preview/proxy/{id}; Max-Age=0; {attributes}"));
            let (name, attributes) = set.split_once("; ").unwrap();
            let (found, rest) = second.split_once('=').unwrap();
            let rest = rest.split_once("; ").unwrap().1;
            let age: u64 = rest.split_once("Max-Age=").unwrap().1.split(';').next().unwrap().parse().unwrap();
            assert!((1790..=1800).contains(&age), "{second}");
            assert_eq!(
                (found, rest),
                (name, format!("Path=/api/preview/proxy/{id}; Max-Age={age}; {attributes}").as_str())
            );
            assert_eq!(answer.header("cache-control").as_deref(), Some("no-store"));
            let body = answer.json();
            assert_eq!(body["proxyBasePath"], format!("/api/preview/proxy/{id}"));
            assert_eq!((&body["channel"], &body["openMode"]), (&json!(format!("preview:{id}")), &json!(mode)));
        }
    });
}

#[test]
fn the_probe_says_what_a_frame_would_meet() {
    block_on(async {
        let bench = Bench::new(Options::new(Db::Sqlite)).await;
        let id = bench.session["previewSessionId"].as_str().unwrap();
        let ask = async |path: &str, cookie: &str| {
            let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nCookie: {cookie}\r\n\r\n");
            Raw::ask(&bench.stage.server.url, request).await
        };
        let first = ask(&format!("/api/preview/probe/{id}"), "").await;
        let set = first.header("set-cookie").unwrap();
        assert_eq!(first.status, 302);
        assert!(
            set.ends_with(&format!(
                "; Path=/api/preview/probe/{id}; Max-Age=60; HttpOnly; Secure; SameSite=None; Partitioned"
            )),
            "{set}"
        );
        let back = first.header("location").unwrap();
        let cookie = set.split(';').next().unwrap();
        for (cookie, result) in [(cookie, "ok"), ("", "cookie_blocked"), ("rw_preview_probe=another", "cookie_blocked")]
        {
            let answer = ask(&back, cookie).await;
            assert_eq!((answer.status, answer.json()), (200, json!({"result": result})));
        }
        bench.stage.revoke(id).await;
        assert_eq!(ask(&format!("/api/preview/probe/{id}"), "").await.json()["result"], "expired");
        let unknown = ask("/api/preview/probe/01935d3e-7c00-7000-8000-000000000001", "").await;
        assert!(unknown.is(404, "not_found"));
    });
}
