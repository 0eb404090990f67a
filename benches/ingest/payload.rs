//! Envelopes of 1 kB, made once for each run; only the identity of the event is written anew.

/// Size of a whole envelope, and of what the peer stores.
pub const BODY_BYTES: usize = 1024;
/// Room for `seq`: JSON allows blanks before a number.
const SEQ_WIDTH: usize = 10;
const EVENT_ID_WIDTH: usize = 36;

/// An envelope whose `eventId` and `seq` can be replaced.
pub struct Body {
    bytes: Vec<u8>,
    event_id_at: usize,
    seq_at: usize,
    salt: u64,
}

impl Body {
    /// An envelope of the run.
    pub fn new(run: &Run) -> Self {
        let head = format!(
            r#"{{"threadId":"{}","threadChatId":"{}","runId":"{}","payloadVersion":2,"timezone":"Europe/Berlin","eventId":""#,
            run.thread_id, run.chat_id, run.id
        );
        let middle = r#"","seq":"#;
        let text =
            r#","messages":[{"type":"assistant","message":{"role":"assistant","content":[{"type":"text","text":""#;
        let tail = r#""}]}}]}"#;
        let event_id_at = head.len();
        let seq_at = event_id_at + EVENT_ID_WIDTH + middle.len();
        let fixed = seq_at + SEQ_WIDTH + text.len() + tail.len();
        let mut bytes = head.into_bytes();
        bytes.resize(bytes.len() + EVENT_ID_WIDTH, b'0');
        bytes.extend(middle.bytes());
        bytes.resize(bytes.len() + SEQ_WIDTH, b' ');
        bytes.extend(text.bytes());
        bytes.extend(filler(BODY_BYTES.saturating_sub(fixed)).bytes());
        bytes.extend(tail.bytes());
        let salt = run
            .id
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
        Self { bytes, event_id_at, seq_at, salt }
    }

    /// The envelope of this event.
    pub fn write(&mut self, seq: u64, out: &mut Vec<u8>) {
        let mut digits = [b' '; SEQ_WIDTH];
        let mut rest = seq;
        for digit in digits.iter_mut().rev() {
            *digit = b'0' + (rest % 10) as u8;
            rest /= 10;
            if rest == 0 {
                break;
            }
        }
        let high = mix(self.salt ^ seq.wrapping_mul(2));
        let low = mix(self.salt.wrapping_add(seq.wrapping_mul(2) + 1));
        let id = &mut self.bytes[self.event_id_at..self.event_id_at + EVENT_ID_WIDTH];
        let mut bits = (u128::from(high) << 64) | u128::from(low);
        for (at, byte) in id.iter_mut().enumerate() {
            if matches!(at, 8 | 13 | 18 | 23) {
                *byte = b'-';
            } else {
                *byte = b"0123456789abcdef"[(bits & 15) as usize];
                bits >>= 4;
            }
        }
        self.bytes[self.seq_at..self.seq_at + SEQ_WIDTH].copy_from_slice(&digits);
        out.extend_from_slice(&self.bytes);
    }
}

/// A run that the bench drives.
#[derive(Debug, Clone)]
pub struct Run {
    /// Its thread.
    pub thread_id: String,
    /// Its chat.
    pub chat_id: String,
    /// Its id.
    pub id: String,
    /// Its daemon's token.
    pub token: String,
}

fn mix(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Text that looks like words, the same every time.
pub fn filler(bytes: usize) -> String {
    const LETTERS: &[u8] = b"etaoinshrdlucmfwypvbgk jqxz .,";
    let pick = |at: usize| {
        let bits = mix(at as u64);
        // Every sixth or so is a blank.
        if bits.is_multiple_of(6) { ' ' } else { char::from(LETTERS[(bits >> 8) as usize % LETTERS.len()]) }
    };
    (0..bytes).map(pick).collect()
}
