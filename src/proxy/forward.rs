//! Connections to upstreams (section 5, proxy): always to the address that was checked, never to a second look-up, and
//! never one session's connection for another. Bodies stream both ways.
//!
//! hyper and not awc: see docs/adr/0002.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use runwarden_actors::contract::PreviewSessionId;
use runwarden_actors::ports::Scheme;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use thiserror::Error;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::either::Either;

use super::upload::{BodyFailure, Progress, RequestBody};

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
    #[error("the upstream did not take a connection in time")]
    ConnectTimeout,
    /// The body turned out larger than announced.
    #[error("the body is larger than it may be")]
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

/// An open connection with its task; dropping it closes it, whatever is still on its way.
struct Connection {
    sender: SendRequest<RequestBody>,
    task: JoinHandle<()>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        // Done already where the connection was handed over to a tunnel.
        self.task.abort();
    }
}

/// A connection in use. Give it back once its answer has been read to the end; dropping it closes it.
pub struct Checkout {
    /// Who may have it again, if anybody.
    destination: Option<Destination>,
    connection: Connection,
    progress: Rc<Cell<Progress>>,
}

impl Checkout {
    /// For the next request of the same session; not where the upstream has answered before it took the whole request.
    pub fn give_back(self) {
        if let Some(destination) = self.destination
            && self.progress.get() == Progress::Sent
        {
            POOL.with_borrow_mut(|pool| pool.keep(destination, self.connection));
        }
    }
}

struct Idle {
    connection: Connection,
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
    fn take(&mut self, destination: &Destination) -> Option<Connection> {
        let idle = self.idle.get_mut(destination)?;
        while let Some(Idle { connection, since }) = idle.pop() {
            self.count -= 1;
            if since.elapsed() < IDLE_FOR && !connection.sender.is_closed() {
                return Some(connection);
            }
        }
        None
    }

    fn keep(&mut self, destination: Destination, connection: Connection) {
        self.sweep();
        if connection.sender.is_closed() || self.count >= IDLE_MAX {
            return;
        }
        let idle = self.idle.entry(destination).or_default();
        if idle.len() < IDLE_MAX_EACH {
            idle.push(Idle { connection, since: Instant::now() });
            self.count += 1;
        }
    }

    fn sweep(&mut self) {
        if self.swept.is_some_and(|swept| swept.elapsed() < IDLE_FOR) {
            return;
        }
        self.swept = Some(Instant::now());
        for idle in self.idle.values_mut() {
            idle.retain(|idle| idle.since.elapsed() < IDLE_FOR && !idle.connection.sender.is_closed());
        }
        self.idle.retain(|_, idle| !idle.is_empty());
        self.count = self.idle.values().map(Vec::len).sum();
    }
}

/// Sends the request and waits for the head of its answer. A kept connection that turns out to be closed before
/// anything was sent is replaced once. Must run on an actix worker: bodies are not `Send`. Ends with its future.
pub async fn send(
    destination: &Destination,
    mut request: hyper::Request<RequestBody>,
    connect_within: Duration,
) -> Result<(hyper::Response<Incoming>, Checkout), ForwardError> {
    let progress = request.body().progress();
    let checkout =
        |connection| Checkout { destination: Some(destination.clone()), connection, progress: Rc::clone(&progress) };
    if let Some(mut connection) = POOL.with_borrow_mut(|pool| pool.take(destination))
        && connection.sender.ready().await.is_ok()
    {
        match connection.sender.try_send_request(request).await {
            Ok(response) => return Ok((response, checkout(connection))),
            Err(mut error) => match error.take_message() {
                Some(unsent) => request = unsent,
                None => return Err(explain(&progress, error.error())),
            },
        }
    }
    let mut connection = open(destination, connect_within).await?;
    match connection.sender.send_request(request).await {
        Ok(response) => Ok((response, checkout(connection))),
        Err(error) => Err(explain(&progress, &error)),
    }
}

/// A connection for one request: nobody had it before, and nobody gets it after.
pub struct LoneConnection(Connection);

impl LoneConnection {
    /// Connects to exactly this address, without TLS. Nothing is sent yet.
    pub async fn open(address: SocketAddr, connect_within: Duration) -> Result<Self, ForwardError> {
        within(connect_within, async { shake_hands(Either::Left(dial_plain(address).await?)).await }).await.map(Self)
    }

    /// Sends the request, once, and waits for the head of its answer. As [`send`] otherwise.
    pub async fn send(
        mut self,
        request: hyper::Request<RequestBody>,
    ) -> Result<(hyper::Response<Incoming>, Checkout), ForwardError> {
        let progress = request.body().progress();
        match self.0.sender.send_request(request).await {
            Ok(response) => Ok((response, Checkout { destination: None, connection: self.0, progress })),
            Err(error) => Err(explain(&progress, &error)),
        }
    }
}

/// Why a request came to nothing: its body, or the upstream.
fn explain(progress: &Cell<Progress>, error: &hyper::Error) -> ForwardError {
    match progress.get() {
        Progress::Failed(BodyFailure::TooLarge) => ForwardError::TooLarge,
        Progress::Failed(BodyFailure::Broke) => ForwardError::ClientBroke,
        Progress::UnderWay | Progress::Sent => ForwardError::Unreachable(error.to_string()),
    }
}

/// A new connection, with its task on this worker.
async fn open(destination: &Destination, connect_within: Duration) -> Result<Connection, ForwardError> {
    within(connect_within, async { shake_hands(dial(destination).await?).await }).await
}

async fn shake_hands(stream: Dialled) -> Result<Connection, ForwardError> {
    let (sender, connection) = builder().handshake(TokioIo::new(stream)).await.map_err(|error| unreachable(&error))?;
    let task = actix_web::rt::spawn(async move {
        // Whoever waits for an answer is told; without one it was closed in its own time.
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%error, "a connection to an upstream ended");
        }
    });
    Ok(Connection { sender, task })
}

/// The bounds of every answer's head.
pub(super) fn builder() -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder.max_buf_size(2 * HEAD_MAX_BYTES).max_header_size(HEAD_MAX_BYTES).max_headers(HEADERS_MAX);
    builder
}

/// Ends an attempt to connect.
pub(super) async fn within<T>(
    limit: Duration,
    connecting: impl Future<Output = Result<T, ForwardError>>,
) -> Result<T, ForwardError> {
    timeout(limit, connecting).await.unwrap_or(Err(ForwardError::ConnectTimeout))
}

/// A stream to an upstream: plain, or TLS that has proven the upstream's name.
pub(super) type Dialled = Either<TcpStream, Box<TlsStream<TcpStream>>>;

/// Connects to exactly the checked address.
pub(super) async fn dial(destination: &Destination) -> Result<Dialled, ForwardError> {
    let stream = dial_plain(SocketAddr::new(destination.address, destination.port)).await?;
    match destination.scheme {
        Scheme::Http => Ok(Either::Left(stream)),
        Scheme::Https => {
            let name = ServerName::try_from(destination.host.to_string()).map_err(|error| unreachable(&error))?;
            let tls = TlsConnector::from(Arc::clone(&TLS)).connect(name, stream).await;
            Ok(Either::Right(Box::new(tls.map_err(|error| unreachable(&error))?)))
        }
    }
}

async fn dial_plain(address: SocketAddr) -> Result<TcpStream, ForwardError> {
    let stream = TcpStream::connect(address).await.map_err(|error| unreachable(&error))?;
    // Without it a small request waits for the answer to the one before.
    stream.set_nodelay(true).map_err(|error| unreachable(&error))?;
    Ok(stream)
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
