//! Foreign text on its way into a column.

use std::borrow::Cow;

/// Postgres has no NUL in text, and JSON can carry one; a foreign `runId` must not make a row impossible to write.
pub(super) fn without_nul(text: &str) -> Cow<'_, str> {
    if text.contains('\0') { Cow::Owned(text.replace('\0', "\u{fffd}")) } else { Cow::Borrowed(text) }
}

/// At most `max_bytes` of the text, cut at a character.
pub(super) fn cut(text: &str, max_bytes: usize) -> &str {
    let mut end = text.len().min(max_bytes);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// The first `max_bytes` of foreign text as a column takes them: a replaced NUL takes three bytes.
pub(super) fn prefix(text: &str, max_bytes: usize) -> String {
    let clean = without_nul(text);
    cut(&clean, max_bytes).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_text_is_cut_at_a_character_and_has_no_nul() {
        assert_eq!(cut("aé", 2), "a");
        assert_eq!(cut("abc", 9), "abc");
        assert_eq!(prefix("a\0b", 4), "a\u{fffd}");
    }
}
