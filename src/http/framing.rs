//! Where messages end, for every route: requests that could be read in two ways, answers whose end a client would not
//! see, and connections on which nothing may follow (RFC 9112, 6 and 9.6).

use std::any::Any;
use std::cell::Cell;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use actix_web::body::{BodySize, MessageBody};
use actix_web::dev::{Extensions, RequestHead, Service, ServiceRequest, ServiceResponse};
use actix_web::guard::GuardContext;
use actix_web::http::header::{CONTENT_LENGTH, HeaderMap, HeaderValue, TRANSFER_ENCODING};
use actix_web::http::{ConnectionType, StatusCode, Version};
use actix_web::web::Bytes;
use actix_web::{Error, HttpResponse, ResponseError as _};
use thiserror::Error;
use tokio::time::sleep;

use super::ApiError;
use crate::proxy::upload::takes_the_connection;

/// How long an answer that ends its connection has to leave the server, once another request came behind its own.
const LEAVES_WITHIN: Duration = Duration::from_secs(2);

/// Whether the request's end could be read in two ways: a proxy in front of us may have read the other one, and would
/// take what follows for somebody else's request. It is refused and its connection is closed, whatever the route.
pub(super) fn is_ambiguous(context: &GuardContext<'_>) -> bool {
    ambiguous(context.head())
}

fn ambiguous(head: &RequestHead) -> bool {
    let headers = head.headers();
    let coded = headers.get_all(TRANSFER_ENCODING).next().is_some();
    if coded {
        let chunked = |value: &HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"chunked");
        return head.version < Version::HTTP_11
            || headers.contains_key(CONTENT_LENGTH)
            || !headers.get_all(TRANSFER_ENCODING).all(chunked);
    }
    // After such a head the library reads until the end of the connection, whatever length was announced. Beside any
    // other Upgrade it reads by the length, and nobody takes the upgrade (RFC 9110, 7.8).
    announces_a_body(headers) && takes_the_connection(headers)
}

fn announces_a_body(headers: &HeaderMap) -> bool {
    headers.get(CONTENT_LENGTH).is_some_and(|length| length.as_bytes() != b"0")
}

/// 400, and the connection is closed.
pub(super) async fn refuse() -> HttpResponse {
    let error = ApiError::invalid(
        "the request's framing is ambiguous: Content-Length, or `Transfer-Encoding: chunked` under HTTP/1.1, and no body \
         beside `Upgrade: websocket`",
    );
    let mut response = error.error_response();
    response.head_mut().set_connection_type(ConnectionType::Close);
    response
}

/// What is known of one connection: whether the answer that ends it has begun.
#[derive(Debug, Default)]
struct Connection {
    over: Cell<bool>,
}

/// Of a connection that has just been accepted, for [`end_in_order`].
pub fn watch_connection(_: &dyn Any, data: &mut Extensions) {
    data.insert(Connection::default());
}

/// Around every route. A client of HTTP/1.0 knows no chunks: a body without a length comes as it is and ends with the
/// connection. So it does after a head behind which the library writes no chunks, though it would announce them. And
/// nothing is processed behind an answer that ends its connection: the library forgets that it does when another request
/// was sent right behind.
pub fn end_in_order<S, B>(
    request: ServiceRequest,
    service: &S,
) -> impl Future<Output = Result<ServiceResponse, Error>> + use<S, B>
where
    S: Service<ServiceRequest, Response = ServiceResponse<B>, Error = Error>,
    B: MessageBody + 'static,
{
    let behind_the_end = request.conn_data::<Connection>().is_some_and(|connection| connection.over.get());
    // Close, or an upgrade that nobody may take.
    let ends = request.head().connection_type() != ConnectionType::KeepAlive;
    let unchunked = request.version() < Version::HTTP_11 || takes_the_connection(request.headers());
    let has_body = announces_a_body(request.headers()) || request.headers().contains_key(TRANSFER_ENCODING);
    let under_way = if behind_the_end { Err(request) } else { Ok(service.call(request)) };
    async move {
        let answering = match under_way {
            Ok(answering) => answering,
            Err(request) => {
                sleep(LEAVES_WITHIN).await;
                return Ok(request.into_response(HttpResponse::Ok().body(Nothing)));
            }
        };
        if has_body {
            // What has come of the body is handed over in between. An answer before it would say that the connection
            // ends, and the library would go on with the next request all the same.
            once_more().await;
        }
        let mut response = answering.await?.map_into_boxed_body();
        let streamed = response.response().body().size() == BodySize::Stream;
        let head = response.response_mut().head_mut();
        // The library takes heads from a pool, and with them the version of another connection; it sets this one's later.
        head.version = Version::HTTP_11;
        if head.status.canonical_reason().is_none() && head.reason.is_none() {
            head.reason = Some("");
        }
        let mut over = ends || head.connection_type() != ConnectionType::KeepAlive;
        if head.status != StatusCode::SWITCHING_PROTOCOLS {
            if streamed && unchunked {
                head.no_chunking(true);
                over = true;
            }
            if over {
                head.set_connection_type(ConnectionType::Close);
            }
        }
        if over && let Some(connection) = response.request().conn_data::<Connection>() {
            connection.over.set(true);
        }
        Ok(response)
    }
}

/// Gives the connection's own task a turn, and no other: `yield_now` would also ask the system for what has happened.
async fn once_more() {
    let mut asked = false;
    poll_fn(|cx| {
        if asked {
            return Poll::Ready(());
        }
        asked = true;
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// The library closes a connection whose answer's body fails, and sends nothing of that answer where it fails at once.
struct Nothing;

#[derive(Debug, Error)]
#[error("the connection was over")]
struct Over;

impl MessageBody for Nothing {
    type Error = Over;

    fn size(&self) -> BodySize {
        BodySize::Stream
    }

    fn poll_next(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Bytes, Over>>> {
        Poll::Ready(Some(Err(Over)))
    }
}
