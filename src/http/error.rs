//! The one body of every error, and the one table from code to status (contract section 7).

use actix_web::http::StatusCode;
use actix_web::http::header::RETRY_AFTER;
use actix_web::{HttpResponse, ResponseError};
use runwarden_actors::contract::{ErrorCode, InvalidId, Limiter, SecurityReason, Timestamp, UnknownName};
use runwarden_actors::ports::CoordinationError;
use runwarden_actors::ports::store::StoreError;
use runwarden_actors::preview::{AccessError, OpenError, RevokeError};
use runwarden_actors::run::{ContextError, EnvelopeError, RunError};
use serde_json::{Value, json};

use crate::auth::PreviewTokenError;

/// Seconds that a client is told to wait where the database is away.
const STORE_RETRY_SECONDS: u64 = 2;

/// The status of a code. `permission_denied` is 401 where there was no credential at all; see
/// [`ApiError::without_credential`].
pub const fn status_of(code: ErrorCode) -> u16 {
    match code {
        ErrorCode::InvalidRequest => 400,
        ErrorCode::Expired | ErrorCode::Revoked | ErrorCode::SignatureMismatch => 401,
        ErrorCode::PermissionDenied
        | ErrorCode::BindingMismatch
        | ErrorCode::ProxySsrfBlocked
        | ErrorCode::ProxyPathDenied => 403,
        ErrorCode::NotFound => 404,
        ErrorCode::TokenReplay | ErrorCode::RunNotActive | ErrorCode::Conflict | ErrorCode::ReadyBlocked => 409,
        ErrorCode::PayloadTooLarge => 413,
        ErrorCode::RateLimited | ErrorCode::ConcurrencyLimited => 429,
        ErrorCode::ContainerUnavailable | ErrorCode::ContainerNotRunning | ErrorCode::ContainerNoAddress => 500,
        ErrorCode::WsRequired => 501,
        ErrorCode::UpstreamUnreachable => 502,
        ErrorCode::CacheUnavailable | ErrorCode::StoreUnavailable => 503,
        ErrorCode::UpstreamTimeout => 504,
    }
}

/// An answer that is an error: a code for machines, a message for people.
#[derive(Debug)]
pub struct ApiError {
    code: ErrorCode,
    status: u16,
    message: String,
    retry_after_seconds: Option<u64>,
    limited: Option<Limited>,
    locked: Option<&'static str>,
}

/// What a 429 says beside its message.
#[derive(Debug)]
struct Limited {
    limiter: Limiter,
    next_allowed_at: Timestamp,
}

impl ApiError {
    /// An error with the status of its code.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        let (status, message) = (status_of(code), message.into());
        Self { code, status, message, retry_after_seconds: None, limited: None, locked: None }
    }

    /// An error of the locked routes (section 8): `error` and `statusCode` stand beside what every error has, where
    /// clients of those routes look for them. See docs/adr/0016.
    pub fn locked(code: ErrorCode, message: impl Into<String>, error: &'static str) -> Self {
        Self { locked: Some(error), ..Self::new(code, message) }
    }

    /// The same on a locked route: beside it stands the status's name, unless the table has another word.
    #[must_use]
    pub fn as_locked(self) -> Self {
        Self { locked: self.locked.or_else(|| self.status_code().canonical_reason()), ..self }
    }

    /// `invalid_request`.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::InvalidRequest, message)
    }

    /// `not_found`.
    pub fn not_found(what: &str) -> Self {
        Self::new(ErrorCode::NotFound, format!("there is no such {what}"))
    }

    /// `permission_denied` where no credential was shown: 401.
    pub fn without_credential(message: impl Into<String>) -> Self {
        Self { status: 401, ..Self::new(ErrorCode::PermissionDenied, message) }
    }

    /// `store_unavailable`, with a time to wait. The source goes to the log only.
    pub fn store_unavailable(source: &dyn std::fmt::Display) -> Self {
        tracing::warn!(%source, "store unavailable");
        Self {
            retry_after_seconds: Some(STORE_RETRY_SECONDS),
            ..Self::new(
                ErrorCode::StoreUnavailable,
                "the database, the coordination store or the object store is out of reach; try again",
            )
        }
    }

    /// `cache_unavailable`, with a time to wait. The source goes to the log only.
    pub fn cache_unavailable(source: &dyn std::fmt::Display) -> Self {
        tracing::warn!(%source, "coordination unavailable");
        Self {
            retry_after_seconds: Some(STORE_RETRY_SECONDS),
            ..Self::new(ErrorCode::CacheUnavailable, "nobody can say now whether this is allowed; try again")
        }
    }

    /// `rate_limited`, with whose limit it is and when it ends.
    pub fn rate_limited(limiter: Limiter, retry_after_ms: u64, now: Timestamp) -> Self {
        let wait = i64::try_from(retry_after_ms).unwrap_or(i64::MAX);
        Self {
            retry_after_seconds: Some(retry_after_ms.div_ceil(1000).max(1)),
            limited: Some(Limited { limiter, next_allowed_at: now.plus_millis(wait) }),
            ..Self::new(ErrorCode::RateLimited, format!("too many requests of this {limiter}"))
        }
    }

    /// `concurrency_limited`: all of a session's slots are taken.
    pub fn concurrency_limited(slots: u32) -> Self {
        Self {
            retry_after_seconds: Some(1),
            ..Self::new(ErrorCode::ConcurrencyLimited, format!("{slots} requests of this preview are under way"))
        }
    }

    /// The reason of the access-denied event that belongs to it, where there is one (section 11). A request without any
    /// credential is none: nobody was refused, and whoever likes can send as many as they like.
    pub fn security_reason(&self) -> Option<SecurityReason> {
        if self.code == ErrorCode::PermissionDenied && self.status == 401 {
            return None;
        }
        self.code.as_str().parse().ok()
    }

    /// The code.
    pub const fn code(&self) -> ErrorCode {
        self.code
    }

    /// The message.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The body, also used in frames of a stream.
    pub fn body(&self) -> Value {
        let mut body = json!({"code": self.code, "message": self.message});
        if let Some(seconds) = self.retry_after_seconds {
            body["retryAfterMs"] = json!(seconds * 1000);
        }
        if self.code == ErrorCode::CacheUnavailable {
            body["backoffHint"] = json!("exponential");
        }
        if let Some(error) = self.locked {
            body["error"] = json!(error);
            body["statusCode"] = json!(self.status);
        }
        if let Some(limited) = &self.limited {
            body["limiter"] = json!(limited.limiter);
            body["nextAllowedAt"] = json!(limited.next_allowed_at);
        }
        body
    }
}

impl std::fmt::Display for ApiError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.code, self.message)
    }
}

impl std::error::Error for ApiError {}

impl ResponseError for ApiError {
    fn status_code(&self) -> StatusCode {
        StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    fn error_response(&self) -> HttpResponse {
        let mut response = HttpResponse::build(self.status_code());
        if let Some(seconds) = self.retry_after_seconds {
            response.insert_header((RETRY_AFTER, seconds.to_string()));
        }
        response.json(self.body())
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        Self::store_unavailable(&error)
    }
}

impl From<RunError> for ApiError {
    fn from(error: RunError) -> Self {
        match error {
            RunError::NotFound => Self::not_found("run"),
            RunError::Store(error) => Self::from(error),
            RunError::NeedsOffload(_) | RunError::Stopped => Self::store_unavailable(&error),
        }
    }
}

impl From<CoordinationError> for ApiError {
    fn from(error: CoordinationError) -> Self {
        Self::cache_unavailable(&error)
    }
}

impl From<AccessError> for ApiError {
    fn from(error: AccessError) -> Self {
        Self::cache_unavailable(&error)
    }
}

impl From<RevokeError> for ApiError {
    fn from(error: RevokeError) -> Self {
        match error {
            RevokeError::Store(error) => error.into(),
            RevokeError::Coordination(error) => error.into(),
        }
    }
}

impl From<OpenError> for ApiError {
    fn from(error: OpenError) -> Self {
        let code = match &error {
            OpenError::NotFound => return Self::not_found("preview session"),
            OpenError::NotReady(_) => ErrorCode::Conflict,
            OpenError::Expired => ErrorCode::Expired,
            OpenError::Revoked => ErrorCode::Revoked,
            OpenError::Store(error) => return Self::store_unavailable(error),
            OpenError::Stopped => return Self::store_unavailable(&error),
        };
        Self::new(code, error.to_string())
    }
}

impl From<PreviewTokenError> for ApiError {
    fn from(error: PreviewTokenError) -> Self {
        let code = match &error {
            PreviewTokenError::Expired => ErrorCode::Expired,
            PreviewTokenError::SignatureMismatch => ErrorCode::SignatureMismatch,
            PreviewTokenError::BindingMismatch => ErrorCode::BindingMismatch,
            PreviewTokenError::Unavailable(_) => return Self::cache_unavailable(&error),
        };
        Self::new(code, error.to_string())
    }
}

impl From<ContextError> for ApiError {
    fn from(error: ContextError) -> Self {
        let code = match &error {
            ContextError::Conflict => ErrorCode::Conflict,
            ContextError::NotFound => ErrorCode::NotFound,
            ContextError::NotActive(_) => ErrorCode::RunNotActive,
            ContextError::Store(store) => return Self::store_unavailable(store),
        };
        Self::new(code, error.to_string())
    }
}

impl From<EnvelopeError> for ApiError {
    fn from(error: EnvelopeError) -> Self {
        Self::invalid(error.to_string())
    }
}

impl From<InvalidId> for ApiError {
    fn from(error: InvalidId) -> Self {
        Self::invalid(error.to_string())
    }
}

impl From<UnknownName> for ApiError {
    fn from(error: UnknownName) -> Self {
        Self::invalid(error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The table of section 7, typed in again from the contract.
    #[test]
    fn every_code_has_the_status_of_the_contract() {
        let table = [
            ("invalid_request", 400),
            ("expired", 401),
            ("revoked", 401),
            ("signature_mismatch", 401),
            ("permission_denied", 403),
            ("binding_mismatch", 403),
            ("proxy_ssrf_blocked", 403),
            ("proxy_path_denied", 403),
            ("not_found", 404),
            ("token_replay", 409),
            ("run_not_active", 409),
            ("conflict", 409),
            ("ready_blocked", 409),
            ("payload_too_large", 413),
            ("rate_limited", 429),
            ("concurrency_limited", 429),
            ("container_unavailable", 500),
            ("container_not_running", 500),
            ("container_no_address", 500),
            ("ws_required", 501),
            ("cache_unavailable", 503),
            ("store_unavailable", 503),
            ("upstream_unreachable", 502),
            ("upstream_timeout", 504),
        ];
        assert_eq!(table.len(), ErrorCode::ALL.len());
        for (code, status) in table {
            assert_eq!(status_of(code.parse().unwrap()), status, "{code}");
        }
        assert_eq!(ApiError::without_credential("x").status_code(), 401);
    }

    #[test]
    fn a_store_error_tells_when_to_come_back_and_nothing_of_the_store() {
        let error = ApiError::from(StoreError::Unavailable("postgres://u:pw@db".into()));
        let response = error.error_response();
        assert_eq!(response.headers().get(RETRY_AFTER).unwrap(), "2");
        assert!(!error.body().to_string().contains("pw@"));
    }
}
