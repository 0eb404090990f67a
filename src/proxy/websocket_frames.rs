//! Where one WebSocket frame ends and the next begins (RFC 6455, 5.2): the only place where the proxy may put in a frame
//! of its own, to say that it is going away.

/// Longest head of a frame: two bytes, a length of eight, a mask of four.
const HEAD_MAX_BYTES: usize = 14;
const OPCODE_CLOSE: u8 = 8;
/// "Going away" (RFC 6455, 7.4.1).
const CLOSE_GOING_AWAY: u16 = 1001;
/// What the close frame says for people; below 124 bytes.
const CLOSE_REASON: &str = "the server is shutting down";

/// Follows the frames of one direction. Whatever the bytes are, none is held back or changed.
#[derive(Debug, Default)]
pub struct Frames {
    head: [u8; HEAD_MAX_BYTES],
    had: usize,
    /// Bytes of the frame's payload that are still to come.
    left: u64,
    largest: u64,
    closed: bool,
}

impl Frames {
    /// These bytes pass.
    pub fn pass(&mut self, mut bytes: &[u8]) {
        while let Some((first, rest)) = bytes.split_first() {
            if self.left > 0 {
                let here = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len());
                self.left -= here as u64;
                bytes = &bytes[here..];
                continue;
            }
            self.head[self.had] = *first;
            self.had += 1;
            bytes = rest;
            if let Some(length) = self.payload_length() {
                self.closed |= self.head[0] & 0x0f == OPCODE_CLOSE;
                self.left = length;
                self.largest = self.largest.max(length);
                self.had = 0;
            }
        }
    }

    /// Bytes of payload that the largest frame so far has announced.
    pub const fn largest(&self) -> u64 {
        self.largest
    }

    /// Once the head is there.
    fn payload_length(&self) -> Option<u64> {
        if self.had < 2 {
            return None;
        }
        let extended = match self.head[1] & 0x7f {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        let mask = if self.head[1] & 0x80 == 0 { 0 } else { 4 };
        if self.had < 2 + extended + mask {
            return None;
        }
        let long = self.head[2..2 + extended].iter().fold(0, |length, byte| (length << 8) | u64::from(*byte));
        Some(if extended == 0 { u64::from(self.head[1] & 0x7f) } else { long })
    }

    /// The frame that says goodbye, where one may stand now: between two frames, and no close frame was among them.
    pub(super) fn goodbye(&self) -> Option<Vec<u8>> {
        if self.had > 0 || self.left > 0 || self.closed {
            return None;
        }
        let mut frame = vec![0x80 | OPCODE_CLOSE, 0];
        frame.extend_from_slice(&CLOSE_GOING_AWAY.to_be_bytes());
        frame.extend_from_slice(CLOSE_REASON.as_bytes());
        frame[1] = u8::try_from(frame.len() - 2).ok().filter(|length| *length < 126)?;
        Some(frame)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(first: u8, second: u8, extended: &[u8], payload: usize) -> Vec<u8> {
        let mut frame = vec![first, second];
        frame.extend_from_slice(extended);
        frame.resize(frame.len() + payload, 0x88);
        frame
    }

    #[test]
    fn a_goodbye_stands_between_frames_only() {
        let frames = [
            frame(0x81, 0, &[], 0),
            frame(0x81, 5, &[], 5),
            frame(0x01, 126, &[1, 0], 256),
            frame(0x80, 127, &[0, 0, 0, 0, 0, 1, 0, 0], 65_536),
            // Masked, as a server's are not; it is followed all the same.
            frame(0x82, 0x80 | 3, &[1, 2, 3, 4], 3),
            frame(0x89, 125, &[], 125),
        ];
        let all: Vec<u8> = frames.concat();
        for step in [1, 2, 7, 1000, all.len()] {
            let mut followed = Frames::default();
            let mut ends: Vec<usize> = frames.iter().scan(0, |at, frame| Some((*at += frame.len(), *at).1)).collect();
            ends.insert(0, 0);
            assert!(followed.goodbye().is_some());
            let mut passed = 0;
            for bytes in all.chunks(step) {
                followed.pass(bytes);
                passed += bytes.len();
                assert_eq!(followed.goodbye().is_some(), ends.contains(&passed), "{passed} in steps of {step}");
            }
        }
    }

    #[test]
    fn after_a_close_frame_there_is_no_second_one() {
        let mut followed = Frames::default();
        followed.pass(&frame(0x88, 2, &[], 2));
        assert_eq!(followed.goodbye(), None);
    }

    #[test]
    fn it_says_going_away() {
        let goodbye = Frames::default().goodbye().unwrap();
        assert_eq!(goodbye[..4], [0x88, 29, 0x03, 0xe9]);
        assert_eq!(&goodbye[4..], CLOSE_REASON.as_bytes());
    }

    #[test]
    fn bytes_that_are_no_frames_do_no_harm() {
        let mut followed = Frames::default();
        for byte in 0..=255_u8 {
            followed.pass(&[byte; 33]);
        }
        followed.pass(&[0xff; 20]);
    }
}
