//! An upstream that does what a test tells it: raw bytes for raw bytes, and what it was sent.
#![allow(dead_code, reason = "each test uses the part that it needs")]

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// What an upstream does with one request, whose head it is given; the stream is behind the head.
type Act = dyn Fn(String, TcpStream) -> futures_util::future::BoxFuture<'static, Option<TcpStream>> + Send + Sync;

/// A listening upstream. Ends with its runtime.
pub struct TestUpstream {
    pub address: SocketAddr,
    heads: Arc<Mutex<Vec<String>>>,
    connections: Arc<Mutex<usize>>,
}

impl TestUpstream {
    /// Answers every request with `answer` of its head.
    pub async fn answering(answer: impl Fn(&str) -> String + Send + Sync + 'static) -> Self {
        let answer = Arc::new(answer);
        Self::acting(move |head, mut stream| {
            let answer = answer(&head);
            Box::pin(async move {
                stream.write_all(answer.as_bytes()).await.ok()?;
                Some(stream)
            })
        })
        .await
    }

    /// Hands each request's head and its stream to `act`; the stream that it gives back is read for the next request.
    pub async fn acting(
        act: impl Fn(String, TcpStream) -> futures_util::future::BoxFuture<'static, Option<TcpStream>>
        + Send
        + Sync
        + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (heads, connections): (Arc<Mutex<Vec<String>>>, Arc<Mutex<usize>>) = Default::default();
        let act: Arc<Act> = Arc::new(act);
        let (kept, counted) = (Arc::clone(&heads), Arc::clone(&connections));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                *counted.lock().unwrap() += 1;
                let (act, heads) = (Arc::clone(&act), Arc::clone(&kept));
                tokio::spawn(async move {
                    let mut stream = Some(stream);
                    while let Some(mut open) = stream.take() {
                        let Some(head) = read_head(&mut open).await else { return };
                        heads.lock().unwrap().push(head.clone());
                        stream = act(head, open).await;
                    }
                });
            }
        });
        Self { address, heads, connections }
    }

    /// The heads of all requests so far but for health looks, as they came.
    pub fn heads(&self) -> Vec<String> {
        let heads = self.heads.lock().unwrap();
        heads.iter().filter(|head| !head.starts_with("GET /health ")).cloned().collect()
    }

    /// The head of the last request.
    pub fn last(&self) -> String {
        self.heads().last().cloned().unwrap_or_default()
    }

    /// Connections that were accepted.
    pub fn connections(&self) -> usize {
        *self.connections.lock().unwrap()
    }
}

/// Reads up to the empty line and not a byte further.
async fn read_head(stream: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let byte = stream.read_u8().await.ok()?;
        head.push(byte);
        if head.len() > 64 * 1024 {
            return None;
        }
    }
    Some(String::from_utf8_lossy(&head).into_owned())
}

/// A whole answer with a body.
pub fn ok(body: &str) -> String {
    with_headers("", body)
}

/// The same with more header lines, each ended by CR LF.
pub fn with_headers(lines: &str, body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n{lines}Content-Length: {}\r\n\r\n{body}", body.len())
}

/// The value of a header in a head, by its lower-case name.
pub fn header(head: &str, name: &str) -> Option<String> {
    head.lines().skip(1).find_map(|line| {
        let (found, value) = line.split_once(':')?;
        found.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
    })
}

/// Bytes that a test has prepared, for each path; then the stream goes on or is closed.
pub async fn send_all(mut stream: TcpStream, bytes: impl AsRef<[u8]>) -> Option<TcpStream> {
    stream.write_all(bytes.as_ref()).await.ok()?;
    Some(stream)
}

/// The answer to a health look; `None` for every other request.
pub fn healthy(head: &str) -> Option<String> {
    head.starts_with("GET /health ").then(|| ok("up"))
}

/// Whether the other side has closed, within 5 s; whatever it still sends is thrown away.
pub async fn is_closed(stream: &mut TcpStream) -> bool {
    let mut bytes = vec![0; 64 * 1024];
    let reading = async { while let Ok(1..) = stream.read(&mut bytes).await {} };
    tokio::time::timeout(std::time::Duration::from_secs(5), reading).await.is_ok()
}
