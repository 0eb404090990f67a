//! What crosses the proxy back to the client, header by header (section 5, proxy).

use std::borrow::Cow;

use actix_web::http::header as client;
use hyper::header as upstream;
use runwarden_actors::contract::OpenMode;

use super::headers::{Crossing, Routing, named_by_connection};
use super::location::{LeadsAway, rewritten_location};
use crate::auth::cookies::without_ours;

/// Upstream's headers that never reach a client: hop-by-hop (RFC 9110, 7.6.1), and what would reach beyond one answer.
const NOT_RETURNED: &[&str] = &[
    "alt-svc",
    "clear-site-data",
    "connection",
    "content-location",
    "keep-alive",
    "edge-control",
    "nel",
    "proxy-authenticate",
    "proxy-authentication-info",
    "proxy-connection",
    "public-key-pins",
    "refresh",
    "report-to",
    "reporting-endpoints",
    "set-cookie2",
    "strict-transport-security",
    "surrogate-control",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "x-lighttpd-send-file",
    "x-sendfile",
    // Ours to say.
    "cache-control",
    "content-length",
    "date",
    "server",
    "x-content-type-options",
    "x-proxy-req-id",
];

/// Of those that reach a client only from a preview host, which is an origin of its own: on paths a browser would keep
/// what they ask for, credentials among it, for our origin and so for every preview there.
const RETURNED_ON_HOSTS: &[&str] = &["set-cookie", "set-login", "service-worker-allowed", "www-authenticate"];

/// What a framed answer under the sandbox may still do. Without `allow-same-origin` it is an origin of its own, because
/// all previews on paths share ours.
pub const PATH_SANDBOX: &str = "sandbox allow-scripts allow-forms allow-popups allow-modals allow-downloads";

/// Whether a header of an upstream may reach a client at all. A server or cache in front of us must not take orders from
/// an app: neither to send files of its own (`X-Accel-Redirect`), nor to keep what only one user may see.
fn may_return(name: &str) -> bool {
    !NOT_RETURNED.contains(&name) && !name.starts_with("x-accel-") && !name.ends_with("cdn-cache-control")
}

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
        if !may_return(text)
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

/// A preview host's cookie stays on that host, and is none of ours.
fn own_cookie(value: &[u8]) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(value).ok()?;
    let mut parts = text.split(';');
    let first = parts.next()?;
    // Without a name, some browsers would send its value as if it had one.
    let name = first.split_once('=').map(|(name, _)| name.trim()).filter(|name| !name.is_empty())?;
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

/// The policies without their `frame-ancestors`; ours stands beside them. Each stays a policy of its own: together they
/// allow what all of them allow.
fn without_frame_ancestors(value: &[u8]) -> Vec<u8> {
    let text = String::from_utf8_lossy(value);
    let kept = |policy: &str| {
        let directives = policy.split(';').map(str::trim).filter(|directive| {
            let name = directive.split_ascii_whitespace().next().unwrap_or_default();
            !name.is_empty() && !name.eq_ignore_ascii_case("frame-ancestors")
        });
        directives.collect::<Vec<_>>().join("; ")
    };
    let policies: Vec<String> = text.split(',').map(kept).filter(|policy| !policy.is_empty()).collect();
    policies.join(", ").into_bytes()
}
