//! Credentials, as extractors: a handler that asks for one cannot run without it.

use std::future::{Ready, ready};
use std::sync::Arc;

use actix_web::dev::Payload;
use actix_web::{FromRequest, HttpRequest, web};
use runwarden_actors::contract::ErrorCode;
use runwarden_actors::contract::names::{HEADER_DAEMON_TOKEN, HEADER_INTERNAL_SERVICE_KEY};

use super::{ApiError, AppState};
use crate::auth::DaemonClaims;
use crate::containers::error::PreviewError;

fn state(request: &HttpRequest) -> Result<&AppState, ApiError> {
    request
        .app_data::<web::Data<AppState>>()
        .map(web::Data::get_ref)
        .ok_or_else(|| ApiError::new(ErrorCode::NotFound, "there is no such route"))
}

fn knows_internal_key(request: &HttpRequest) -> Result<bool, ApiError> {
    let state = state(request)?;
    // Of two, whoever stands in front may have looked at the other one.
    let mut given = request.headers().get_all(HEADER_INTERNAL_SERVICE_KEY);
    let only = given.next().filter(|_| given.next().is_none());
    Ok(only.is_some_and(|given| state.internal_key.matches(given.as_bytes())))
}

/// A host application that knows the shared key; everybody else gets 403 (section 3).
pub struct InternalCaller;

impl FromRequest for InternalCaller {
    type Error = ApiError;
    type Future = Ready<Result<Self, ApiError>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        ready(knows_internal_key(request).and_then(|knows| {
            let message = || format!("{HEADER_INTERNAL_SERVICE_KEY} is missing, wrong or there more than once");
            if knows { Ok(Self) } else { Err(ApiError::new(ErrorCode::PermissionDenied, message())) }
        }))
    }
}

/// The same below `/api/internal/sessions`, where the words of the refusal are locked (section 8).
pub struct SessionCaller;

impl FromRequest for SessionCaller {
    type Error = ApiError;
    type Future = Ready<Result<Self, ApiError>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        ready(
            knows_internal_key(request)
                .and_then(|knows| if knows { Ok(Self) } else { Err(PreviewError::Forbidden.into()) }),
        )
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
