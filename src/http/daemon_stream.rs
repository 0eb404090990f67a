//! `GET /api/daemon/stream` (section 4): one envelope in each text frame, one ack frame for each, in order.

use std::sync::Arc;
use std::time::Duration;

use actix_web::web::{self, Bytes};
use actix_web::{HttpRequest, HttpResponse};
use actix_ws::{AggregatedMessage, AggregatedMessageStream, CloseCode, CloseReason, ProtocolError, Session};
use futures_util::{FutureExt, StreamExt};
use runwarden_actors::contract::limits::{
    ENVELOPE_MAX_BYTES, EVENT_ID_MAX_BYTES, INGEST_BATCH_MAX_BYTES, INGEST_BATCH_MAX_EVENTS, PAYLOAD_VERSION,
};
use runwarden_actors::contract::names::HEADER_DAEMON_VERSION;
use runwarden_actors::contract::{AckFrame, ErrorCode, HelloFrame, NumberText};
use runwarden_actors::run::{Envelope, RunError};
use serde_json::json;
use serde_json::value::RawValue;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use super::auth::Daemon;
use super::daemon_events::parse_bound;
use super::socket::{is_too_large, upgrade};
use super::{ApiError, AppState};
use crate::auth::DaemonClaims;

/// Silence after which the daemon is asked whether it is there.
const PING_AFTER: Duration = Duration::from_secs(20);
/// Silence after which the stream is given up; the daemon comes back.
const GIVE_UP_AFTER: Duration = Duration::from_mins(1);
/// Time for the daemon to take a frame; one that reads nothing is given up.
const SEND_WITHIN: Duration = Duration::from_secs(30);

/// Opens a stream.
#[utoipa::path(
    get,
    path = "/api/daemon/stream",
    tag = "daemon",
    responses(
        (status = 101, description = "A WebSocket: one envelope in each text frame, one ack frame for each, in order"),
        (status = 400, description = "`invalid_request`: no WebSocket handshake", body = ref("#/components/schemas/ErrorBody")),
        (status = 401, description = "`permission_denied` without a token, `signature_mismatch` with a wrong one", body = ref("#/components/schemas/ErrorBody")),
        (status = 404, description = "`not_found`", body = ref("#/components/schemas/ErrorBody")),
        (status = 503, description = "`store_unavailable`; `Retry-After` says when to come back", body = ref("#/components/schemas/ErrorBody")),
    ),
    security(("daemon" = [])),
)]
pub(super) async fn open(
    state: web::Data<AppState>,
    daemon: Daemon,
    request: HttpRequest,
    payload: web::Payload,
) -> Result<HttpResponse, ApiError> {
    let claims = daemon.0;
    let last_accepted_seq = state.runs.last_accepted_seq(claims.run_id).await?;
    let (response, session, frames) = upgrade(&request, payload, ENVELOPE_MAX_BYTES).await?;
    let frames = frames.aggregate_continuations().max_continuation_size(ENVELOPE_MAX_BYTES);
    let hello = HelloFrame { run_id: claims.run_id, last_accepted_seq, payload_version: PAYLOAD_VERSION };
    // Written with escapes: the value comes from outside.
    let version = request.headers().get(HEADER_DAEMON_VERSION).and_then(|version| version.to_str().ok());
    let version = version.map(|version| version.chars().take(64).collect::<String>());
    tracing::info!(run_id = %claims.run_id, daemon_version = ?version, "daemon stream opened");
    let shutdown = state.shutdown.clone();
    let stream = Stream { state, claims, session, last_heard: Instant::now(), shutdown };
    // A task of its own: what is on its way to the database arrives even if the connection ends.
    actix_web::rt::spawn(stream.serve(frames, hello));
    Ok(response)
}

/// What a refused envelope calls itself, where that can be read: the daemon learns which one it was.
#[derive(Default, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct Named {
    event_id: Option<serde_json::Value>,
    /// Number or not: another type must not hide the other name.
    seq: Option<Box<RawValue>>,
}

/// An error in its place among the answers, with the refused envelope's names.
#[derive(serde::Serialize)]
#[serde(rename_all = "camelCase")]
struct ErrorFrame {
    #[serde(flatten)]
    body: serde_json::Value,
    #[serde(skip_serializing_if = "Option::is_none")]
    event_id: Option<serde_json::Value>,
    /// As it came: `1e2` stays `1e2`.
    #[serde(skip_serializing_if = "Option::is_none")]
    seq: Option<Box<RawValue>>,
}

impl Named {
    fn of(body: &[u8]) -> Self {
        let named: Self = serde_json::from_slice(body).unwrap_or_default();
        // Names are short; whatever else stands there is not sent back.
        let is_text = |value: &serde_json::Value| value.as_str().is_some_and(|text| text.len() <= EVENT_ID_MAX_BYTES);
        let is_number =
            |text: &str| text.len() <= EVENT_ID_MAX_BYTES && serde_json::from_str::<NumberText>(text).is_ok();
        Self { event_id: named.event_id.filter(is_text), seq: named.seq.filter(|raw| is_number(raw.get())) }
    }
}

struct Stream {
    state: web::Data<AppState>,
    claims: Arc<DaemonClaims>,
    session: Session,
    last_heard: Instant,
    shutdown: watch::Receiver<bool>,
}

/// Why a stream ends.
type End = Option<CloseReason>;

/// What a frame asks for.
enum Frame {
    Envelope(Bytes),
    Ping(Bytes),
    Nothing,
    End(End),
}

#[allow(clippy::unnecessary_wraps, reason = "an end without a reason is the other kind")]
fn close(code: CloseCode, why: &str) -> End {
    Some(CloseReason { code, description: Some(why.to_owned()) })
}

impl Stream {
    async fn serve(mut self, mut frames: AggregatedMessageStream, hello: HelloFrame) {
        let end = match self.send(&hello).await {
            Ok(()) => self.read(&mut frames).await,
            Err(end) => end,
        };
        let _ = timeout(SEND_WITHIN, self.session.close(end)).await;
    }

    async fn read(&mut self, frames: &mut AggregatedMessageStream) -> End {
        loop {
            let frame = tokio::select! {
                frame = timeout(PING_AFTER, frames.recv()) => frame,
                _ = self.shutdown.changed() => return close(CloseCode::Restart, "the server is shutting down"),
            };
            let Ok(frame) = frame else {
                if self.last_heard.elapsed() >= GIVE_UP_AFTER {
                    return close(CloseCode::Policy, "nothing was heard for a minute");
                }
                if self.session.ping(b"").await.is_err() {
                    return None;
                }
                continue;
            };
            self.last_heard = Instant::now();
            let mut batch = Vec::new();
            let mut bytes = 0;
            let mut next = Self::frame(frame);
            // Everything that has arrived is decided and committed together.
            let end = loop {
                match next {
                    Frame::Envelope(body) => {
                        bytes += body.len();
                        batch.push(body);
                    }
                    Frame::Ping(payload) => {
                        if self.session.pong(&payload).await.is_err() {
                            break Some(None);
                        }
                    }
                    Frame::Nothing => {}
                    Frame::End(end) => break Some(end),
                }
                if batch.len() >= INGEST_BATCH_MAX_EVENTS || bytes >= INGEST_BATCH_MAX_BYTES {
                    break None;
                }
                match frames.next().now_or_never() {
                    None => break None,
                    Some(frame) => next = Self::frame(frame),
                }
            };
            if let Err(end) = self.ingest(batch).await {
                return end;
            }
            if let Some(end) = end {
                return end;
            }
        }
    }

    fn frame(frame: Option<Result<AggregatedMessage, ProtocolError>>) -> Frame {
        match frame {
            Some(Ok(AggregatedMessage::Text(text))) => Frame::Envelope(text.into_bytes()),
            Some(Ok(AggregatedMessage::Ping(payload))) => Frame::Ping(payload),
            Some(Ok(AggregatedMessage::Pong(_))) => Frame::Nothing,
            Some(Ok(AggregatedMessage::Binary(_))) => {
                Frame::End(close(CloseCode::Unsupported, "envelopes are text frames"))
            }
            Some(Ok(AggregatedMessage::Close(reason))) => Frame::End(reason),
            Some(Err(error)) if is_too_large(&error) => {
                Frame::End(close(CloseCode::Size, "payload_too_large: an envelope is at most 8 MiB"))
            }
            Some(Err(error)) => Frame::End(close(CloseCode::Protocol, &error.to_string())),
            None => Frame::End(None),
        }
    }

    /// Submits what is an envelope, in runs between what is not, so that every answer keeps its place.
    async fn ingest(&mut self, batch: Vec<Bytes>) -> Result<(), End> {
        let mut envelopes: Vec<Envelope> = Vec::with_capacity(batch.len());
        for body in batch {
            match parse_bound(body.clone(), &self.claims) {
                Ok(envelope) => envelopes.push(envelope),
                Err(error) => {
                    self.submit(std::mem::take(&mut envelopes)).await?;
                    self.send_error(&error, Named::of(&body)).await?;
                }
            }
        }
        self.submit(envelopes).await
    }

    async fn submit(&mut self, envelopes: Vec<Envelope>) -> Result<(), End> {
        if envelopes.is_empty() {
            return Ok(());
        }
        match self.state.runs.submit(self.claims.run_id, envelopes).await {
            Ok(acks) => {
                for ack in acks {
                    self.send(&AckFrame::from(ack)).await?;
                }
                Ok(())
            }
            Err(error) => {
                let not_found = matches!(error, RunError::NotFound);
                let error = ApiError::from(error);
                self.send_error(&error, Named::default()).await?;
                // Nothing of this batch is acknowledged; the daemon comes back and sends it again.
                Err(if not_found {
                    close(CloseCode::Policy, ErrorCode::NotFound.as_str())
                } else {
                    close(CloseCode::Again, ErrorCode::StoreUnavailable.as_str())
                })
            }
        }
    }

    async fn send(&mut self, frame: &impl serde::Serialize) -> Result<(), End> {
        let text = serde_json::to_string(frame).map_err(|_| close(CloseCode::Error, "a frame could not be written"))?;
        self.send_text(text).await
    }

    async fn send_error(&mut self, error: &ApiError, named: Named) -> Result<(), End> {
        let mut body = error.body();
        body["type"] = json!("error");
        self.send(&ErrorFrame { body, event_id: named.event_id, seq: named.seq }).await
    }

    async fn send_text(&mut self, text: String) -> Result<(), End> {
        match timeout(SEND_WITHIN, self.session.text(text)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(None),
        }
    }
}
