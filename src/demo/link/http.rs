//! Single requests, relayed.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use actix_web::http::StatusCode;
use actix_web::http::header::{CONTENT_TYPE, RETRY_AFTER};
use actix_web::{HttpRequest, HttpResponse, web};
use awc::Client;
use bytes::Bytes;
use runwarden_actors::contract::ErrorCode;
use runwarden_actors::contract::names::{HEADER_DAEMON_CAPABILITIES, HEADER_DAEMON_TOKEN, HEADER_DAEMON_VERSION};
use serde_json::json;
use tokio::time::sleep;

use super::{Fault, Shared};

/// Copies that wait to be sent late.
const LATE_POSTS_MAX: usize = 64;

/// How many copies wait.
#[derive(Debug, Default)]
pub(super) struct LatePosts(Arc<AtomicUsize>);

struct LatePost(Arc<AtomicUsize>);

impl LatePosts {
    fn reserve(&self) -> Option<LatePost> {
        let reserved = self
            .0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |count| (count < LATE_POSTS_MAX).then_some(count + 1));
        reserved.ok().map(|_| LatePost(Arc::clone(&self.0)))
    }
}

impl Drop for LatePost {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The headers of a daemon's request that the server needs.
pub(super) fn daemon_headers(request: &HttpRequest) -> Vec<(&'static str, String)> {
    let names = [HEADER_DAEMON_TOKEN, HEADER_DAEMON_VERSION, HEADER_DAEMON_CAPABILITIES, "Content-Type"];
    let value = |name: &str| request.headers().get(name)?.to_str().ok().map(str::to_owned);
    names.into_iter().filter_map(|name| Some((name, value(name)?))).collect()
}

/// An answer that breaks off before anything of it was sent.
fn cut() -> HttpResponse {
    let broken = futures_util::stream::once(async { Err::<Bytes, _>(io::Error::other("cut by the link")) });
    HttpResponse::Ok().streaming(broken)
}

async fn post(client: &Client, url: &str, headers: Vec<(&'static str, String)>, body: Bytes) -> HttpResponse {
    let mut request = client.post(url);
    for header in headers {
        request = request.insert_header(header);
    }
    relay_answer(request.send_body(body).await).await
}

async fn relay_answer<S>(answer: Result<awc::ClientResponse<S>, awc::error::SendRequestError>) -> HttpResponse
where
    S: futures_util::Stream<Item = Result<Bytes, awc::error::PayloadError>> + Unpin,
{
    let unreachable = || {
        let body = json!({ "code": ErrorCode::UpstreamUnreachable, "message": "the link does not reach the server" });
        HttpResponse::BadGateway().json(body)
    };
    let Ok(mut answer) = answer else { return unreachable() };
    let Ok(body) = answer.body().await else { return unreachable() };
    let mut relayed = HttpResponse::build(StatusCode::from_u16(answer.status().as_u16()).unwrap_or_default());
    for name in [CONTENT_TYPE, RETRY_AFTER] {
        if let Some(value) = answer.headers().get(&name) {
            relayed.insert_header((name, value.clone()));
        }
    }
    relayed.body(body)
}

/// `POST /api/daemon-event`.
pub(super) async fn event(
    request: HttpRequest,
    body: Bytes,
    shared: web::Data<Shared>,
    client: web::Data<Client>,
) -> HttpResponse {
    shared.stats.count_request();
    let url = format!("{}/api/daemon-event", shared.upstream);
    let headers = daemon_headers(&request);
    if shared.makes(Fault::RequestDelayed) {
        sleep(shared.some_delay()).await;
    }
    if shared.makes(Fault::RequestLost) {
        return cut();
    }
    if let Some(place) = shared.late_posts.reserve()
        && shared.makes(Fault::RequestReplayed)
    {
        let (client, url, headers, body) = (client.clone(), url.clone(), headers.clone(), body.clone());
        let delay = shared.some_delay();
        actix_web::rt::spawn(async move {
            sleep(delay).await;
            post(&client, &url, headers, body).await;
            drop(place);
        });
    }
    if shared.makes(Fault::RequestDuplicated) {
        post(&client, &url, headers.clone(), body.clone()).await;
    }
    let answer = post(&client, &url, headers, body).await;
    if shared.makes(Fault::ResponseLost) { cut() } else { answer }
}

/// `GET /api/daemon/position`.
pub(super) async fn position(
    request: HttpRequest,
    shared: web::Data<Shared>,
    client: web::Data<Client>,
) -> HttpResponse {
    if shared.makes(Fault::RequestLost) || shared.makes(Fault::ResponseLost) {
        return cut();
    }
    let mut relayed = client.get(format!("{}/api/daemon/position", shared.upstream));
    for header in daemon_headers(&request) {
        relayed = relayed.insert_header(header);
    }
    relay_answer(relayed.send().await).await
}
