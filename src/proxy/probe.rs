//! The health look at a preview that is coming up: one `GET` over the pinned address.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http_body_util::Empty;
use hyper_util::rt::TokioIo;
use runwarden_actors::contract::PreviewSessionId;
use runwarden_actors::contract::limits::PROXY_CONNECT_TIMEOUT_MS;
use runwarden_actors::ports::store::PreviewUpstream;
use runwarden_actors::ports::{ProbeAnswer, UpstreamProbe};
use tokio::time::timeout;
use uuid::Uuid;

use super::forward::{Destination, ForwardError, builder, dial, unreachable, within};

/// Time for the head of an answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// Looks with a connection of its own each time: a server that is coming up may close what it took too early.
#[derive(Debug, Clone, Copy, Default)]
pub struct HealthProbe;

#[async_trait]
impl UpstreamProbe for HealthProbe {
    async fn probe(&self, upstream: &PreviewUpstream, path: &str) -> ProbeAnswer {
        match timeout(ANSWER_WITHIN, look(upstream, path)).await {
            Ok(Ok(status)) => ProbeAnswer::Status(status),
            Ok(Err(_)) | Err(_) => ProbeAnswer::Unreachable,
        }
    }
}

async fn look(upstream: &PreviewUpstream, path: &str) -> Result<u16, ForwardError> {
    let address = upstream.pinned.addresses().next().ok_or_else(|| unreachable(&"no address"))?;
    let destination = Destination {
        session: PreviewSessionId::from_uuid(Uuid::nil()),
        address,
        port: upstream.port,
        scheme: upstream.scheme,
        host: upstream.host.as_str().into(),
    };
    let origin = upstream.origin();
    let authority = origin.split_once("://").map_or(origin.as_str(), |(_, authority)| authority);
    let mut request = hyper::Request::get(path).header(hyper::header::HOST, authority);
    request = request.header(hyper::header::ACCEPT, "*/*").header(hyper::header::CONNECTION, "close");
    for header in &upstream.auth_headers {
        request = request.header(header.name.as_str(), header.value.as_str());
    }
    let request = request.body(Empty::<Bytes>::new()).map_err(|error| unreachable(&error))?;
    let (mut sender, connection) = within(Duration::from_millis(PROXY_CONNECT_TIMEOUT_MS), async {
        let stream = dial(&destination).await?;
        builder().handshake(TokioIo::new(stream)).await.map_err(|error| unreachable(&error))
    })
    .await?;
    let task = tokio::spawn(connection);
    let answer = sender.send_request(request).await;
    task.abort();
    answer.map(|answer| answer.status().as_u16()).map_err(|error| unreachable(&error))
}
