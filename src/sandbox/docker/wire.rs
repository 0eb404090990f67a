//! How an engine is reached: a connection for each question, and no more of an answer than fits. Answers are read whole
//! before they are looked at, so that nobody but this stands between an engine's answer and the server's memory.

use std::error::Error as _;
use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use bollard::errors::Error as DockerError;
use bollard::{API_DEFAULT_VERSION, BollardRequest, Docker};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::header::{HOST, HeaderValue};
use hyper::{Request, Response, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use runwarden_actors::contract::limits::CONTAINER_ENGINE_ANSWER_MAX_BYTES;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_util::either::Either;

/// What stands in questions in place of a name; the connection goes where `DOCKER_HOST` says.
const ENGINE: &str = "http://engine";

/// More than [`CONTAINER_ENGINE_ANSWER_MAX_BYTES`] came.
#[derive(Debug, Error)]
#[error("the answer has more than {CONTAINER_ENGINE_ANSWER_MAX_BYTES} bytes")]
struct TooLarge;

/// A client for `DOCKER_HOST`, which was checked. It waits `seconds` for the head of an answer.
pub(super) fn client(docker_host: &str, seconds: u64) -> Result<Docker, DockerError> {
    let place = Arc::new(match docker_host.strip_prefix("unix://") {
        Some(path) => Place::Socket(path.into()),
        None => Place::Host(docker_host.trim_start_matches("tcp://").trim_end_matches('/').to_owned()),
    });
    let transport = move |request| carry(Arc::clone(&place), request);
    Docker::connect_with_custom_transport(transport, Some(ENGINE), seconds, API_DEFAULT_VERSION)
}

/// Whether that is what went wrong.
pub(super) fn is_too_large(error: &DockerError) -> bool {
    let within = |error: &io::Error| matches!(error.get_ref(), Some(inner) if inner.is::<TooLarge>());
    if let DockerError::IOError { err } = error {
        return within(err);
    }
    let mut cause = error.source();
    while let Some(error) = cause {
        if error.downcast_ref().is_some_and(within) {
            return true;
        }
        cause = error.source();
    }
    false
}

/// Where an engine listens.
enum Place {
    Socket(PathBuf),
    /// Name or address, and port.
    Host(String),
}

type Stream = Either<UnixStream, TcpStream>;

impl Place {
    async fn connect(&self) -> Result<Stream, DockerError> {
        match self {
            Self::Socket(path) => match UnixStream::connect(path).await {
                Ok(stream) => Ok(Either::Left(stream)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    Err(DockerError::SocketNotFoundError(path.display().to_string()))
                }
                Err(error) => Err(error.into()),
            },
            Self::Host(place) => {
                let stream = TcpStream::connect(place).await?;
                stream.set_nodelay(true)?;
                Ok(Either::Right(stream))
            }
        }
    }

    fn host(&self) -> HeaderValue {
        let fallback = HeaderValue::from_static("localhost");
        match self {
            Self::Socket(_) => fallback,
            Self::Host(place) => HeaderValue::from_str(place).unwrap_or(fallback),
        }
    }
}

async fn carry(place: Arc<Place>, request: BollardRequest) -> Result<Response<Incoming>, DockerError> {
    let (mut parts, body) = request.into_parts();
    let endless = is_endless(parts.uri.path());
    parts.uri = parts.uri.path_and_query().cloned().map_or_else(|| Uri::from_static("/"), Uri::from);
    parts.headers.insert(HOST, place.host());
    let left = Arc::new(AtomicU64::new(CONTAINER_ENGINE_ANSWER_MAX_BYTES));
    let stream = Bounded { stream: place.connect().await?, left: Arc::clone(&left) };
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // It ends with the answer, or when nobody waits for that any more; what goes wrong is told to whoever does.
    tokio::spawn(connection.with_upgrades());
    let response = sender.send_request(Request::from_parts(parts, body)).await?;
    let fine = response.status().is_success() || response.status() == StatusCode::SWITCHING_PROTOCOLS;
    if endless && fine {
        left.store(u64::MAX, Ordering::Relaxed);
    }
    Ok(response)
}

/// Whether the answer is taken part by part and has no end of its own: a command's output, or events.
fn is_endless(path: &str) -> bool {
    path.ends_with("/events") || (path.contains("/exec/") && path.ends_with("/start"))
}

/// A stream that gives at most so many bytes.
struct Bounded {
    stream: Stream,
    left: Arc<AtomicU64>,
}

impl AsyncRead for Bounded {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        ready!(Pin::new(&mut this.stream).poll_read(cx, buf))?;
        let came = u64::try_from(buf.filled().len() - before).unwrap_or(u64::MAX);
        let left = this.left.load(Ordering::Relaxed).checked_sub(came).ok_or_else(|| io::Error::other(TooLarge))?;
        this.left.store(left, Ordering::Relaxed);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Bounded {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
