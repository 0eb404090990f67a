//! A session from its start to its end.

use serde_json::json;

use crate::app::{Db, Options, block_on};
use crate::preview::Stage;
use crate::upstream::{TestUpstream, header, ok};

#[test]
fn a_preview_comes_up_and_lets_only_its_own_browser_in() {
    block_on(async {
        let upstream = TestUpstream::answering(|_| ok("hello from the sandbox")).await;
        let stage = Stage::new(Options::new(Db::Sqlite), upstream.address).await;
        let browser = stage.open().await;
        let answer = browser.get("/index.html?x=1").await;
        assert_eq!(answer.status(), 200, "{}", answer.text().await.unwrap());
        assert_eq!(answer.headers()["cache-control"], "no-store");
        assert!(answer.headers().contains_key("x-proxy-req-id"));
        assert_eq!(answer.text().await.unwrap(), "hello from the sandbox");
        let head = upstream.last();
        assert!(head.starts_with("GET /index.html?x=1 HTTP/1.1\r\n"), "{head}");
        assert_eq!(header(&head, "x-provider-token").as_deref(), Some("provider-secret"));
        assert_eq!(header(&head, "cookie"), None);
        assert_eq!(header(&head, "host").unwrap(), upstream.address.to_string());

        let without = browser.http.get(format!("{}/", browser.base)).send().await.unwrap();
        assert_eq!(without.status(), 401);

        let path = format!("/api/internal/preview/session/{}/revoke", browser.id);
        let (status, body) = stage.server.post(&path, json!({})).await;
        assert_eq!((status, &body["revoked"]), (200, &json!(true)));
        assert_eq!(browser.get("/").await.status(), 401);
        let (_, session) = stage.server.get(&format!("/api/internal/preview/session/{}", browser.id)).await;
        assert_eq!(session["state"], "revoked");
    });
}
