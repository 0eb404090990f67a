//! `GET /api/preview/subscribe/{id}`: what happens to a session, live (section 5, subscription). The token comes in
//! `Sec-WebSocket-Protocol`, because a browser can set no other header and a URL ends up in logs.

use std::sync::Arc;
use std::time::Duration;

use actix_web::http::header::{HeaderMap, HeaderValue, SEC_WEBSOCKET_PROTOCOL};
use actix_web::{HttpRequest, HttpResponse, web};
use actix_ws::{CloseCode, CloseReason, Message, MessageStream, Session};
use futures_util::StreamExt as _;
use runwarden_actors::contract::names::{BROADCAST_SCHEMA_VERSION, EVENT_SESSION_STATE_CHANGED};
use runwarden_actors::contract::{
    ErrorCode, KeyNamespace, PreviewBinding, PreviewSessionId, PreviewSessionState, SecurityReason,
};
use runwarden_actors::preview::{OpenError, OpenSession, preview_dimensions};
use serde_json::json;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::super::socket::upgrade;
use super::super::{ApiError, AppState};
use super::exchange::channel;
use super::{count_stranger, ip_of, open_session, require_access, session_id};
use crate::auth::{Bound as _, single_use_ms};
use crate::proxy::PreviewServices;

/// The protocol that is spoken; the answer names it, and never the token.
const PROTOCOL: &str = "runwarden.preview.v1";
/// Stands before the token among the protocols that the browser offers.
const TOKEN_PREFIX: &str = "token.";
/// Silence after which the browser is asked whether it is there.
const PING_EVERY: Duration = Duration::from_secs(15);
/// Pings without any answer after which the socket is given up.
const UNANSWERED_MAX: u32 = 3;
/// Time for the browser to take a frame.
const SEND_WITHIN: Duration = Duration::from_secs(10);
/// Largest frame that a browser may send: it has nothing to say.
const FRAME_MAX_BYTES: usize = 1024;
/// Close code of a socket whose session is over; 4000 to 4999 are for applications. Its reason is the state that the
/// session went to: an event would be one that its own check refuses.
const CLOSE_OVER: u16 = 4401;
const EXPIRED: &str = PreviewSessionState::Expired.as_str();
const REVOKED: &str = PreviewSessionState::Revoked.as_str();
/// The reason where the user may not see the repository any more.
const WITHDRAWN: &str = ErrorCode::PermissionDenied.as_str();

/// The token among the offered protocols, where ours is offered too.
fn offered_token(headers: &HeaderMap) -> Option<&str> {
    let lines = headers.get_all(SEC_WEBSOCKET_PROTOCOL).filter_map(|value| value.to_str().ok());
    let mut protocols = lines.flat_map(|line| line.split(',')).map(str::trim);
    let mut token = None;
    let mut ours = false;
    for protocol in protocols.by_ref().take(8) {
        ours |= protocol == PROTOCOL;
        token = token.or_else(|| protocol.strip_prefix(TOKEN_PREFIX));
    }
    token.filter(|_| ours)
}

/// Opens a subscription.
#[utoipa::path(
    get,
    path = "/api/preview/subscribe/{session_id}",
    tag = "previews",
    params(("session_id" = String, Path, description = "The session's UUID, as text"), ("Sec-WebSocket-Protocol" = String, Header, description = "`runwarden.preview.v1, token.TOKEN`")),
    responses(
        (status = 101, description = "A WebSocket: one JSON event in each text frame; it closes with 4401 when the session is over"),
        (status = 400, description = "`invalid_request`: no WebSocket handshake", body = ref("#/components/schemas/ErrorBody")),
        (status = 401, description = "`expired`, `revoked`, `signature_mismatch`; `permission_denied` without a token", body = ref("#/components/schemas/ErrorBody")),
        (status = 403, description = "`binding_mismatch`, `permission_denied`", body = ref("#/components/schemas/ErrorBody")),
        (status = 404, description = "`not_found`", body = ref("#/components/schemas/ErrorBody")),
        (status = 409, description = "`token_replay`", body = ref("#/components/schemas/ErrorBody")),
        (status = 429, description = "`rate_limited`", body = ref("#/components/schemas/ErrorBody")),
        (status = 503, description = "`cache_unavailable` or `store_unavailable`", body = ref("#/components/schemas/ErrorBody")),
    ),
)]
pub(in crate::http) async fn subscribe(
    state: web::Data<AppState>,
    request: HttpRequest,
    id: web::Path<String>,
    payload: web::Payload,
) -> Result<HttpResponse, ApiError> {
    let services = state.previews.clone();
    let id = session_id(&id)?;
    let ip = ip_of(&services, &request)?;
    count_stranger(&services, &services.deps.options.limits.exchange_ip(&ip)).await?;
    let token = offered_token(request.headers()).ok_or_else(|| {
        ApiError::without_credential(format!("offer the protocols `{PROTOCOL}` and `{TOKEN_PREFIX}` with the token"))
    })?;
    let claims = services.tokens.verify_broadcast(token).await?;
    let open = open_session(&services, id).await?;
    let deps = services.deps.for_session(&open.record, Some("subscription"), None).into_owned();
    let checked = async {
        claims.check_binding(&open.record.binding())?;
        require_access(&services, &deps, &open.record).await?;
        // Before the token is used up: a handshake that fails leaves it good. Dropped, it has done nothing.
        let upgrade = upgrade(&request, payload, FRAME_MAX_BYTES).await?;
        if !deps.run.coordination.use_once(&claims.marks(), single_use_ms(KeyNamespace::Broadcast)).await? {
            return Err(ApiError::new(
                ErrorCode::TokenReplay,
                "the subscription token was used already; ask for another",
            ));
        }
        services.tokens.confirm_key(KeyNamespace::Broadcast, token).await?;
        Ok(upgrade)
    };
    let (mut response, session, frames) = checked.await.inspect_err(|error| {
        if let Some(reason) = error.security_reason() {
            services.deps.run.observer.preview_denied(preview_dimensions(&open.record, None), reason);
        }
    })?;
    response.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(PROTOCOL));
    let subscription =
        Subscription { services, id, binding: claims.binding.clone(), open, session, shutdown: state.shutdown.clone() };
    actix_web::rt::spawn(subscription.serve(frames));
    Ok(response)
}

struct Subscription {
    services: PreviewServices,
    id: PreviewSessionId,
    binding: PreviewBinding,
    open: Arc<OpenSession>,
    session: Session,
    shutdown: watch::Receiver<bool>,
}

/// What a session that is not open any more means to its subscribers.
const fn end_of(error: &OpenError) -> End {
    match error {
        OpenError::Expired => End::Over(EXPIRED),
        OpenError::Revoked | OpenError::NotFound | OpenError::NotReady(_) => End::Over(REVOKED),
        OpenError::Store(_) | OpenError::Stopped => End::Unknown,
    }
}

/// Why a subscription ends.
enum End {
    Over(&'static str),
    Unknown,
    ShuttingDown,
    Gone,
}

impl Subscription {
    async fn serve(mut self, frames: MessageStream) {
        let _counted = self.open.enter();
        let end = self.run(frames).await;
        let reason = match end {
            End::Gone => None,
            End::Over(why) => {
                Some(CloseReason { code: CloseCode::Other(CLOSE_OVER), description: Some(why.to_owned()) })
            }
            End::Unknown => Some(CloseReason {
                code: CloseCode::Again,
                description: Some("access cannot be confirmed now".to_owned()),
            }),
            End::ShuttingDown => Some(CloseReason {
                code: CloseCode::Restart,
                description: Some("the server is shutting down".to_owned()),
            }),
        };
        let _ = timeout(SEND_WITHIN, self.session.close(reason)).await;
    }

    async fn run(&mut self, mut frames: MessageStream) -> End {
        if let Err(end) = self.event(PreviewSessionState::Ready).await {
            return end;
        }
        let cancelled = self.open.cancelled().clone();
        let mut shutdown = self.shutdown.clone();
        let mut pings = interval(PING_EVERY);
        pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
        pings.reset();
        let mut unanswered = 0;
        loop {
            tokio::select! {
                () = cancelled.cancelled() => return self.cut().await,
                _ = shutdown.wait_for(|down| *down) => return End::ShuttingDown,
                _ = pings.tick() => {
                    unanswered += 1;
                    if unanswered > UNANSWERED_MAX {
                        return End::Gone;
                    }
                    // Also between events: an access that was withdrawn ends the subscription.
                    if let Err(end) = self.check().await {
                        return end;
                    }
                    if timeout(SEND_WITHIN, self.session.ping(b"")).await.map_or(true, |sent| sent.is_err()) {
                        return End::Gone;
                    }
                }
                frame = frames.next() => match frame {
                    Some(Ok(Message::Ping(payload))) => {
                        if self.session.pong(&payload).await.is_err() {
                            return End::Gone;
                        }
                    }
                    Some(Ok(Message::Pong(_))) => unanswered = 0,
                    // Nothing that it says changes anything.
                    Some(Ok(Message::Text(_) | Message::Binary(_) | Message::Continuation(_) | Message::Nop)) => {}
                    Some(Ok(Message::Close(_)) | Err(_)) | None => return End::Gone,
                },
            }
        }
    }

    /// The session was cut here: because it is over, or because nobody could say for too long whether it is.
    async fn cut(&self) -> End {
        match self.services.open(self.id).await {
            Ok(open) if open.record.revocation_version == self.open.record.revocation_version => End::Unknown,
            Ok(_) => End::Over(REVOKED),
            Err(error) => end_of(&error),
        }
    }

    /// Checked before every event (section 5): the session, its version, the ids, and the user's access.
    async fn check(&self) -> Result<(), End> {
        let over = |reason: SecurityReason, why| {
            let dimensions = preview_dimensions(&self.open.record, None);
            self.services.deps.run.observer.preview_denied(dimensions, reason);
            End::Over(why)
        };
        let open = self.services.open(self.id).await.map_err(|error| end_of(&error))?;
        if open.record.revocation_version != self.open.record.revocation_version {
            return Err(End::Over(REVOKED));
        }
        if open.record.binding() != self.binding {
            return Err(over(SecurityReason::BindingMismatch, REVOKED));
        }
        let deps = self.services.deps.for_session(&open.record, None, None);
        match require_access(&self.services, &deps, &open.record).await {
            Ok(()) => Ok(()),
            Err(error) => {
                let reason = error.security_reason().unwrap_or(SecurityReason::CacheUnavailable);
                Err(match over(reason, WITHDRAWN) {
                    // Nobody can say: the page may come back with another token.
                    End::Over(_) if reason == SecurityReason::CacheUnavailable => End::Unknown,
                    end => end,
                })
            }
        }
    }

    /// The fields that every event has (section 11), and what the page needs to know.
    async fn event(&mut self, state: PreviewSessionState) -> Result<(), End> {
        self.check().await?;
        let of = &self.binding;
        let event = json!({
            "schemaVersion": BROADCAST_SCHEMA_VERSION,
            "channel": channel(self.id),
            "eventName": EVENT_SESSION_STATE_CHANGED,
            "origin": "server",
            "tsServer": self.services.deps.run.clock.now(),
            "traceId": self.id,
            "previewSessionId": self.id,
            "runId": of.run_id,
            "threadId": of.thread_id,
            "threadChatId": of.thread_chat_id,
            "userId": of.user_id,
            "codesandboxId": of.codesandbox_id,
            "sandboxProvider": of.sandbox_provider,
            "state": state,
            "openMode": self.open.record.open_mode,
            "expiresAt": self.open.record.expires_at,
        });
        match timeout(SEND_WITHIN, self.session.text(event.to_string())).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(End::Gone),
        }
    }
}
