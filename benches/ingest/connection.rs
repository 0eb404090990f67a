//! As little of HTTP and WebSocket as a client needs that must cost next to nothing.

use anyhow::{Context, Result, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Room asked for before each read.
const READ_BYTES: usize = 32 * 1024;

/// A connection that is kept open, with what was read and not yet used.
pub struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
    used: usize,
}

impl Connection {
    /// Connects to the loopback address.
    pub async fn open(port: u16) -> Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port)).await.context("the server does not accept")?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: Vec::with_capacity(READ_BYTES), used: 0 })
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
        let head_bytes = loop {
            if let Some(at) = find(self.unused(), b"\r\n\r\n") {
                break at + 4;
            }
            self.read().await?;
        };
        let head = std::str::from_utf8(&self.unused()[..head_bytes])?;
        let status =
            head.get(9..12).and_then(|text| text.parse().ok()).with_context(|| format!("no status: {head}"))?;
        let length = head
            .split("\r\n")
            .find_map(|line| {
                let (name, value) = line.split_once(':')?;
                name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok()).flatten()
            })
            .unwrap_or(0);
        while self.unused().len() < head_bytes + length {
            self.read().await?;
        }
        let start = self.used + head_bytes;
        self.used = start + length;
        Ok((status, &self.buffer[start..start + length]))
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

    /// Reads what has arrived, or waits until something has.
    pub async fn read(&mut self) -> Result<()> {
        if self.used == self.buffer.len() {
            self.buffer.clear();
            self.used = 0;
        } else if self.used > READ_BYTES {
            self.buffer.drain(..self.used);
            self.used = 0;
        }
        self.buffer.reserve(READ_BYTES);
        if self.stream.read_buf(&mut self.buffer).await? == 0 {
            bail!("the server closed the connection");
        }
        Ok(())
    }

    fn unused(&self) -> &[u8] {
        &self.buffer[self.used..]
    }
}

/// Where the needle begins.
pub fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

/// Checks that an acknowledgement says `accepted` and names this `seq`.
pub fn check_ack(body: &[u8], seq: u64) -> Result<()> {
    const SEQ: &[u8] = b"\"acknowledgedSeq\":";
    let acknowledged = find(body, SEQ).map(|at| {
        body[at + SEQ.len()..]
            .iter()
            .take_while(|byte| byte.is_ascii_digit())
            .fold(0, |n, b| n * 10 + u64::from(b - b'0'))
    });
    let accepted = find(body, b"\"status\":\"accepted\"").is_some() && find(body, b"\"reason\"").is_none();
    if acknowledged != Some(seq) || !accepted {
        bail!("seq {seq} was answered with {}", String::from_utf8_lossy(body));
    }
    Ok(())
}

/// Appends a text frame of a client. The mask of zeros is as good as any other where nobody stands between.
pub fn write_text_frame(payload_bytes: usize, out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    let length = u16::try_from(payload_bytes).unwrap_or(u16::MAX).to_be_bytes();
    out.extend_from_slice(&[0x81, 0x80 | 0x7e, length[0], length[1], 0, 0, 0, 0]);
    write(out);
}
