//! A reader that follows a run live, as a user interface would.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use futures_util::StreamExt;
use runwarden_actors::contract::RunId;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use super::check::RecordedEvent;
use super::host::Host;

const COMES_BACK_AFTER: Duration = Duration::from_millis(200);
/// More without the end of a frame is no stream of events.
const FRAME_MAX_BYTES: usize = 16 * 1024 * 1024;

/// What was seen so far. Dropped it goes away.
pub(super) struct LiveReader {
    seen: Rc<RefCell<Vec<RecordedEvent>>>,
    task: JoinHandle<()>,
}

impl LiveReader {
    pub(super) fn start(host: Host, run_id: RunId) -> Self {
        let seen = Rc::new(RefCell::new(Vec::new()));
        let task = actix_web::rt::spawn(follow(host, run_id, Rc::clone(&seen)));
        Self { seen, task }
    }

    /// Messages so far.
    pub(super) fn messages(&self) -> usize {
        self.seen.borrow().iter().map(|event| event.messages.len()).sum()
    }

    /// Ends it.
    pub(super) fn into_events(self) -> Vec<RecordedEvent> {
        self.task.abort();
        self.seen.take()
    }
}

impl Drop for LiveReader {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn follow(host: Host, run_id: RunId, seen: Rc<RefCell<Vec<RecordedEvent>>>) {
    loop {
        let after = seen.borrow().last().map(|event: &RecordedEvent| event.seq);
        if let Ok(mut answer) = host.follow(run_id, after).send().await
            && answer.status().is_success()
        {
            let mut frames = Frames::default();
            while let Some(Ok(chunk)) = answer.next().await {
                let Some(events) = frames.take(&chunk) else { break };
                seen.borrow_mut().extend(events);
            }
        }
        sleep(COMES_BACK_AFTER).await;
    }
}

/// The beginning of a frame whose end has not come yet.
#[derive(Default)]
struct Frames(Vec<u8>);

impl Frames {
    /// The events that this chunk completes; `None` where it is no stream of events.
    fn take(&mut self, chunk: &[u8]) -> Option<Vec<RecordedEvent>> {
        self.0.extend_from_slice(chunk);
        let mut events = Vec::new();
        while let Some(end) = self.0.windows(2).position(|pair| pair == b"\n\n") {
            let frame: Vec<u8> = self.0.drain(..end + 2).collect();
            let is_event = frame.starts_with(b"id:");
            let data = frame.split(|byte| *byte == b'\n').find_map(|line| line.strip_prefix(b"data:"));
            if let (true, Some(data)) = (is_event, data) {
                events.push(serde_json::from_slice(data).ok()?);
            }
        }
        (self.0.len() <= FRAME_MAX_BYTES).then_some(events)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_in_any_pieces() {
        let stream = b"id: 0\ndata: {\"seq\":0,\"eventId\":\"a\",\"messages\":[{\"n\":1}]}\n\n: still here\n\n\
            id: 1\ndata: {\"seq\":1,\"eventId\":\"b\",\"messages\":[]}\n\nevent: error\ndata: {\"code\":\"x\"}\n\nid: 2";
        for size in 1..stream.len() {
            let mut frames = Frames::default();
            let events: Vec<_> = stream.chunks(size).flat_map(|chunk| frames.take(chunk).unwrap()).collect();
            let seen: Vec<_> = events.iter().map(|event| (event.seq, event.messages.len())).collect();
            assert_eq!(seen, [(0, 1), (1, 0)], "in pieces of {size}");
        }
    }

    #[test]
    fn what_is_no_event_ends_the_stream() {
        assert!(Frames::default().take(b"id: 0\ndata: {}\n\n").is_none());
    }
}
