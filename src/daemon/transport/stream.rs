//! Envelopes over one WebSocket connection: pipelined, in order, each with an acknowledgement of its own.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::time::Duration;

use awc::error::{SendRequestError, WsClientError, WsProtocolError};
use awc::ws::{Frame, Message};
use bytes::Bytes;
use futures_util::{Sink, SinkExt, Stream, StreamExt};
use runwarden_actors::contract::{AckFrame, ErrorCode, HelloFrame, NumberText};
use serde::Deserialize;
use tokio::time::{Instant, sleep_until, timeout};

use super::api::Api;
use super::http::{outcome, report};
use crate::daemon::options::Limits;
use crate::daemon::outbox::{Outbox, Settled};
use crate::daemon::spool::Entry;

/// Silence after which a ping keeps address translators between us and the server from forgetting the connection.
const PING_EVERY: Duration = Duration::from_secs(20);

/// Why a stream is over.
#[derive(Debug)]
pub(super) enum StreamEnd {
    /// 401 or 403.
    Unauthorized(u16),
    /// The server has no stream here.
    NotOffered(u16),
    /// Reached, but not upgraded, or no `hello`.
    HandshakeFailed(String),
    /// Not reached.
    Unreachable(String),
    /// It was open.
    Broken {
        why: String,
        /// Whether an envelope was acknowledged on it.
        progress: bool,
        /// Whether an envelope was sent on it.
        sent: bool,
    },
    /// The server refused an envelope, with this code in place of its acknowledgement.
    EnvelopeRefused(String),
}

/// An envelope on its way.
struct Flight {
    entry: Entry,
    /// Since when its acknowledgement is waited for; `None` while it is being written.
    sent_at: Option<Instant>,
}

struct Connection<'a> {
    outbox: &'a Outbox,
    flights: RefCell<VecDeque<Flight>>,
    pong: RefCell<Option<Bytes>>,
    last_ack: Cell<Option<Instant>>,
    progress: Cell<bool>,
    sent: Cell<bool>,
    refused: RefCell<Option<String>>,
}

/// Opens a stream and uses it until it is over.
pub(super) async fn run(api: &Api, outbox: &Outbox, limits: &Limits, ack_timeout: Duration) -> StreamEnd {
    let socket = match timeout(limits.request_timeout, api.open_stream()).await {
        Ok(Ok(socket)) => socket,
        Ok(Err(error)) => return not_opened(&error),
        Err(_) => return StreamEnd::HandshakeFailed("no answer in time".to_owned()),
    };
    let (mut sink, mut frames) = socket.split();
    if let Err(why) = greet(&mut frames, ack_timeout).await {
        return StreamEnd::HandshakeFailed(why);
    }
    let connection = Connection {
        outbox,
        flights: RefCell::default(),
        pong: RefCell::default(),
        last_ack: Cell::new(None),
        progress: Cell::new(false),
        sent: Cell::new(false),
        refused: RefCell::default(),
    };
    let why = tokio::select! {
        why = connection.read(&mut frames) => why,
        why = connection.write(&mut sink, limits) => why,
        () = connection.overdue(ack_timeout) => format!("no acknowledgement within {} ms", ack_timeout.as_millis()),
    };
    if let Some(code) = connection.refused.take() {
        return StreamEnd::EnvelopeRefused(code);
    }
    StreamEnd::Broken { why, progress: connection.progress.get(), sent: connection.sent.get() }
}

fn not_opened(error: &WsClientError) -> StreamEnd {
    match error {
        WsClientError::InvalidResponseStatus(status) => match status.as_u16() {
            status @ (401 | 403) => StreamEnd::Unauthorized(status),
            status @ (404 | 405 | 426 | 501) => StreamEnd::NotOffered(status),
            status => StreamEnd::HandshakeFailed(format!("status {status}")),
        },
        WsClientError::SendRequest(SendRequestError::Connect(error)) => StreamEnd::Unreachable(error.to_string()),
        error => StreamEnd::HandshakeFailed(error.to_string()),
    }
}

#[derive(Deserialize)]
struct FrameType<'a> {
    #[serde(rename = "type", borrow)]
    name: std::borrow::Cow<'a, str>,
}

/// What stands in place of an acknowledgement where an envelope is refused.
#[derive(Deserialize)]
struct ErrorFrame {
    code: String,
}

fn frame_type(text: &[u8]) -> Option<String> {
    serde_json::from_slice::<FrameType<'_>>(text).ok().map(|frame| frame.name.into_owned())
}

/// The first text frame must be a `hello`. What it says of our place is only logged: everything without an
/// acknowledgement is sent again, and the server knows what it has.
async fn greet<S>(frames: &mut S, patience: Duration) -> Result<(), String>
where
    S: Stream<Item = Result<Frame, WsProtocolError>> + Unpin,
{
    let first = async {
        loop {
            match frames.next().await {
                Some(Ok(Frame::Ping(_) | Frame::Pong(_))) => {}
                Some(Ok(Frame::Text(text))) => return Ok(text),
                Some(Ok(_)) => return Err("the server closed it before its hello".to_owned()),
                Some(Err(error)) => return Err(error.to_string()),
                None => return Err("cut before the hello".to_owned()),
            }
        }
    };
    let text = timeout(patience, first).await.map_err(|_| "no hello in time".to_owned())??;
    let hello = match frame_type(&text).as_deref() {
        Some("hello") => serde_json::from_slice::<HelloFrame>(&text).map_err(|error| error.to_string())?,
        _ => return Err("the first frame is not a hello".to_owned()),
    };
    tracing::info!(run_id = %hello.run_id, last_accepted_seq = ?hello.last_accepted_seq, "stream open");
    Ok(())
}

enum Action {
    Pong(Bytes),
    Send(Entry),
}

impl Connection<'_> {
    /// Sends what the outbox has, oldest first, as far as the window reaches.
    async fn write<S>(&self, sink: &mut S, limits: &Limits) -> String
    where
        S: Sink<Message, Error = WsProtocolError> + Unpin,
    {
        let mut last_sent = None;
        loop {
            let next = self.outbox.until(|state| {
                if let Some(payload) = self.pong.take() {
                    return Some(Action::Pong(payload));
                }
                let room = self.flights.borrow().len() < limits.pipeline;
                if room { state.next_after(last_sent).map(Action::Send) } else { None }
            });
            let message = match timeout(PING_EVERY, next).await {
                Err(_) => Message::Ping(Bytes::new()),
                Ok(Action::Pong(payload)) => Message::Pong(payload),
                Ok(Action::Send(entry)) => {
                    let Ok(text) = std::str::from_utf8(&entry.body).map(str::to_owned) else {
                        return format!("the envelope {} in the spool is not text", entry.event_id);
                    };
                    last_sent = Some(entry.seq);
                    self.sent.set(true);
                    self.flights.borrow_mut().push_back(Flight { entry, sent_at: None });
                    Message::Text(text.into())
                }
            };
            match timeout(limits.request_timeout, sink.send(message)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => return error.to_string(),
                Err(_) => return "the server does not read".to_owned(),
            }
            if let Some(flight) = self.flights.borrow_mut().back_mut() {
                flight.sent_at.get_or_insert_with(Instant::now);
            }
            self.outbox.wake();
        }
    }

    async fn read<S>(&self, frames: &mut S) -> String
    where
        S: Stream<Item = Result<Frame, WsProtocolError>> + Unpin,
    {
        loop {
            match frames.next().await {
                Some(Ok(Frame::Text(text))) => {
                    if self.take(&text) {
                        return "an envelope was refused".to_owned();
                    }
                }
                Some(Ok(Frame::Ping(payload))) => {
                    self.pong.replace(Some(payload));
                    self.outbox.wake();
                }
                Some(Ok(Frame::Close(reason))) => {
                    let why = reason.map(|reason| {
                        format!(": {} {}", u16::from(reason.code), reason.description.unwrap_or_default())
                    });
                    return format!("closed by the server{}", why.unwrap_or_default());
                }
                Some(Ok(Frame::Pong(_) | Frame::Binary(_) | Frame::Continuation(_))) => {}
                Some(Err(error)) => return error.to_string(),
                None => return "cut".to_owned(),
            }
        }
    }

    /// A text frame: an acknowledgement, an error, or something for the log. True where an envelope was refused.
    fn take(&self, text: &[u8]) -> bool {
        match frame_type(text).as_deref() {
            Some("ack") => {
                self.acknowledged(text);
                return false;
            }
            Some("error") => {
                if let Ok(said) = serde_json::from_slice::<ErrorFrame>(text)
                    && said.code != ErrorCode::StoreUnavailable.as_str()
                {
                    self.refused.replace(Some(said.code));
                    return true;
                }
            }
            _ => {}
        }
        let said: String = String::from_utf8_lossy(text).chars().take(200).collect();
        tracing::warn!(said, "a frame that is no acknowledgement");
        false
    }

    fn acknowledged(&self, text: &[u8]) {
        let Ok(ack) = serde_json::from_slice::<AckFrame>(text) else {
            tracing::warn!("an acknowledgement that is not of the shape");
            return;
        };
        let seq = ack.acknowledged_seq.as_ref().and_then(NumberText::as_integer);
        let is_for = |flight: &Flight| {
            Some(flight.entry.seq) == seq
                && Some(flight.entry.event_id.as_str()) == ack.acknowledged_event_id.as_deref()
        };
        let flight = {
            let mut flights = self.flights.borrow_mut();
            flights.iter().position(is_for).and_then(|at| flights.remove(at))
        };
        // Not on its way here: the answer to a copy that somebody between us has made, or no answer to us at all.
        let Some(flight) = flight else {
            tracing::debug!(?seq, "an acknowledgement for nothing on its way");
            return;
        };
        self.last_ack.set(Some(Instant::now()));
        let settled = self.outbox.settle(flight.entry.seq, flight.entry.event_id.as_str(), outcome(ack.reason));
        if settled == Settled::Now {
            self.progress.set(true);
            report(&flight.entry, ack.reason);
        }
    }

    /// Waits until the oldest envelope on its way has no acknowledgement, and none other came, for so long.
    async fn overdue(&self, ack_timeout: Duration) {
        loop {
            let sent_at = self.outbox.until(|_| self.flights.borrow().front().and_then(|flight| flight.sent_at)).await;
            let due = self.last_ack.get().map_or(sent_at, |last| last.max(sent_at)) + ack_timeout;
            if due <= Instant::now() {
                return;
            }
            sleep_until(due).await;
        }
    }
}
