//! Reading a spool that an earlier daemon left behind.

use std::collections::VecDeque;

use bytes::Bytes;
use runwarden_actors::contract::EventId;

use super::file::{Entry, Header};
use super::record::{Decoded, Kind, decode};

/// What a file holds.
pub(super) struct Recovered {
    pub(super) header: Header,
    pub(super) live: VecDeque<Entry>,
    pub(super) next_seq: i64,
    /// How much of the file is whole records; what follows is torn.
    pub(super) good_bytes: usize,
}

/// Reads every whole record. An error says why this is no spool at all.
pub(super) fn recover(bytes: &[u8]) -> Result<Recovered, String> {
    let (mut header, mut at) = match decode(bytes, 0) {
        Decoded::Record { kind: Kind::Header, payload, next } => {
            (serde_json::from_slice::<Header>(payload).map_err(|error| format!("its header: {error}"))?, next)
        }
        _ => return Err("its first record is not a header".to_owned()),
    };
    if header.version != Header::VERSION {
        return Err(format!("its version is {}, expected {}", header.version, Header::VERSION));
    }
    let mut live = VecDeque::new();
    let mut next_seq = header.next_seq;
    loop {
        match decode(bytes, at) {
            Decoded::Record { kind: Kind::Envelope, payload, next } => {
                let Some(entry) = read_entry(payload) else { break };
                next_seq = next_seq.max(entry.seq.saturating_add(1));
                live.push_back(entry);
                at = next;
            }
            Decoded::Record { kind: Kind::Acknowledged, payload, next } => {
                let Some(up_to) = payload.try_into().ok().map(i64::from_le_bytes) else { break };
                while let Some(entry) = live.pop_front_if(|entry: &mut Entry| entry.seq <= up_to) {
                    header.closed = header.closed.or(entry.exit_code);
                }
                at = next;
            }
            Decoded::Record { kind: Kind::Header, .. } | Decoded::Torn | Decoded::End => break,
        }
    }
    Ok(Recovered { header, live, next_seq, good_bytes: at })
}

/// `seq (i64 LE) | terminal (u8) | exit code (i32 LE) | id length (u16 LE) | id | body`
pub(super) fn write_entry(entry: &Entry) -> Option<Vec<u8>> {
    let id = entry.event_id.as_str().as_bytes();
    let mut out = Vec::with_capacity(15 + id.len() + entry.body.len());
    out.extend_from_slice(&entry.seq.to_le_bytes());
    out.push(u8::from(entry.exit_code.is_some()));
    out.extend_from_slice(&entry.exit_code.unwrap_or_default().to_le_bytes());
    out.extend_from_slice(&u16::try_from(id.len()).ok()?.to_le_bytes());
    out.extend_from_slice(id);
    out.extend_from_slice(&entry.body);
    Some(out)
}

fn read_entry(payload: &[u8]) -> Option<Entry> {
    let (seq, rest) = payload.split_first_chunk::<8>()?;
    let (terminal, rest) = rest.split_first()?;
    let (exit_code, rest) = rest.split_first_chunk::<4>()?;
    let (id_length, rest) = rest.split_first_chunk::<2>()?;
    let (id, body) = rest.split_at_checked(usize::from(u16::from_le_bytes(*id_length)))?;
    Some(Entry {
        seq: i64::from_le_bytes(*seq),
        event_id: EventId::parse(std::str::from_utf8(id).ok()?).ok()?,
        exit_code: (*terminal != 0).then_some(i32::from_le_bytes(*exit_code)),
        body: Bytes::copy_from_slice(body),
    })
}
