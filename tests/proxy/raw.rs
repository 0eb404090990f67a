//! A client that sends exactly the bytes that a test gives it.
#![allow(dead_code, reason = "each test uses the part that it needs")]

use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Longest wait for anything, unless a test says otherwise.
const PATIENCE: Duration = Duration::from_secs(10);

/// One connection.
pub struct Raw {
    stream: TcpStream,
    unread: Vec<u8>,
    patience: Duration,
}

/// One answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
    /// Its body ended as its head said; one without framing ends with the connection.
    pub whole: bool,
}

impl Answer {
    /// All values of a header, by its lower-case name.
    pub fn all(&self, name: &str) -> Vec<String> {
        let lines = self.head.lines().skip(1).filter_map(|line| line.split_once(':'));
        lines.filter(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim().to_owned()).collect()
    }

    pub fn header(&self, name: &str) -> Option<String> {
        self.all(name).into_iter().next()
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }

    /// Status and code.
    pub fn is(&self, status: u16, code: &str) -> bool {
        self.status == status && self.json()["code"] == code
    }
}

impl Raw {
    /// To the server at `http://host:port`.
    pub async fn connect(url: &str) -> Self {
        let stream = TcpStream::connect(url.strip_prefix("http://").unwrap()).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream, unread: Vec::new(), patience: PATIENCE }
    }

    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).await.unwrap();
    }

    /// The same; whether it was taken.
    pub async fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        self.stream.write_all(bytes.as_ref()).await.is_ok()
    }

    /// One request on a connection of its own.
    pub async fn ask(url: &str, request: impl AsRef<[u8]>) -> Answer {
        let mut raw = Self::connect(url).await;
        raw.send(request).await;
        raw.answer().await.expect("an answer")
    }

    /// More bytes; `false` at the end of the stream.
    async fn more(&mut self) -> bool {
        let mut bytes = vec![0; 16 * 1024];
        match timeout(self.patience, self.stream.read(&mut bytes)).await.expect("bytes in time") {
            Ok(0) | Err(_) => false,
            Ok(count) => {
                self.unread.extend_from_slice(&bytes[..count]);
                true
            }
        }
    }

    /// Reads until the text has come; what came up to its end. `None` where the stream ends before.
    pub async fn until(&mut self, text: &str) -> Option<String> {
        loop {
            let found = self.unread.windows(text.len()).position(|window| window == text.as_bytes());
            if let Some(at) = found {
                let read: Vec<u8> = self.unread.drain(..at + text.len()).collect();
                return Some(String::from_utf8_lossy(&read).into_owned());
            }
            if !self.more().await {
                return None;
            }
        }
    }

    /// Exactly so many bytes, fewer where the stream ends.
    pub async fn exactly(&mut self, count: usize) -> Vec<u8> {
        while self.unread.len() < count && self.more().await {}
        let count = count.min(self.unread.len());
        self.unread.drain(..count).collect()
    }

    /// The head of the next answer; `None` where the connection ends before it.
    pub async fn head(&mut self) -> Option<String> {
        self.until("\r\n\r\n").await
    }

    /// The next answer; interim ones are skipped.
    pub async fn answer(&mut self) -> Option<Answer> {
        self.answer_to("GET").await
    }

    pub async fn answer_to(&mut self, method: &str) -> Option<Answer> {
        loop {
            let head = self.head().await?;
            let status = head.get(9..12).and_then(|status| status.parse().ok()).expect("a status");
            if (100..200).contains(&status) && status != 101 {
                continue;
            }
            let mut answer = Answer { status, head, body: Vec::new(), whole: true };
            if method == "HEAD" || matches!(status, 101 | 204 | 304) {
                return Some(answer);
            }
            if answer.header("transfer-encoding").is_some() {
                answer.whole = self.chunks(&mut answer.body).await;
            } else if let Some(length) = answer.header("content-length") {
                let length = length.parse().unwrap();
                answer.body = self.exactly(length).await;
                answer.whole = answer.body.len() == length;
            } else {
                while self.more().await {}
                answer.body = std::mem::take(&mut self.unread);
            }
            return Some(answer);
        }
    }

    async fn chunks(&mut self, body: &mut Vec<u8>) -> bool {
        loop {
            let Some(line) = self.until("\r\n").await else { return false };
            let Ok(size) = usize::from_str_radix(line.trim(), 16) else { return false };
            let chunk = self.exactly(size + 2).await;
            if chunk.len() < size + 2 {
                body.extend_from_slice(&chunk);
                return false;
            }
            body.extend_from_slice(&chunk[..size]);
            if size == 0 {
                return true;
            }
        }
    }

    /// Reads to the end of the stream; what came. Fails where it does not end.
    pub async fn rest(&mut self) -> Vec<u8> {
        while self.more().await {}
        std::mem::take(&mut self.unread)
    }

    /// Whether the connection is closed without another byte.
    pub async fn is_over(&mut self) -> bool {
        self.rest().await.is_empty()
    }
}

impl Raw {
    /// A WebSocket's handshake at the path; its answer.
    pub async fn upgrade(&mut self, path: &str, lines: &str) -> Answer {
        let head = format!(
            "GET {path} HTTP/1.1\r\nHost: server.example\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n{lines}\r\n"
        );
        self.send(head).await;
        self.answer().await.expect("an answer")
    }

    /// The next unmasked frame: its opcode and payload; `None` at the end of the stream.
    pub async fn frame(&mut self) -> Option<(u8, Vec<u8>)> {
        let start = self.exactly(2).await;
        let [first, second] = start[..] else { return None };
        let length = match second & 0x7f {
            126 => {
                let long = self.exactly(2).await;
                usize::from(u16::from_be_bytes([*long.first()?, *long.get(1)?]))
            }
            127 => return None,
            short => usize::from(short),
        };
        Some((first & 0x0f, self.exactly(length).await))
    }

    /// Sends a masked frame.
    pub async fn send_frame(&mut self, opcode: u8, payload: &[u8]) {
        let mut frame = vec![0x80 | opcode];
        if let Ok(length @ ..126) = u8::try_from(payload.len()) {
            frame.push(0x80 | length);
        } else {
            frame.push(0x80 | 0x7e);
            frame.extend_from_slice(&u16::try_from(payload.len()).unwrap().to_be_bytes());
        }
        // A mask of zeros is one.
        frame.extend_from_slice(&[0; 4]);
        frame.extend_from_slice(payload);
        self.send(frame).await;
    }
}

impl Raw {
    /// One request on a connection of its own, whose answer may take so long.
    pub async fn ask_patiently(url: &str, request: impl AsRef<[u8]>, patience: Duration) -> Answer {
        let mut raw = Self::connect(url).await;
        raw.patience = patience;
        raw.send(request).await;
        raw.answer().await.expect("an answer")
    }

    /// Reads what comes within a while; whether the stream is over.
    pub async fn try_rest(&mut self) -> bool {
        let mut bytes = vec![0; 16 * 1024];
        matches!(timeout(Duration::from_millis(200), self.stream.read(&mut bytes)).await, Ok(Ok(0) | Err(_)))
    }

    /// Throws away what has come so far.
    pub async fn rest_so_far(&mut self) {
        let mut bytes = vec![0; 16 * 1024];
        while let Ok(Ok(1..)) = timeout(Duration::from_millis(20), self.stream.read(&mut bytes)).await {}
        self.unread.clear();
    }
}

impl Raw {
    /// Both halves, where nothing is left unread.
    pub fn split(self) -> (tokio::net::tcp::OwnedWriteHalf, tokio::net::tcp::OwnedReadHalf) {
        assert!(self.unread.is_empty());
        let (read, write) = self.stream.into_split();
        (write, read)
    }
}
