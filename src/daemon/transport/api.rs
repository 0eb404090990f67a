//! The server's three routes for a daemon, and what an answer means.

use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use awc::error::{WsClientError, WsProtocolError};
use awc::http::header::{CONTENT_TYPE, HeaderMap, RETRY_AFTER};
use awc::http::{StatusCode, Version};
use awc::ws::{Frame, Message};
use awc::{Client, ClientRequest};
use bytes::Bytes;
use futures_util::{Sink, Stream};
use runwarden_actors::contract::names::{
    CAPABILITY_ENVELOPE_V2, HEADER_DAEMON_CAPABILITIES, HEADER_DAEMON_TOKEN, HEADER_DAEMON_VERSION,
};
use runwarden_actors::contract::{Ack, Position};
use runwarden_actors::ports::Clock;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use crate::daemon::options::ExecOptions;

/// The longest answer that is read.
const ANSWER_MAX_BYTES: usize = 64 * 1024;
/// How much of a server's message is logged.
const LOGGED_MAX_CHARS: usize = 200;

/// What the server said.
#[derive(Debug)]
pub(in crate::daemon) enum Answer<T> {
    /// 2xx and a body of the shape.
    Good(T),
    /// 401 or 403: the token is of no use here.
    Unauthorized(u16),
    /// Another 4xx: trying again would not help.
    Refused { status: u16, code: String, message: String },
    /// No answer, or one that says to come again.
    Again { why: String, after: Option<Duration> },
}

#[derive(Default, Deserialize)]
struct ErrorBody {
    #[serde(default)]
    code: String,
    #[serde(default)]
    message: String,
}

/// A client with the daemon's headers.
pub(in crate::daemon) struct Api {
    client: Client,
    event_url: String,
    position_url: String,
    stream_url: String,
    request_timeout: Duration,
    clock: Arc<dyn Clock>,
}

impl Api {
    pub(in crate::daemon) fn new(options: &ExecOptions) -> Self {
        // Taken already where the program has chosen its provider at start.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let request_timeout = options.limits.request_timeout;
        let client = Client::builder()
            .add_default_header((HEADER_DAEMON_TOKEN, options.token.expose()))
            .add_default_header((HEADER_DAEMON_VERSION, env!("CARGO_PKG_VERSION")))
            .add_default_header((HEADER_DAEMON_CAPABILITIES, CAPABILITY_ENVELOPE_V2))
            // A redirect could carry the token to another host.
            .disable_redirects()
            .max_http_version(Version::HTTP_11)
            .timeout(request_timeout)
            .finish();
        Self {
            client,
            event_url: options.server.join("/api/daemon-event"),
            position_url: options.server.join("/api/daemon/position"),
            stream_url: options.server.join("/api/daemon/stream"),
            request_timeout,
            clock: Arc::clone(&options.clock),
        }
    }

    /// `GET /api/daemon/position`.
    pub(in crate::daemon) async fn position(&self) -> Answer<Position> {
        self.ask(self.client.get(&self.position_url), Bytes::new()).await
    }

    /// `POST /api/daemon-event` with the exact bytes of an envelope.
    pub(super) async fn post(&self, envelope: Bytes) -> Answer<Ack> {
        let request = self.client.post(&self.event_url).insert_header((CONTENT_TYPE, "application/json"));
        self.ask(request, envelope).await
    }

    /// Opens `GET /api/daemon/stream`.
    pub(super) async fn open_stream(
        &self,
    ) -> Result<
        impl Sink<Message, Error = WsProtocolError> + Stream<Item = Result<Frame, WsProtocolError>> + Unpin + use<>,
        WsClientError,
    > {
        let (_, socket) = self.client.ws(&self.stream_url).connect().await?;
        Ok(socket)
    }

    async fn ask<T: DeserializeOwned>(&self, request: ClientRequest, body: Bytes) -> Answer<T> {
        let exchange = async {
            let mut response = request.send_body(body).await.map_err(|error| error.to_string())?;
            let after = retry_after(response.headers(), self.clock.as_ref());
            let body = response.body().limit(ANSWER_MAX_BYTES).await.map_err(|error| error.to_string())?;
            Ok::<_, String>((response.status(), after, body))
        };
        match timeout(self.request_timeout, exchange).await {
            Ok(Ok((status, after, body))) => read_answer(status, after, &body),
            Ok(Err(why)) => Answer::Again { why, after: None },
            Err(_) => Answer::Again { why: "no answer in time".to_owned(), after: None },
        }
    }
}

fn read_answer<T: DeserializeOwned>(status: StatusCode, after: Option<Duration>, body: &[u8]) -> Answer<T> {
    if status.is_success() {
        return match serde_json::from_slice(body) {
            Ok(answer) => Answer::Good(answer),
            Err(error) => Answer::Again { why: format!("an answer that is not of the shape: {error}"), after },
        };
    }
    if matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
        return Answer::Unauthorized(status.as_u16());
    }
    let said: ErrorBody = serde_json::from_slice(body).unwrap_or_default();
    let code = shortened(&said.code);
    let come_again = matches!(status, StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS);
    if status.is_client_error() && !come_again {
        return Answer::Refused { status: status.as_u16(), code, message: shortened(&said.message) };
    }
    Answer::Again { why: format!("status {} {code}", status.as_u16()).trim_end().to_owned(), after }
}

fn shortened(text: &str) -> String {
    text.chars().filter(|character| !character.is_control()).take(LOGGED_MAX_CHARS).collect()
}

/// Seconds, or a date.
fn retry_after(headers: &HeaderMap, clock: &dyn Clock) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = httpdate::parse_http_date(text).ok()?.duration_since(UNIX_EPOCH).ok()?;
    let now = Duration::from_millis(u64::try_from(clock.now().as_millis()).ok()?);
    Some(date.saturating_sub(now))
}

#[cfg(test)]
mod tests {
    use super::*;
    use awc::http::header::HeaderValue;
    use runwarden_actors::contract::Timestamp;

    struct At(i64);
    impl Clock for At {
        fn now(&self) -> Timestamp {
            Timestamp::from_millis(self.0)
        }
    }

    fn asked(value: &'static str) -> Option<Duration> {
        let mut headers = HeaderMap::new();
        headers.insert(RETRY_AFTER, HeaderValue::from_static(value));
        retry_after(&headers, &At(784_111_777_000))
    }

    #[test]
    fn retry_after_is_read_in_both_forms() {
        assert_eq!(asked("7"), Some(Duration::from_secs(7)));
        assert_eq!(asked("Sun, 06 Nov 1994 08:49:40 GMT"), Some(Duration::from_secs(3)));
        assert_eq!(asked("Sun, 06 Nov 1994 08:00:00 GMT"), Some(Duration::ZERO));
        assert_eq!(asked("soon"), None);
        assert_eq!(retry_after(&HeaderMap::new(), &At(0)), None);
    }

    #[test]
    fn each_status_means_one_thing() {
        let read = |status: u16, body: &str| {
            read_answer::<Position>(StatusCode::from_u16(status).unwrap(), None, body.as_bytes())
        };
        let good = "{\"runId\":\"01935d3e-7c00-7000-8000-000000000001\",\"lastAcceptedSeq\":null}";
        assert!(matches!(read(200, good), Answer::Good(_)));
        assert!(matches!(read(200, "<html>"), Answer::Again { .. }));
        assert!(matches!(read(401, ""), Answer::Unauthorized(401)));
        assert!(matches!(read(403, ""), Answer::Unauthorized(403)));
        for status in [302, 408, 429, 500, 502, 503] {
            assert!(matches!(read(status, ""), Answer::Again { .. }), "{status}");
        }
        for status in [400, 404, 413, 422] {
            let answer = read(status, "{\"code\":\"c\",\"message\":\"m\"}");
            assert!(matches!(answer, Answer::Refused { code, .. } if code == "c"), "{status}");
        }
    }
}
