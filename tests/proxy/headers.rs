//! Header by header: only what is listed crosses, in either direction.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use serde_json::json;

use crate::app::{Db, Options, block_on};
use crate::preview::Stage;
use crate::raw::{Answer, Raw};
use crate::upstream::{TestUpstream, header, ok, with_headers};

/// What a client could send beside the listed ones.
const OTHERS: &[&str] = &[
    "authorization",
    "proxy-authorization",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
    "x-forwarded-port",
    "x-forwarded-prefix",
    "x-real-ip",
    "x-vercel-ip",
    "forwarded",
    "via",
    "x-internal-service-key",
    "x-daemon-token",
    "x-daemon-version",
    "x-admin-token",
    "x-provider-token",
    "x-proxy-req-id",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "http2-settings",
    "accept-encoding",
    "accept-charset",
    "if-match",
    "if-range",
    "if-unmodified-since",
    "cache-control",
    "pragma",
    "dnt",
    "sec-fetch-site",
    "sec-fetch-mode",
    "sec-ch-ua",
    "sec-websocket-key",
    "sec-websocket-protocol",
    "x-http-method-override",
    "x-original-url",
    "x-rewrite-url",
    "x-custom",
    "x-requested-with",
    "traceparent",
    "baggage",
    "from",
    "max-forwards",
    "content-encoding",
    "range-x",
];

const LISTED: &[&str] = &[
    "accept",
    "accept-language",
    "content-type",
    "if-none-match",
    "if-modified-since",
    "user-agent",
    "range",
    "last-event-id",
];

fn names(head: &str) -> BTreeSet<String> {
    head.lines().skip(1).filter_map(|line| line.split_once(':')).map(|(name, _)| name.to_ascii_lowercase()).collect()
}

#[test]
fn only_listed_headers_reach_the_upstream() {
    block_on(async {
        let upstream = TestUpstream::answering(|_| ok("")).await;
        let options = Options::new(Db::Sqlite).set("PREVIEW_FORWARD_HEADERS", "rsc,x-listed");
        let stage = Stage::new(options, upstream.address).await;
        let browser = stage.open().await;
        let mut lines = String::new();
        for name in OTHERS.iter().chain(LISTED).chain(&["rsc"]) {
            write!(lines, "{name}: value-of-{name}\r\n").unwrap();
        }
        write!(lines, "Origin: https://app.example\r\nReferer: https://app.example{}\r\n", browser.path("/page?x=1"))
            .unwrap();
        let answer = Raw::ask(&stage.server.url, browser.head("GET", "/", &lines)).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        let head = upstream.last();
        let mut wanted: BTreeSet<String> = LISTED.iter().map(|name| (*name).to_owned()).collect();
        wanted.extend(["host", "origin", "referer", "x-provider-token", "rsc"].map(str::to_owned));
        assert_eq!(names(&head), wanted, "{head}");
        for name in LISTED {
            assert_eq!(header(&head, name), Some(format!("value-of-{name}")));
        }
        let origin = format!("http://{}", upstream.address);
        assert_eq!(header(&head, "origin"), Some(origin.clone()));
        assert_eq!(header(&head, "referer"), Some(format!("{origin}/page?x=1")));
        assert_eq!(header(&head, "host"), Some(upstream.address.to_string()));
        assert_eq!(header(&head, "x-provider-token").as_deref(), Some("provider-secret"));
        assert!(!head.contains(&browser.cookie) && !head.contains("value-of-x-provider-token"));

        // Another preview's page, and another site's, are nobody's business.
        for page in ["https://evil.example/secret?token=1", "https://server.example/other", "nonsense", "/x"] {
            Raw::ask(&stage.server.url, browser.head("GET", "/", &format!("Referer: {page}\r\n"))).await;
            assert_eq!(header(&upstream.last(), "referer"), Some(format!("{origin}/")), "{page}");
        }
    });
}

#[test]
fn what_connection_names_is_hop_by_hop_in_either_direction() {
    block_on(async {
        let upstream = TestUpstream::answering(|_| {
            with_headers("Connection: X-Hop, x-other\r\nConnection: x-third\r\nX-Hop: 1\r\nX-Other: 2\r\nX-Third: 3\r\nX-Stays: 4\r\n", "")
        })
        .await;
        let options = Options::new(Db::Sqlite).set("PREVIEW_FORWARD_HEADERS", "rsc,x-listed");
        let stage = Stage::new(options, upstream.address).await;
        let browser = stage.open().await;
        let lines = "Accept: a\r\nRange: bytes=0-1\r\nRSC: 1\r\nX-Listed: 1\r\nConnection: accept, RSC\r\nConnection: x-listed\r\n";
        let answer = Raw::ask(&stage.server.url, browser.head("GET", "/", lines)).await;
        let sent = names(&upstream.last());
        for gone in ["accept", "rsc", "x-listed", "connection"] {
            assert!(!sent.contains(gone), "{gone}");
        }
        assert!(sent.contains("range"));
        for gone in ["x-hop", "x-other", "x-third"] {
            assert_eq!(answer.header(gone), None, "{gone}");
        }
        assert_eq!(answer.header("x-stays").as_deref(), Some("4"));
    });
}

const ANSWERED: &str = "Set-Cookie: a=b\r\nSet-Cookie: rw_preview=forged; Path=/\r\nSet-Cookie2: a=b\r\nAlt-Svc: h3=\":1\"\r\n\
    Strict-Transport-Security: max-age=1\r\nKeep-Alive: timeout=5\r\nProxy-Authenticate: Basic\r\nTrailer: x\r\nTE: x\r\n\
    Clear-Site-Data: \"*\"\r\nNEL: {}\r\nReport-To: {}\r\nReporting-Endpoints: a=\"b\"\r\nRefresh: 0;url=//evil\r\n\
    Content-Location: //evil\r\nPublic-Key-Pins: x\r\nService-Worker-Allowed: /\r\nX-Accel-Redirect: /etc/passwd\r\n\
    X-Accel-Buffering: yes\r\nX-Sendfile: /etc/passwd\r\nCDN-Cache-Control: public\r\nVercel-CDN-Cache-Control: public\r\n\
    Surrogate-Control: max-age=9\r\nCache-Control: public, max-age=99\r\nX-Content-Type-Options: x\r\n\
    X-Proxy-Req-Id: forged\r\nServer: app\r\nWWW-Authenticate: Basic realm=\"x\"\r\nSet-Login: logged-in\r\nX-Frame-Options: DENY\r\n\
    Content-Security-Policy: default-src 'self'; Frame-Ancestors 'none'; img-src *, default-src 'none'\r\n\
    Content-Security-Policy: frame-ancestors 'self'\r\nContent-Security-Policy: script-src 'self'\r\n\
    ETag: \"1\"\r\nX-App: kept\r\nContent-Range: bytes 0-1/2\r\n";

const SANDBOX: &str = "sandbox allow-scripts allow-forms allow-popups allow-modals allow-downloads";

async fn answered(options: Options, mode: &str) -> (Answer, Stage) {
    let upstream =
        TestUpstream::answering(
            |head| if head.starts_with("GET /health ") { ok("") } else { with_headers(ANSWERED, "hi") },
        )
        .await;
    let stage = Stage::new(options, upstream.address).await;
    let (status, session) = stage.start_with(json!({"openMode": mode})).await;
    assert_eq!((status, &session["state"]), (201, &json!("ready")), "{session}");
    let browser = crate::preview::Browser::exchange(&stage.server, &session).await;
    let answer = Raw::ask(&stage.server.url, browser.head("GET", "/", "")).await;
    assert_eq!((answer.status, answer.text().as_str()), (200, "hi"), "{}", answer.text());
    for gone in [
        "set-cookie",
        "set-cookie2",
        "alt-svc",
        "strict-transport-security",
        "keep-alive",
        "proxy-authenticate",
        "trailer",
        "te",
        "clear-site-data",
        "nel",
        "report-to",
        "reporting-endpoints",
        "refresh",
        "content-location",
        "public-key-pins",
        "service-worker-allowed",
        "www-authenticate",
        "set-login",
        "x-accel-redirect",
        "x-accel-buffering",
        "x-sendfile",
        "cdn-cache-control",
        "vercel-cdn-cache-control",
        "surrogate-control",
        "server",
        "connection",
    ] {
        assert_eq!(answer.all(gone), Vec::<String>::new(), "{gone}");
    }
    assert_eq!(answer.all("cache-control"), ["no-store"]);
    assert_eq!(answer.all("x-content-type-options"), ["nosniff"]);
    assert_eq!(answer.all("etag"), ["\"1\""]);
    assert_eq!(answer.all("x-app"), ["kept"]);
    let request_ids = answer.all("x-proxy-req-id");
    assert!(request_ids.len() == 1 && request_ids[0] != "forged", "{request_ids:?}");
    (answer, stage)
}

#[test]
fn a_framed_answer_carries_our_frame_policy_and_the_sandbox() {
    block_on(async {
        let options = Options::new(Db::Sqlite).set("PREVIEW_FRAME_ANCESTORS", "https://app.example");
        let (answer, _stage) = answered(options, "iframe").await;
        assert_eq!(answer.all("x-frame-options"), Vec::<String>::new());
        // Two policies in one line stay two: together they would be weaker.
        assert_eq!(
            answer.all("content-security-policy"),
            [
                "default-src 'self'; img-src *, default-src 'none'",
                "script-src 'self'",
                SANDBOX,
                "frame-ancestors https://app.example 'self'"
            ]
        );
    });
}

#[test]
fn in_a_tab_the_apps_frame_policy_stays_its_own() {
    block_on(async {
        let (answer, _stage) = answered(Options::new(Db::Sqlite), "new_tab").await;
        assert_eq!(answer.all("x-frame-options"), ["DENY"]);
        assert_eq!(
            answer.all("content-security-policy"),
            [
                "default-src 'self'; Frame-Ancestors 'none'; img-src *, default-src 'none'",
                "frame-ancestors 'self'",
                "script-src 'self'",
                SANDBOX
            ]
        );
        let (answer, _stage) = answered(Options::new(Db::Sqlite).set("PREVIEW_PATH_SANDBOX", "off"), "new_tab").await;
        assert!(!answer.head.contains("sandbox"));
    });
}

#[test]
fn redirects_stay_inside_or_are_refused() {
    block_on(async {
        let upstream = TestUpstream::answering(|head| {
            let path = head.split(' ').nth(1).unwrap_or_default();
            let Some(target) = path.strip_prefix("/to?") else { return ok("") };
            let target = target.replace("ORIGIN", &header(head, "host").unwrap_or_default());
            let target = target.replace("%20", " ").replace("%09", "\t");
            format!("HTTP/1.1 302 Found\r\nLocation: {target}\r\nContent-Length: 0\r\n\r\n")
        })
        .await;
        let stage = Stage::new(Options::new(Db::Sqlite), upstream.address).await;
        let browser = stage.open().await;
        for (target, to) in [
            ("/next?x=1", "/next?x=1"),
            ("http://ORIGIN/next", "/next"),
            ("http://ORIGIN", "/"),
            ("next", "/next"),
            ("../../../next", "/next"),
            ("%2e%2e/%2e%2e/next", "/next"),
        ] {
            let answer = Raw::ask(&stage.server.url, browser.head("GET", &format!("/to?{target}"), "")).await;
            assert_eq!((answer.status, answer.header("location")), (302, Some(browser.path(to))), "{target}");
        }
        for target in [
            "http://evil.example/",
            "https://ORIGIN/",
            "//evil.example/",
            "///evil",
            "/\\evil.example",
            "http://ORIGIN@evil.example/",
            "http://user@ORIGIN/",
            "http://2130706433:80/",
            "http://0x7f.1/",
            "http://0177.0.0.1/",
            "http://[::1]/",
            "http://169.254.169.254/latest",
            "http:evil.example",
            "javascript:alert(1)",
            "/a//b",
            "/%09/evil",
        ] {
            let answer = Raw::ask(&stage.server.url, browser.head("GET", &format!("/to?{target}"), "")).await;
            assert!(answer.is(403, "proxy_path_denied"), "{target}: {}", answer.head);
            assert_eq!(answer.header("location"), None);
        }
    });
}

#[test]
fn a_header_that_breaks_its_line_makes_no_second_one() {
    block_on(async {
        let upstream = TestUpstream::answering(|head| match head.split(' ').nth(1).unwrap_or_default() {
            "/lf" => with_headers("X-A: a\nSet-Cookie: rw_preview=forged\r\n", "x"),
            "/cr" => with_headers("X-A: a\rX-B: b\r\n", "x"),
            "/nul" => with_headers("X-A: a\0b\r\n", "x"),
            "/fold" => with_headers("X-A: a\r\n X-B: b\r\n", "x"),
            "/name" => with_headers("X A: a\r\n", "x"),
            "/status" => "HTTP/1.1 200 OK\rX-B: b\r\nContent-Length: 1\r\n\r\nx".to_owned(),
            _ => ok(""),
        })
        .await;
        let stage = Stage::new(Options::new(Db::Sqlite), upstream.address).await;
        let browser = stage.open().await;
        for path in ["/lf", "/cr", "/nul", "/fold", "/name", "/status"] {
            let answer = Raw::ask(&stage.server.url, browser.head("GET", path, "")).await;
            assert!(answer.status == 502 || path == "/lf", "{path}: {}", answer.head);
            assert_eq!((answer.header("set-cookie"), answer.header("x-b")), (None, None), "{path}");
        }
    });
}
