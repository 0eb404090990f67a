//! Requests whose end could be read in two ways (RFC 9112, 6.1 and 6.3): a proxy in front of us may have read the other
//! one, and would take what follows for somebody else's request. They are refused and their connection is closed,
//! whatever the route.

use actix_web::dev::RequestHead;
use actix_web::guard::GuardContext;
use actix_web::http::Version;
use actix_web::http::header::{CONTENT_LENGTH, TRANSFER_ENCODING, UPGRADE};
use actix_web::{HttpResponse, ResponseError as _};

use super::ApiError;

/// Whether the request is one of them.
pub(super) fn is_ambiguous(context: &GuardContext<'_>) -> bool {
    ambiguous(context.head())
}

fn ambiguous(head: &RequestHead) -> bool {
    let headers = head.headers();
    let announced = headers.get(CONTENT_LENGTH).is_some_and(|length| length.as_bytes() != b"0");
    let coded = headers.get_all(TRANSFER_ENCODING).next().is_some();
    if coded {
        let chunked = |value: &actix_web::http::header::HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"chunked");
        return head.version < Version::HTTP_11
            || headers.contains_key(CONTENT_LENGTH)
            || !headers.get_all(TRANSFER_ENCODING).all(chunked);
    }
    // After such a head the library reads until the end of the connection, whatever length was announced.
    announced && headers.contains_key(UPGRADE)
}

/// 400, and the connection is closed.
pub(super) async fn refuse() -> HttpResponse {
    let error = ApiError::invalid(
        "the request's framing is ambiguous: Content-Length, or `Transfer-Encoding: chunked` under HTTP/1.1, and no body \
         beside Upgrade",
    );
    let mut response = error.error_response();
    response.head_mut().set_connection_type(actix_web::http::ConnectionType::Close);
    response
}
