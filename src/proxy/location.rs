//! Redirects stay inside the session's own base path, or are refused (section 5, proxy).

use super::headers::Crossing;
use super::path::check_path;

/// A redirect that leads out of the session; it is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeadsAway;

/// The target as the client is to see it: a path below the session's base path. It is worked out here and not left to
/// the browser, for which `%2e%2e` climbs too.
pub(super) fn rewritten_location(target: &str, crossing: &Crossing<'_>) -> Result<String, LeadsAway> {
    if target.bytes().any(|byte| byte.is_ascii_control() || byte == b'\\') {
        return Err(LeadsAway);
    }
    if target.is_empty() || target.starts_with(['?', '#']) {
        return Ok(target.to_owned());
    }
    let first = target.split(['/', '?', '#']).next().unwrap_or_default();
    let inside = if first.contains(':') {
        // It has a scheme: only the upstream's own origin, whole, leads back inside.
        let origin = crossing.origin;
        let same = target.get(..origin.len()).is_some_and(|start| start.eq_ignore_ascii_case(origin));
        let rest = target.get(origin.len()..).filter(|_| same).ok_or(LeadsAway)?;
        if !rest.is_empty() && !rest.starts_with(['/', '?', '#']) {
            return Err(LeadsAway);
        }
        rest
    } else {
        target
    };
    if inside.starts_with("//") {
        return Err(LeadsAway);
    }
    let end = inside.find(['?', '#']).unwrap_or(inside.len());
    let (path, tail) = inside.split_at(end);
    // An origin without a path is its root; anything else that has no slash is relative to the page.
    let from = if path.is_empty() || path.starts_with('/') { "/" } else { crossing.target };
    let path = resolved(from.split('?').next().unwrap_or("/"), path);
    let query = tail.split('#').next().unwrap_or_default();
    check_path(&format!("{path}{query}")).map_err(|_| LeadsAway)?;
    Ok(format!("{}{path}{tail}", crossing.base_path))
}

/// The path that `to` leads to from the page at `from`, without dot segments (RFC 3986, 5.2). Nothing climbs above the
/// app's own root.
fn resolved(from: &str, to: &str) -> String {
    let dots = |segment: &str| segment.replace("%2e", ".").replace("%2E", ".");
    let folder = from.rfind('/').map_or("", |at| from.get(1..at).unwrap_or_default());
    let mut kept: Vec<&str> = if to.starts_with('/') { Vec::new() } else { folder.split('/').collect() };
    kept.retain(|segment| !segment.is_empty());
    let mut segments = to.strip_prefix('/').unwrap_or(to).split('/').peekable();
    while let Some(segment) = segments.next() {
        let last = segments.peek().is_none();
        match dots(segment).as_str() {
            "." | ".." if last => {
                if dots(segment) == ".." {
                    kept.pop();
                }
                kept.push("");
            }
            "." => {}
            ".." => {
                kept.pop();
            }
            _ => kept.push(segment),
        }
    }
    format!("/{}", kept.join("/"))
}

#[cfg(test)]
mod tests {
    use runwarden_actors::contract::{OpenMode, PinningMode, Timestamp};
    use runwarden_actors::ports::Scheme;
    use runwarden_actors::ports::store::{PinnedAddresses, PreviewUpstream};

    use super::super::headers::Routing;
    use super::*;

    fn rewritten(target: &str) -> Result<String, LeadsAway> {
        let upstream = PreviewUpstream {
            scheme: Scheme::Http,
            host: "172.17.0.2".into(),
            port: 3000,
            origin_token: String::new(),
            auth_headers: Vec::new(),
            pinned: PinnedAddresses {
                addresses_v4: Vec::new(),
                addresses_v6: Vec::new(),
                cname_chain: Vec::new(),
                ttl_seconds: 5,
                resolved_at: Timestamp::default(),
                pinning_mode: PinningMode::StrictIp,
            },
            last_dns_check_at: Timestamp::default(),
            dns_refreshed_once: false,
        };
        let origin = upstream.origin();
        let crossing = Crossing {
            upstream: &upstream,
            origin: &origin,
            routing: Routing::Path { sandbox: true },
            open_mode: OpenMode::Iframe,
            base_path: "/base",
            target: "/shop/cart/page?from=/x/y",
            host: "localhost",
            also_forwarded: &[],
            frame_ancestors: "*",
            cookies: None,
            websocket: false,
        };
        rewritten_location(target, &crossing)
    }

    #[test]
    fn what_stays_inside_lies_below_the_base_path() {
        for (target, to) in [
            ("/", "/base/"),
            ("/a/b?c=//d#e//f", "/base/a/b?c=//d#e//f"),
            ("/a/../b", "/base/b"),
            ("/a/%2e%2E/b/.", "/base/b/"),
            ("/../../x", "/base/x"),
            ("http://172.17.0.2:3000", "/base/"),
            ("HTTP://172.17.0.2:3000/x", "/base/x"),
            ("http://172.17.0.2:3000?x", "/base/?x"),
            ("login", "/base/shop/cart/login"),
            ("./login", "/base/shop/cart/login"),
            ("../login", "/base/shop/login"),
            ("%2e%2e/.%2e/../../../login", "/base/login"),
            ("..", "/base/shop/"),
            ("?x", "?x"),
            ("#x", "#x"),
            ("", ""),
            ("a?b=http://c", "/base/shop/cart/a?b=http://c"),
        ] {
            assert_eq!(rewritten(target), Ok(to.to_owned()), "{target:?}");
        }
    }

    #[test]
    fn what_leads_away_is_refused() {
        for target in [
            "http://evil.example/",
            "https://172.17.0.2:3000/",
            "http://172.17.0.2/",
            "http://172.17.0.2:30000/",
            "http://172.17.0.2:3000@evil.example/",
            "http://u:p@172.17.0.2:3000/",
            "http://172.17.0.2:3000.evil.example/",
            "http://2886729730:3000/",
            "http://0xac110002:3000/",
            "http://0254.021.0.2:3000/",
            "http://172.17.2:3000/",
            "http:evil.example",
            "http:/evil.example",
            "https:evil.example",
            "//evil.example",
            "///evil.example",
            "/\\evil.example",
            "\\\\evil.example",
            "/a//b",
            "http://172.17.0.2:3000//evil.example",
            "/%2f/evil.example",
            "/.//evil.example",
            "/x/..//evil.example",
            "javascript:alert(1)",
            "data:text/html,x",
            "/\tx",
            "/%00",
            "/%255c",
        ] {
            assert_eq!(rewritten(target), Err(LeadsAway), "{target:?}");
        }
    }
}
