//! Which of the agent's messages ends the run, and when it may be sent.
//!
//! The terminal envelope must be the last one and carry the `endSha`, which is only known once the agent has ended.
//! So a terminal message is held back until then. An agent may print several (a `result` for each turn): the last
//! one counts, and each earlier one is sent on as a `system` message of subtype `superseded-terminal`.

use serde_json::json;

use super::message::Message;

/// How the agent ended.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Ending {
    /// What the process left: its exit code, or 128 and the signal's number.
    pub(super) exit_code: i32,
    /// The signal that ended it.
    pub(super) signal: Option<String>,
    /// Why it ended where that is not its own doing.
    pub(super) cause: Option<Cause>,
    /// Its last lines on standard error.
    pub(super) stderr_tail: Vec<String>,
    /// How long it ran.
    pub(super) duration_ms: u64,
}

/// Why an agent ended where that is not its own doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Cause {
    /// The daemon was told to stop.
    Stopped,
    /// The daemon could not go on; the text says why.
    Failed(String),
}

/// What the agent has said so far about its end.
#[derive(Debug, Default)]
pub(super) struct Conversation {
    held: Option<Message>,
    held_before_stop: bool,
    stopping: bool,
}

/// Section 4: the messages that make an envelope terminal.
fn is_terminal(message: &Message) -> bool {
    matches!(message.kind(), Some("result" | "custom-error" | "custom-stop"))
}

fn superseded(message: &Message) -> Message {
    message.inside("superseded-terminal")
}

impl Conversation {
    /// The agent is being stopped from now on.
    pub(super) fn stopping(&mut self) {
        self.stopping = true;
    }

    /// Takes a message; gives back what is to be sent now in its place in the order.
    pub(super) fn take(&mut self, message: Message) -> Option<Message> {
        if !is_terminal(&message) {
            return Some(message);
        }
        self.held_before_stop = !self.stopping;
        self.held.replace(message).as_ref().map(superseded)
    }

    /// The terminal message, and what is to be sent before it.
    pub(super) fn end(self, ending: &Ending) -> (Option<Message>, Message) {
        let own_end = ending.cause.is_none() || self.held_before_stop;
        match self.held {
            Some(held) if own_end || held.kind() == Some("custom-stop") => (None, held),
            held => (held.as_ref().map(superseded), synthesize(ending)),
        }
    }
}

fn synthesize(ending: &Ending) -> Message {
    let error = match (&ending.cause, &ending.signal) {
        (Some(Cause::Stopped), _) => {
            return json!({ "type": "custom-stop", "duration_ms": ending.duration_ms }).into();
        }
        (Some(Cause::Failed(why)), _) => why.clone(),
        (None, Some(signal)) => format!("the agent was ended by {signal}"),
        (None, None) if ending.exit_code == 0 => {
            return json!({ "type": "result", "subtype": "success", "is_error": false }).into();
        }
        (None, None) => format!("the agent exited with code {}", ending.exit_code),
    };
    json!({
        "type": "custom-error",
        "error_info": error,
        "exit_code": ending.exit_code,
        "signal": ending.signal,
        "stderr_tail": ending.stderr_tail,
        "duration_ms": ending.duration_ms,
    })
    .into()
}

/// The terminal message of a run whose daemon was killed and started again.
pub(super) fn agent_is_gone() -> Message {
    json!({ "type": "custom-error", "error_info": "daemon restarted; the agent is gone" }).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn message(value: Value) -> Message {
        value.into()
    }

    fn result(turn: i32) -> Message {
        message(json!({ "type": "result", "turn": turn }))
    }

    #[test]
    fn a_terminal_message_waits_for_the_end_and_nothing_else_does() {
        let mut conversation = Conversation::default();
        let said = message(json!({ "type": "assistant" }));
        assert_eq!(conversation.take(said.clone()), Some(said.clone()));
        assert_eq!(conversation.take(result(1)), None);
        assert_eq!(conversation.take(said.clone()), Some(said));
        assert_eq!(conversation.end(&Ending { exit_code: 3, ..Ending::default() }), (None, result(1)));
    }

    #[test]
    fn of_several_terminal_messages_the_last_one_counts() {
        let mut conversation = Conversation::default();
        conversation.take(result(1));
        let sent = conversation.take(result(2)).unwrap().value();
        assert_eq!(sent["type"], "system");
        assert_eq!(sent["message"], json!({ "type": "result", "turn": 1 }));
        assert_eq!(conversation.end(&Ending::default()), (None, result(2)));
    }

    #[test]
    fn an_agent_without_a_last_word_gets_one_from_its_exit() {
        let (_, done) = Conversation::default().end(&Ending::default());
        assert_eq!(done.value(), json!({ "type": "result", "subtype": "success", "is_error": false }));

        let crash = Ending { exit_code: 2, stderr_tail: vec!["boom".into()], ..Ending::default() };
        let (_, failed) = Conversation::default().end(&crash);
        let failed = failed.value();
        assert_eq!(failed["type"], "custom-error");
        assert_eq!((&failed["exit_code"], &failed["stderr_tail"]), (&json!(2), &json!(["boom"])));

        let killed = Ending { exit_code: 137, signal: Some("SIGKILL".into()), ..Ending::default() };
        let (_, failed) = Conversation::default().end(&killed);
        assert_eq!(failed.value()["error_info"], "the agent was ended by SIGKILL");
    }

    #[test]
    fn a_stop_counts_unless_the_agent_had_ended_before() {
        let stopped = Ending { cause: Some(Cause::Stopped), ..Ending::default() };
        let (_, last) = Conversation::default().end(&stopped);
        assert_eq!(last.kind(), Some("custom-stop"));

        let mut before = Conversation::default();
        before.take(result(1));
        before.stopping();
        assert_eq!(before.end(&stopped), (None, result(1)));

        let mut after = Conversation::default();
        after.stopping();
        after.take(result(1));
        let (first, last) = after.end(&stopped);
        assert_eq!(first.unwrap().value()["subtype"], "superseded-terminal");
        assert_eq!(last.kind(), Some("custom-stop"));

        let mut own = Conversation::default();
        own.stopping();
        own.take(message(json!({ "type": "custom-stop", "mine": true })));
        assert_eq!(own.end(&stopped).1.value()["mine"], true);
    }
}
