//! Which texts are object keys.

use object_store::path::Path;
use runwarden_actors::ports::EvidenceError;

/// Longest key, as S3 has it.
const KEY_MAX_BYTES: usize = 1024;
/// Longest part of a key: a file name with room for the suffix of a file that is being written.
const PART_MAX_BYTES: usize = 240;

/// Checks the key: parts between single slashes, none of them empty, `.` or `..`; no control characters and no
/// backslash, and no `#`, which marks files that are being written.
pub(super) fn parse(key: &str) -> Result<Path, EvidenceError> {
    let invalid = || EvidenceError::InvalidKey(key.chars().take(100).flat_map(char::escape_debug).collect());
    let fits = |part: &str| !part.is_empty() && part.len() <= PART_MAX_BYTES && part != "." && part != "..";
    let clean = !key.chars().any(|c| c.is_control() || matches!(c, '\\' | '#'));
    if key.len() <= KEY_MAX_BYTES && clean && key.split('/').all(fits) {
        Path::parse(key).map_err(|_| invalid())
    } else {
        Err(invalid())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_cannot_leave_the_store() {
        for right in ["a", "preview/t-1/run/1/stdout.gz", "quarantine/été/x y%20z", "a/..b/c..", "a/.hidden"] {
            assert_eq!(parse(right).unwrap().as_ref(), right);
        }
        let long = "x".repeat(1025);
        let long_part = format!("a/{}", "x".repeat(241));
        for wrong in [
            "", "/", "/a", "a/", "a//b", "..", "a/../b", "./a", "a/.", "a\nb", "a\0b", "a\u{7f}", "a\\b", "a#1", &long,
            &long_part,
        ] {
            assert!(matches!(parse(wrong), Err(EvidenceError::InvalidKey(_))), "{wrong:?}");
        }
    }

    #[test]
    fn a_refused_key_cannot_forge_a_log_line() {
        let error = parse("a\nINFO forged").unwrap_err().to_string();
        assert!(!error.contains('\n'), "{error}");
    }
}
