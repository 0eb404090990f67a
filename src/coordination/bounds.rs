//! What both adapters ask of their arguments, so that they refuse the same ones.

use runwarden_actors::ports::CoordinationError;

/// Longest key or holder.
pub const COORDINATION_KEY_MAX_BYTES: usize = 1024;
/// Longest lease or window: 31 days. Anything longer is a mistake of units.
pub const COORDINATION_SPAN_MAX_MS: u64 = 31 * 24 * 3600 * 1000;

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
