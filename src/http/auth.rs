//! Credentials, as extractors: a handler that asks for one cannot run without it.

use std::future::{Ready, ready};
use std::sync::Arc;

use actix_web::dev::Payload;
use actix_web::{FromRequest, HttpRequest, web};
use runwarden_actors::contract::ErrorCode;
use runwarden_actors::contract::names::{HEADER_DAEMON_TOKEN, HEADER_INTERNAL_SERVICE_KEY};

use super::{ApiError, AppState};
use crate::auth::DaemonClaims;

fn state(request: &HttpRequest) -> Result<&AppState, ApiError> {
    request
        .app_data::<web::Data<AppState>>()
        .map(web::Data::get_ref)
        .ok_or_else(|| ApiError::new(ErrorCode::NotFound, "there is no such route"))
}

/// A host application that knows the shared key; everybody else gets 403 (section 3).
pub struct InternalCaller;

impl FromRequest for InternalCaller {
    type Error = ApiError;
    type Future = Ready<Result<Self, ApiError>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        ready(state(request).and_then(|state| {
            let given = request.headers().get(HEADER_INTERNAL_SERVICE_KEY);
            if given.is_some_and(|given| state.internal_key.matches(given.as_bytes())) {
                Ok(Self)
            } else {
                Err(ApiError::new(
                    ErrorCode::PermissionDenied,
                    format!("{HEADER_INTERNAL_SERVICE_KEY} is missing or wrong"),
                ))
            }
        }))
    }
}

/// A daemon, and what its token is bound to (section 4, case 1).
pub struct Daemon(pub Arc<DaemonClaims>);

impl FromRequest for Daemon {
    type Error = ApiError;
    type Future = Ready<Result<Self, ApiError>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        ready(state(request).and_then(|state| {
            let Some(token) = request.headers().get(HEADER_DAEMON_TOKEN) else {
                return Err(ApiError::without_credential(format!("{HEADER_DAEMON_TOKEN} is missing")));
            };
            let token = token.to_str().unwrap_or_default();
            let claims = state.tokens.verify(token);
            claims.map(Self).map_err(|error| ApiError::new(ErrorCode::SignatureMismatch, error.to_string()))
        }))
    }
}
