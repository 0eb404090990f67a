//! Access that is withdrawn while something is open (sections 5 and 6).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::StreamExt as _;
use serde_json::json;
use tokio::io::AsyncWriteExt as _;

use crate::app::{Db, Options, block_on};
use crate::preview::Stage;
use crate::upstream::{TestUpstream, with_headers};

/// An app with one endless stream.
async fn streaming() -> TestUpstream {
    TestUpstream::acting(|head, mut stream| {
        Box::pin(async move {
            if head.starts_with("GET /events ") {
                let start = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\n";
                stream.write_all(start.as_bytes()).await.ok()?;
                std::future::pending::<()>().await;
            }
            stream.write_all(with_headers("", "ok").as_bytes()).await.ok()?;
            Some(stream)
        })
    })
    .await
}

#[test]
fn access_that_is_withdrawn_ends_what_is_open() {
    block_on(async {
        let allowed = Arc::new(AtomicBool::new(true));
        let says = Arc::clone(&allowed);
        let source = TestUpstream::answering(move |_| {
            with_headers("", &json!({"allowed": says.load(Ordering::SeqCst)}).to_string())
        })
        .await;
        let app = streaming().await;
        let options = Options::new(Db::Sqlite).set("ACCESS_SOURCE", format!("http://{}/may-see", source.address));
        let stage = Stage::new(options, app.address).await;
        let browser = stage.open().await;
        let mut events = browser.get("/events").await.bytes_stream();
        assert!(events.next().await.unwrap().is_ok());

        allowed.store(false, Ordering::SeqCst);
        let body = json!({"userId": "u-1", "repoFullName": "acme/web", "reason": "team_membership"});
        let (status, _) = stage.server.post("/api/internal/preview/access/invalidate", body).await;
        assert_eq!(status, 204);
        // Nothing else is asked of the preview: what is open is looked after by itself, twice a second.
        let rest =
            tokio::time::timeout(Duration::from_secs(5), async { while let Some(Ok(_)) = events.next().await {} });
        rest.await.expect("the stream is cut");
        let refused = browser.get("/").await;
        assert!([401, 403].contains(&refused.status().as_u16()), "{}", refused.status());
        let (_, session) = stage.server.get(&format!("/api/internal/preview/session/{}", browser.id)).await;
        assert_eq!(session["state"], "revoked");
        let (status, body) = stage.start_with(json!({})).await;
        assert_eq!((status, &body["code"]), (403, &json!("permission_denied")));
    });
}
