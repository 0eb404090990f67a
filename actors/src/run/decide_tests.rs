//! The cases of section 4, one test each, for strict and legacy runs.

use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::contract::{
    FrozenFlagSnapshot, RepoFullName, RolloutPhase, RunId, TerminalKind, ThreadChatId, ThreadId, UserId,
};
use crate::run::state::RunIdentity;
use crate::testing::TestIds;

const RUN: &str = "01935d3e-7c00-7000-8000-000000000001";
const OTHER: &str = "01935d3e-7c00-7000-8000-000000000002";
const NOW: Timestamp = Timestamp::from_millis(1_763_700_000_000);

fn state(strict: bool) -> RunState {
    let run_id = RunId::parse(RUN).unwrap();
    RunState {
        identity: Arc::new(RunIdentity {
            run_id,
            thread_id: ThreadId::parse("t").unwrap(),
            thread_chat_id: ThreadChatId::parse("c").unwrap(),
            user_id: UserId::parse("u").unwrap(),
            repo_full_name: RepoFullName::parse("acme/web").unwrap(),
            flags: FrozenFlagSnapshot {
                sandbox_preview: true,
                daemon_run_id_strict: strict,
                rollout_phase: RolloutPhase::Internal,
            },
        }),
        active_run_id: Some(run_id),
        phase: Phase::Booting,
        codesandbox_id: None,
        sandbox_provider: None,
        payload_version: None,
        last_accepted_seq: None,
        last_payload_hash: None,
        revision: 7,
        legacy_classified: false,
    }
}

fn envelope(fields: &Value) -> Envelope {
    let mut body =
        json!({"threadId": "t", "threadChatId": "c", "messages": [{"type": "assistant"}], "timezone": "UTC"});
    for (name, value) in fields.as_object().unwrap() {
        body[name] = value.clone();
    }
    Envelope::parse(Bytes::from(body.to_string())).unwrap()
}

fn v2(seq: i64) -> Envelope {
    envelope(&json!({"payloadVersion": 2, "runId": RUN, "eventId": format!("e{seq}"), "seq": seq}))
}

fn decided(state: &RunState, envelopes: &[Envelope], seen: &[Seen]) -> Decision {
    decide(state, envelopes, seen, &[], NOW, &TestIds::default()).unwrap()
}

fn one(state: &RunState, envelope: Envelope) -> Decision {
    decided(state, &[envelope], &[])
}

/// Status, reason and HTTP status of the only answer.
fn answer(decision: &Decision) -> (AckStatus, Option<AckReason>, u16) {
    let [ack] = decision.acks.as_slice() else { panic!("one answer") };
    (ack.status, ack.reason, ack.http_status())
}

fn reasons(decision: &Decision) -> Vec<QuarantineReason> {
    decision.commit.iter().flat_map(|commit| &commit.quarantine).map(|row| row.reason).collect()
}

fn after(seqs: &[i64]) -> RunState {
    decided(&state(true), &seqs.iter().copied().map(v2).collect::<Vec<_>>(), &[]).next
}

const SEEN: Seen = Seen { event_id: true, seq: true };

#[test]
fn case_3_strict_sets_an_envelope_without_run_aside_and_changes_nothing() {
    let decision = one(&state(true), envelope(&json!({"payloadVersion": 2, "eventId": "e", "seq": 0})));
    assert_eq!(answer(&decision), (AckStatus::Quarantined, Some(AckReason::MissingRunId), 202));
    let commit = decision.commit.unwrap();
    assert_eq!(commit.change, RunChange::default());
    assert!(commit.events.is_empty());
    assert_eq!(commit.quarantine[0].reason, QuarantineReason::MissingRunId);
    assert_eq!(commit.quarantine[0].run_id_or_null, None);
    assert_eq!(commit.effects[0].effect, Effect::DenyAccessIfPreviewed);
    assert_eq!(decision.next.last_accepted_seq, None);
}

#[test]
fn case_3_legacy_stores_it_keeps_a_copy_and_classifies() {
    let decision = one(&state(false), envelope(&json!({})));
    assert_eq!(answer(&decision), (AckStatus::Accepted, Some(AckReason::LegacyMode), 200));
    assert_eq!(reasons(&decision), [QuarantineReason::LegacyMode]);
    let commit = decision.commit.unwrap();
    assert_eq!(commit.events[0].seq.get(), 0);
    assert_eq!(commit.effects[0].effect, Effect::ClassifyLegacy);
    // Not again for each event, but again at the end, when all changes are there.
    let middle = one(&decision.next, envelope(&json!({"n": 1})));
    assert!(middle.commit.unwrap().effects.is_empty());
    let end = one(&middle.next, envelope(&json!({"messages": [{"type": "result"}]})));
    let effects: Vec<_> = end.commit.unwrap().effects.into_iter().map(|effect| effect.effect).collect();
    assert_eq!(effects, [Effect::CheckHead { end_sha: None }, Effect::ReclassifyLegacy]);
}

#[test]
fn a_legacy_run_is_classified_whenever_its_first_envelope_without_run_comes() {
    let named = one(&state(false), envelope(&json!({"runId": RUN})));
    assert!(named.commit.unwrap().effects.is_empty());
    let unnamed = one(&named.next, envelope(&json!({"n": 1})));
    assert_eq!(unnamed.commit.unwrap().effects[0].effect, Effect::ClassifyLegacy);
}

#[test]
fn case_4_another_run_is_a_mismatch_in_both_modes() {
    for strict in [true, false] {
        for run in [OTHER, "not-a-uuid"] {
            let fields = json!({"payloadVersion": 2, "runId": run, "eventId": "e", "seq": 0});
            let decision = one(&state(strict), envelope(&fields));
            assert_eq!(answer(&decision), (AckStatus::Quarantined, Some(AckReason::Mismatch), 202));
            let commit = decision.commit.unwrap();
            assert_eq!(commit.quarantine[0].run_id_or_null.as_deref(), Some(run));
            assert!(commit.events.is_empty());
        }
    }
}

#[test]
fn case_4_holds_under_the_token_of_an_earlier_run_also_without_run_id() {
    for strict in [true, false] {
        let mut superseded = state(strict);
        superseded.active_run_id = Some(RunId::parse(OTHER).unwrap());
        for fields in [json!({}), json!({"runId": RUN}), json!({"runId": OTHER})] {
            let decision = one(&superseded, envelope(&fields));
            assert_eq!(answer(&decision).1, Some(AckReason::Mismatch), "{fields}");
            assert_eq!(reasons(&decision), [QuarantineReason::Mismatch]);
            assert_eq!(decision.commit.unwrap().quarantine[0].active_run_id, superseded.active_run_id);
        }
    }
}

#[test]
fn case_5_the_first_stored_version_is_the_runs() {
    let state = after(&[0]);
    assert_eq!(state.payload_version, Some(2));
    let decision = one(&state, envelope(&json!({"runId": RUN})));
    assert_eq!(answer(&decision).1, Some(AckReason::PayloadVersionMismatch));
    assert_eq!(reasons(&decision), [QuarantineReason::PayloadVersionMismatch]);
    assert_eq!(decision.next.last_accepted_seq, state.last_accepted_seq);
    // A version that is not understood is nobody's.
    for version in [json!(0), json!(3), json!(1.5), json!(-2)] {
        let fields = json!({"payloadVersion": version, "runId": RUN, "eventId": "e", "seq": 0});
        assert_eq!(answer(&one(&self::state(true), envelope(&fields))).1, Some(AckReason::PayloadVersionMismatch));
    }
}

#[test]
fn case_6_version_2_needs_a_usable_event_id_and_seq() {
    for fields in [
        json!({"eventId": "e"}),
        json!({"seq": 0}),
        json!({"eventId": "", "seq": 0}),
        json!({"eventId": "e", "seq": -1}),
        json!({"eventId": "e", "seq": 0.5}),
        json!({"eventId": "e", "seq": 9_007_199_254_740_992_i64}),
        json!({"eventId": "x".repeat(10_000), "seq": 0}),
    ] {
        let mut fields = fields;
        fields["payloadVersion"] = json!(2);
        fields["runId"] = json!(RUN);
        let decision = one(&state(true), envelope(&fields));
        assert_eq!(answer(&decision), (AckStatus::Quarantined, Some(AckReason::PayloadVersionMismatch), 202));
        assert!(decision.commit.unwrap().events.is_empty());
    }
}

#[test]
fn case_7_comes_before_8_and_9() {
    let state = after(&[0, 1]);
    let decision = decided(&state, &[v2(0)], &[SEEN]);
    assert_eq!(answer(&decision), (AckStatus::Ignored, Some(AckReason::DuplicateEvent), 202));
    assert_eq!(decision.commit.unwrap().counters, RunCounters { duplicate: 1, ..RunCounters::default() });
    // Known under another `seq`: the id decides.
    let renumbered = envelope(&json!({"payloadVersion": 2, "runId": RUN, "eventId": "e0", "seq": 9}));
    let decision = decided(&state, &[renumbered], &[Seen { event_id: true, seq: false }]);
    assert_eq!(answer(&decision).1, Some(AckReason::DuplicateEvent));
    let mut ended = state;
    ended.phase = Phase::Ended;
    assert_eq!(answer(&decided(&ended, &[v2(0)], &[SEEN])).1, Some(AckReason::DuplicateEvent));
}

#[test]
fn case_7_within_one_batch() {
    let decision = decided(&state(true), &[v2(0), v2(0), v2(1)], &[]);
    let reasons: Vec<_> = decision.acks.iter().map(|ack| ack.reason).collect();
    assert_eq!(reasons, [None, Some(AckReason::DuplicateEvent), None]);
    assert_eq!(decision.commit.unwrap().events.len(), 2);
}

#[test]
fn case_7_version_1_knows_a_retry_by_its_body() {
    let body = envelope(&json!({"runId": RUN}));
    let stored = one(&state(true), body.clone());
    let retry = one(&stored.next, body.clone());
    assert_eq!(answer(&retry).1, Some(AckReason::DuplicateEvent));
    // Only the event before it counts: the same words later are a new event.
    let between = one(&stored.next, envelope(&json!({"runId": RUN, "n": 1})));
    let again = one(&between.next, body);
    assert_eq!(answer(&again), (AckStatus::Accepted, None, 200));
    assert_eq!(again.next.last_accepted_seq.unwrap().get(), 2);
}

#[test]
fn case_8_after_the_terminal_event_nothing_is_stored() {
    let mut ended = after(&[0]);
    ended.phase = Phase::Ended;
    let decision = one(&ended, v2(1));
    assert_eq!(answer(&decision), (AckStatus::Ignored, Some(AckReason::RunTerminal), 202));
    assert!(decision.commit.is_none());
}

#[test]
fn case_9_a_late_seq_is_ignored_and_kept_where_nobody_has_seen_it() {
    let state = after(&[0, 5]);
    let never_seen = decided(&state, &[v2(3)], &[Seen::default()]);
    assert_eq!(answer(&never_seen), (AckStatus::Ignored, Some(AckReason::OutOfOrderSeq), 202));
    assert_eq!(reasons(&never_seen), [QuarantineReason::LateGap]);
    assert_eq!(never_seen.next.last_accepted_seq.unwrap().get(), 5);
    let stored_under_another_id = decided(&state, &[v2(5)], &[Seen { event_id: false, seq: true }]);
    assert_eq!(answer(&stored_under_another_id).1, Some(AckReason::OutOfOrderSeq));
    assert!(reasons(&stored_under_another_id).is_empty());
}

#[test]
fn case_10_a_terminal_without_end_sha_is_stored_but_ends_nothing() {
    let fields =
        json!({"payloadVersion": 2, "runId": RUN, "eventId": "end", "seq": 1, "messages": [{"type": "result"}]});
    let decision = one(&after(&[0]), envelope(&fields));
    assert_eq!(answer(&decision), (AckStatus::Accepted, Some(AckReason::MissingEndSha), 202));
    assert_eq!(reasons(&decision), [QuarantineReason::MissingEndSha]);
    assert_eq!(decision.next.phase, Phase::Running);
    let commit = decision.commit.unwrap();
    assert_eq!(commit.events.len(), 1);
    assert_eq!(commit.change.terminal, None);
    assert_eq!(commit.change.missing_end_sha_at, Some(NOW));
    // A later one that has it ends the run.
    let mut fields = fields;
    fields["seq"] = json!(2);
    fields["eventId"] = json!("end2");
    fields["endSha"] = json!("b".repeat(40));
    let end = one(&decision.next, envelope(&fields));
    assert_eq!(answer(&end), (AckStatus::Accepted, None, 200));
    assert_eq!(end.next.phase, Phase::Ended);
}

#[test]
fn case_11_stores_counts_gaps_and_starts_the_run() {
    let decision = decided(&state(true), &[v2(0), v2(1), v2(5)], &[]);
    let commit = decision.commit.unwrap();
    assert_eq!(commit.expected_revision, 7);
    assert_eq!(decision.next.revision, 8);
    assert_eq!(commit.counters, RunCounters { accepted: 3, gaps: 1, ..RunCounters::default() });
    assert_eq!(commit.change.status, Some(RunStatus::Running));
    assert_eq!(commit.change.started_at, Some(NOW));
    assert_eq!(commit.change.last_accepted_seq.unwrap().get(), 5);
    assert!(decision.notes.contains(&Note::Gap { expected: 2, got: Seq::new(5).unwrap() }));
    assert!(decision.acks.iter().all(|ack| ack.http_status() == 200));
}

#[test]
fn a_terminal_event_is_written_once_and_its_head_is_to_be_compared() {
    let sha = "a".repeat(40);
    let fields = json!({"payloadVersion": 2, "runId": RUN, "eventId": "end", "seq": 1, "endSha": sha,
        "messages": [{"type": "result", "is_error": true}]});
    let decision = decided(&after(&[0]), &[envelope(&fields), v2(2)], &[]);
    let commit = decision.commit.unwrap();
    let terminal = commit.change.terminal.unwrap();
    assert_eq!((terminal.event_id.as_str(), terminal.kind), ("end", TerminalKind::Failed));
    assert_eq!(commit.change.status, Some(RunStatus::Validating));
    assert_eq!(commit.effects[0].effect, Effect::CheckHead { end_sha: terminal.end_sha });
    assert_eq!(decision.acks[1].reason, Some(AckReason::RunTerminal));
    assert_eq!(commit.events.len(), 1);
}

#[test]
fn a_large_payload_is_offloaded_before_it_is_quarantined() {
    let large = envelope(&json!({"payloadVersion": 2, "eventId": "e", "seq": 0, "pad": "é".repeat(20_000)}));
    let batch = [large, v2(0)];
    let needs = decide(&state(true), &batch, &[], &[], NOW, &TestIds::default()).unwrap_err();
    assert_eq!(needs, NeedsOffload(vec![0]));
    for (offload, key) in [(Offload::Stored("k".into()), Some("k")), (Offload::RateLimited, None)] {
        let decision = decide(&state(true), &batch, &[], &[offload], NOW, &TestIds::default()).unwrap();
        let row = &decision.commit.unwrap().quarantine[0];
        assert_eq!(row.payload_r2_key.as_deref(), key);
        assert!(row.payload_prefix_2k.len() <= 2048 && row.payload_prefix_2k.len() > 2040);
        assert!(row.payload_bytes > 40_000);
    }
}

#[test]
fn only_what_may_be_stored_already_is_looked_up() {
    let state = after(&[0, 1, 2]);
    assert_eq!(needs_lookup(&state, &[v2(3), v2(4), v2(1), v2(4)]), [false, false, true, true]);
    assert_eq!(needs_lookup(&state, &[envelope(&json!({"runId": RUN}))]), [false]);
}

proptest! {
    /// Whatever order, repetition and loss a network makes of a run's events: what is stored is ascending, each
    /// event once, each acknowledged event is stored or was known or is kept in quarantine.
    #[test]
    fn any_delivery_keeps_the_record_in_order_and_loses_nothing(
        deliveries in proptest::collection::vec((0i64..12, proptest::bool::ANY), 1..60)
    ) {
        let mut state = state(true);
        let mut stored: Vec<i64> = Vec::new();
        let mut kept: Vec<i64> = Vec::new();
        let mut batch: Vec<i64> = Vec::new();
        for (seq, flush) in deliveries {
            batch.push(seq);
            if !flush { continue; }
            let envelopes: Vec<_> = batch.drain(..).map(v2).collect();
            let seen: Vec<_> = envelopes.iter().map(|envelope| {
                let known = stored.contains(&envelope.seq.unwrap().get());
                Seen { event_id: known, seq: known }
            }).collect();
            let decision = decide(&state, &envelopes, &seen, &[], NOW, &TestIds::default()).unwrap();
            for (envelope, ack) in envelopes.iter().zip(&decision.acks) {
                let seq = envelope.seq.unwrap().get();
                match ack.reason {
                    None => stored.push(seq),
                    Some(AckReason::DuplicateEvent) => prop_assert!(stored.contains(&seq)),
                    Some(AckReason::OutOfOrderSeq) => kept.push(seq),
                    other => prop_assert!(false, "{other:?}"),
                }
            }
            if let Some(commit) = decision.commit {
                prop_assert_eq!(commit.expected_revision, state.revision);
                for late in commit.quarantine {
                    prop_assert_eq!(late.reason, QuarantineReason::LateGap);
                }
            }
            state = decision.next;
        }
        prop_assert!(stored.windows(2).all(|pair| pair[0] < pair[1]), "{stored:?}");
        prop_assert!(kept.iter().all(|seq| !stored.contains(seq)));
    }
}
