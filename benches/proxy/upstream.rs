//! The app behind all proxies: this program again, as the command of a preview. One thread, and nothing that costs.

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::support::connection::find;

/// The first argument that makes this program the upstream.
pub const ARGUMENT: &str = "upstream";
/// Path of a body of 1 kB.
pub const SMALL: &str = "/1kB";
/// Path of a body of 1 MB.
pub const LARGE: &str = "/1MB";
/// Path of an event stream that says one thing and is silent then.
pub const EVENTS: &str = "/events";
/// Path of the upstream's process id.
pub const PID: &str = "/pid";
/// What an event stream says.
pub const EVENT: &str = "data: hello\n\n";

/// Longest head of a request.
const HEAD_MAX_BYTES: usize = 16 * 1024;

/// Listens on the port that the environment names, until it is ended.
pub async fn serve() -> Result<()> {
    let port: u16 = std::env::var("PORT").context("PORT is not set")?.parse()?;
    let listener = TcpListener::bind(("127.0.0.1", port)).await?;
    let answers = std::rc::Rc::new(Answers::new());
    loop {
        let (stream, _) = listener.accept().await?;
        let answers = std::rc::Rc::clone(&answers);
        // A client that goes away ends its connection and nothing else.
        tokio::task::spawn_local(async move { converse(stream, &answers).await });
    }
}

struct Answers {
    small: Vec<u8>,
    large: Vec<u8>,
    pid: Vec<u8>,
}

impl Answers {
    fn new() -> Self {
        Self { small: answer(&vec![b'x'; 1 << 10]), large: answer(&vec![b'x'; 1 << 20]), pid: answer(&pid()) }
    }
}

fn pid() -> Vec<u8> {
    std::process::id().to_string().into_bytes()
}

/// With the headers that a development server would send.
fn answer(body: &[u8]) -> Vec<u8> {
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\nContent-Length: {}\r\nETag: \"5e1-19b0c3f\"\r\n\
         Vary: Accept-Encoding\r\nDate: Thu, 01 Jan 2026 00:00:00 GMT\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

async fn converse(mut stream: TcpStream, answers: &Answers) -> Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = Vec::with_capacity(1024);
    loop {
        let head_bytes = loop {
            if let Some(at) = find(&buffer, b"\r\n\r\n") {
                break at + 4;
            }
            anyhow::ensure!(buffer.len() < HEAD_MAX_BYTES, "the request's head is too long");
            if stream.read_buf(&mut buffer).await? == 0 {
                return Ok(());
            }
        };
        let path = buffer.split(|byte| *byte == b' ').nth(1).unwrap_or_default();
        let bytes = match std::str::from_utf8(path)? {
            LARGE => &answers.large,
            PID => &answers.pid,
            EVENTS => return stay_silent(stream).await,
            _ => &answers.small,
        };
        stream.write_all(bytes).await?;
        // The bench's requests have no bodies.
        buffer.drain(..head_bytes);
    }
}

/// Until the other side closes.
async fn stay_silent(mut stream: TcpStream) -> Result<()> {
    let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
    stream.write_all(format!("{head}{:x}\r\n{EVENT}\r\n", EVENT.len()).as_bytes()).await?;
    let mut rest = [0; 64];
    while stream.read(&mut rest).await? > 0 {}
    Ok(())
}
