//! As little of HTTP and WebSocket as a client needs that must cost next to nothing.

use anyhow::{Context, Result, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Room asked for before each read, where nothing else is said.
const READ_BYTES: usize = 32 * 1024;

/// A connection that is kept open, with what was read and not yet used.
pub struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
    used: usize,
    room: usize,
}

/// What is looked at of an answer's head.
pub struct Head {
    /// Status.
    pub status: u16,
    /// `Content-Length`; 0 where there is none.
    pub length: usize,
    /// The values of `Set-Cookie`, in order.
    pub cookies: Vec<String>,
}

impl Connection {
    /// Connects to the loopback address.
    pub async fn open(port: u16) -> Result<Self> {
        Self::with_room(port, READ_BYTES).await
    }

    /// The same; at most so many bytes are read at once.
    pub async fn with_room(port: u16, room: usize) -> Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port)).await.context("the server does not accept")?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: Vec::with_capacity(room), used: 0, room })
    }

    /// Sends bytes as they are.
    pub async fn send(&mut self, bytes: &[u8]) -> Result<()> {
        Ok(self.stream.write_all(bytes).await?)
    }

    /// Sends a request and waits for its answer: status and body.
    pub async fn exchange(&mut self, request: &[u8]) -> Result<(u16, &[u8])> {
        self.send(request).await?;
        self.answer().await
    }

    /// The next answer. Its body must come with a length.
    pub async fn answer(&mut self) -> Result<(u16, &[u8])> {
        let head = self.head().await?;
        while self.unused().len() < head.length {
            self.read().await?;
        }
        let start = self.used;
        self.used += head.length;
        Ok((head.status, &self.buffer[start..start + head.length]))
    }

    /// The next answer, whose body is read and not kept: its status and the body's size.
    pub async fn drained_answer(&mut self) -> Result<(u16, usize)> {
        let head = self.head().await?;
        let mut left = head.length;
        loop {
            let taken = left.min(self.unused().len());
            self.used += taken;
            left -= taken;
            if left == 0 {
                return Ok((head.status, head.length));
            }
            self.read().await?;
        }
    }

    /// The head of the next answer; what follows is not used up.
    pub async fn head(&mut self) -> Result<Head> {
        let head_bytes = loop {
            if let Some(at) = find(self.unused(), b"\r\n\r\n") {
                break at + 4;
            }
            self.read().await?;
        };
        let text = std::str::from_utf8(&self.unused()[..head_bytes])?;
        let status =
            text.get(9..12).and_then(|text| text.parse().ok()).with_context(|| format!("no status: {text}"))?;
        let (mut length, mut cookies) = (0, Vec::new());
        for (name, value) in text.split("\r\n").filter_map(|line| line.split_once(':')) {
            if name.eq_ignore_ascii_case("content-length") {
                length = value.trim().parse()?;
            } else if name.eq_ignore_ascii_case("set-cookie") {
                cookies.push(value.trim().to_owned());
            }
        }
        self.used += head_bytes;
        Ok(Head { status, length, cookies })
    }

    /// The payload of the next text frame that has arrived as a whole; waits for the first byte only where there
    /// is none.
    pub fn text_frame(&mut self) -> Result<Option<&[u8]>> {
        let unused = &self.buffer[self.used..];
        let (first, second) = match unused {
            [first, second, ..] => (*first, *second),
            _ => return Ok(None),
        };
        let (head, length) = match (second & 0x7f, unused) {
            (126, [_, _, high, low, ..]) => (4, usize::from(u16::from_be_bytes([*high, *low]))),
            (126 | 127, _) if unused.len() < 10 => return Ok(None),
            (127, _) => bail!("the server sent a frame above 64 KiB"),
            (length, _) => (2, usize::from(length)),
        };
        let end = self.used + head + length;
        if self.buffer.len() < end {
            return Ok(None);
        }
        let payload = self.used + head..end;
        self.used = end;
        match first {
            0x81 => Ok(Some(&self.buffer[payload])),
            other => bail!("the server sent frame {other:#x}: {}", String::from_utf8_lossy(&self.buffer[payload])),
        }
    }

    /// Reads what has arrived, or waits until something has. Fails once the other side has closed.
    pub async fn read(&mut self) -> Result<()> {
        if self.used == self.buffer.len() {
            self.buffer.clear();
            self.used = 0;
        } else if self.used > self.room {
            self.buffer.drain(..self.used);
            self.used = 0;
        }
        self.buffer.reserve(self.room);
        if self.stream.read_buf(&mut self.buffer).await? == 0 {
            bail!("the server closed the connection");
        }
        Ok(())
    }

    /// What was read and not yet used.
    pub fn unused(&self) -> &[u8] {
        &self.buffer[self.used..]
    }

    /// Gives the buffer back, with whatever is in it.
    pub fn forget(&mut self) {
        self.buffer = Vec::new();
        self.used = 0;
    }

    /// Whether the connection is open and nothing has arrived that was not read.
    pub fn is_silent(&self) -> bool {
        let read = self.stream.try_read(&mut [0; 1]);
        self.unused().is_empty() && read.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock)
    }
}

/// Where the needle begins.
pub fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}
