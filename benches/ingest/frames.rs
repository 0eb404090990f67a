//! What is sent and answered on a daemon's stream.

use anyhow::{Result, bail};

use super::support::connection::find;

/// Checks that an acknowledgement says `accepted` and names this `seq`.
pub fn check_ack(body: &[u8], seq: u64) -> Result<()> {
    const SEQ: &[u8] = b"\"acknowledgedSeq\":";
    let acknowledged = find(body, SEQ).map(|at| {
        body[at + SEQ.len()..]
            .iter()
            .take_while(|byte| byte.is_ascii_digit())
            .fold(0, |n, b| n * 10 + u64::from(b - b'0'))
    });
    let accepted = find(body, b"\"status\":\"accepted\"").is_some() && find(body, b"\"reason\"").is_none();
    if acknowledged != Some(seq) || !accepted {
        bail!("seq {seq} was answered with {}", String::from_utf8_lossy(body));
    }
    Ok(())
}

/// Appends a text frame of a client. The mask of zeros is as good as any other where nobody stands between.
pub fn write_text_frame(payload_bytes: usize, out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    let length = u16::try_from(payload_bytes).unwrap_or(u16::MAX).to_be_bytes();
    out.extend_from_slice(&[0x81, 0x80 | 0x7e, length[0], length[1], 0, 0, 0, 0]);
    write(out);
}
