//! What is escaped in a request line.

use std::borrow::Cow;

/// The bytes that a text stands for, where `which` of them may be unescaped. A `%` that escapes nothing is itself.
fn unescaped(text: &str, which: impl Fn(u8) -> bool) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let mut byte = [0];
        let escape =
            first == b'%' && tail.get(..2).is_some_and(|digits| hex::decode_to_slice(digits, &mut byte).is_ok());
        if escape && which(byte[0]) {
            bytes.push(byte[0]);
            rest = tail.get(2..).unwrap_or_default();
        } else {
            bytes.push(first);
            rest = tail;
        }
    }
    bytes
}

/// A segment with its unreserved characters as themselves: escaped or not, they are the same (RFC 3986, 2.3). Whatever
/// else is escaped stays so.
pub(super) fn plain(segment: &str) -> Cow<'_, str> {
    if !segment.contains('%') {
        return Cow::Borrowed(segment);
    }
    let unreserved = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~');
    Cow::Owned(String::from_utf8_lossy(&unescaped(segment, unreserved)).into_owned())
}

/// Whether a query stands for UTF-8. In one that does not, names would be changed on their way into text.
pub(super) fn is_utf8(query: &str) -> bool {
    String::from_utf8(unescaped(query, |_| true)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_means_the_same_is_unescaped_in_a_segment() {
        for (segment, is) in [
            ("a-b", "a-b"),
            ("%61", "a"),
            ("%41%2d%2E%5f%7E%39", "A-._~9"),
            ("a%2Fb", "a%2Fb"),
            ("%2561", "%2561"),
            ("%c3%a9", "%c3%a9"),
            ("é%61", "éa"),
            ("%", "%"),
            ("%6", "%6"),
            ("%zz%61", "%zza"),
        ] {
            assert_eq!(plain(segment), is, "{segment}");
        }
    }

    #[test]
    fn bytes_that_are_no_text_are_seen() {
        for fine in ["", "path=a", "path=%C3%A9&op=stat", "path=é", "path=%EF%BF%BD", "path=%", "path=a+b"] {
            assert!(is_utf8(fine), "{fine}");
        }
        for wrong in ["path=bad%FE", "path=%c3", "path=%C3%28", "path=%ed%a0%80", "%ff=a"] {
            assert!(!is_utf8(wrong), "{wrong}");
        }
    }
}
