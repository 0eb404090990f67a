//! Bodies with a bound, and JSON with our own errors.

use std::time::Duration;

use actix_web::dev::Payload;
use actix_web::http::header::CONTENT_LENGTH;
use actix_web::web::{self, Bytes};
use actix_web::{FromRequest, HttpRequest};
use futures_util::future::LocalBoxFuture;
use runwarden_actors::contract::ErrorCode;
use runwarden_actors::contract::limits::INTERNAL_BODY_MAX_BYTES;
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use super::ApiError;

/// Time for a whole body to arrive: 8 MiB at somewhat more than 1 Mbit/s.
const BODY_WITHIN: Duration = Duration::from_mins(1);

/// Reads a body up to `limit` bytes; one that announces more is refused before it is sent.
pub async fn read_body(request: &HttpRequest, payload: web::Payload, limit: usize) -> Result<Bytes, ApiError> {
    let announced = request.headers().get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|length| length > u64::try_from(limit).unwrap_or(u64::MAX)) {
        return Err(too_large(limit));
    }
    let Ok(read) = timeout(BODY_WITHIN, payload.to_bytes_limited(limit)).await else {
        return Err(ApiError::invalid(format!("the body did not arrive within {} s", BODY_WITHIN.as_secs())));
    };
    match read {
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(error)) => Err(ApiError::invalid(format!("the body could not be read: {error}"))),
        Err(_) => Err(too_large(limit)),
    }
}

fn too_large(limit: usize) -> ApiError {
    ApiError::new(ErrorCode::PayloadTooLarge, format!("the body is larger than {limit} bytes"))
}

/// A JSON body of an internal call; at most [`INTERNAL_BODY_MAX_BYTES`].
pub struct ApiJson<T>(pub T);

impl<T: DeserializeOwned + 'static> FromRequest for ApiJson<T> {
    type Error = ApiError;
    type Future = LocalBoxFuture<'static, Result<Self, ApiError>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let payload = web::Payload::from_request(request, payload);
        let request = request.clone();
        Box::pin(async move {
            let payload = payload.await.map_err(|error| ApiError::invalid(error.to_string()))?;
            parse(&read_body(&request, payload, INTERNAL_BODY_MAX_BYTES).await?).map(ApiJson)
        })
    }
}

/// The same where all fields are optional: no body at all stands for none of them.
pub struct OptionalJson<T>(pub T);

impl<T: DeserializeOwned + Default + 'static> FromRequest for OptionalJson<T> {
    type Error = ApiError;
    type Future = LocalBoxFuture<'static, Result<Self, ApiError>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let payload = web::Payload::from_request(request, payload);
        let request = request.clone();
        Box::pin(async move {
            let payload = payload.await.map_err(|error| ApiError::invalid(error.to_string()))?;
            let bytes = read_body(&request, payload, INTERNAL_BODY_MAX_BYTES).await?;
            if bytes.trim_ascii().is_empty() { Ok(Self(T::default())) } else { parse(&bytes).map(Self) }
        })
    }
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ApiError> {
    // The parser would also take an array of the fields in their order.
    if bytes.trim_ascii_start().first() != Some(&b'{') {
        return Err(ApiError::invalid("the body is not of the shape: it is no JSON object"));
    }
    serde_json::from_slice(bytes).map_err(|error| ApiError::invalid(format!("the body is not of the shape: {error}")))
}
