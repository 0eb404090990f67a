//! What `exec` is told, checked once.

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use awc::http::Uri;
use runwarden_actors::contract::{RunId, ThreadChatId, ThreadId};
use runwarden_actors::ports::{Clock, IdSource};
use thiserror::Error;
use tokio::sync::watch;

/// An option that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{name}: {problem}")]
pub struct InvalidOption {
    /// The option as a user spells it.
    pub name: &'static str,
    /// What is wrong and what would be right; never a secret.
    pub problem: String,
}

/// The daemon's token. Its `Debug` form hides it.
#[derive(Clone)]
pub struct Token(Arc<str>);

impl Token {
    /// Takes the text without surrounding white space; it must be printable ASCII, as a header asks for.
    pub fn parse(text: &str) -> Result<Self, InvalidOption> {
        let text = text.trim();
        if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic()) {
            Ok(Self(Arc::from(text)))
        } else {
            let problem = "is empty or has characters that a token never has".to_owned();
            Err(InvalidOption { name: "daemon token", problem })
        }
    }

    pub(super) fn expose(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token(hidden)")
    }
}

/// The server's base URL: `http://` or `https://`, a host, and at the most a path prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerUrl(String);

impl ServerUrl {
    /// Checks the URL.
    pub fn parse(text: &str) -> Result<Self, InvalidOption> {
        let wrong = |problem: &str| InvalidOption { name: "--server", problem: problem.to_owned() };
        let uri: Uri =
            text.trim().parse().map_err(|_| wrong("is not a URL; expected http(s)://host[:port][/prefix]"))?;
        if !matches!(uri.scheme_str(), Some("http" | "https")) || uri.host().is_none_or(str::is_empty) {
            return Err(wrong("expected http(s)://host[:port][/prefix]"));
        }
        if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) || uri.query().is_some() {
            return Err(wrong("must carry neither a user nor a query"));
        }
        Ok(Self(text.trim().trim_end_matches('/').to_owned()))
    }

    /// The URL of a path of the API, which starts with a slash.
    pub fn join(&self, path: &str) -> String {
        format!("{}{path}", self.0)
    }
}

impl std::fmt::Display for ServerUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// The bounds of everything that is buffered, repeated or waited for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Messages that close a batch.
    pub batch_messages: usize,
    /// Bytes of messages that close a batch, unless a single one is larger.
    pub batch_bytes: usize,
    /// Silence of the agent that closes a batch.
    pub batch_quiet: Duration,
    /// Age of its first message that closes a batch, however busy the agent is.
    pub batch_age: Duration,
    /// Longest line that is kept whole; a longer one is cut with a mark. At the most 1 MiB, so that an envelope
    /// stays below the server's cap however the text must be escaped.
    pub line_bytes: usize,
    /// Unacknowledged bytes in the spool above which the agent's pipe is no longer read.
    pub spool_bytes: u64,
    /// Envelopes on their way on one stream.
    pub pipeline: usize,
    /// How long an acknowledgement on a stream may take before the connection is given up. It doubles, up to eight
    /// times as much, for as long as connections bring nothing.
    pub ack_timeout: Duration,
    /// Time limit of a handshake and of one HTTP request.
    pub request_timeout: Duration,
    /// Shortest step of the backoff.
    pub backoff_min: Duration,
    /// Longest step of the backoff.
    pub backoff_max: Duration,
    /// How long HTTP is used before the stream is tried again.
    pub stream_retry: Duration,
    /// How long the server may be out of reach at start.
    pub start_timeout: Duration,
    /// How long an agent that was asked to end has before it is killed.
    pub kill_grace: Duration,
    /// How long output that outlives the agent (of processes it left behind) is read.
    pub output_grace: Duration,
    /// How long the last acknowledgements are waited for.
    pub drain_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            batch_messages: 50,
            batch_bytes: 256 * 1024,
            batch_quiet: Duration::from_millis(200),
            batch_age: Duration::from_secs(1),
            line_bytes: 1024 * 1024,
            spool_bytes: 64 * 1024 * 1024,
            pipeline: 64,
            ack_timeout: Duration::from_secs(10),
            request_timeout: Duration::from_secs(30),
            backoff_min: Duration::from_millis(100),
            backoff_max: Duration::from_secs(10),
            stream_retry: Duration::from_secs(30),
            start_timeout: Duration::from_mins(10),
            kill_grace: Duration::from_secs(10),
            output_grace: Duration::from_secs(2),
            drain_timeout: Duration::from_hours(1),
        }
    }
}

impl Limits {
    pub(super) fn check(&self) -> Result<(), InvalidOption> {
        let wrong = |name, problem: &str| Err(InvalidOption { name, problem: problem.to_owned() });
        if self.batch_messages == 0 || self.batch_bytes == 0 || self.batch_bytes > 4 * 1024 * 1024 {
            return wrong("--batch-messages, --batch-bytes", "at least 1; a batch has at the most 4 MiB");
        }
        if !(256..=1024 * 1024).contains(&self.line_bytes) {
            return wrong("line length", "expected 256 bytes to 1 MiB");
        }
        if self.spool_bytes == 0 || self.spool_bytes > 4 * 1024 * 1024 * 1024 {
            return wrong("--spool-bytes", "expected 1 byte to 4 GiB");
        }
        if self.pipeline == 0 || self.pipeline > 256 {
            return wrong("pipeline", "expected 1 to 256 envelopes");
        }
        if self.backoff_min.is_zero() || self.backoff_min > self.backoff_max {
            return wrong("backoff", "the shortest step must be above 0 and not above the longest");
        }
        Ok(())
    }
}

/// How many times the program was asked to stop. The first time ends the agent; one more gives up waiting for the
/// server, with everything kept in the spool.
#[derive(Debug, Clone)]
pub struct StopRequests(watch::Receiver<u32>);

/// The other end of [`StopRequests`].
#[derive(Debug)]
pub struct StopSwitch(watch::Sender<u32>);

/// A switch and what it moves.
pub fn stop_switch() -> (StopSwitch, StopRequests) {
    let (sender, receiver) = watch::channel(0);
    (StopSwitch(sender), StopRequests(receiver))
}

impl StopSwitch {
    /// Asks (once more) to stop.
    pub fn request(&self) {
        self.0.send_modify(|count| *count = count.saturating_add(1));
    }
}

impl StopRequests {
    /// How many times so far.
    pub fn count(&self) -> u32 {
        *self.0.borrow()
    }

    /// Waits until there were more than `seen` requests; forever where the switch is gone.
    pub async fn more_than(&self, seen: u32) {
        let mut receiver = self.0.clone();
        if receiver.wait_for(|count| *count > seen).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// Everything that one call of `exec` needs.
#[derive(Clone)]
pub struct ExecOptions {
    /// The server.
    pub server: ServerUrl,
    /// The run's token.
    pub token: Token,
    /// The thread.
    pub thread_id: ThreadId,
    /// The chat.
    pub thread_chat_id: ThreadChatId,
    /// The run.
    pub run_id: RunId,
    /// The repository whose HEAD is the `endSha`.
    pub repo: PathBuf,
    /// The spool file.
    pub spool: PathBuf,
    /// IANA name of the sandbox's time zone.
    pub timezone: String,
    /// The agent's program and its arguments; at least the program.
    pub command: Vec<OsString>,
    /// The bounds.
    pub limits: Limits,
    /// Where requests to stop come from.
    pub stop: StopRequests,
    /// The time, for `Retry-After` dates.
    pub clock: Arc<dyn Clock>,
    /// Event ids and jitter.
    pub ids: Arc<dyn IdSource>,
}

impl std::fmt::Debug for ExecOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The command is left out: people pass secrets to agents in arguments.
        f.debug_struct("ExecOptions")
            .field("server", &self.server)
            .field("run_id", &self.run_id)
            .field("spool", &self.spool)
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_never_shown() {
        let token = Token::parse(" secret-value\n").unwrap();
        assert_eq!(token.expose(), "secret-value");
        assert!(!format!("{token:?}").contains("secret"));
        for wrong in ["", "  ", "two words", "caf\u{e9}"] {
            assert!(Token::parse(wrong).is_err());
        }
    }

    #[test]
    fn a_server_is_a_plain_base_url() {
        assert_eq!(ServerUrl::parse("http://h:1/").unwrap().join("/x"), "http://h:1/x");
        assert_eq!(ServerUrl::parse("https://h/pre/").unwrap().join("/x"), "https://h/pre/x");
        for wrong in ["h:1", "ftp://h", "http://", "http://me:pw@h", "http://h?x=1", "nonsense url"] {
            assert!(ServerUrl::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_defaults_are_allowed() {
        Limits::default().check().unwrap();
        assert!(Limits { pipeline: 0, ..Limits::default() }.check().is_err());
        assert!(Limits { line_bytes: 2 << 20, ..Limits::default() }.check().is_err());
    }
}
