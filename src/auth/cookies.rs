//! The cookies of previews (section 5, "Exchange, cookie, probe" and host routing): how they are set, found, and kept
//! from the apps behind the proxy.
//!
//! A frame's cookie is partitioned by the page around it, a tab's is not; they have names of their own, because a
//! browser may send both. A mode change clears the other one.

use runwarden_actors::contract::{OpenMode, PreviewSessionId};

/// The session's cookie in a tab.
pub const COOKIE_TAB: &str = "rw_preview";
/// The session's cookie in a frame.
pub const COOKIE_FRAME: &str = "rw_preview_frame";
/// The probe's own cookie.
pub const COOKIE_PROBE: &str = "rw_preview_probe";
/// Stands before the names on preview hosts with TLS: no other host can set such a cookie.
pub const HOST_PREFIX: &str = "__Host-";

/// Life of the probe's cookie, in seconds.
const PROBE_SECONDS: u64 = 60;
/// Cookies of our names that are looked at in one header; a sibling host without TLS can set more of them.
const CANDIDATES_MAX: usize = 8;

/// Where a cookie is good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CookieScope {
    /// Below the session's own path; all previews share one origin.
    Path(PreviewSessionId),
    /// On the session's own host.
    Host {
        /// Whether browsers reach it over TLS.
        tls: bool,
    },
}

impl CookieScope {
    const fn prefix(self) -> &'static str {
        match self {
            Self::Host { tls: true } => HOST_PREFIX,
            Self::Path(_) | Self::Host { tls: false } => "",
        }
    }

    fn path(self, of: &str) -> String {
        match self {
            Self::Path(session) => format!("/api/preview/{of}/{session}"),
            Self::Host { .. } => "/".to_owned(),
        }
    }

    /// `Secure` and what follows from the mode. A browser takes `SameSite=None` only with `Secure`, and `Secure` without
    /// TLS only on `localhost`; a tab's cookie does without it there.
    const fn attributes(self, mode: OpenMode, csp_sandbox: bool) -> &'static str {
        match (mode, self) {
            (OpenMode::Iframe, _) => "HttpOnly; Secure; SameSite=None; Partitioned",
            (OpenMode::NewTab, Self::Host { tls: false }) => "HttpOnly; SameSite=Lax",
            // A sandboxed page counts as another site: its own scripts and images would come without a `Lax` cookie.
            (OpenMode::NewTab, Self::Path(_)) if csp_sandbox => "HttpOnly; Secure; SameSite=None",
            (OpenMode::NewTab, _) => "HttpOnly; Secure; SameSite=Lax",
        }
    }
}

const fn name(mode: OpenMode) -> &'static str {
    match mode {
        OpenMode::Iframe => COOKIE_FRAME,
        OpenMode::NewTab => COOKIE_TAB,
    }
}

const fn other(mode: OpenMode) -> OpenMode {
    match mode {
        OpenMode::Iframe => OpenMode::NewTab,
        OpenMode::NewTab => OpenMode::Iframe,
    }
}

/// The `Set-Cookie` values of an exchange, in this order: the other mode's cookie is cleared, then this one is set.
/// `token` is one of ours: nothing in it needs quoting. `csp_sandbox` counts on paths only.
pub fn session_cookies(
    scope: CookieScope,
    mode: OpenMode,
    csp_sandbox: bool,
    token: &str,
    max_age_seconds: u64,
) -> [String; 2] {
    [clear(scope, other(mode), csp_sandbox), set(scope, mode, csp_sandbox, token, max_age_seconds)]
}

/// The `Set-Cookie` values that end a session in the browser.
pub fn cleared_cookies(scope: CookieScope, csp_sandbox: bool) -> [String; 2] {
    [clear(scope, OpenMode::Iframe, csp_sandbox), clear(scope, OpenMode::NewTab, csp_sandbox)]
}

fn clear(scope: CookieScope, mode: OpenMode, csp_sandbox: bool) -> String {
    set(scope, mode, csp_sandbox, "", 0)
}

fn set(scope: CookieScope, mode: OpenMode, csp_sandbox: bool, value: &str, max_age_seconds: u64) -> String {
    let (prefix, name, path) = (scope.prefix(), name(mode), scope.path("proxy"));
    format!("{prefix}{name}={value}; Path={path}; Max-Age={max_age_seconds}; {}", scope.attributes(mode, csp_sandbox))
}

/// The `Set-Cookie` value of the probe. It has the attributes that the session's cookie will have, so that what becomes
/// of one tells what would become of the other. `value` is hexadecimal or a UUID.
pub fn probe_cookie(scope: CookieScope, mode: OpenMode, csp_sandbox: bool, value: &str) -> String {
    let (prefix, path) = (scope.prefix(), scope.path("probe"));
    let attributes = scope.attributes(mode, csp_sandbox);
    format!("{prefix}{COOKIE_PROBE}={value}; Path={path}; Max-Age={PROBE_SECONDS}; {attributes}")
}

/// The session tokens in a `Cookie` header, the frame's and the tab's, at most 8. More than one may come: each is to be
/// tried.
pub fn session_tokens(scope: CookieScope, header: &str) -> impl Iterator<Item = &str> {
    pairs(header)
        .filter(move |(name, _)| {
            name.strip_prefix(scope.prefix()).is_some_and(|name| name == COOKIE_FRAME || name == COOKIE_TAB)
        })
        .map(|(_, value)| value)
        .filter(|value| !value.is_empty())
        .take(CANDIDATES_MAX)
}

/// The probe's values in a `Cookie` header, at most 8.
pub fn probe_values(scope: CookieScope, header: &str) -> impl Iterator<Item = &str> {
    pairs(header)
        .filter(move |(name, _)| name.strip_prefix(scope.prefix()) == Some(COOKIE_PROBE))
        .map(|(_, value)| value)
        .take(CANDIDATES_MAX)
}

/// The `Cookie` header without any of ours, in the order it had; `None` where nothing is left. An app behind the proxy
/// never sees a session's token.
pub fn without_ours(header: &str) -> Option<String> {
    let mut kept = String::with_capacity(header.len());
    for part in header.split(';').map(str::trim) {
        let name = part.split_once('=').map_or(part, |(name, _)| name).trim();
        if part.is_empty() || is_ours(name) {
            continue;
        }
        if !kept.is_empty() {
            kept.push_str("; ");
        }
        kept.push_str(part);
    }
    (!kept.is_empty()).then_some(kept)
}

/// Whether the cookie is one of ours, under any routing and in any spelling: what an app does not get to see costs nothing.
pub fn is_ours(name: &str) -> bool {
    let bare = match name.get(..HOST_PREFIX.len()) {
        Some(prefix) if prefix.eq_ignore_ascii_case(HOST_PREFIX) => &name[HOST_PREFIX.len()..],
        _ => name,
    };
    [COOKIE_TAB, COOKIE_FRAME, COOKIE_PROBE].iter().any(|ours| bare.eq_ignore_ascii_case(ours))
}

fn pairs(header: &str) -> impl Iterator<Item = (&str, &str)> {
    header.split(';').filter_map(|part| part.split_once('=')).map(|(name, value)| (name.trim(), value.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use OpenMode::{Iframe, NewTab};

    const ID: &str = "01935d3e-7c00-7000-8000-000000000001";
    const TLS: CookieScope = CookieScope::Host { tls: true };
    const PLAIN: CookieScope = CookieScope::Host { tls: false };

    fn path() -> CookieScope {
        CookieScope::Path(PreviewSessionId::parse(ID).unwrap())
    }

    #[test]
    fn every_attribute_is_as_the_contract_says() {
        let on_path = |rest: &str| rest.replace("PATH", &format!("/api/preview/proxy/{ID}"));
        for (scope, mode, sandbox, cleared, set) in [
            (
                path(),
                Iframe,
                true,
                on_path("rw_preview=; Path=PATH; Max-Age=0; HttpOnly; Secure; SameSite=None"),
                on_path("rw_preview_frame=T; Path=PATH; Max-Age=1800; HttpOnly; Secure; SameSite=None; Partitioned"),
            ),
            (
                path(),
                Iframe,
                false,
                on_path("rw_preview=; Path=PATH; Max-Age=0; HttpOnly; Secure; SameSite=Lax"),
                on_path("rw_preview_frame=T; Path=PATH; Max-Age=1800; HttpOnly; Secure; SameSite=None; Partitioned"),
            ),
            (
                path(),
                NewTab,
                true,
                on_path("rw_preview_frame=; Path=PATH; Max-Age=0; HttpOnly; Secure; SameSite=None; Partitioned"),
                on_path("rw_preview=T; Path=PATH; Max-Age=1800; HttpOnly; Secure; SameSite=None"),
            ),
            (
                path(),
                NewTab,
                false,
                on_path("rw_preview_frame=; Path=PATH; Max-Age=0; HttpOnly; Secure; SameSite=None; Partitioned"),
                on_path("rw_preview=T; Path=PATH; Max-Age=1800; HttpOnly; Secure; SameSite=Lax"),
            ),
            (
                TLS,
                NewTab,
                // There is no sandbox on preview hosts, whatever the setting says.
                true,
                "__Host-rw_preview_frame=; Path=/; Max-Age=0; HttpOnly; Secure; SameSite=None; Partitioned".to_owned(),
                "__Host-rw_preview=T; Path=/; Max-Age=1800; HttpOnly; Secure; SameSite=Lax".to_owned(),
            ),
            (
                TLS,
                Iframe,
                false,
                "__Host-rw_preview=; Path=/; Max-Age=0; HttpOnly; Secure; SameSite=Lax".to_owned(),
                "__Host-rw_preview_frame=T; Path=/; Max-Age=1800; HttpOnly; Secure; SameSite=None; Partitioned"
                    .to_owned(),
            ),
            (
                PLAIN,
                NewTab,
                false,
                "rw_preview_frame=; Path=/; Max-Age=0; HttpOnly; Secure; SameSite=None; Partitioned".to_owned(),
                "rw_preview=T; Path=/; Max-Age=1800; HttpOnly; SameSite=Lax".to_owned(),
            ),
        ] {
            assert_eq!(session_cookies(scope, mode, sandbox, "T", 1800), [cleared, set], "{scope:?} {mode} {sandbox}");
        }
        let [frame, tab] = cleared_cookies(TLS, false);
        assert!(frame.starts_with("__Host-rw_preview_frame=; ") && tab.starts_with("__Host-rw_preview=; "));
        assert_eq!(
            probe_cookie(path(), Iframe, true, "ab"),
            format!(
                "rw_preview_probe=ab; Path=/api/preview/probe/{ID}; Max-Age=60; HttpOnly; Secure; SameSite=None; Partitioned"
            )
        );
    }

    #[test]
    fn our_cookies_are_found_under_exactly_their_names() {
        let header =
            "a=b; rw_preview=tab;rw_preview_frame= frame ; __Host-rw_preview=host; rw_previews=x; rw_preview=; =y";
        assert_eq!(session_tokens(path(), header).collect::<Vec<_>>(), ["tab", "frame"]);
        assert_eq!(session_tokens(PLAIN, header).collect::<Vec<_>>(), ["tab", "frame"]);
        // Without the prefix anybody could have set it.
        assert_eq!(session_tokens(TLS, header).collect::<Vec<_>>(), ["host"]);
        assert_eq!(session_tokens(path(), "").count(), 0);
        assert_eq!(session_tokens(path(), &"rw_preview=x;".repeat(100)).count(), 8);
        assert_eq!(probe_values(path(), "rw_preview_probe=1; __Host-rw_preview_probe=2").collect::<Vec<_>>(), ["1"]);
        assert_eq!(probe_values(TLS, "rw_preview_probe=1; __Host-rw_preview_probe=2").collect::<Vec<_>>(), ["2"]);
    }

    #[test]
    fn an_app_sees_its_own_cookies_and_none_of_ours() {
        for (given, left) in [
            ("a=b; rw_preview=secret; c=\"d e\"", Some("a=b; c=\"d e\"")),
            ("rw_preview=secret", None),
            ("__Host-rw_preview=secret; __HOST-rw_preview_frame=secret; RW_Preview=secret", None),
            (" rw_preview = secret ;a=b;;", Some("a=b")),
            ("rw_preview", None),
            ("rw_preview_probe=1; x", Some("x")),
            ("rw_previews=mine; xrw_preview=mine", Some("rw_previews=mine; xrw_preview=mine")),
            ("ä=ö", Some("ä=ö")),
            ("", None),
        ] {
            assert_eq!(without_ours(given).as_deref(), left, "{given}");
        }
    }
}
