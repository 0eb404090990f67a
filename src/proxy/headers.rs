//! What crosses the proxy to the upstream, header by header (section 5, proxy). Everything that is not named here stays
//! on its side.

use actix_web::http::header as client;
use hyper::header as upstream;
use runwarden_actors::contract::OpenMode;
use runwarden_actors::ports::AuthHeader;
use runwarden_actors::ports::store::PreviewUpstream;

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
    /// Path and query as the upstream is asked for them.
    pub target: &'a str,
    /// The `Host` that the client named.
    pub host: &'a str,
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
    }
    let listed = crossing.also_forwarded.iter().filter(|name| may_be_listed(name));
    for name in listed.filter_map(|name| client::HeaderName::from_bytes(name.as_bytes()).ok()) {
        for value in from.get_all(&name) {
            to_upstream(&mut headers, &name, value.as_bytes());
        }
    }
    // A header that the request's own Connection names is hop-by-hop, whatever it is.
    for named in named_by_connection(from.get_all(client::CONNECTION).map(client::HeaderValue::as_bytes)) {
        headers.remove(named.as_str());
    }
    if crossing.websocket {
        // Behind that, because a handshake's own Connection names Upgrade.
        headers.insert(upstream::CONNECTION, upstream::HeaderValue::from_static("Upgrade"));
        headers.insert(upstream::UPGRADE, upstream::HeaderValue::from_static("websocket"));
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
        && let Ok(value) = upstream::HeaderValue::from_str(&rewritten_referer(referer, origin, crossing))
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

pub(crate) fn named_by_connection<'a>(values: impl Iterator<Item = &'a [u8]>) -> Vec<String> {
    values
        .filter_map(|value| std::str::from_utf8(value).ok())
        .flat_map(|value| value.split(','))
        .map(|name| name.trim().to_ascii_lowercase())
        .filter(|name| !name.is_empty())
        .collect()
}

/// The page that asked, as the upstream knows it; only its path, and only where it lies in the same preview: of others
/// the app learns nothing.
fn rewritten_referer(referer: &str, origin: &str, crossing: &Crossing<'_>) -> String {
    let rest = referer.split_once("://").map_or("", |(_, rest)| rest);
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    // On paths the session's id in it says as much; a proxy in front may have changed the host.
    let same = crossing.routing != Routing::Host || authority.eq_ignore_ascii_case(crossing.host);
    let inside = path.strip_prefix(crossing.base_path).filter(|path| same && path.starts_with('/'));
    format!("{origin}{}", inside.unwrap_or("/"))
}
