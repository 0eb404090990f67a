//! Whether every message is in the record exactly once and in order. Knows nothing of the server's own counters.

use std::collections::HashSet;

use anyhow::{Context, bail};
use serde::Deserialize;
use serde_json::Value;

/// An event as the server gives it to readers.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct RecordedEvent {
    pub(super) seq: i64,
    pub(super) event_id: Option<String>,
    pub(super) messages: Vec<Value>,
}

/// Reads the agent's journal: one message a line, numbered from 1.
pub(super) fn read_journal(text: &str) -> anyhow::Result<Vec<Value>> {
    let mut said = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        let message: Value =
            serde_json::from_str(line).with_context(|| format!("line {number} of the agent's journal"))?;
        if number_of(&message) != Some(number) {
            bail!("line {number} of the agent's journal has another number");
        }
        said.push(message);
    }
    Ok(said)
}

fn number_of(message: &Value) -> Option<u64> {
    message.get("n")?.as_u64()
}

/// What the comparison of a journal with a record has found.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Comparison {
    /// Messages in the journal.
    pub(super) said: usize,
    /// Messages in the record.
    pub(super) recorded: usize,
    /// Numbers that are not in the record.
    pub(super) lost: Vec<u64>,
    /// Numbers that are in the record more than once.
    pub(super) repeated: Vec<u64>,
    /// Messages in the record that are not what the agent has said.
    pub(super) strange: usize,
    /// Numbers that stand behind a higher one.
    pub(super) misplaced: Vec<u64>,
    /// `seq`s that are not above the one before.
    pub(super) seqs_not_ascending: Vec<i64>,
    /// `seq`s left out, counted from 0.
    pub(super) seqs_missing: u64,
    /// Events without an id, or with the id of an earlier one.
    pub(super) ids_not_unique: usize,
}

/// Compares what the agent has said with what a reader was given.
pub(super) fn compare(said: &[Value], record: &[RecordedEvent]) -> Comparison {
    let mut found = Comparison { said: said.len(), ..Comparison::default() };
    let mut times = vec![0_u32; said.len()];
    let mut highest = 0;
    for message in record.iter().flat_map(|event| &event.messages) {
        found.recorded += 1;
        let number = number_of(message).unwrap_or(0);
        let index = usize::try_from(number).ok().and_then(|number| number.checked_sub(1));
        let place = index.and_then(|index| said.get(index).zip(times.get_mut(index)));
        let Some((_, times)) = place.filter(|(original, _)| *original == message) else {
            found.strange += 1;
            continue;
        };
        *times += 1;
        match *times {
            1 if number < highest => found.misplaced.push(number),
            2 => found.repeated.push(number),
            _ => {}
        }
        highest = highest.max(number);
    }
    found.lost = (1..).zip(&times).filter(|(_, times)| **times == 0).map(|(number, _)| number).collect();
    let mut last_seq = -1;
    let mut ids = HashSet::new();
    for event in record {
        if event.seq <= last_seq {
            found.seqs_not_ascending.push(event.seq);
        } else {
            found.seqs_missing += event.seq.abs_diff(last_seq) - 1;
            last_seq = event.seq;
        }
        if event.event_id.as_ref().is_none_or(|id| !ids.insert(id)) {
            found.ids_not_unique += 1;
        }
    }
    found
}

impl Comparison {
    /// In plain words; nothing where every message is there exactly once and in order.
    pub(super) fn problems(&self, record: &str) -> Vec<String> {
        let mut problems = Vec::new();
        let mut numbers = |numbers: &[u64], what: &str| {
            if !numbers.is_empty() {
                problems.push(format!("{record}: {} {what}: {}", counted(numbers.len()), listed(numbers)));
            }
        };
        numbers(&self.lost, "lost");
        numbers(&self.repeated, "stored more than once");
        numbers(&self.misplaced, "out of order");
        if self.strange > 0 {
            problems.push(format!("{record}: {} that the agent has not said", counted(self.strange)));
        }
        if let Some(seq) = self.seqs_not_ascending.first() {
            problems.push(format!("{record}: seq {seq} is not above the one before it"));
        }
        if self.seqs_missing > 0 {
            problems.push(format!("{record}: {} numbers (seq) were left out", self.seqs_missing));
        }
        if self.ids_not_unique > 0 {
            problems.push(format!("{record}: {} events share an id or have none", self.ids_not_unique));
        }
        problems
    }
}

fn counted(messages: usize) -> String {
    if messages == 1 { "1 message".to_owned() } else { format!("{messages} messages") }
}

fn listed(numbers: &[u64]) -> String {
    let mut text = numbers.iter().take(10).map(u64::to_string).collect::<Vec<_>>().join(", ");
    if numbers.len() > 10 {
        text.push_str(", …");
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn said(count: u64) -> Vec<Value> {
        (1..=count).map(|n| json!({ "type": "assistant", "n": n, "text": format!("message {n}") })).collect()
    }

    fn event(seq: i64, messages: &[Value]) -> RecordedEvent {
        RecordedEvent { seq, event_id: Some(format!("event-{seq}")), messages: messages.to_vec() }
    }

    #[test]
    fn a_record_that_is_right_has_no_problems() {
        let said = said(5);
        let found = compare(&said, &[event(0, &said[..2]), event(1, &said[2..4]), event(2, &said[4..])]);
        assert_eq!(found, Comparison { said: 5, recorded: 5, ..Comparison::default() });
        assert!(found.problems("record").is_empty());
    }

    #[test]
    fn a_lost_message_is_found() {
        let said = said(5);
        let found = compare(&said, &[event(0, &said[..2]), event(1, &said[3..])]);
        assert_eq!((found.lost.as_slice(), found.recorded), (&[3][..], 4));
        assert_eq!(found.problems("record"), ["record: 1 message lost: 3"]);
        let nothing = compare(&said, &[]);
        assert_eq!(nothing.problems("record"), ["record: 5 messages lost: 1, 2, 3, 4, 5"]);
    }

    #[test]
    fn a_lost_event_is_found() {
        let said = said(4);
        let found = compare(&said, &[event(0, &said[..2]), event(2, &said[2..])]);
        assert_eq!(found.problems("record"), ["record: 1 numbers (seq) were left out"]);
    }

    #[test]
    fn a_message_that_is_there_twice_is_found() {
        let said = said(4);
        let again = [&said[1..], &said[1..2]].concat();
        let found = compare(&said, &[event(0, &said[..2]), event(1, &again)]);
        assert_eq!(found.repeated, [2]);
        assert_eq!(found.problems("record"), ["record: 1 message stored more than once: 2"]);
    }

    #[test]
    fn an_event_that_is_there_twice_is_found() {
        let said = said(2);
        let found = compare(&said, &[event(0, &said), event(0, &said)]);
        assert_eq!((found.repeated.as_slice(), found.ids_not_unique), (&[1, 2][..], 1));
        assert_eq!(found.problems("record").len(), 3);
    }

    #[test]
    fn another_order_is_found() {
        let said = said(4);
        let found = compare(&said, &[event(0, &said[2..]), event(1, &said[..2])]);
        assert_eq!(found.misplaced, [1, 2]);
        assert!(found.lost.is_empty() && found.repeated.is_empty());
        let found = compare(&said, &[event(1, &said[..2]), event(0, &said[2..])]);
        assert_eq!((found.seqs_not_ascending.as_slice(), found.seqs_missing), (&[0][..], 1));
    }

    #[test]
    fn a_changed_or_foreign_message_is_found() {
        let said = said(2);
        let mut changed = said[1].clone();
        changed["text"] = json!("other");
        let found = compare(&said, &[event(0, &[said[0].clone(), changed, json!({ "type": "system" })])]);
        assert_eq!((found.strange, found.lost.as_slice()), (2, &[2][..]));
    }

    #[test]
    fn an_event_without_an_id_is_found() {
        let said = said(1);
        let found = compare(&said, &[RecordedEvent { event_id: None, ..event(0, &said) }]);
        assert_eq!(found.ids_not_unique, 1);
    }

    #[test]
    fn a_journal_is_numbered_without_a_gap() {
        assert_eq!(read_journal("{\"n\":1}\n{\"n\":2}\n").unwrap().len(), 2);
        assert!(read_journal("{\"n\":1}\n{\"n\":3}\n").unwrap_err().to_string().contains("line 2"));
        assert!(read_journal("{\"n\":1}\n{\"n\"").is_err());
    }
}
