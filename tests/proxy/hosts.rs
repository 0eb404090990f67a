//! Previews on hosts of their own: everything there is the app's, but for one prefix.

use serde_json::{Value, json};

use crate::app::{Db, INTERNAL_KEY, Options, block_on};
use crate::preview::Stage;
use crate::raw::{Answer, Raw};
use crate::upstream::{TestUpstream, header, healthy, with_headers};

/// A ready session at its host, and the cookie of its browser.
struct Host {
    id: String,
    name: String,
    cookie: String,
}

impl Host {
    async fn open(stage: &Stage, mode: &str, lines: &str) -> (Self, Answer) {
        let (_, session) = stage.start_with(json!({"openMode": mode})).await;
        let id = session["previewSessionId"].as_str().unwrap().to_owned();
        let name = session["previewHost"].as_str().unwrap().to_owned();
        assert_eq!(name, format!("{id}.preview.localhost"));
        let form = format!("path=%2Fstart%3Fx%3D1&token={}", session["exchangeToken"].as_str().unwrap());
        let answer = Raw::ask(&stage.server.url, post(&name, "/.runwarden/exchange", lines, &form)).await;
        let cookie = answer.all("set-cookie").last().map(|set| set.split(';').next().unwrap().to_owned());
        (Self { id, name, cookie: cookie.unwrap_or_default() }, answer)
    }

    fn get(&self, path: &str, lines: &str) -> String {
        format!(
            "GET {path} HTTP/1.1\r\nHost: {}\r\nCookie: app=1; {}; other=\"2\"\r\n{lines}\r\n",
            self.name, self.cookie
        )
    }
}

fn post(host: &str, path: &str, lines: &str, body: &str) -> String {
    format!("POST {path} HTTP/1.1\r\nHost: {host}\r\n{lines}Content-Length: {}\r\n\r\n{body}", body.len())
}

const SET: &str = "Set-Cookie: app=1; Domain=preview.localhost; Path=/; HttpOnly\r\nSet-Cookie: b=2; domain = .localhost\r\n\
    Set-Cookie: rw_preview=forged; Path=/\r\nSet-Cookie: __Host-rw_preview_frame=forged; Path=/; Secure\r\n\
    Set-Cookie: =rw_preview=forged\r\nSet-Cookie: RW_Preview_Probe=x\r\nService-Worker-Allowed: /\r\n\
    WWW-Authenticate: Basic realm=\"x\"\r\nSet-Login: logged-in\r\n\
    Strict-Transport-Security: max-age=1; includeSubDomains\r\nContent-Security-Policy: default-src 'self'\r\n";

async fn stage(options: Options) -> (Stage, TestUpstream) {
    let upstream = TestUpstream::answering(|head| match healthy(head) {
        Some(up) => up,
        None if head.starts_with("GET /away ") => {
            "HTTP/1.1 302 Found\r\nLocation: /login?next=/\r\nContent-Length: 0\r\n\r\n".to_owned()
        }
        None => with_headers(SET, "the app"),
    })
    .await;
    (Stage::new(options.set("PREVIEW_HOST_SUFFIX", "preview.localhost"), upstream.address).await, upstream)
}

#[test]
fn a_form_lets_the_browser_in_and_the_app_keeps_its_own_cookies() {
    block_on(async {
        let (stage, upstream) = stage(Options::new(Db::Sqlite)).await;
        let (host, exchanged) = Host::open(&stage, "iframe", "Origin: https://app.example\r\n").await;
        assert_eq!((exchanged.status, exchanged.header("location").as_deref()), (303, Some("/start?x=1")));
        assert_eq!(exchanged.header("cache-control").as_deref(), Some("no-store"));
        let cookies = exchanged.all("set-cookie");
        assert!(cookies[0].starts_with("rw_preview=; Path=/; Max-Age=0; "), "{cookies:?}");
        assert!(cookies[1].ends_with("; HttpOnly; Secure; SameSite=None; Partitioned"), "{cookies:?}");
        assert!(!cookies[1].contains("Domain"));

        let lines = format!("Referer: http://{}/page?x=1\r\nOrigin: http://{}\r\n", host.name, host.name);
        let answer = Raw::ask(&stage.server.url, host.get("/any/path", &lines)).await;
        assert_eq!((answer.status, answer.text().as_str()), (200, "the app"), "{}", answer.text());
        assert_eq!(answer.all("set-cookie"), ["app=1; Path=/; HttpOnly", "b=2"]);
        assert_eq!(answer.header("service-worker-allowed").as_deref(), Some("/"));
        assert_eq!(answer.header("www-authenticate").as_deref(), Some("Basic realm=\"x\""));
        assert_eq!(answer.header("set-login").as_deref(), Some("logged-in"));
        assert_eq!(answer.header("strict-transport-security"), None);
        assert_eq!(answer.all("content-security-policy"), ["default-src 'self'", "frame-ancestors *"]);
        let head = upstream.last();
        assert_eq!(header(&head, "cookie").as_deref(), Some("app=1; other=\"2\""));
        assert_eq!(header(&head, "referer"), Some(format!("http://{}/page?x=1", upstream.address)));
        // Of a page elsewhere the app learns nothing.
        Raw::ask(&stage.server.url, host.get("/", "Referer: https://app.example/secret?token=1\r\n")).await;
        assert_eq!(header(&upstream.last(), "referer"), Some(format!("http://{}/", upstream.address)));
        let answer = Raw::ask(&stage.server.url, host.get("/away", "")).await;
        assert_eq!((answer.status, answer.header("location").as_deref()), (302, Some("/login?next=/")));

        let probe = Raw::ask(&stage.server.url, host.get("/.runwarden/probe", "")).await;
        let back = probe.header("location").unwrap();
        let value = probe.header("set-cookie").unwrap().split(';').next().unwrap().to_owned();
        let answer = Raw::ask(&stage.server.url, host.get(&back, &format!("Cookie: {value}\r\n"))).await;
        assert_eq!(answer.json(), json!({"result": "ok"}));
        let token = host.get("/.runwarden/subscription-token", "Content-Length: 0\r\n").replace("GET ", "POST ");
        assert!(Raw::ask(&stage.server.url, token).await.json()["subscriptionToken"].is_string());
        stage.revoke(&host.id).await;
        assert!(Raw::ask(&stage.server.url, host.get("/", "")).await.is(401, "revoked"));
    });
}

#[test]
fn over_tls_the_cookie_is_of_this_host_alone() {
    block_on(async {
        let (stage, upstream) = stage(Options::new(Db::Sqlite).set("TRUSTED_PROXIES", "127.0.0.1")).await;
        let (host, exchanged) = Host::open(&stage, "new_tab", "X-Forwarded-Proto: https\r\n").await;
        let cookies = exchanged.all("set-cookie");
        assert!(cookies[0].starts_with("__Host-rw_preview_frame=; Path=/; Max-Age=0; "), "{cookies:?}");
        assert!(
            cookies[1].starts_with("__Host-rw_preview=") && cookies[1].ends_with("; HttpOnly; Secure; SameSite=Lax")
        );
        let answer = Raw::ask(&stage.server.url, host.get("/", "X-Forwarded-Proto: https\r\n")).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(header(&upstream.last(), "cookie").as_deref(), Some("app=1; other=\"2\""));
        // Without the prefix anybody could have set it.
        let bare = host.get("/", "X-Forwarded-Proto: https\r\n").replace("__Host-", "");
        assert!(Raw::ask(&stage.server.url, bare).await.is(401, "permission_denied"));
    });
}

#[test]
fn hosts_and_routes_do_not_mix() {
    block_on(async {
        let (stage, upstream) = stage(Options::new(Db::Sqlite)).await;
        let (host, _) = Host::open(&stage, "new_tab", "").await;
        let (other, _) = Host::open(&stage, "new_tab", "").await;
        let url = &stage.server.url;
        let key = format!("X-Internal-Service-Key: {INTERNAL_KEY}\r\n");
        // Our own routes are the app's paths there, and our key is not given away.
        for path in [
            "/healthz",
            "/metrics",
            "/api/internal/runs/x",
            "/openapi.json",
            "/api/preview/proxy/x",
            "/api/daemon-event",
        ] {
            let answer = Raw::ask(url, host.get(path, &key)).await;
            assert_eq!(answer.text(), "the app", "{path}");
            let head = upstream.last();
            assert!(head.starts_with(&format!("GET {path} ")) && !head.contains(INTERNAL_KEY), "{head}");
        }
        let seen = upstream.heads().len();
        // The app is nowhere but there.
        for (name, path, status) in [
            ("localhost", "/", 404),
            ("localhost", "/.runwarden/probe", 404),
            ("preview.localhost", "/", 404),
            ("evil.preview.localhost", "/", 404),
            ("evil.preview.localhost", "/healthz", 404),
            ("01935d3e-7c00-7000-8000-000000000001.preview.localhost", "/", 404),
            (".preview.localhost", "/healthz", 404),
            (&format!("a.{}", host.name), "/", 404),
            (&format!("{}.evil.example", host.name), "/", 404),
            (&host.name, "/.runwarden/", 404),
            (&host.name, "/.runwarden/exchange", 404),
            (&host.name, "/../x", 403),
            (&host.name, "//evil.example", 403),
            (&host.name, "/%2e%2e/x", 403),
            (&other.name, "/", 403),
        ] {
            let request = host.get(path, &key).replace(&format!("Host: {}", host.name), &format!("Host: {name}"));
            let answer = Raw::ask(url, request).await;
            assert_eq!(answer.status, status, "{name}{path}: {}", answer.text());
        }
        // The root's dot makes no other host of it.
        let dotted = host.get("/healthz", &key).replace(&host.name, &format!("{}.", host.name));
        assert_eq!(Raw::ask(url, dotted).await.text(), "the app");
        // Nor do capitals.
        for name in [host.name.to_uppercase(), host.name.replace(&host.id, &host.id.to_uppercase())] {
            let loud = host.get("/healthz", &key).replace(&host.name, &name);
            assert_eq!(Raw::ask(url, loud).await.text(), "the app", "{name}");
        }
        let seen = seen + 3;
        for request in [
            host.get("/", &format!("Host: {}\r\n", other.name)),
            host.get("/", "Host: localhost\r\n"),
            host.get(&format!("http://{}/", other.name), ""),
            host.get("http://localhost/", ""),
            host.get(&format!("http://{}/", host.name), ""),
        ] {
            let answer = Raw::ask(url, &request).await;
            assert!(matches!(answer.status, 400 | 403), "{request}: {}", answer.head);
        }
        // A request that names us as its host and the preview as its target is none of ours either.
        let crossed = format!("GET http://{}/healthz HTTP/1.1\r\nHost: localhost\r\n\r\n", host.name);
        assert_eq!(Raw::ask(url, crossed).await.status, 400);
        assert_eq!(upstream.heads().len(), seen);
        // On our own host the same session is under its path, with a cookie of its own.
        let on_path = host.get(&format!("/api/preview/proxy/{}/x", host.id), "").replace(&host.name, "localhost");
        assert_eq!(Raw::ask(url, on_path).await.status, 200);
    });
}

#[test]
fn the_form_leads_nowhere_else() {
    block_on(async {
        let (stage, _upstream) = stage(Options::new(Db::Sqlite)).await;
        let (status, session) = stage.start_with(json!({})).await;
        assert_eq!(status, 201);
        let (name, token) = (session["previewHost"].as_str().unwrap(), session["exchangeToken"].as_str().unwrap());
        let ask = async |body: &str| Raw::ask(&stage.server.url, post(name, "/.runwarden/exchange", "", body)).await;
        for path in [
            "//evil.example",
            "/\\evil.example",
            "https://evil.example",
            "evil",
            "/%2e%2e/x",
            "/a%0d%0aSet-Cookie:x",
            "/.runwarden/probe",
            "/a b",
        ] {
            let path: String = form_urlencoded::byte_serialize(path.as_bytes()).collect();
            let answer = ask(&format!("token={token}&path={path}")).await;
            assert!(answer.is(403, "proxy_path_denied"), "{path}: {}", answer.text());
            assert_eq!((answer.header("location"), answer.header("set-cookie")), (None, None));
        }
        assert!(ask("path=/").await.is(401, "permission_denied"));
        assert!(ask("token=nonsense").await.is(401, "signature_mismatch"));
        assert_eq!(ask(&format!("token={token}&x={}", "x".repeat(20_000))).await.status, 413);
        let answer = ask(&format!("token={token}")).await;
        assert_eq!((answer.status, answer.header("location").as_deref()), (303, Some("/")), "none of them used it up");
        let Value::Object(body) = ask(&format!("token={token}")).await.json() else { panic!() };
        assert_eq!(body["code"], "token_replay");
    });
}

#[test]
fn websocket_is_on_there_by_itself() {
    block_on(async {
        let upstream = TestUpstream::answering(|head| {
            healthy(head).unwrap_or_else(|| {
                "HTTP/1.1 101 X\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\nhello".to_owned()
            })
        })
        .await;
        let options = Options::new(Db::Sqlite).set("PREVIEW_HOST_SUFFIX", "preview.localhost");
        let stage = Stage::new(options, upstream.address).await;
        let (host, _) = Host::open(&stage, "iframe", "").await;
        let lines = "Upgrade: websocket\r\nConnection: keep-alive, Upgrade\r\nSec-WebSocket-Key: AAAA\r\nSec-WebSocket-Version: 13\r\n";
        let mut raw = Raw::connect(&stage.server.url).await;
        raw.send(host.get("/ws", lines)).await;
        assert_eq!(raw.answer().await.expect("an answer").status, 101);
        assert_eq!(raw.exactly(5).await, b"hello");
    });
}
