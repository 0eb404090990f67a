//! What both adapters ask of their arguments, so that they refuse the same ones.

use runwarden_actors::contract::limits::SEQ_MAX;
use runwarden_actors::ports::{CoordinationError, LimitWindow, PreviewKey};

/// Longest key or holder.
pub const COORDINATION_KEY_MAX_BYTES: usize = 1024;
/// Longest lease or window: 31 days. Anything longer is a mistake of units.
pub const COORDINATION_SPAN_MAX_MS: u64 = 31 * 24 * 3600 * 1000;

/// Windows that one use is counted in.
pub(super) const WINDOWS_MAX: usize = 8;
/// Marks that are set together.
const MARKS_MAX: usize = 8;
/// Sessions whose versions are asked for together.
const SESSIONS_MAX: usize = 1_000;
/// Longest name of a key.
const KID_MAX_BYTES: usize = 64;

/// Refuses text that cannot be a key or a holder.
pub(super) fn check_text(what: &str, text: &str) -> Result<(), CoordinationError> {
    if text.is_empty() || text.len() > COORDINATION_KEY_MAX_BYTES {
        return Err(CoordinationError(format!("{what} must have 1 to {COORDINATION_KEY_MAX_BYTES} bytes")));
    }
    Ok(())
}

/// Refuses a lease or window of no length or absurd length, and returns it as the clock counts.
pub(super) fn check_span(what: &str, span_ms: u64) -> Result<i64, CoordinationError> {
    match i64::try_from(span_ms) {
        Ok(span) if (1..=COORDINATION_SPAN_MAX_MS).contains(&span_ms) => Ok(span),
        _ => Err(CoordinationError(format!("{what} must be 1 to {COORDINATION_SPAN_MAX_MS} ms"))),
    }
}

/// Refuses windows that cannot be counted in.
pub(super) fn check_windows(windows: &[LimitWindow]) -> Result<(), CoordinationError> {
    if windows.len() > WINDOWS_MAX {
        return Err(CoordinationError(format!("a use is counted in at most {WINDOWS_MAX} windows")));
    }
    for window in windows {
        check_text("a window's key", &window.key)?;
        check_span("a window", window.window_ms)?;
    }
    Ok(())
}

/// Refuses none, too many, or impossible marks.
pub(super) fn check_marks(marks: &[String]) -> Result<(), CoordinationError> {
    if !(1..=MARKS_MAX).contains(&marks.len()) {
        return Err(CoordinationError(format!("1 to {MARKS_MAX} marks are set together")));
    }
    marks.iter().try_for_each(|mark| check_text("a mark", mark))
}

/// Refuses a version that not every adapter could compare exactly.
pub(super) fn check_version(version: i64) -> Result<(), CoordinationError> {
    if (0..=SEQ_MAX).contains(&version) {
        return Ok(());
    }
    Err(CoordinationError(format!("a revocation version must be 0 to {SEQ_MAX}")))
}

/// Refuses too long a question.
pub(super) fn check_sessions(count: usize) -> Result<(), CoordinationError> {
    if count <= SESSIONS_MAX {
        return Ok(());
    }
    Err(CoordinationError(format!("at most {SESSIONS_MAX} sessions are asked for together")))
}

/// Whether the text can name a key. The names of the pointers beside the keys cannot.
pub(super) fn is_kid(kid: &str) -> bool {
    let plain = kid.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    plain && (1..=KID_MAX_BYTES).contains(&kid.len())
}

/// Refuses a key that could not be named.
pub(super) fn check_key(key: &PreviewKey) -> Result<(), CoordinationError> {
    if is_kid(&key.kid) {
        return Ok(());
    }
    Err(CoordinationError(format!("a kid must have 1 to {KID_MAX_BYTES} letters, digits and `-`")))
}
