//! A server of one run that speaks the daemon's part of the API (section 4), in memory.

use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};

use actix_web::dev::ServerHandle;
use actix_web::http::StatusCode;
use actix_web::{App, HttpRequest, HttpResponse, HttpServer, web};
use actix_ws::AggregatedMessage;
use runwarden_actors::contract::names::{
    CAPABILITY_ENVELOPE_V2, HEADER_DAEMON_CAPABILITIES, HEADER_DAEMON_TOKEN, HEADER_DAEMON_VERSION,
};
use runwarden_actors::contract::{
    Ack, AckFrame, AckReason, AckStatus, DaemonEnvelope, HelloFrame, Position, RunId, Seq,
};
use serde_json::{Map, Value, json};

pub const TOKEN: &str = "the-daemon-token";

/// What the stream does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Stream {
    #[default]
    Works,
    Refused(u16),
    /// Upgrades and says nothing.
    Silent,
    /// Closes at the first envelope.
    ClosesAtFirstEnvelope,
}

/// An answer to one POST instead of the usual one.
#[derive(Debug, Clone)]
pub struct Scripted {
    pub status: u16,
    pub body: Value,
}

#[derive(Default)]
pub struct State {
    pub run_id: Option<RunId>,
    pub token: String,
    pub stream: Stream,
    pub scripted: VecDeque<Scripted>,
    /// Answer this to every POST.
    pub http_down: Option<u16>,
    pub posts: usize,
    pub streams: usize,
    /// Take the token away after so many stored events.
    pub revoke_after: Option<usize>,
    pub last_seq: Option<i64>,
    pub events: Vec<DaemonEnvelope>,
    pub seen: HashSet<String>,
    pub late_gaps: Vec<i64>,
    pub duplicates: usize,
    pub terminal: bool,
}

impl State {
    /// The agent's own numbered messages, in the order of the record.
    pub fn numbers(&self) -> Vec<u64> {
        self.messages().iter().filter_map(|message| message.get("n")?.as_u64()).collect()
    }

    pub fn messages(&self) -> Vec<Map<String, Value>> {
        self.events.iter().flat_map(|event| event.messages.clone()).collect()
    }

    pub fn last_message(&self) -> Value {
        Value::Object(self.messages().pop().unwrap())
    }

    fn ingest(&mut self, body: &[u8]) -> Result<Ack, StatusCode> {
        let envelope: DaemonEnvelope = serde_json::from_slice(body).map_err(|_| StatusCode::BAD_REQUEST)?;
        assert_eq!(envelope.payload_version, 2);
        let seq = envelope.seq.get();
        let mut ack = Ack {
            success: true,
            acknowledged_event_id: Some(envelope.event_id.to_string()),
            acknowledged_seq: Some(serde_json::from_str(&seq.to_string()).unwrap()),
            status: AckStatus::Ignored,
            reason: None,
        };
        if Some(envelope.run_id) != self.run_id {
            (ack.status, ack.reason) = (AckStatus::Quarantined, Some(AckReason::Mismatch));
        } else if self.seen.contains(envelope.event_id.as_str()) {
            self.duplicates += 1;
            ack.reason = Some(AckReason::DuplicateEvent);
        } else if self.terminal {
            ack.reason = Some(AckReason::RunTerminal);
        } else if self.last_seq.is_some_and(|last| seq <= last) {
            self.late_gaps.push(seq);
            ack.reason = Some(AckReason::OutOfOrderSeq);
        } else {
            ack.status = AckStatus::Accepted;
            self.seen.insert(envelope.event_id.to_string());
            self.last_seq = Some(seq);
            self.terminal = envelope.messages.iter().any(|message| {
                matches!(message.get("type").and_then(Value::as_str), Some("result" | "custom-error" | "custom-stop"))
            });
            self.events.push(envelope);
            if self.revoke_after.is_some_and(|count| self.events.len() >= count) {
                self.token.clear();
            }
        }
        Ok(ack)
    }

    fn last_accepted(&self) -> Option<Seq> {
        self.last_seq.map(|seq| Seq::new(seq).unwrap())
    }
}

pub struct Server {
    pub url: String,
    pub state: Arc<Mutex<State>>,
    handle: ServerHandle,
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.handle.stop(false));
    }
}

impl Server {
    pub fn start(run_id: RunId) -> Self {
        let state = State { run_id: Some(run_id), token: TOKEN.to_owned(), ..State::default() };
        let state = Arc::new(Mutex::new(state));
        let data = web::Data::from(Arc::clone(&state));
        let server = HttpServer::new(move || {
            App::new()
                .app_data(data.clone())
                .app_data(web::PayloadConfig::new(8 << 20))
                .route("/api/daemon/stream", web::get().to(stream))
                .route("/api/daemon-event", web::post().to(event))
                .route("/api/daemon/position", web::get().to(position))
        })
        .workers(1)
        .client_disconnect_timeout(std::time::Duration::ZERO)
        .disable_signals()
        .bind(("127.0.0.1", 0))
        .unwrap();
        let url = format!("http://{}", server.addrs()[0]);
        let server = server.run();
        let handle = server.handle();
        tokio::spawn(server);
        Self { url, state, handle }
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }
}

fn authorized(request: &HttpRequest, state: &Mutex<State>) -> Result<(), Box<HttpResponse>> {
    let header = |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let state = state.lock().unwrap();
    if state.token.is_empty() || header(HEADER_DAEMON_TOKEN) != state.token {
        let refused = HttpResponse::Unauthorized().json(json!({ "code": "permission_denied", "message": "no" }));
        return Err(Box::new(refused));
    }
    assert_eq!(header(HEADER_DAEMON_CAPABILITIES), CAPABILITY_ENVELOPE_V2);
    assert!(!header(HEADER_DAEMON_VERSION).is_empty());
    Ok(())
}

async fn event(request: HttpRequest, body: web::Bytes, state: web::Data<Mutex<State>>) -> HttpResponse {
    if let Err(refused) = authorized(&request, &state) {
        return *refused;
    }
    let mut state = state.lock().unwrap();
    state.posts += 1;
    if let Some(status) = state.http_down {
        return HttpResponse::build(StatusCode::from_u16(status).unwrap()).finish();
    }
    if let Some(scripted) = state.scripted.pop_front() {
        return HttpResponse::build(StatusCode::from_u16(scripted.status).unwrap()).json(scripted.body);
    }
    match state.ingest(&body) {
        Ok(ack) => HttpResponse::build(StatusCode::from_u16(ack.http_status()).unwrap()).json(ack),
        Err(status) => HttpResponse::build(status).json(json!({ "code": "invalid_request", "message": "no" })),
    }
}

async fn position(request: HttpRequest, state: web::Data<Mutex<State>>) -> HttpResponse {
    if let Err(refused) = authorized(&request, &state) {
        return *refused;
    }
    let state = state.lock().unwrap();
    HttpResponse::Ok().json(Position { run_id: state.run_id.unwrap(), last_accepted_seq: state.last_accepted() })
}

async fn stream(
    request: HttpRequest,
    payload: web::Payload,
    state: web::Data<Mutex<State>>,
) -> actix_web::Result<HttpResponse> {
    if let Err(refused) = authorized(&request, &state) {
        return Ok(*refused);
    }
    let (mode, hello) = {
        let mut state = state.lock().unwrap();
        state.streams += 1;
        let hello =
            HelloFrame { run_id: state.run_id.unwrap(), last_accepted_seq: state.last_accepted(), payload_version: 2 };
        (state.stream, hello)
    };
    if let Stream::Refused(status) = mode {
        return Ok(HttpResponse::build(StatusCode::from_u16(status).unwrap()).finish());
    }
    let (response, mut session, frames) = actix_ws::handle(&request, payload)?;
    let mut frames = frames.max_frame_size(9 << 20).aggregate_continuations().max_continuation_size(9 << 20);
    actix_web::rt::spawn(async move {
        if mode != Stream::Silent {
            session.text(serde_json::to_string(&hello).unwrap()).await.ok();
        }
        while let Some(Ok(message)) = frames.recv().await {
            match message {
                AggregatedMessage::Text(text) => {
                    if mode == Stream::ClosesAtFirstEnvelope {
                        return;
                    }
                    let answer = {
                        let mut state = state.lock().unwrap();
                        if state.token.is_empty() { None } else { state.ingest(text.as_bytes()).ok() }
                    };
                    let Some(ack) = answer else { return };
                    let frame = serde_json::to_string(&AckFrame::from(ack)).unwrap();
                    if session.text(frame).await.is_err() {
                        return;
                    }
                }
                AggregatedMessage::Ping(payload) => {
                    session.pong(&payload).await.ok();
                }
                _ => {}
            }
        }
    });
    Ok(response)
}
