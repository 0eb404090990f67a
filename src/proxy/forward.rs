//! Connections to upstreams (section 5, proxy): always to the address that was checked, never to a second look-up, and
//! never one session's connection for another. Bodies stream both ways.
//!
//! hyper and not awc: see docs/adr/0002.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll};
use std::time::Duration;

use actix_web::web::{Bytes, Payload};
use futures_util::Stream as _;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use runwarden_actors::contract::PreviewSessionId;
use runwarden_actors::contract::limits::{PROXY_CONNECT_TIMEOUT_MS, PROXY_REQUEST_MAX_BYTES};
use runwarden_actors::ports::Scheme;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use thiserror::Error;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::either::Either;

/// Idle connections of one session that each worker keeps.
const IDLE_MAX_EACH: usize = 32;
/// Idle connections that each worker keeps.
const IDLE_MAX: usize = 512;
/// How long an idle connection is kept: shorter than servers usually do.
const IDLE_FOR: Duration = Duration::from_secs(4);
/// Largest head of an upstream's answer.
const HEAD_MAX_BYTES: usize = 64 * 1024;
/// Most headers of an upstream's answer.
const HEADERS_MAX: usize = 128;

/// Why a request did not reach its upstream, or its answer did not come.
#[derive(Debug, Error)]
pub enum ForwardError {
    /// Refused, hung up, or not HTTP.
    #[error("the upstream cannot be reached: {0}")]
    Unreachable(String),
    /// No connection in time.
    #[error("the upstream did not take a connection within {PROXY_CONNECT_TIMEOUT_MS} ms")]
    ConnectTimeout,
    /// The body turned out larger than announced.
    #[error("the body is larger than {PROXY_REQUEST_MAX_BYTES} bytes")]
    TooLarge,
    /// The client's body ended too early.
    #[error("the client's body broke off")]
    ClientBroke,
}

/// Whose connection it is. Only the same key gets it again.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Destination {
    /// Session.
    pub session: PreviewSessionId,
    /// The checked address.
    pub address: IpAddr,
    /// Port.
    pub port: u16,
    /// Scheme.
    pub scheme: Scheme,
    /// Name that the certificate must prove.
    pub host: Arc<str>,
}

/// A request's body on its way, counted.
pub struct RequestBody {
    payload: Option<Payload>,
    announced: Option<u64>,
    counted: u64,
    failure: Failure,
}

/// What became of a body, for the one who waits for the answer.
type Failure = Rc<RefCell<Option<BodyFailure>>>;

#[derive(Debug, Clone, Copy, Error)]
enum BodyFailure {
    #[error("too large")]
    TooLarge,
    #[error("the client's body broke off")]
    Broke,
}

impl RequestBody {
    /// No body.
    pub fn empty() -> Self {
        Self { payload: None, announced: Some(0), counted: 0, failure: Rc::default() }
    }

    /// The client's; `announced` is its `Content-Length`, if it has one.
    pub fn streaming(payload: Payload, announced: Option<u64>) -> Self {
        Self { payload: Some(payload), announced, counted: 0, failure: Rc::default() }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = &mut *self;
        let Some(payload) = &mut this.payload else { return Poll::Ready(None) };
        let next = std::task::ready!(Pin::new(payload).poll_next(cx));
        let failure = match next {
            None => {
                this.payload = None;
                return Poll::Ready(None);
            }
            Some(Ok(bytes)) => {
                this.counted = this.counted.saturating_add(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
                if this.counted <= PROXY_REQUEST_MAX_BYTES {
                    return Poll::Ready(Some(Ok(Frame::data(bytes))));
                }
                BodyFailure::TooLarge
            }
            Some(Err(_)) => BodyFailure::Broke,
        };
        this.payload = None;
        *this.failure.borrow_mut() = Some(failure);
        Poll::Ready(Some(Err(Box::new(failure))))
    }

    fn is_end_stream(&self) -> bool {
        self.payload.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        self.announced.map_or_else(SizeHint::default, |bytes| SizeHint::with_exact(bytes.saturating_sub(self.counted)))
    }
}

/// A connection in use. Give it back once its answer has been read to the end; dropping it closes it.
pub struct Checkout {
    destination: Destination,
    sender: SendRequest<RequestBody>,
}

impl Checkout {
    /// For the next request of the same session.
    pub fn give_back(self) {
        POOL.with_borrow_mut(|pool| pool.keep(self.destination, self.sender));
    }
}

struct Idle {
    sender: SendRequest<RequestBody>,
    since: Instant,
}

/// Idle connections of one worker.
#[derive(Default)]
struct Pool {
    idle: HashMap<Destination, Vec<Idle>>,
    count: usize,
    swept: Option<Instant>,
}

thread_local! {
    static POOL: RefCell<Pool> = RefCell::default();
}

impl Pool {
    fn take(&mut self, destination: &Destination) -> Option<SendRequest<RequestBody>> {
        let idle = self.idle.get_mut(destination)?;
        while let Some(Idle { sender, since }) = idle.pop() {
            self.count -= 1;
            if since.elapsed() < IDLE_FOR && !sender.is_closed() {
                return Some(sender);
            }
        }
        None
    }

    fn keep(&mut self, destination: Destination, sender: SendRequest<RequestBody>) {
        self.sweep();
        if sender.is_closed() || self.count >= IDLE_MAX {
            return;
        }
        let idle = self.idle.entry(destination).or_default();
        if idle.len() < IDLE_MAX_EACH {
            idle.push(Idle { sender, since: Instant::now() });
            self.count += 1;
        }
    }

    fn sweep(&mut self) {
        if self.swept.is_some_and(|swept| swept.elapsed() < IDLE_FOR) {
            return;
        }
        self.swept = Some(Instant::now());
        for idle in self.idle.values_mut() {
            idle.retain(|idle| idle.since.elapsed() < IDLE_FOR && !idle.sender.is_closed());
        }
        self.idle.retain(|_, idle| !idle.is_empty());
        self.count = self.idle.values().map(Vec::len).sum();
    }
}

/// Sends the request and waits for the head of its answer. A kept connection that turns out to be closed before
/// anything was sent is replaced once. Must run on an actix worker: bodies are not `Send`.
pub async fn send(
    destination: &Destination,
    mut request: hyper::Request<RequestBody>,
) -> Result<(hyper::Response<Incoming>, Checkout), ForwardError> {
    let failure = Rc::clone(&request.body().failure);
    let explain = |error: &hyper::Error| match *failure.borrow() {
        Some(BodyFailure::TooLarge) => ForwardError::TooLarge,
        Some(BodyFailure::Broke) => ForwardError::ClientBroke,
        None => ForwardError::Unreachable(error.to_string()),
    };
    if let Some(mut sender) = POOL.with_borrow_mut(|pool| pool.take(destination))
        && sender.ready().await.is_ok()
    {
        match sender.try_send_request(request).await {
            Ok(response) => return Ok((response, Checkout { destination: destination.clone(), sender })),
            Err(mut error) => match error.take_message() {
                Some(unsent) => request = unsent,
                None => return Err(explain(error.error())),
            },
        }
    }
    let mut sender = open(destination).await?;
    match sender.send_request(request).await {
        Ok(response) => Ok((response, Checkout { destination: destination.clone(), sender })),
        Err(error) => Err(explain(&error)),
    }
}

/// A new connection, with its task on this worker.
async fn open(destination: &Destination) -> Result<SendRequest<RequestBody>, ForwardError> {
    let opening = async {
        let stream = dial(destination).await?;
        builder().handshake(TokioIo::new(stream)).await.map_err(|error| unreachable(&error))
    };
    let (sender, connection) = within_connect_timeout(opening).await?;
    actix_web::rt::spawn(async move {
        // Whoever waits for an answer is told; without one it was closed in its own time.
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%error, "a connection to an upstream ended");
        }
    });
    Ok(sender)
}

/// The bounds of every answer's head.
pub(super) fn builder() -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder.max_buf_size(HEAD_MAX_BYTES).max_headers(HEADERS_MAX);
    builder
}

/// Ends an attempt to connect after [`PROXY_CONNECT_TIMEOUT_MS`].
pub(super) async fn within_connect_timeout<T>(
    connecting: impl Future<Output = Result<T, ForwardError>>,
) -> Result<T, ForwardError> {
    let limit = Duration::from_millis(PROXY_CONNECT_TIMEOUT_MS);
    timeout(limit, connecting).await.unwrap_or(Err(ForwardError::ConnectTimeout))
}

/// A stream to an upstream: plain, or TLS that has proven the upstream's name.
pub(super) type Dialled = Either<TcpStream, Box<TlsStream<TcpStream>>>;

/// Connects to exactly the checked address.
pub(super) async fn dial(destination: &Destination) -> Result<Dialled, ForwardError> {
    let address = SocketAddr::new(destination.address, destination.port);
    let stream = TcpStream::connect(address).await.map_err(|error| unreachable(&error))?;
    // Without it a small request waits for the answer to the one before.
    stream.set_nodelay(true).map_err(|error| unreachable(&error))?;
    match destination.scheme {
        Scheme::Http => Ok(Either::Left(stream)),
        Scheme::Https => {
            let name = ServerName::try_from(destination.host.to_string()).map_err(|error| unreachable(&error))?;
            let tls = TlsConnector::from(Arc::clone(&TLS)).connect(name, stream).await;
            Ok(Either::Right(Box::new(tls.map_err(|error| unreachable(&error))?)))
        }
    }
}

pub(super) fn unreachable(error: &dyn std::fmt::Display) -> ForwardError {
    ForwardError::Unreachable(error.to_string())
}

/// The public roots; an upstream's certificate must prove its name to one of them.
static TLS: LazyLock<Arc<ClientConfig>> = LazyLock::new(|| {
    let roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
    let mut config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Arc::new(config)
});
