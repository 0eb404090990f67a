//! Messages gathered until there are enough, or the agent is quiet, or the oldest has waited long enough.

use tokio::time::Instant;

use super::message::Message;
use super::options::Limits;

/// The messages of the next envelope.
#[derive(Debug)]
pub(super) struct Batch {
    limits: Limits,
    messages: Vec<Message>,
    bytes: usize,
    first_at: Option<Instant>,
    last_at: Option<Instant>,
}

impl Batch {
    pub(super) fn new(limits: &Limits) -> Self {
        Self { limits: limits.clone(), messages: Vec::new(), bytes: 0, first_at: None, last_at: None }
    }

    /// Adds a message. What must go out first comes back: where this one would make the batch too large, the batch
    /// before it.
    pub(super) fn push(&mut self, message: Message, now: Instant) -> Option<Vec<Message>> {
        let bytes = message.bytes();
        let full = !self.messages.is_empty() && self.bytes + bytes > self.limits.batch_bytes;
        let before = if full { self.take() } else { None };
        self.bytes += bytes;
        self.messages.push(message);
        self.first_at.get_or_insert(now);
        self.last_at = Some(now);
        before
    }

    /// Whether it is full.
    pub(super) fn is_full(&self) -> bool {
        self.messages.len() >= self.limits.batch_messages || self.bytes >= self.limits.batch_bytes
    }

    /// When it is to go out though it is not full; `None` where it is empty.
    pub(super) fn due_at(&self) -> Option<Instant> {
        Some((self.last_at? + self.limits.batch_quiet).min(self.first_at? + self.limits.batch_age))
    }

    /// Takes what there is; `None` where it is empty.
    pub(super) fn take(&mut self) -> Option<Vec<Message>> {
        self.bytes = 0;
        self.first_at = None;
        self.last_at = None;
        Some(std::mem::take(&mut self.messages)).filter(|messages| !messages.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::time::Duration;

    fn limits() -> Limits {
        Limits { batch_messages: 3, batch_bytes: 60, ..Limits::default() }
    }

    fn message(text: &str) -> Message {
        json!({ "type": text }).into()
    }

    #[tokio::test]
    async fn it_is_full_by_count_and_by_bytes() {
        let now = Instant::now();
        let mut batch = Batch::new(&limits());
        for _ in 0..2 {
            assert_eq!(batch.push(message("a"), now), None);
            assert!(!batch.is_full());
        }
        batch.push(message("a"), now);
        assert!(batch.is_full());
        assert_eq!(batch.take().unwrap().len(), 3);
        assert_eq!(batch.take(), None);

        batch.push(message("a"), now);
        let before = batch.push(message(&"b".repeat(200)), now).unwrap();
        assert_eq!(before, [message("a")]);
        assert!(batch.is_full(), "a single large message is a batch of its own");
    }

    #[tokio::test]
    async fn quiet_and_age_both_close_it() {
        let start = Instant::now();
        let mut batch = Batch::new(&limits());
        assert_eq!(batch.due_at(), None);
        batch.push(message("a"), start);
        assert_eq!(batch.due_at(), Some(start + Duration::from_millis(200)));
        batch.push(message("a"), start + Duration::from_millis(150));
        assert_eq!(batch.due_at(), Some(start + Duration::from_millis(350)));
        batch.push(message("a"), start + Duration::from_millis(950));
        assert_eq!(batch.due_at(), Some(start + Duration::from_secs(1)));
    }
}
