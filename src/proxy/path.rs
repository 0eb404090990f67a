//! The path that is forwarded is the path that was checked (section 5, proxy): it is refused or passed on as it came,
//! never rewritten.

use std::borrow::Cow;

use runwarden_actors::contract::limits::PREVIEW_PATH_MAX_BYTES;
use thiserror::Error;

/// Rounds of decoding after which no dot segment may be found. Frameworks decode once, some proxies once more.
const ROUNDS: usize = 2;

/// Why a path is refused: `proxy_path_denied`. Says nothing of the path itself, which may be anybody's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum PathDenied {
    /// It does not start with a single `/`.
    #[error("the path must start with one `/`; absolute and protocol-relative URLs are refused")]
    NotAPath,
    /// `//` inside.
    #[error("the path has an empty segment (`//`)")]
    EmptySegment,
    /// A backslash in any encoding.
    #[error("the path has a backslash")]
    Backslash,
    /// A control byte or NUL in any encoding.
    #[error("the path has a control byte")]
    Control,
    /// `.` or `..` in any encoding, also before a `;`.
    #[error("the path has a dot segment")]
    DotSegment,
    /// `%` without two hex digits.
    #[error("the path has a `%` without two hex digits")]
    Malformed,
    /// Decoded bytes that are no UTF-8: overlong forms among them.
    #[error("the path is not UTF-8 once decoded")]
    NotUtf8,
    /// Encoded more than twice.
    #[error("the path is encoded more often than twice")]
    TooDeep,
    /// Over the bound.
    #[error("the path with its query is longer than {PREVIEW_PATH_MAX_BYTES} bytes")]
    TooLong,
}

/// Checks a path with its query, as they stand in the request line.
pub fn check_path(path_and_query: &str) -> Result<(), PathDenied> {
    if path_and_query.len() > PREVIEW_PATH_MAX_BYTES {
        return Err(PathDenied::TooLong);
    }
    let (path, query) = path_and_query.split_once('?').unwrap_or((path_and_query, ""));
    if !path.starts_with('/') || path.starts_with("//") {
        return Err(PathDenied::NotAPath);
    }
    if query.bytes().any(|byte| byte.is_ascii_control()) {
        return Err(PathDenied::Control);
    }
    let mut form = Cow::Borrowed(path);
    check_form(&form)?;
    for round in 0..ROUNDS {
        let Some(next) = decode(&form, round == 0)? else { return Ok(()) };
        check_form(&next)?;
        form = Cow::Owned(next);
    }
    // What still decodes to something that matters was hidden on purpose.
    match decode(&form, false) {
        Ok(Some(next)) if check_form(&next).is_err() => Err(PathDenied::TooDeep),
        _ => Ok(()),
    }
}

fn check_form(form: &str) -> Result<(), PathDenied> {
    if form.bytes().any(|byte| byte.is_ascii_control()) {
        return Err(PathDenied::Control);
    }
    if form.contains('\\') {
        return Err(PathDenied::Backslash);
    }
    if form.contains("//") {
        return Err(PathDenied::EmptySegment);
    }
    // Some servers cut a segment's parameters off before they look at it: `..;x` is `..` to them.
    let name = |segment: &str| matches!(segment.split(';').next(), Some("." | ".."));
    if form.split('/').any(name) { Err(PathDenied::DotSegment) } else { Ok(()) }
}

/// One round of decoding; `None` where there is nothing to decode. A `%` that encodes nothing is refused in the first
/// round; after it, it may be what `%25` stood for, and stays as lenient decoders leave it.
fn decode(form: &str, strict: bool) -> Result<Option<String>, PathDenied> {
    if !form.contains('%') {
        return Ok(None);
    }
    let mut bytes = Vec::with_capacity(form.len());
    let mut rest = form.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        if first != b'%' {
            bytes.push(first);
            rest = tail;
            continue;
        }
        let mut byte = [0];
        if tail.get(..2).is_some_and(|digits| hex::decode_to_slice(digits, &mut byte).is_ok()) {
            bytes.push(byte[0]);
            rest = tail.get(2..).unwrap_or_default();
        } else if strict {
            return Err(PathDenied::Malformed);
        } else {
            bytes.push(first);
            rest = tail;
        }
    }
    String::from_utf8(bytes).map(Some).map_err(|_| PathDenied::NotUtf8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_web_apps_ask_for_passes() {
        for fine in [
            "/",
            "/?",
            "/index.html?x=../..//%00",
            "/@vite/client",
            "/@id/__x00__plugin-vue:export-helper",
            "/node_modules/.vite/deps/react.js?v=3f2a",
            "/.well-known/x",
            "/...",
            "/a..b/..c/d..",
            "/%C3%A9t%C3%A9/caf%C3%A9",
            "/a%20b",
            "/a%2Fb",
            "/100%25",
            "/a;v=1/b",
            "/_next/static/chunks/%5Bslug%5D.js",
        ] {
            assert_eq!(check_path(fine), Ok(()), "{fine}");
        }
    }

    #[test]
    fn every_trick_is_refused() {
        for (trick, why) in [
            ("", PathDenied::NotAPath),
            ("x", PathDenied::NotAPath),
            ("http://evil.example/", PathDenied::NotAPath),
            ("//evil.example/", PathDenied::NotAPath),
            ("/a//b", PathDenied::EmptySegment),
            ("/%2f%2fevil.example", PathDenied::EmptySegment),
            ("/a/%2F", PathDenied::EmptySegment),
            ("/\\evil", PathDenied::Backslash),
            ("/%5cevil", PathDenied::Backslash),
            ("/%255Cevil", PathDenied::Backslash),
            ("/a%00", PathDenied::Control),
            ("/a%2500", PathDenied::Control),
            ("/a%0d%0aHost:x", PathDenied::Control),
            ("/a%7f", PathDenied::Control),
            ("/..", PathDenied::DotSegment),
            ("/a/../b", PathDenied::DotSegment),
            ("/a/./b", PathDenied::DotSegment),
            ("/.", PathDenied::DotSegment),
            ("/%2e%2e/x", PathDenied::DotSegment),
            ("/.%2E/x", PathDenied::DotSegment),
            ("/%2e", PathDenied::DotSegment),
            ("/a%2f..%2fb", PathDenied::DotSegment),
            ("/%252e%252e/x", PathDenied::DotSegment),
            ("/%252e%252e%252fx", PathDenied::DotSegment),
            ("/..;/x", PathDenied::DotSegment),
            ("/a/..;jsession=1/x", PathDenied::DotSegment),
            ("/.;x/y", PathDenied::DotSegment),
            ("/%2e%2e%3b/x", PathDenied::DotSegment),
            ("/%25252e%25252e/x", PathDenied::TooDeep),
            ("/%25255cx", PathDenied::TooDeep),
            ("/%252e%252e/%25zz", PathDenied::DotSegment),
            ("/%25252e%25252e/x%25", PathDenied::TooDeep),
            ("/%c0%ae%c0%ae/x", PathDenied::NotUtf8),
            ("/%e0%80%ae", PathDenied::NotUtf8),
            ("/%c0%af", PathDenied::NotUtf8),
            ("/%", PathDenied::Malformed),
            ("/%2", PathDenied::Malformed),
            ("/%zz", PathDenied::Malformed),
            ("/%+1", PathDenied::Malformed),
            ("/%u002e", PathDenied::Malformed),
            ("/a?\u{1}", PathDenied::Control),
        ] {
            assert_eq!(check_path(trick), Err(why), "{trick:?}");
        }
        assert_eq!(check_path(&format!("/{}", "x".repeat(PREVIEW_PATH_MAX_BYTES))), Err(PathDenied::TooLong));
    }

    proptest::proptest! {
        /// Whatever passes has no dot segment for a server that decodes up to twice.
        #[test]
        fn nothing_that_passes_climbs(text in "[/.%2eE5fFcC\\\\;a0]{0,24}") {
            let path = format!("/{text}");
            if check_path(&path).is_ok() {
                let mut form = path.into_bytes();
                for _ in 0..3 {
                    let text = String::from_utf8_lossy(&form).into_owned();
                    let climbs = text.split('/').any(|segment| matches!(segment, "." | ".."));
                    proptest::prop_assert!(!climbs && !text.contains('\\'), "{text}");
                    let Ok(Some(next)) = decode(&text, false) else { break };
                    form = next.into_bytes();
                }
            }
        }
    }
}
