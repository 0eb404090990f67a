//! The framing of one record: `length (u32 LE) | CRC-32 (u32 LE) | kind (u8) | payload`. The length counts kind and
//! payload; the CRC covers the length as well, so that a damaged length is not believed.

use crc::{CRC_32_ISO_HDLC, Crc};

const CRC32: Crc<u32> = Crc::<u32>::new(&CRC_32_ISO_HDLC);
const FRAME_BYTES: usize = 8;

/// Longest record: an envelope at the server's cap and its frame fit twice.
const RECORD_MAX_BYTES: usize = 16 * 1024 * 1024;

/// What a record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    /// Whose spool it is; the first record and no other.
    Header = b'H',
    /// An envelope.
    Envelope = b'E',
    /// Every envelope up to this `seq` is dealt with.
    Acknowledged = b'A',
}

impl Kind {
    const fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            b'H' => Some(Self::Header),
            b'E' => Some(Self::Envelope),
            b'A' => Some(Self::Acknowledged),
            _ => None,
        }
    }
}

fn checksum(length: [u8; 4], kind: u8, payload: &[u8]) -> u32 {
    let mut digest = CRC32.digest();
    digest.update(&length);
    digest.update(&[kind]);
    digest.update(payload);
    digest.finalize()
}

/// Writes one record to the end of `out`. `None` where it is longer than any record may be.
pub(super) fn encode(kind: Kind, payload: &[u8], out: &mut Vec<u8>) -> Option<()> {
    let length = payload.len().checked_add(1).filter(|length| *length <= RECORD_MAX_BYTES)?;
    let length = u32::try_from(length).ok()?.to_le_bytes();
    let kind = kind as u8;
    out.extend_from_slice(&length);
    out.extend_from_slice(&checksum(length, kind, payload).to_le_bytes());
    out.push(kind);
    out.extend_from_slice(payload);
    Some(())
}

/// What stands at one place of the file.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Decoded<'a> {
    /// A whole record and where the next one starts.
    Record { kind: Kind, payload: &'a [u8], next: usize },
    /// The end of the file.
    End,
    /// A record that was not written to its end, or was damaged.
    Torn,
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}

/// Reads the record at `at`.
pub(super) fn decode(bytes: &[u8], at: usize) -> Decoded<'_> {
    if at >= bytes.len() {
        return Decoded::End;
    }
    try_decode(bytes, at).unwrap_or(Decoded::Torn)
}

fn try_decode(bytes: &[u8], at: usize) -> Option<Decoded<'_>> {
    let length_bytes: [u8; 4] = array(bytes, at)?;
    let crc = u32::from_le_bytes(array(bytes, at + 4)?);
    let length = usize::try_from(u32::from_le_bytes(length_bytes)).ok()?;
    if length == 0 || length > RECORD_MAX_BYTES {
        return None;
    }
    let start = at + FRAME_BYTES;
    let next = start.checked_add(length)?;
    let (kind, payload) = bytes.get(start..next)?.split_first()?;
    if checksum(length_bytes, *kind, payload) != crc {
        return None;
    }
    Some(Decoded::Record { kind: Kind::from_byte(*kind)?, payload, next })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_comes_back_and_every_damaged_byte_is_noticed() {
        let mut bytes = Vec::new();
        encode(Kind::Envelope, b"payload", &mut bytes).unwrap();
        assert_eq!(decode(&bytes, 0), Decoded::Record { kind: Kind::Envelope, payload: b"payload", next: bytes.len() });
        assert_eq!(decode(&bytes, bytes.len()), Decoded::End);
        for at in 0..bytes.len() {
            assert_eq!(decode(&bytes[..at.max(1)], 0), Decoded::Torn, "cut at {at}");
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x10;
            assert_eq!(decode(&damaged, 0), Decoded::Torn, "damaged at {at}");
        }
    }

    #[test]
    fn a_run_of_zeros_is_no_record() {
        assert_eq!(decode(&[0; 64], 0), Decoded::Torn);
    }
}
