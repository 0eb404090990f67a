//! Paths: what is forwarded is what was checked, byte for byte, and tricks reach nobody.

use crate::app::{Db, Options, block_on};
use crate::preview::Stage;
use crate::raw::Raw;
use crate::upstream::{TestUpstream, ok};

#[test]
fn tricks_are_refused_and_the_upstream_sees_nothing() {
    block_on(async {
        let upstream = TestUpstream::answering(|_| ok("seen")).await;
        let stage = Stage::new(Options::new(Db::Sqlite), upstream.address).await;
        let browser = stage.open().await;
        let denied = [
            "/..",
            "/../x",
            "/a/../b",
            "/./a",
            "/.",
            "/a/.",
            "/%2e%2e/x",
            "/%2E%2e",
            "/.%2e/x",
            "/%2e./x",
            "/%2e",
            "/a%2f..%2fb",
            "/a/%2e%2e%2fb",
            "/%252e%252e/x",
            "/%252e%252e%252fx",
            "/%25252e%25252e/x",
            "/..;/x",
            "/..;a=b/x",
            "/%2e%2e;/x",
            "/..%3b/x",
            "/..%253bx/y",
            "/.;/x",
            "//evil.example/x",
            "/a//b",
            "/%2f/evil.example",
            "/%2f%2fevil.example",
            "/a/%252f/b",
            "/a/",
            "/\\evil.example",
            "/a\\..\\b",
            "/%5c..%5cx",
            "/%255cx",
            "/a%5C",
            "/%00",
            "/a%00.html",
            "/%2500",
            "/%0d%0aHost:%20x",
            "/%0a",
            "/%250a",
            "/%7f",
            "/%01",
            "/%c0%ae%c0%ae/x",
            "/%c0%af",
            "/%e0%80%ae",
            "/%f0%80%80%ae",
            "/%ff",
            "/%25c0%25ae",
            "/%",
            "/%2",
            "/%zz",
            "/%u002e%u002e/x",
            "/x%",
            "x",
            "@evil.example/",
            ".",
            "%2f..",
        ];
        for trick in denied.into_iter().filter(|trick| *trick != "/a/") {
            let answer = Raw::ask(&stage.server.url, browser.head("GET", trick, "")).await;
            assert!(answer.is(403, "proxy_path_denied"), "{trick}: {} {}", answer.head, answer.text());
        }
        let long = format!("/{}", "x".repeat(2048));
        assert!(Raw::ask(&stage.server.url, browser.head("GET", &long, "")).await.is(403, "proxy_path_denied"));
        assert_eq!(upstream.heads(), Vec::<String>::new());
    });
}

#[test]
fn targets_that_are_no_paths_are_refused() {
    block_on(async {
        let upstream = TestUpstream::answering(|_| ok("seen")).await;
        let stage = Stage::new(Options::new(Db::Sqlite), upstream.address).await;
        let browser = stage.open().await;
        let (own, cookie) = (browser.path("/x"), &browser.cookie);
        for (line, wanted) in [
            (format!("GET http://evil.example{own} HTTP/1.1"), vec![403]),
            (format!("GET http://server.example{own} HTTP/1.1"), vec![403]),
            (format!("GET //evil.example{own} HTTP/1.1"), vec![404]),
            (format!("GET /{own} HTTP/1.1"), vec![404]),
            (format!("GET /api/preview/x/../proxy/{}/x HTTP/1.1", browser.id), vec![404]),
            (format!("GET {} HTTP/1.1", own.replace("proxy", "prox%79")), vec![404]),
            (format!("GET \\{own} HTTP/1.1"), vec![400, 404]),
            ("GET * HTTP/1.1".to_owned(), vec![400, 404]),
            (format!("CONNECT {own} HTTP/1.1"), vec![400, 404]),
            (format!("CONNECT {}:80 HTTP/1.1", upstream.address.ip()), vec![400, 404]),
            (format!("TRACE {own} HTTP/1.1"), vec![400]),
            (format!("GET {own}\u{0} HTTP/1.1"), vec![400]),
            (format!("GET {own} x HTTP/1.1"), vec![400]),
            (format!("GET {own}\t HTTP/1.1"), vec![400]),
        ] {
            let request = format!("{line}\r\nHost: server.example\r\nCookie: {cookie}\r\n\r\n");
            let answer = Raw::ask(&stage.server.url, request).await;
            assert!(wanted.contains(&answer.status), "{line}: {}", answer.head);
        }
        let raw = [browser.head("GET", "/a", "").replace("/a HTTP", "/").into_bytes(), vec![0xc0, 0xae]].concat();
        let mut bytes = raw;
        bytes.extend_from_slice(b" HTTP/1.1\r\nHost: x\r\n\r\n");
        let answer = Raw::ask(&stage.server.url, bytes).await;
        assert!(matches!(answer.status, 400 | 403), "{}", answer.head);
        assert_eq!(upstream.heads(), Vec::<String>::new());
    });
}

#[test]
fn what_passes_arrives_as_it_was_sent() {
    block_on(async {
        let upstream = TestUpstream::answering(|_| ok("seen")).await;
        let stage = Stage::new(Options::new(Db::Sqlite), upstream.address).await;
        let browser = stage.open().await;
        for path in [
            "/",
            "/?",
            "/??",
            "/?a?b",
            "/a?x=../..//%00%zz",
            "/a?..",
            "/%C3%A9",
            "/a%20b",
            "/a%2Fb",
            "/100%25",
            "/a;v=1/b",
            "/...",
            "/a..b",
            "/@id/__x00__x:y",
            "/a'b(c)*!$&+,=~",
            "/a/",
            "/%5Bslug%5D",
        ] {
            let answer = Raw::ask(&stage.server.url, browser.head("GET", path, "")).await;
            assert_eq!((answer.status, answer.text().as_str()), (200, "seen"), "{path}");
            let head = upstream.last();
            assert_eq!(head.lines().next(), Some(format!("GET {path} HTTP/1.1").as_str()));
        }
        for (asked, to) in [("", "/"), ("?x=1", "/?x=1")] {
            let answer = Raw::ask(&stage.server.url, browser.head("GET", asked, "")).await;
            assert_eq!((answer.status, answer.header("location")), (307, Some(browser.path(to))));
        }
    });
}
