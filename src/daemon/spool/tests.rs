use super::record::{Decoded, decode};
use super::*;
use bytes::Bytes;
use runwarden_actors::contract::{EventId, RunId, ThreadChatId, ThreadId};
use std::path::Path;

fn identity() -> Identity {
    Identity {
        thread_id: ThreadId::parse("thread").unwrap(),
        thread_chat_id: ThreadChatId::parse("chat").unwrap(),
        run_id: RunId::parse("01935d3e-7c00-7000-8000-000000000001").unwrap(),
    }
}

fn entry(seq: i64) -> Entry {
    Entry {
        seq,
        event_id: EventId::parse(format!("event-{seq}")).unwrap(),
        exit_code: None,
        body: Bytes::from(format!("{{\"seq\":{seq}}}")),
    }
}

fn open(path: &Path) -> (Spool, Opened) {
    Spool::open(path, &identity()).unwrap()
}

fn seqs(spool: &Spool) -> Vec<i64> {
    spool.live().map(|entry| entry.seq).collect()
}

#[test]
fn envelopes_keep_their_bytes_and_identity_over_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("deep/er/run.spool");
    let (mut spool, _) = open(&path);
    spool.start_at(5).unwrap();
    let last = Entry { exit_code: Some(-3), ..entry(6) };
    spool.append(entry(5)).unwrap();
    spool.append(last.clone()).unwrap();
    drop(spool);

    let (spool, opened) = open(&path);
    assert_eq!(opened.torn_bytes, 0);
    assert_eq!(spool.live().cloned().collect::<Vec<_>>(), [entry(5), last]);
    assert_eq!(spool.next_seq(), 7);
}

#[test]
fn a_tail_torn_at_any_byte_is_cut_and_kept_aside() {
    let folder = tempfile::tempdir().unwrap();
    let whole_path = folder.path().join("whole");
    let (mut spool, _) = open(&whole_path);
    let mut ends = vec![spool.file_bytes()];
    for seq in 0..4 {
        spool.append(entry(seq)).unwrap();
        ends.push(spool.file_bytes());
    }
    drop(spool);
    let whole = std::fs::read(&whole_path).unwrap();

    for length in usize::try_from(ends[0]).unwrap()..=whole.len() {
        let path = folder.path().join(format!("cut-{length}"));
        std::fs::write(&path, &whole[..length]).unwrap();
        let survivors = i64::try_from(ends.iter().filter(|end| **end <= length as u64).count()).unwrap() - 1;

        let (mut spool, opened) = open(&path);
        assert_eq!(seqs(&spool), (0..survivors).collect::<Vec<_>>(), "cut at {length}");
        assert_eq!(spool.next_seq(), survivors);
        let torn = length - usize::try_from(ends[usize::try_from(survivors).unwrap()]).unwrap();
        assert_eq!(opened.torn_bytes, torn);
        if torn > 0 {
            assert_eq!(std::fs::read(folder.path().join(format!("cut-{length}.torn"))).unwrap().len(), torn);
        }

        spool.append(entry(survivors)).unwrap();
        drop(spool);
        assert_eq!(seqs(&open(&path).0), (0..=survivors).collect::<Vec<_>>(), "after an append, cut at {length}");
    }
}

#[test]
fn a_damaged_byte_in_the_last_record_takes_only_that_record() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("spool");
    let (mut spool, _) = open(&path);
    spool.append(entry(0)).unwrap();
    let end_of_first = usize::try_from(spool.file_bytes()).unwrap();
    spool.append(entry(1)).unwrap();
    drop(spool);
    let whole = std::fs::read(&path).unwrap();
    for at in end_of_first..whole.len() {
        let mut damaged = whole.clone();
        damaged[at] ^= 0xff;
        std::fs::write(&path, damaged).unwrap();
        assert_eq!(seqs(&open(&path).0), [0], "damaged at {at}");
    }
}

#[test]
fn an_acknowledged_prefix_stays_acknowledged() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("spool");
    let (mut spool, _) = open(&path);
    for seq in 0..5 {
        spool.append(entry(seq)).unwrap();
    }
    spool.acknowledge(2).unwrap();
    assert_eq!(seqs(&spool), [3, 4]);
    drop(spool);
    let (spool, _) = open(&path);
    assert_eq!(seqs(&spool), [3, 4]);
    assert_eq!(spool.next_seq(), 5);
}

#[test]
fn a_forgotten_acknowledgement_only_means_sending_again() {
    // Killed after the server has acknowledged and before that was written down.
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("spool");
    let (mut spool, _) = open(&path);
    spool.append(entry(0)).unwrap();
    let before = std::fs::read(&path).unwrap();
    spool.acknowledge(0).unwrap();
    drop(spool);
    std::fs::write(&path, before).unwrap();
    let (spool, _) = open(&path);
    assert_eq!(spool.live().cloned().collect::<Vec<_>>(), [entry(0)]);
    assert_eq!(spool.next_seq(), 1);
}

#[test]
fn the_next_seq_is_never_used_twice_however_often_the_file_is_written_anew() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("spool");
    let (mut spool, _) = open(&path);
    spool.compact_above(0);
    for seq in 0..50 {
        spool.append(entry(seq)).unwrap();
        spool.acknowledge(seq).unwrap();
    }
    drop(spool);
    let (mut spool, _) = open(&path);
    assert_eq!(spool.next_seq(), 50);
    assert!(spool.append(entry(49)).is_err());
    spool.append(entry(50)).unwrap();
}

#[test]
fn the_file_stays_bounded_while_acknowledgements_come() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("spool");
    let (mut spool, _) = open(&path);
    spool.compact_above(4096);
    for seq in 0..2000 {
        spool.append(entry(seq)).unwrap();
        if seq >= 3 {
            spool.acknowledge(seq - 3).unwrap();
        }
        assert!(spool.file_bytes() < 8192);
    }
    assert_eq!(seqs(&spool), [1997, 1998, 1999]);
    drop(spool);
    assert_eq!(seqs(&open(&path).0), [1997, 1998, 1999]);
}

#[test]
fn one_daemon_at_a_time() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("spool");
    let (spool, _) = open(&path);
    assert!(matches!(Spool::open(&path, &identity()), Err(SpoolError::Locked { .. })));
    drop(spool);
    open(&path);
}

#[test]
fn another_run_and_another_file_are_refused_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("spool");
    drop(open(&path));
    let other = Identity { run_id: RunId::parse("01935d3e-7c00-7000-8000-000000000002").unwrap(), ..identity() };
    let error = Spool::open(&path, &other).unwrap_err();
    assert!(matches!(error, SpoolError::OtherRun { .. }));
    assert!(error.to_string().contains("01935d3e-7c00-7000-8000-000000000001"));

    std::fs::write(&path, "notes of mine").unwrap();
    assert!(matches!(Spool::open(&path, &identity()), Err(SpoolError::NotASpool { .. })));
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "notes of mine");
}

#[test]
fn the_agent_and_the_end_are_remembered_over_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("spool");
    let (mut spool, _) = open(&path);
    assert_eq!((spool.agent(), spool.closed()), (None, None));
    let mark = AgentMark { pid: Some(42), started_ticks: Some(7) };
    spool.mark_agent(mark).unwrap();
    spool.append(entry(0)).unwrap();
    spool.append(Entry { exit_code: Some(3), ..entry(1) }).unwrap();
    drop(spool);
    let (mut spool, _) = open(&path);
    assert_eq!((spool.agent(), spool.closed()), (Some(mark), None));
    spool.acknowledge(0).unwrap();
    assert_eq!(spool.closed(), None);
    spool.acknowledge(1).unwrap();
    drop(spool);
    assert_eq!(open(&path).0.closed(), Some(3));
}

#[test]
fn what_the_server_refuses_is_kept_aside_with_its_reason() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("spool");
    let (mut spool, _) = open(&path);
    spool.append(entry(0)).unwrap();
    spool.append(entry(1)).unwrap();
    spool.set_aside(0, 413, "payload_too_large").unwrap();
    assert_eq!(seqs(&spool), [1]);
    let aside = std::fs::read_to_string(folder.path().join("spool.rejected")).unwrap();
    let line: serde_json::Value = serde_json::from_str(aside.trim_end()).unwrap();
    assert_eq!(line, serde_json::json!({ "status": 413, "code": "payload_too_large", "envelope": { "seq": 0 } }));
}

#[test]
fn the_files_are_private() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("spool");
    let (mut spool, _) = open(&path);
    spool.append(entry(0)).unwrap();
    spool.set_aside(0, 400, "invalid_request").unwrap();
    for name in ["spool", "spool.lock", "spool.rejected"] {
        let mode = std::fs::metadata(folder.path().join(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{name}");
    }
    assert!(matches!(decode(&std::fs::read(&path).unwrap(), 0), Decoded::Record { .. }));
}
