//! What crosses to a container's app and back (section 8). These routes are transparent: every header crosses that is
//! not named here. See docs/adr/0016.

use actix_web::http::header as client;
use hyper::header as upstream;

use crate::auth::cookies::{is_ours, without_ours};
use crate::proxy::headers::named_by_connection;

/// Hop-by-hop (RFC 9110, 7.6.1), beside whatever a message's own `Connection` names. Trailers stay behind, as 6.5.1
/// allows, so nothing announces them either.
const HOP_BY_HOP: &[&str] = &[
    "connection",
    "http2-settings",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authentication-info",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// Made anew for the other side: where it goes, how long it is, and what was answered here already.
const MADE_ANEW: &[&str] = &["content-length", "expect", "host"];

/// Ours: no app gets to see them, or to have a client believe that they are ours.
const OUR_CREDENTIALS: &[&str] =
    &["x-admin-token", "x-daemon-token", "x-internal-service-key", "x-terragon-internal-signature"];

/// Orders to whatever stands in front of us, or to a browser about our whole origin, which this app is not.
const BEYOND_THE_PREVIEW: &[&str] = &[
    "alt-svc",
    "clear-site-data",
    "public-key-pins",
    "service-worker-allowed",
    "strict-transport-security",
    "x-lighttpd-send-file",
    "x-sendfile",
];

/// The headers of the request to the container, whose authority is `authority`.
pub fn request_headers(from: &client::HeaderMap, authority: &str) -> upstream::HeaderMap {
    let named = named_by_connection(from.get_all(client::CONNECTION).map(client::HeaderValue::as_bytes));
    let mut headers = upstream::HeaderMap::with_capacity(from.len() + 2);
    for (name, value) in from {
        let text = name.as_str();
        let stays = [HOP_BY_HOP, MADE_ANEW, OUR_CREDENTIALS].iter().any(|list| list.contains(&text));
        if stays || named.iter().any(|named| named == text) {
            continue;
        }
        let cookies = (text == "cookie").then(|| without_our_cookies(value.as_bytes()));
        let value = match &cookies {
            Some(None) => continue,
            Some(Some(kept)) => kept.as_slice(),
            None => value.as_bytes(),
        };
        if let (Ok(name), Ok(value)) =
            (upstream::HeaderName::from_bytes(text.as_bytes()), upstream::HeaderValue::from_bytes(value))
        {
            headers.append(name, value);
        }
    }
    if let Ok(host) = upstream::HeaderValue::from_str(authority) {
        headers.insert(upstream::HOST, host);
    }
    // The connection serves this request alone.
    headers.insert(upstream::CONNECTION, upstream::HeaderValue::from_static("close"));
    headers
}

/// Adds the headers of the answer that reach the client.
pub fn response_headers(from: &upstream::HeaderMap, mut add: impl FnMut(client::HeaderName, client::HeaderValue)) {
    let named = named_by_connection(from.get_all(upstream::CONNECTION).iter().map(upstream::HeaderValue::as_bytes));
    for (name, value) in from {
        let text = name.as_str();
        let stays = [HOP_BY_HOP, BEYOND_THE_PREVIEW, OUR_CREDENTIALS].iter().any(|list| list.contains(&text))
            || text == "content-length"
            || text.starts_with("x-accel-");
        if stays || named.iter().any(|named| named == text) || (text == "set-cookie" && sets_ours(value.as_bytes())) {
            continue;
        }
        if let (Ok(name), Ok(value)) =
            (client::HeaderName::from_bytes(text.as_bytes()), client::HeaderValue::from_bytes(value.as_bytes()))
        {
            add(name, value);
        }
    }
}

/// The same bytes, where nothing of ours is in them; `None` where nothing else is.
fn without_our_cookies(value: &[u8]) -> Option<Vec<u8>> {
    let text = String::from_utf8_lossy(value);
    let ours = text.split(';').any(|pair| is_ours(pair.split('=').next().unwrap_or_default().trim()));
    if ours { without_ours(&text).map(String::into_bytes) } else { Some(value.to_vec()) }
}

/// Whether an app would set a cookie that only we set.
fn sets_ours(value: &[u8]) -> bool {
    let text = String::from_utf8_lossy(value);
    is_ours(text.split(['=', ';']).next().unwrap_or_default().trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn crossed(given: &[(&str, &str)]) -> Vec<(String, String)> {
        let mut from = client::HeaderMap::new();
        for (name, value) in given {
            let value = client::HeaderValue::from_str(value).unwrap();
            from.append(client::HeaderName::from_bytes(name.as_bytes()).unwrap(), value);
        }
        let headers = request_headers(&from, "172.17.0.2:3000");
        let mut list: Vec<_> =
            headers.iter().map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned())).collect();
        list.sort();
        list
    }

    fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
        expected.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn everything_crosses_but_what_ends_at_this_hop_or_is_ours() {
        let given = [
            ("host", "server.example"),
            ("authorization", "Basic YXBwOnB3"),
            ("x-forwarded-for", "203.0.113.7"),
            ("accept", "a"),
            ("accept", "b"),
            ("connection", "keep-alive, X-Hop"),
            ("connection", "x-other-hop"),
            ("x-hop", "1"),
            ("x-other-hop", "1"),
            ("keep-alive", "timeout=5"),
            ("proxy-connection", "keep-alive"),
            ("te", "trailers"),
            ("trailer", "x-t"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "h2c"),
            ("content-length", "3"),
            ("expect", "100-continue"),
            ("x-internal-service-key", "k"),
            ("x-daemon-token", "k"),
            ("cookie", "a=b; rw_preview=secret"),
            ("cookie", "c=d"),
            ("cookie", "__Host-rw_preview=secret"),
        ];
        let expected = [
            ("accept", "a"),
            ("accept", "b"),
            ("authorization", "Basic YXBwOnB3"),
            ("connection", "close"),
            ("cookie", "a=b"),
            ("cookie", "c=d"),
            ("host", "172.17.0.2:3000"),
            ("x-forwarded-for", "203.0.113.7"),
        ];
        assert_eq!(crossed(&given), pairs(&expected));
    }

    #[test]
    fn answers_cross_too_but_for_orders_that_reach_beyond_the_preview() {
        let mut from = upstream::HeaderMap::new();
        for (name, value) in [
            ("content-type", "text/html"),
            ("location", "/elsewhere"),
            ("set-cookie", "a=b; Path=/"),
            ("set-cookie", "rw_preview=planted"),
            ("server", "vite"),
            ("connection", "close, x-hop"),
            ("x-hop", "1"),
            ("transfer-encoding", "chunked"),
            ("content-length", "3"),
            ("strict-transport-security", "max-age=1"),
            ("x-accel-redirect", "/etc/passwd"),
            ("service-worker-allowed", "/"),
            ("x-powered-by", "app"),
        ] {
            from.append(
                upstream::HeaderName::from_bytes(name.as_bytes()).unwrap(),
                upstream::HeaderValue::from_str(value).unwrap(),
            );
        }
        let mut list = Vec::new();
        response_headers(&from, |name, value| list.push((name.to_string(), value.to_str().unwrap().to_owned())));
        list.sort();
        let expected = [
            ("content-type", "text/html"),
            ("location", "/elsewhere"),
            ("server", "vite"),
            ("set-cookie", "a=b; Path=/"),
            ("x-powered-by", "app"),
        ];
        assert_eq!(list, pairs(&expected));
    }
}
