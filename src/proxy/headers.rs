//! What crosses the proxy, header by header (section 5, proxy). Everything that is not named here stays on its side.

use std::borrow::Cow;

use actix_web::http::header as client;
use hyper::header as upstream;
use runwarden_actors::contract::OpenMode;
use runwarden_actors::ports::AuthHeader;
use runwarden_actors::ports::store::PreviewUpstream;

use crate::auth::cookies::without_ours;

/// Client's headers that reach an upstream as they are.
const FORWARDED: [(client::HeaderName, upstream::HeaderName); 8] = [
    (client::ACCEPT, upstream::ACCEPT),
    (client::ACCEPT_LANGUAGE, upstream::ACCEPT_LANGUAGE),
    (client::CONTENT_TYPE, upstream::CONTENT_TYPE),
    (client::IF_NONE_MATCH, upstream::IF_NONE_MATCH),
    (client::IF_MODIFIED_SINCE, upstream::IF_MODIFIED_SINCE),
    (client::USER_AGENT, upstream::USER_AGENT),
    (client::RANGE, upstream::RANGE),
    (client::HeaderName::from_static(LAST_EVENT_ID), upstream::HeaderName::from_static(LAST_EVENT_ID)),
];
const LAST_EVENT_ID: &str = "last-event-id";

/// Of a WebSocket's handshake.
const HANDSHAKE: [client::HeaderName; 4] = [
    client::SEC_WEBSOCKET_KEY,
    client::SEC_WEBSOCKET_VERSION,
    client::SEC_WEBSOCKET_PROTOCOL,
    client::SEC_WEBSOCKET_EXTENSIONS,
];

/// Never forwarded, whatever the operator lists (`PREVIEW_FORWARD_HEADERS`): credentials, hop-by-hop headers, framing,
/// and what tells an upstream who the client is.
const NEVER_FORWARDED: &[&str] = &[
    "authorization",
    "connection",
    "content-length",
    "cookie",
    "forwarded",
    "host",
    "http2-settings",
    "keep-alive",
    "origin",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "referer",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "via",
    "x-admin-token",
    "x-daemon-token",
    "x-internal-service-key",
    "x-real-ip",
];

/// Upstream's headers that never reach a client: hop-by-hop (RFC 9110, 7.6.1), and what would reach beyond one answer.
const NOT_RETURNED: &[&str] = &[
    "alt-svc",
    "clear-site-data",
    "connection",
    "content-location",
    "keep-alive",
    "nel",
    "proxy-authenticate",
    "proxy-connection",
    "public-key-pins",
    "refresh",
    "report-to",
    "reporting-endpoints",
    "strict-transport-security",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    // Ours to say.
    "cache-control",
    "content-length",
    "date",
    "server",
    "x-content-type-options",
    "x-proxy-req-id",
];

/// Of those that reach a client only from a preview host, which is an origin of its own.
const RETURNED_ON_HOSTS: &[&str] = &["set-cookie", "service-worker-allowed"];

/// What a framed answer under the sandbox may still do. Without `allow-same-origin` it is an origin of its own, because
/// all previews on paths share ours.
pub const PATH_SANDBOX: &str = "sandbox allow-scripts allow-forms allow-popups allow-modals allow-downloads";

/// How a session is routed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Routing {
    /// Below `/api/preview/proxy/{id}`.
    Path {
        /// `PREVIEW_PATH_SANDBOX`.
        sandbox: bool,
    },
    /// At a host of its own.
    Host,
}

/// Whether an operator may have the header forwarded.
pub fn may_be_listed(name: &str) -> bool {
    !NEVER_FORWARDED.contains(&name) && !name.starts_with("x-forwarded-") && !name.starts_with("sec-")
}

/// A name or value of one side as the other side's library takes it. Values are the same bytes.
fn to_upstream(headers: &mut upstream::HeaderMap, name: &client::HeaderName, value: &[u8]) {
    if let (Ok(name), Ok(value)) =
        (upstream::HeaderName::from_bytes(name.as_str().as_bytes()), upstream::HeaderValue::from_bytes(value))
    {
        headers.append(name, value);
    }
}

/// What is known of one proxied request when its headers are made.
#[derive(Debug, Clone, Copy)]
pub struct Crossing<'a> {
    /// Where it goes.
    pub upstream: &'a PreviewUpstream,
    /// [`PreviewUpstream::origin`].
    pub origin: &'a str,
    /// How it came.
    pub routing: Routing,
    /// How the session is opened.
    pub open_mode: OpenMode,
    /// `/api/preview/proxy/{id}` on paths, empty on hosts.
    pub base_path: &'a str,
    /// `PREVIEW_FORWARD_HEADERS`, lower case.
    pub also_forwarded: &'a [String],
    /// `PREVIEW_FRAME_ANCESTORS`.
    pub frame_ancestors: &'a str,
    /// The app's own cookies, ours taken out; only on hosts.
    pub cookies: Option<&'a str>,
    /// Whether it is a WebSocket's handshake.
    pub websocket: bool,
}

/// The headers of the request to the upstream.
pub fn request_headers(from: &client::HeaderMap, crossing: &Crossing<'_>) -> upstream::HeaderMap {
    let mut headers = upstream::HeaderMap::with_capacity(16);
    for (name, theirs) in &FORWARDED {
        for value in from.get_all(name) {
            if let Ok(value) = upstream::HeaderValue::from_bytes(value.as_bytes()) {
                headers.append(theirs, value);
            }
        }
    }
    if crossing.websocket {
        for name in &HANDSHAKE {
            for value in from.get_all(name) {
                to_upstream(&mut headers, name, value.as_bytes());
            }
        }
        headers.insert(upstream::CONNECTION, upstream::HeaderValue::from_static("Upgrade"));
        headers.insert(upstream::UPGRADE, upstream::HeaderValue::from_static("websocket"));
    }
    // A header that the request's own Connection names is hop-by-hop, whatever it is.
    for named in named_by_connection(from.get_all(client::CONNECTION).map(client::HeaderValue::as_bytes)) {
        if !crossing.websocket || !named.starts_with("sec-websocket") {
            headers.remove(named.as_str());
        }
    }
    let listed = crossing.also_forwarded.iter().filter(|name| may_be_listed(name));
    for name in listed.filter_map(|name| client::HeaderName::from_bytes(name.as_bytes()).ok()) {
        for value in from.get_all(&name) {
            to_upstream(&mut headers, &name, value.as_bytes());
        }
    }
    if let Some(cookies) = crossing.cookies.filter(|cookies| !cookies.is_empty())
        && crossing.routing == Routing::Host
        && let Ok(value) = upstream::HeaderValue::from_str(cookies)
    {
        headers.insert(upstream::COOKIE, value);
    }
    let origin = crossing.origin;
    if from.contains_key(client::ORIGIN)
        && let Ok(value) = upstream::HeaderValue::from_str(origin)
    {
        headers.insert(upstream::ORIGIN, value);
    }
    if let Some(referer) = from.get(client::REFERER).and_then(|value| value.to_str().ok())
        && let Ok(value) = upstream::HeaderValue::from_str(&rewritten_referer(referer, origin, crossing.base_path))
    {
        headers.insert(upstream::REFERER, value);
    }
    // The provider's own come last: nothing of the client's stands beside them.
    for AuthHeader { name, value } in &crossing.upstream.auth_headers {
        if let (Ok(name), Ok(mut value)) =
            (upstream::HeaderName::from_bytes(name.as_bytes()), upstream::HeaderValue::from_str(value))
        {
            value.set_sensitive(true);
            headers.insert(name, value);
        }
    }
    let authority = origin.split_once("://").map_or(origin, |(_, authority)| authority);
    if let Ok(host) = upstream::HeaderValue::from_str(authority) {
        headers.insert(upstream::HOST, host);
    }
    headers
}

fn named_by_connection<'a>(values: impl Iterator<Item = &'a [u8]>) -> Vec<String> {
    values
        .filter_map(|value| std::str::from_utf8(value).ok())
        .flat_map(|value| value.split(','))
        .map(|name| name.trim().to_ascii_lowercase())
        .filter(|name| !name.is_empty())
        .collect()
}

/// The page that asked, as the upstream knows it; only its path, and only where it lies in the same preview.
fn rewritten_referer(referer: &str, origin: &str, base_path: &str) -> String {
    let path = referer.split_once("://").and_then(|(_, rest)| rest.find('/').map(|at| &rest[at..]));
    let inside = path.and_then(|path| path.strip_prefix(base_path)).filter(|path| path.starts_with('/'));
    format!("{origin}{}", inside.unwrap_or("/"))
}

/// A redirect that leads out of the session; it is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeadsAway;

/// Copies what may be seen of an upstream's answer, and adds what is ours to say.
pub fn response_headers(
    from: &upstream::HeaderMap,
    crossing: &Crossing<'_>,
    event_stream: bool,
    mut add: impl FnMut(client::HeaderName, client::HeaderValue),
) -> Result<(), LeadsAway> {
    let on_host = crossing.routing == Routing::Host;
    let framed = crossing.open_mode == OpenMode::Iframe;
    let hop = named_by_connection(from.get_all(upstream::CONNECTION).iter().map(upstream::HeaderValue::as_bytes));
    for (name, value) in from {
        let text = name.as_str();
        if NOT_RETURNED.contains(&text)
            || (RETURNED_ON_HOSTS.contains(&text) && !on_host)
            || hop.iter().any(|named| named == text)
            || (framed && text == "x-frame-options")
        {
            continue;
        }
        let Ok(name) = client::HeaderName::from_bytes(text.as_bytes()) else { continue };
        let value = match text {
            "location" => {
                let target = value.to_str().map_err(|_| LeadsAway)?;
                Cow::Owned(rewritten_location(target, crossing)?.into_bytes())
            }
            "set-cookie" => match own_cookie(value.as_bytes()) {
                Some(cookie) => Cow::Owned(cookie),
                None => continue,
            },
            "content-security-policy" | "content-security-policy-report-only" if framed => {
                Cow::Owned(without_frame_ancestors(value.as_bytes()))
            }
            _ => Cow::Borrowed(value.as_bytes()),
        };
        if let Ok(value) = client::HeaderValue::from_bytes(&value)
            && !value.is_empty()
        {
            add(name, value);
        }
    }
    let ours = client::HeaderValue::from_static;
    let cache = if event_stream { "no-cache, no-transform" } else { "no-store" };
    add(client::CACHE_CONTROL, ours(cache));
    add(client::X_CONTENT_TYPE_OPTIONS, ours("nosniff"));
    if event_stream {
        add(client::HeaderName::from_static("x-accel-buffering"), ours("no"));
    }
    if crossing.routing == (Routing::Path { sandbox: true }) {
        add(client::CONTENT_SECURITY_POLICY, ours(PATH_SANDBOX));
    }
    if framed && let Ok(value) = client::HeaderValue::from_str(&format!("frame-ancestors {}", crossing.frame_ancestors))
    {
        add(client::CONTENT_SECURITY_POLICY, value);
    }
    Ok(())
}

/// Keeps a redirect inside the session's own paths.
fn rewritten_location(target: &str, crossing: &Crossing<'_>) -> Result<String, LeadsAway> {
    if target.bytes().any(|byte| byte.is_ascii_control() || byte == b'\\') {
        return Err(LeadsAway);
    }
    let lower = target.to_ascii_lowercase();
    let path = if lower.contains("://") && !target.starts_with(['/', '?', '#', '.']) {
        // Absolute: only the upstream's own origin, whole.
        let origin = crossing.origin.to_ascii_lowercase();
        let rest = lower.strip_prefix(&origin).ok_or(LeadsAway)?;
        if !rest.is_empty() && !rest.starts_with(['/', '?', '#']) {
            return Err(LeadsAway);
        }
        let kept = &target[origin.len()..];
        if kept.starts_with('/') { kept.to_owned() } else { format!("/{kept}") }
    } else if target.starts_with("//") {
        return Err(LeadsAway);
    } else if target.starts_with('/') {
        target.to_owned()
    } else {
        // Relative to the page, which lies in the session; what has a scheme of another kind does not.
        let scheme = target.split(['/', '?', '#']).next().is_some_and(|first| first.contains(':'));
        let climbs = target.split(['?', '#']).next().is_some_and(|path| path.split('/').any(|part| part == ".."));
        return if scheme || climbs { Err(LeadsAway) } else { Ok(target.to_owned()) };
    };
    let path_only = path.split('#').next().unwrap_or_default();
    super::path::check_path(path_only).map_err(|_| LeadsAway)?;
    Ok(format!("{}{path}", crossing.base_path))
}

/// A preview host's cookie stays on that host, and is none of ours.
fn own_cookie(value: &[u8]) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(value).ok()?;
    let mut parts = text.split(';');
    let first = parts.next()?;
    let name = first.split('=').next()?.trim();
    // What our own parser would take out of a request may not be set by an app either.
    without_ours(&format!("{name}="))?;
    let kept: Vec<&str> = std::iter::once(first)
        .chain(parts.filter(|part| {
            let attribute = part.split('=').next().unwrap_or_default().trim();
            !attribute.eq_ignore_ascii_case("domain")
        }))
        .collect();
    Some(kept.join(";").into_bytes())
}

/// The policy without its `frame-ancestors`; ours stands beside it.
fn without_frame_ancestors(value: &[u8]) -> Vec<u8> {
    let text = String::from_utf8_lossy(value);
    let kept: Vec<&str> = text
        .split(',')
        .flat_map(|policy| policy.split(';'))
        .map(str::trim)
        .filter(|directive| {
            let name = directive.split_ascii_whitespace().next().unwrap_or_default();
            !name.is_empty() && !name.eq_ignore_ascii_case("frame-ancestors")
        })
        .collect();
    kept.join("; ").into_bytes()
}
