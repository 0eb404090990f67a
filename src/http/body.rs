//! Bodies with a bound, and JSON with our own errors.

use actix_web::FromRequest;
use actix_web::dev::Payload;
use actix_web::web::{self, Bytes};
use futures_util::future::LocalBoxFuture;
use runwarden_actors::contract::ErrorCode;
use runwarden_actors::contract::limits::INTERNAL_BODY_MAX_BYTES;
use serde::de::DeserializeOwned;

use super::ApiError;

/// Reads a body up to `limit` bytes.
pub async fn read_body(payload: web::Payload, limit: usize) -> Result<Bytes, ApiError> {
    match payload.to_bytes_limited(limit).await {
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(error)) => Err(ApiError::invalid(format!("the body could not be read: {error}"))),
        Err(_) => Err(ApiError::new(ErrorCode::PayloadTooLarge, format!("the body is larger than {limit} bytes"))),
    }
}

/// A JSON body of an internal call; at most [`INTERNAL_BODY_MAX_BYTES`].
pub struct ApiJson<T>(pub T);

impl<T: DeserializeOwned + 'static> FromRequest for ApiJson<T> {
    type Error = ApiError;
    type Future = LocalBoxFuture<'static, Result<Self, ApiError>>;

    fn from_request(request: &actix_web::HttpRequest, payload: &mut Payload) -> Self::Future {
        let payload = web::Payload::from_request(request, payload);
        Box::pin(async move {
            let payload = payload.await.map_err(|error| ApiError::invalid(error.to_string()))?;
            let bytes = read_body(payload, INTERNAL_BODY_MAX_BYTES).await?;
            serde_json::from_slice(&bytes)
                .map(ApiJson)
                .map_err(|error| ApiError::invalid(format!("the body is not of the shape: {error}")))
        })
    }
}
