//! Whose request it is, by address: one policy for every route (section 5, limits). A header counts only where a
//! trusted proxy has set it; everybody else's is what they would like us to believe.

use std::net::IpAddr;

use actix_web::HttpRequest;
use actix_web::http::header::HeaderMap;
use runwarden_actors::preview::pin::Networks;

/// Set by one platform's edge; a single address.
const VERCEL: &str = "x-vercel-ip";
/// Set by most proxies: client, then each proxy that it passed.
const FORWARDED_FOR: &str = "x-forwarded-for";
/// Set by most proxies: the scheme of the browser's connection.
const FORWARDED_PROTO: &str = "x-forwarded-proto";
/// Entries of a list that are looked at, from its end.
const HOPS_MAX: usize = 32;

/// A client's address, and where it was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientIp {
    /// The address; v4-mapped ones as version 4.
    pub address: IpAddr,
    /// `peer`, or the header's name.
    pub source: &'static str,
}

/// Reads the client's address of a request.
pub fn client_ip(request: &HttpRequest, trusted: &Networks) -> Option<ClientIp> {
    let peer = request.peer_addr()?.ip().to_canonical();
    Some(from_headers(peer, request.headers(), trusted))
}

/// Whether the browser's own connection is TLS: a trusted proxy says so, nobody else.
pub fn over_tls(request: &HttpRequest, trusted: &Networks) -> bool {
    let peer = request.peer_addr().map(|peer| peer.ip().to_canonical());
    let said = request.headers().get(FORWARDED_PROTO).and_then(|value| value.to_str().ok());
    // The first of a list is what the proxy that the browser spoke to has seen.
    let first = said.and_then(|list| list.split(',').next()).map(str::trim);
    peer.is_some_and(|peer| trusted.contains(peer)) && first.is_some_and(|scheme| scheme.eq_ignore_ascii_case("https"))
}

fn from_headers(peer: IpAddr, headers: &HeaderMap, trusted: &Networks) -> ClientIp {
    let by_peer = ClientIp { address: peer, source: "peer" };
    if !trusted.contains(peer) {
        return by_peer;
    }
    if let Some(value) = headers.get(VERCEL) {
        // Said and not readable: the proxy's own address limits everybody behind it, which errs on the safe side.
        let address = value.to_str().ok().and_then(|text| text.trim().parse::<IpAddr>().ok());
        return address.map_or(by_peer, |address| ClientIp { address: address.to_canonical(), source: VERCEL });
    }
    let mut hops: Vec<&str> = Vec::new();
    for value in headers.get_all(FORWARDED_FOR) {
        let Ok(text) = value.to_str() else { return by_peer };
        hops.extend(text.split(',').map(str::trim));
    }
    // From the end: each entry was written by the one after it, so only a trusted one vouches for the next.
    let mut last = by_peer;
    for hop in hops.into_iter().rev().take(HOPS_MAX) {
        let Ok(address) = hop.parse::<IpAddr>() else { return last };
        last = ClientIp { address: address.to_canonical(), source: FORWARDED_FOR };
        if !trusted.contains(last.address) {
            return last;
        }
    }
    last
}

#[cfg(test)]
mod tests {
    use super::*;
    use actix_web::http::header::{HeaderName, HeaderValue};

    fn read(peer: &str, headers: &[(&'static str, &'static str)]) -> (String, &'static str) {
        let trusted = Networks::parse("10.0.0.0/8").unwrap();
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        let client = from_headers(peer.parse::<IpAddr>().unwrap().to_canonical(), &map, &trusted);
        (client.address.to_string(), client.source)
    }

    #[test]
    fn only_trusted_proxies_are_believed() {
        let said = [("x-forwarded-for", "1.2.3.4"), ("x-vercel-ip", "5.6.7.8")];
        assert_eq!(read("8.8.8.8", &said), ("8.8.8.8".into(), "peer"));
        assert_eq!(read("10.0.0.1", &said), ("5.6.7.8".into(), VERCEL));
        assert_eq!(read("::ffff:10.0.0.1", &said[..1]), ("1.2.3.4".into(), FORWARDED_FOR));
        assert_eq!(read("10.0.0.1", &[]), ("10.0.0.1".into(), "peer"));
    }

    #[test]
    fn a_client_cannot_prepend_somebody_else() {
        // The client wrote the first; the proxy that saw it wrote the second.
        assert_eq!(read("10.0.0.1", &[("x-forwarded-for", "9.9.9.9, 1.2.3.4")]).0, "1.2.3.4");
        assert_eq!(read("10.0.0.1", &[("x-forwarded-for", "9.9.9.9, 1.2.3.4, 10.0.0.2")]).0, "1.2.3.4");
        let two_headers = [("x-forwarded-for", "9.9.9.9"), ("x-forwarded-for", "1.2.3.4")];
        assert_eq!(read("10.0.0.1", &two_headers).0, "1.2.3.4");
        for nonsense in ["nonsense", "1.2.3.4, nonsense", "", "1.2.3.4:80", "0x7f.1"] {
            assert_eq!(read("10.0.0.1", &[("x-forwarded-for", nonsense)]).0, "10.0.0.1", "{nonsense}");
        }
        assert_eq!(read("10.0.0.1", &[("x-vercel-ip", "nonsense"), ("x-forwarded-for", "1.2.3.4")]).0, "10.0.0.1");
    }
}
