//! Envelopes that must not change the agent's run. The demonstration sends them itself, past the link, and says so.

use runwarden_actors::contract::limits::PAYLOAD_VERSION;
use runwarden_actors::contract::{Ack, AckReason, AckStatus, QuarantineReason, RunId};
use serde_json::{Value, json};

use super::host::{Host, NewRun, THREAD};

/// The chat of the agent's run.
pub(super) const CHAT: &str = "main";
/// A second chat of the same thread.
const OTHER_CHAT: &str = "second";

/// What was sent, and what the server made of it.
#[derive(Debug)]
pub(super) struct Stranger {
    /// In words.
    pub(super) what: &'static str,
    /// The same in a few words, for the table.
    pub(super) why: &'static str,
    /// Its `eventId`.
    pub(super) event_id: &'static str,
    /// The reason that quarantine must hold it under; `None` where it must hold nothing.
    pub(super) set_aside: Option<QuarantineReason>,
    expected: (AckStatus, AckReason),
    answer: Ack,
}

impl Stranger {
    /// The answer in words.
    pub(super) fn answer(&self) -> String {
        let reason = self.answer.reason.map_or("no reason", AckReason::as_str);
        format!("{} ({reason})", self.answer.status)
    }

    /// Whether the server answered as it has to.
    pub(super) fn as_expected(&self) -> bool {
        (self.answer.status, self.answer.reason) == (self.expected.0, Some(self.expected.1))
    }
}

fn envelope(chat: &str, run_id: Option<RunId>, event_id: &str, seq: i64) -> Value {
    json!({
        "threadId": THREAD,
        "threadChatId": chat,
        "runId": run_id,
        "eventId": event_id,
        "seq": seq,
        "payloadVersion": PAYLOAD_VERSION,
        "timezone": "UTC",
        "messages": [{ "type": "assistant", "text": "sent by the demo itself" }],
    })
}

/// Case 3: an envelope that names no run, with the token of the agent's.
pub(super) async fn without_run(host: &Host, run: &NewRun) -> anyhow::Result<Stranger> {
    let event_id = "demo-without-run";
    let answer = host.send_envelope(&run.daemon_token, &envelope(CHAT, None, event_id, 5000)).await?;
    Ok(Stranger {
        what: "an envelope that names no run",
        why: "it names no run",
        event_id,
        set_aside: Some(QuarantineReason::MissingRunId),
        expected: (AckStatus::Quarantined, AckReason::MissingRunId),
        answer,
    })
}

/// Case 4: an envelope of a run of the same chat that the agent's run has taken the place of.
pub(super) async fn of_the_run_before(host: &Host, before: &NewRun) -> anyhow::Result<Stranger> {
    let event_id = "demo-run-before";
    let body = envelope(CHAT, Some(before.run_id), event_id, 0);
    let answer = host.send_envelope(&before.daemon_token, &body).await?;
    Ok(Stranger {
        what: "an envelope of the run before this one",
        why: "of the run before",
        event_id,
        set_aside: Some(QuarantineReason::Mismatch),
        expected: (AckStatus::Quarantined, AckReason::Mismatch),
        answer,
    })
}

/// Case 9: in a second chat, so that the agent's run keeps its own numbers, 0 and 2 are stored before 1 comes.
pub(super) async fn overtaken(host: &Host) -> anyhow::Result<Stranger> {
    let event_id = "demo-overtaken";
    let run = host.create_run(OTHER_CHAT, "second-chat").await?;
    for (seq, before) in [(0, "demo-second-0"), (2, "demo-second-2")] {
        host.send_envelope(&run.daemon_token, &envelope(OTHER_CHAT, Some(run.run_id), before, seq)).await?;
    }
    let body = envelope(OTHER_CHAT, Some(run.run_id), event_id, 1);
    let answer = host.send_envelope(&run.daemon_token, &body).await?;
    Ok(Stranger {
        what: "in a second chat, number 1 after number 2",
        why: "number 1 after 2",
        event_id,
        set_aside: Some(QuarantineReason::LateGap),
        expected: (AckStatus::Ignored, AckReason::OutOfOrderSeq),
        answer,
    })
}

/// Case 8: an envelope of the agent's run, after its end.
pub(super) async fn after_the_end(host: &Host, run: &NewRun) -> anyhow::Result<Stranger> {
    let event_id = "demo-after-the-end";
    let body = envelope(CHAT, Some(run.run_id), event_id, 5001);
    let answer = host.send_envelope(&run.daemon_token, &body).await?;
    Ok(Stranger {
        what: "an envelope after the end of the run",
        why: "after the end",
        event_id,
        set_aside: None,
        expected: (AckStatus::Ignored, AckReason::RunTerminal),
        answer,
    })
}
