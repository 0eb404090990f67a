//! The agent's standard output, line by line and bounded, and the message that a line becomes.

use std::io;

use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt};

use super::message::Message;

/// One line without its line feed.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Line {
    /// The line, or its beginning.
    pub(super) bytes: Vec<u8>,
    /// How many bytes were cut from its end.
    pub(super) cut_bytes: u64,
}

const CHUNK_BYTES: usize = 64 * 1024;

/// Deepest nesting of a message that is sent as it came. A JSON reader with the common bound of 128 must be able to
/// read the envelope around it.
const MESSAGE_DEPTH_MAX: usize = 100;

/// Reads lines of at most so many bytes and skips the rest of longer ones.
pub(super) struct LineReader<R> {
    reader: R,
    limit: usize,
    chunk: Vec<u8>,
    chunk_at: usize,
    line: Vec<u8>,
    cut_bytes: u64,
    ended: bool,
}

impl<R: AsyncRead + Unpin> LineReader<R> {
    pub(super) fn new(reader: R, limit: usize) -> Self {
        Self { reader, limit, chunk: Vec::new(), chunk_at: 0, line: Vec::new(), cut_bytes: 0, ended: false }
    }

    /// The next line; `None` at the end. Cancelling it loses nothing.
    pub(super) async fn next(&mut self) -> io::Result<Option<Line>> {
        loop {
            if let Some(line) = self.take_buffered() {
                return Ok(Some(line));
            }
            if self.ended {
                return Ok(None);
            }
            self.chunk.resize(CHUNK_BYTES, 0);
            self.chunk_at = self.chunk.len();
            // A cancelled read leaves `chunk_at` at the end: nothing is taken for read.
            let count = self.reader.read(&mut self.chunk).await?;
            self.chunk.truncate(count);
            self.chunk_at = 0;
            if count == 0 {
                self.ended = true;
                return Ok(self.buffered());
            }
        }
    }

    /// What has been read already: the next whole line, or at last the one that has no end yet.
    pub(super) fn buffered(&mut self) -> Option<Line> {
        self.take_buffered().or_else(|| Some(self.finish()).filter(|line| !line.bytes.is_empty()))
    }

    fn take_buffered(&mut self) -> Option<Line> {
        let fresh = self.chunk.get(self.chunk_at..).unwrap_or_default();
        let end = fresh.iter().position(|byte| *byte == b'\n');
        let piece = &fresh[..end.unwrap_or(fresh.len())];
        let room = self.limit.saturating_sub(self.line.len());
        let kept = piece.len().min(room);
        self.line.extend_from_slice(&piece[..kept]);
        self.cut_bytes += (piece.len() - kept) as u64;
        self.chunk_at += piece.len() + usize::from(end.is_some());
        end.map(|_| self.finish())
    }

    fn finish(&mut self) -> Line {
        Line { bytes: std::mem::take(&mut self.line), cut_bytes: std::mem::take(&mut self.cut_bytes) }
    }
}

fn depth(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        Value::Object(fields) => 1 + fields.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

/// A JSON object is a message as it is, letter for letter. Every other line that is not blank becomes a `system` message of subtype
/// `agent-output` with the `text`; `cutBytes` says how much of a line that was too long is missing at its end.
pub(super) fn to_message(line: &Line) -> Option<Message> {
    let text = line.bytes.trim_ascii();
    if text.is_empty() {
        return None;
    }
    if line.cut_bytes == 0
        && text.first() == Some(&b'{')
        && let Ok(text) = std::str::from_utf8(text)
        && let Ok(value) = serde_json::from_str::<Value>(text)
        && depth(&value) <= MESSAGE_DEPTH_MAX
    {
        return Some(Message::as_it_came(text, &value));
    }
    let mut message = json!({ "type": "system", "subtype": "agent-output", "text": String::from_utf8_lossy(text) });
    if line.cut_bytes > 0 {
        message["cutBytes"] = json!(line.cut_bytes);
    }
    Some(message.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn lines(input: &[u8], limit: usize) -> Vec<Line> {
        let mut reader = LineReader::new(input, limit);
        let mut all = Vec::new();
        while let Some(line) = reader.next().await.unwrap() {
            all.push(line);
        }
        all
    }

    fn line(text: &str) -> Line {
        Line { bytes: text.as_bytes().to_vec(), cut_bytes: 0 }
    }

    #[tokio::test]
    async fn lines_are_cut_at_the_limit_and_nowhere_else() {
        assert_eq!(lines(b"abc\n\nde", 100).await, [line("abc"), line(""), line("de")]);
        assert_eq!(lines(b"abcdef\ngh\n", 4).await, [Line { bytes: b"abcd".to_vec(), cut_bytes: 2 }, line("gh")]);
        let long = vec![b'x'; 3 * CHUNK_BYTES + 1];
        let read = lines(&long, CHUNK_BYTES + 7).await;
        assert_eq!(read.len(), 1);
        assert_eq!(read[0].bytes.len(), CHUNK_BYTES + 7);
        assert_eq!(read[0].cut_bytes, (2 * CHUNK_BYTES - 6) as u64);
    }

    #[tokio::test]
    async fn lines_that_span_reads_are_whole() {
        let (mut writer, reader) = tokio::io::duplex(3);
        let mut reader = LineReader::new(reader, 100);
        let write = async {
            tokio::io::AsyncWriteExt::write_all(&mut writer, b"hello world\nagain\n").await.unwrap();
            drop(writer);
        };
        let read = async {
            let mut all = Vec::new();
            while let Some(line) = reader.next().await.unwrap() {
                all.push(line);
            }
            all
        };
        let ((), all) = tokio::join!(write, read);
        assert_eq!(all, [line("hello world"), line("again")]);
    }

    #[test]
    fn an_object_is_a_message_as_it_came() {
        let text = r#"{"z": 18446744073709551616, "type":"assistant" ,"a": 1.10, "e": "\u00e9"}"#;
        let message = to_message(&line(&format!(" {text} \r"))).unwrap();
        assert_eq!((message.text(), message.kind()), (text, Some("assistant")));
        assert_eq!(serde_json::to_string(&[&message]).unwrap(), format!("[{text}]"));
        assert_eq!(serde_json::to_string(&message.inside("x")).unwrap().matches(text).count(), 1);
    }

    #[test]
    fn everything_else_is_kept_as_text() {
        assert_eq!(to_message(&line("  ")), None);
        for text in ["plain", "[1]", "{broken", "12"] {
            let message = to_message(&line(text)).unwrap().value();
            assert_eq!(message, json!({ "type": "system", "subtype": "agent-output", "text": text }));
        }
        let deep = format!("{{\"a\":{}1{}}}", "[".repeat(110), "]".repeat(110));
        assert_eq!(to_message(&line(&deep)).unwrap().value()["subtype"], "agent-output");
        let cut = Line { bytes: b"{\"type\":\"assistant\"}".to_vec(), cut_bytes: 9 };
        let message = to_message(&cut).unwrap().value();
        assert_eq!((&message["subtype"], &message["cutBytes"]), (&json!("agent-output"), &json!(9)));
        let broken = Line { bytes: vec![b'a', 0xff], cut_bytes: 0 };
        assert_eq!(to_message(&broken).unwrap().value()["text"], "a\u{fffd}");
    }
}
