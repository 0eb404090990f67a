//! The decision about daemon events: the eleven cases of section 4, in their order, without any I/O.

use std::collections::HashSet;

use crate::contract::limits::{QUARANTINE_OFFLOAD_ABOVE_BYTES, QUARANTINE_PREFIX_BYTES};
use crate::contract::{Ack, AckReason, AckStatus, EventId, QuarantineReason, RunStatus, Seq, Timestamp};
use crate::ports::IdSource;
use crate::ports::store::{
    CommittedEffect, NewEvent, NewQuarantine, RunChange, RunCommit, RunCounters, Seen, TerminalRecord,
};

use super::effect::Effect;
use super::envelope::{ClaimedRun, Envelope};
use super::state::{Phase, RunState};

/// What is known about the object that a large quarantined payload would go to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Offload {
    /// Not asked for yet.
    #[default]
    NotTried,
    /// Stored under this key.
    Stored(String),
    /// The repository has used up its minute; only prefix and hash are kept.
    RateLimited,
}

/// Something to count or log once the decision is committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Note {
    /// An event was stored.
    Accepted,
    /// Case 7.
    Duplicate,
    /// Case 8.
    AfterTerminal,
    /// Case 9.
    OutOfOrder {
        /// The late `seq`.
        seq: Seq,
        /// The highest stored one.
        last: Seq,
        /// Whether that `seq` was never stored, so that its payload went to quarantine.
        never_stored: bool,
    },
    /// A jump in `seq`.
    Gap {
        /// The `seq` that was expected.
        expected: i64,
        /// The one that came.
        got: Seq,
    },
    /// Set aside.
    Quarantined(QuarantineReason),
    /// The terminal event is stored.
    Terminal,
}

/// What is to be written and answered for a batch of envelopes of one run.
#[derive(Debug)]
pub struct Decision {
    /// The state once the commit is durable.
    pub next: RunState,
    /// What to write; `None` where nothing changes.
    pub commit: Option<RunCommit>,
    /// An answer for each envelope, in order.
    pub acks: Vec<Ack>,
    /// To count and log once committed.
    pub notes: Vec<Note>,
}

/// Which envelopes of a batch must be looked up before a decision: those that may be stored already. The rest
/// is higher than everything stored, and the commit itself refuses a known `eventId`.
pub fn needs_lookup(state: &RunState, envelopes: &[Envelope]) -> Vec<bool> {
    let mut highest = state.last_accepted_seq;
    envelopes
        .iter()
        .map(|envelope| match (state.phase, envelope.seq) {
            (Phase::Ended, _) => envelope.event_id.is_some() || envelope.seq.is_some(),
            (_, Some(seq)) if highest.is_none_or(|highest| seq > highest) => {
                highest = Some(seq);
                false
            }
            (_, Some(_)) => true,
            (_, None) => envelope.event_id.is_some(),
        })
        .collect()
}

/// The envelopes' large payloads have to be offloaded before the decision can be made; their places in the batch.
#[derive(Debug, PartialEq, Eq)]
pub struct NeedsOffload(pub Vec<usize>);

/// Decides about a batch of envelopes of one run, in their order.
///
/// `seen` and `offloads` have a member for each envelope. The token's run is the state's run.
pub fn decide(
    state: &RunState,
    envelopes: &[Envelope],
    seen: &[Seen],
    offloads: &[Offload],
    now: Timestamp,
    ids: &dyn IdSource,
) -> Result<Decision, NeedsOffload> {
    let mut deciding = Deciding::new(state, envelopes.len(), now, ids);
    for (index, envelope) in envelopes.iter().enumerate() {
        let seen = seen.get(index).copied().unwrap_or_default();
        let offload = offloads.get(index).cloned().unwrap_or_default();
        let (status, reason) = deciding.one(index, envelope, seen, &offload);
        deciding.acks.push(envelope.acknowledge(status, reason));
    }
    deciding.finish()
}

struct Deciding<'a> {
    next: RunState,
    change: RunChange,
    counters: RunCounters,
    events: Vec<NewEvent>,
    quarantine: Vec<NewQuarantine>,
    effects: Vec<CommittedEffect>,
    acks: Vec<Ack>,
    notes: Vec<Note>,
    batch_event_ids: HashSet<EventId>,
    batch_seqs: HashSet<Seq>,
    needs_offload: Vec<usize>,
    now: Timestamp,
    ids: &'a dyn IdSource,
}

type Outcome = (AckStatus, Option<AckReason>);

impl<'a> Deciding<'a> {
    fn new(state: &RunState, envelopes: usize, now: Timestamp, ids: &'a dyn IdSource) -> Self {
        Self {
            next: state.clone(),
            change: RunChange::default(),
            counters: RunCounters::default(),
            events: Vec::with_capacity(envelopes),
            quarantine: Vec::new(),
            effects: Vec::new(),
            acks: Vec::with_capacity(envelopes),
            notes: Vec::with_capacity(envelopes),
            batch_event_ids: HashSet::with_capacity(envelopes),
            batch_seqs: HashSet::with_capacity(envelopes),
            needs_offload: Vec::new(),
            now,
            ids,
        }
    }

    /// Cases 3 to 11 for one envelope; 1 and 2 are behind it.
    fn one(&mut self, index: usize, envelope: &Envelope, seen: Seen, offload: &Offload) -> Outcome {
        let run_id = self.next.identity.run_id;
        let active = self.next.active_run_id == Some(run_id);

        // Case 3. Under the token of an earlier run the envelope belongs to case 4 whether it names a run or not.
        let legacy = active && envelope.run == ClaimedRun::Missing;
        if legacy && self.next.identity.flags.daemon_run_id_strict {
            self.quarantine(index, envelope, QuarantineReason::MissingRunId, offload);
            self.effect(Effect::DenyAccessIfPreviewed);
            return (AckStatus::Quarantined, Some(AckReason::MissingRunId));
        }
        // Case 4.
        if !active || (!legacy && envelope.run != ClaimedRun::Run(run_id)) {
            self.quarantine(index, envelope, QuarantineReason::Mismatch, offload);
            return (AckStatus::Quarantined, Some(AckReason::Mismatch));
        }
        // Cases 5 and 6.
        let Some(version) = self.usable_version(envelope) else {
            self.quarantine(index, envelope, QuarantineReason::PayloadVersionMismatch, offload);
            return (AckStatus::Quarantined, Some(AckReason::PayloadVersionMismatch));
        };
        // Case 7.
        let payload_hash = envelope.event_id.is_none().then(|| envelope.body_hash());
        if self.is_duplicate(envelope, seen, payload_hash) {
            self.counters.duplicate += 1;
            self.notes.push(Note::Duplicate);
            return (AckStatus::Ignored, Some(AckReason::DuplicateEvent));
        }
        // Case 8.
        if self.next.phase == Phase::Ended {
            self.notes.push(Note::AfterTerminal);
            return (AckStatus::Ignored, Some(AckReason::RunTerminal));
        }
        // Case 9. A version 1 envelope without `seq` takes the next place.
        let expected = self.next.last_accepted_seq.map_or(0, |last| last.get() + 1);
        let Some(seq) = envelope.seq.or_else(|| Seq::new(expected).ok()) else {
            self.quarantine(index, envelope, QuarantineReason::PayloadVersionMismatch, offload);
            return (AckStatus::Quarantined, Some(AckReason::PayloadVersionMismatch));
        };
        if let Some(last) = self.next.last_accepted_seq.filter(|last| seq <= *last) {
            let never_stored = !seen.seq && !self.batch_seqs.contains(&seq);
            self.counters.out_of_order += 1;
            self.notes.push(Note::OutOfOrder { seq, last, never_stored });
            if never_stored {
                self.quarantine(index, envelope, QuarantineReason::LateGap, offload);
            }
            return (AckStatus::Ignored, Some(AckReason::OutOfOrderSeq));
        }

        // Cases 10 and 11: stored.
        if seq.get() > expected {
            self.counters.gaps += 1;
            self.notes.push(Note::Gap { expected, got: seq });
        }
        self.store(envelope, seq, version, payload_hash);
        if legacy {
            self.quarantine(index, envelope, QuarantineReason::LegacyMode, offload);
        }
        let mut reason = legacy.then_some(AckReason::LegacyMode);
        if let Some(kind) = envelope.terminal {
            if version >= 2 && envelope.end_sha.is_none() {
                self.change.missing_end_sha_at = Some(self.now);
                self.quarantine(index, envelope, QuarantineReason::MissingEndSha, offload);
                reason = Some(AckReason::MissingEndSha);
            } else {
                let event_id = envelope.event_id.as_ref().map_or_else(|| format!("seq:{seq}"), ToString::to_string);
                self.change.terminal = Some(TerminalRecord { event_id, kind, end_sha: envelope.end_sha.clone() });
                self.change.status = Some(RunStatus::Validating);
                self.change.missing_end_sha_at = None;
                self.effect(Effect::CheckHead { end_sha: envelope.end_sha.clone() });
                self.next.phase = Phase::Ended;
                self.notes.push(Note::Terminal);
            }
        }
        // Once when the first such envelope comes, so that the chat never stands undecided, and again at the
        // end, when the changes are all there. A rebuilt actor may classify once more; that does no harm.
        if legacy && !self.next.legacy_classified {
            self.next.legacy_classified = true;
            self.effect(Effect::ClassifyLegacy);
        }
        if self.next.phase == Phase::Ended && !self.next.identity.flags.daemon_run_id_strict {
            self.effect(Effect::ReclassifyLegacy);
        }
        (AckStatus::Accepted, reason)
    }

    /// The envelope's version where it is the run's and the envelope has what that version asks for.
    fn usable_version(&self, envelope: &Envelope) -> Option<u8> {
        let version = envelope.version?;
        let same = self.next.payload_version.is_none_or(|first| first == version);
        let complete = version < 2 || (envelope.event_id.is_some() && envelope.seq.is_some());
        (same && complete).then_some(version)
    }

    fn is_duplicate(&self, envelope: &Envelope, seen: Seen, payload_hash: Option<[u8; 32]>) -> bool {
        match &envelope.event_id {
            Some(event_id) => seen.event_id || self.batch_event_ids.contains(event_id),
            None => payload_hash.is_some() && payload_hash == self.next.last_payload_hash,
        }
    }

    fn store(&mut self, envelope: &Envelope, seq: Seq, version: u8, payload_hash: Option<[u8; 32]>) {
        if self.next.phase == Phase::Booting {
            self.next.phase = Phase::Running;
            self.change.status = Some(RunStatus::Running);
            self.change.started_at = Some(self.now);
        }
        if self.next.payload_version.is_none() {
            self.next.payload_version = Some(version);
            self.change.daemon_payload_version = Some(version);
        }
        self.next.last_accepted_seq = Some(seq);
        self.next.last_payload_hash = payload_hash;
        self.change.last_accepted_seq = Some(seq);
        self.counters.accepted += 1;
        self.notes.push(Note::Accepted);
        self.batch_seqs.insert(seq);
        self.batch_event_ids.extend(envelope.event_id.clone());
        self.events.push(NewEvent {
            seq,
            event_id: envelope.event_id.clone(),
            payload: envelope.body.clone(),
            payload_hash,
            received_at: self.now,
        });
    }

    fn quarantine(&mut self, index: usize, envelope: &Envelope, reason: QuarantineReason, offload: &Offload) {
        let payload_r2_key = match offload {
            Offload::NotTried if envelope.body.len() > QUARANTINE_OFFLOAD_ABOVE_BYTES => {
                self.needs_offload.push(index);
                None
            }
            Offload::NotTried | Offload::RateLimited => None,
            Offload::Stored(key) => Some(key.clone()),
        };
        let identity = &self.next.identity;
        self.quarantine.push(NewQuarantine {
            id: self.ids.uuid_v7(),
            thread_id: identity.thread_id.clone(),
            thread_chat_id: identity.thread_chat_id.clone(),
            run_id_or_null: envelope.run.as_text(),
            active_run_id: self.next.active_run_id,
            repo_full_name: identity.repo_full_name.clone(),
            reason,
            payload_hash: envelope.body_hash(),
            payload_prefix_2k: prefix(&envelope.body),
            payload_bytes: i64::try_from(envelope.body.len()).unwrap_or(i64::MAX),
            payload_r2_key,
            created_at: self.now,
        });
        self.notes.push(Note::Quarantined(reason));
    }

    fn effect(&mut self, effect: Effect) {
        let run_id = self.next.identity.run_id;
        if self.effects.iter().any(|known| known.effect == effect) {
            return;
        }
        self.effects.push(CommittedEffect { id: self.ids.uuid_v7(), run_id, effect });
    }

    fn finish(mut self) -> Result<Decision, NeedsOffload> {
        if !self.needs_offload.is_empty() {
            self.needs_offload.dedup();
            return Err(NeedsOffload(self.needs_offload));
        }
        let writes = self.counters != RunCounters::default()
            || !self.events.is_empty()
            || !self.quarantine.is_empty()
            || !self.effects.is_empty();
        let commit = writes.then(|| RunCommit {
            run_id: self.next.identity.run_id,
            expected_revision: self.next.revision,
            change: self.change,
            counters: self.counters,
            events: self.events,
            quarantine: self.quarantine,
            effects: self.effects,
            now: self.now,
        });
        if commit.is_some() {
            self.next.revision += 1;
        }
        Ok(Decision { next: self.next, commit, acks: self.acks, notes: self.notes })
    }
}

/// The first 2 KiB of a body that is UTF-8, cut at a character.
fn prefix(body: &[u8]) -> String {
    let text = std::str::from_utf8(body).unwrap_or_default();
    text[..text.floor_char_boundary(QUARANTINE_PREFIX_BYTES)].to_owned()
}

#[cfg(test)]
#[path = "decide_tests.rs"]
mod tests;
