//! One stream, relayed frame by frame.

use std::collections::VecDeque;

use actix_web::{HttpRequest, HttpResponse, web};
use actix_ws::{AggregatedMessage, AggregatedMessageStream, Item, Session};
use awc::Client;
use awc::error::{WsClientError, WsProtocolError};
use awc::http::StatusCode;
use awc::ws::{Frame, Message};
use bytes::Bytes;
use futures_util::{Sink, SinkExt, Stream, StreamExt};
use runwarden_actors::contract::{AckFrame, ErrorCode};
use serde::Deserialize;
use serde_json::json;
use tokio::time::sleep;

use super::http::daemon_headers;
use super::{Fault, RELAY_MAX_BYTES, Shared, lock};

const HISTORY_MAX: usize = 64;

/// The last envelopes that went to the server, for replays.
#[derive(Debug, Default)]
pub(super) struct History(VecDeque<Relayed>);

#[derive(Debug)]
struct Relayed {
    event_id: String,
    text: String,
    acknowledged: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct EventIdOf {
    event_id: String,
}

impl History {
    fn remember(&mut self, text: &str) {
        let Ok(EventIdOf { event_id }) = serde_json::from_str(text) else { return };
        if self.0.len() >= HISTORY_MAX {
            self.0.pop_front();
        }
        self.0.push_back(Relayed { event_id, text: text.to_owned(), acknowledged: false });
    }

    fn acknowledge(&mut self, event_id: &str) {
        for relayed in self.0.iter_mut().filter(|relayed| relayed.event_id == event_id) {
            relayed.acknowledged = true;
        }
    }

    fn acknowledged(&self) -> Vec<&str> {
        self.0.iter().filter(|relayed| relayed.acknowledged).map(|relayed| relayed.text.as_str()).collect()
    }
}

/// `GET /api/daemon/stream`.
pub(super) async fn relay(
    request: HttpRequest,
    payload: web::Payload,
    shared: web::Data<Shared>,
    client: web::Data<Client>,
) -> actix_web::Result<HttpResponse> {
    let answer = |status: u16, code: ErrorCode| {
        let status = actix_web::http::StatusCode::from_u16(status).unwrap_or_default();
        Ok(HttpResponse::build(status).json(json!({ "code": code, "message": "answered by the link" })))
    };
    if let Some(status) = shared.refuses_streams() {
        return answer(status, ErrorCode::WsRequired);
    }
    let mut upstream = client.ws(format!("{}/api/daemon/stream", shared.upstream)).max_frame_size(RELAY_MAX_BYTES);
    for (name, value) in daemon_headers(&request) {
        upstream = upstream.header(name, value);
    }
    let upstream = match upstream.connect().await {
        Ok((_, upstream)) => upstream,
        Err(WsClientError::InvalidResponseStatus(status)) => {
            let code =
                if status == StatusCode::NOT_IMPLEMENTED { ErrorCode::WsRequired } else { ErrorCode::PermissionDenied };
            return answer(status.as_u16(), code);
        }
        Err(_) => return answer(502, ErrorCode::UpstreamUnreachable),
    };
    shared.stats.count_connection();
    let (response, session, frames) = actix_ws::handle(&request, payload)?;
    let frames =
        frames.max_frame_size(RELAY_MAX_BYTES).aggregate_continuations().max_continuation_size(RELAY_MAX_BYTES);
    actix_web::rt::spawn(async move {
        let (mut to_server, mut from_server) = upstream.split();
        // Whichever ends first drops both connections as they are, without a closing handshake.
        tokio::select! {
            () = towards_server(&shared, frames, &mut to_server) => {}
            () = towards_daemon(&shared, &mut from_server, session) => {}
        }
    });
    Ok(response)
}

async fn towards_server<S>(shared: &Shared, mut frames: AggregatedMessageStream, server: &mut S)
where
    S: Sink<Message, Error = WsProtocolError> + Unpin,
{
    while let Some(Ok(message)) = frames.recv().await {
        let sent = match message {
            AggregatedMessage::Text(text) => send_envelope(shared, &text, server).await,
            AggregatedMessage::Ping(payload) => server.send(Message::Ping(payload)).await.ok(),
            AggregatedMessage::Pong(payload) => server.send(Message::Pong(payload)).await.ok(),
            AggregatedMessage::Binary(bytes) => server.send(Message::Binary(bytes)).await.ok(),
            AggregatedMessage::Close(reason) => {
                let _ = server.send(Message::Close(reason)).await;
                None
            }
        };
        if sent.is_none() {
            return;
        }
    }
}

/// `None` where the connection is to be cut.
async fn send_envelope<S>(shared: &Shared, text: &str, server: &mut S) -> Option<()>
where
    S: Sink<Message, Error = WsProtocolError> + Unpin,
{
    shared.stats.count_frame();
    if shared.makes(Fault::FrameDelayed) {
        sleep(shared.some_delay()).await;
    }
    if shared.makes(Fault::FrameLost) {
        return None;
    }
    if shared.makes(Fault::CutInFrame) {
        let half = Bytes::copy_from_slice(text.as_bytes().get(..text.len() / 2)?);
        let _ = server.send(Message::Continuation(Item::FirstText(half))).await;
        return None;
    }
    if let Some(old) = pick_replay(shared) {
        server.send(Message::Text(old.into())).await.ok()?;
    }
    lock(&shared.history).remember(text);
    server.send(Message::Text(text.to_owned().into())).await.ok()?;
    if shared.makes(Fault::FrameDuplicated) {
        server.send(Message::Text(text.to_owned().into())).await.ok()?;
    }
    if shared.makes(Fault::CutAfterFrame) { None } else { Some(()) }
}

fn pick_replay(shared: &Shared) -> Option<String> {
    let candidates: Vec<String> = lock(&shared.history).acknowledged().into_iter().map(str::to_owned).collect();
    if candidates.is_empty() || !shared.makes(Fault::FrameReplayed) {
        return None;
    }
    candidates.get(shared.random_below(candidates.len())).cloned()
}

async fn towards_daemon<S>(shared: &Shared, frames: &mut S, mut daemon: Session)
where
    S: Stream<Item = Result<Frame, WsProtocolError>> + Unpin,
{
    while let Some(Ok(frame)) = frames.next().await {
        let sent = match frame {
            Frame::Text(text) => {
                if let Ok(AckFrame { acknowledged_event_id: Some(event_id), .. }) = serde_json::from_slice(&text) {
                    lock(&shared.history).acknowledge(&event_id);
                    if shared.makes(Fault::AckLost) {
                        return;
                    }
                }
                daemon.text(String::from_utf8_lossy(&text).into_owned()).await
            }
            Frame::Ping(payload) => daemon.ping(&payload).await,
            Frame::Pong(payload) => daemon.pong(&payload).await,
            Frame::Binary(bytes) => daemon.binary(bytes).await,
            Frame::Continuation(_) => Ok(()),
            Frame::Close(reason) => {
                let _ = daemon.close(reason).await;
                return;
            }
        };
        if sent.is_err() {
            return;
        }
    }
}
