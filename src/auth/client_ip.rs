//! Whose request it is, by address: one policy for every route (section 5, limits). A header counts only where it is
//! configured and a trusted proxy has set it; everybody else's is what they would like us to believe.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use actix_web::HttpRequest;
use actix_web::http::header::HeaderMap;
use runwarden_actors::preview::pin::Networks;

/// A header in which a proxy may name the client. One that the proxy does not set itself it may pass on from clients,
/// so which of them count is a setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AddressHeader {
    /// `x-vercel-ip`: set by one platform's edge; a single address.
    Vercel,
    /// `x-forwarded-for`: set by most proxies; client, then each proxy that it passed.
    ForwardedFor,
}

impl AddressHeader {
    /// All, in the order of the contract.
    pub const ALL: [Self; 2] = [Self::Vercel, Self::ForwardedFor];

    /// Its name, lower case.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Vercel => "x-vercel-ip",
            Self::ForwardedFor => "x-forwarded-for",
        }
    }

    /// The header of this name, in any case.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|header| header.name().eq_ignore_ascii_case(name))
    }
}

/// Who may say whose a request is, and in which headers.
#[derive(Debug, Clone)]
pub struct TrustedProxies {
    /// Where they are.
    pub networks: Networks,
    /// What they name the client in: the first that is there counts.
    pub headers: Vec<AddressHeader>,
}

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
pub fn client_ip(request: &HttpRequest, trusted: &TrustedProxies) -> Option<ClientIp> {
    let peer = request.peer_addr()?.ip().to_canonical();
    Some(from_headers(peer, request.headers(), trusted))
}

/// Whether the browser's own connection is TLS: a trusted proxy says so, nobody else.
pub fn over_tls(request: &HttpRequest, trusted: &TrustedProxies) -> bool {
    let peer = request.peer_addr().map(|peer| peer.ip().to_canonical());
    let said = request.headers().get(FORWARDED_PROTO).and_then(|value| value.to_str().ok());
    // The first of a list is what the proxy that the browser spoke to has seen.
    let first = said.and_then(|list| list.split(',').next()).map(str::trim);
    peer.is_some_and(|peer| trusted.networks.contains(peer))
        && first.is_some_and(|scheme| scheme.eq_ignore_ascii_case("https"))
}

fn from_headers(peer: IpAddr, headers: &HeaderMap, trusted: &TrustedProxies) -> ClientIp {
    let by_peer = ClientIp { address: peer, source: "peer" };
    if !trusted.networks.contains(peer) {
        return by_peer;
    }
    let Some(named) = trusted.headers.iter().find(|header| headers.contains_key(header.name())) else { return by_peer };
    match named {
        AddressHeader::Vercel => {
            let mut values = headers.get_all(named.name());
            let (Some(value), None) = (values.next(), values.next()) else { return by_peer };
            // Said and not readable: the proxy's own address limits everybody behind it, which errs on the safe side.
            let address = value.to_str().ok().and_then(|text| text.trim().parse::<IpAddr>().ok());
            address.map_or(by_peer, |address| ClientIp { address: address.to_canonical(), source: named.name() })
        }
        AddressHeader::ForwardedFor => forwarded_for(by_peer, headers, &trusted.networks),
    }
}

fn forwarded_for(by_peer: ClientIp, headers: &HeaderMap, trusted: &Networks) -> ClientIp {
    let name = AddressHeader::ForwardedFor.name();
    let mut hops: Vec<&str> = Vec::new();
    for value in headers.get_all(name) {
        let Ok(text) = value.to_str() else { return by_peer };
        hops.extend(text.split(',').map(str::trim));
    }
    // From the end: each entry was written by the one after it, so only a trusted one vouches for the next.
    let mut last = by_peer;
    for hop in hops.into_iter().rev().take(HOPS_MAX) {
        let Some(address) = hop_address(hop) else { return last };
        last = ClientIp { address: address.to_canonical(), source: name };
        if !trusted.contains(last.address) {
            return last;
        }
    }
    last
}

/// The address of one entry of a list: some proxies write the client's port after it, and version 6 in brackets.
fn hop_address(hop: &str) -> Option<IpAddr> {
    let bare = hop.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let in_brackets = || bare?.parse::<Ipv6Addr>().ok().map(IpAddr::from);
    let with_port = || hop.parse::<SocketAddr>().ok().map(|address| address.ip());
    hop.parse().ok().or_else(with_port).or_else(in_brackets)
}

#[cfg(test)]
mod tests {
    use super::*;
    use actix_web::http::header::{HeaderName, HeaderValue};

    const VERCEL: &str = "x-vercel-ip";
    const FORWARDED_FOR: &str = "x-forwarded-for";

    fn read_by(
        configured: &[AddressHeader],
        peer: &str,
        headers: &[(&'static str, &'static str)],
    ) -> (String, &'static str) {
        let networks = Networks::parse("10.0.0.0/8").unwrap();
        let trusted = TrustedProxies { networks, headers: configured.to_vec() };
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        let client = from_headers(peer.parse::<IpAddr>().unwrap().to_canonical(), &map, &trusted);
        (client.address.to_string(), client.source)
    }

    fn read(peer: &str, headers: &[(&'static str, &'static str)]) -> (String, &'static str) {
        read_by(&AddressHeader::ALL, peer, headers)
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
    fn only_configured_headers_are_believed() {
        use AddressHeader::{ForwardedFor, Vercel};
        let said = [("x-forwarded-for", "1.2.3.4"), ("x-vercel-ip", "5.6.7.8")];
        assert_eq!(read_by(&[ForwardedFor], "10.0.0.1", &said), ("1.2.3.4".into(), FORWARDED_FOR));
        assert_eq!(read_by(&[ForwardedFor], "10.0.0.1", &said[1..]), ("10.0.0.1".into(), "peer"));
        assert_eq!(read_by(&[Vercel], "10.0.0.1", &said[..1]), ("10.0.0.1".into(), "peer"));
        assert_eq!(read_by(&[ForwardedFor, Vercel], "10.0.0.1", &said), ("1.2.3.4".into(), FORWARDED_FOR));
        assert_eq!(AddressHeader::parse("X-Vercel-IP"), Some(Vercel));
        assert_eq!(AddressHeader::parse("x-real-ip"), None);
    }

    #[test]
    fn a_client_cannot_prepend_somebody_else() {
        // The client wrote the first; the proxy that saw it wrote the second.
        assert_eq!(read("10.0.0.1", &[("x-forwarded-for", "9.9.9.9, 1.2.3.4")]).0, "1.2.3.4");
        assert_eq!(read("10.0.0.1", &[("x-forwarded-for", "9.9.9.9, 1.2.3.4, 10.0.0.2")]).0, "1.2.3.4");
        let two_headers = [("x-forwarded-for", "9.9.9.9"), ("x-forwarded-for", "1.2.3.4")];
        assert_eq!(read("10.0.0.1", &two_headers).0, "1.2.3.4");
        let nonsense =
            ["nonsense", "1.2.3.4, nonsense", "", "1.2.3.4:", "1.2.3.4:65536", "1.2.3.4:x", "[1.2.3.4]", "0x7f.1"];
        for nonsense in nonsense {
            assert_eq!(read("10.0.0.1", &[("x-forwarded-for", nonsense)]).0, "10.0.0.1", "{nonsense}");
        }
        for (hops, client) in [
            ("9.9.9.9:1, 1.2.3.4:5678", "1.2.3.4"),
            ("1.2.3.4:5678, 10.0.0.2:80", "1.2.3.4"),
            ("[2001:db8::1]:5678", "2001:db8::1"),
            ("[2001:db8::1]", "2001:db8::1"),
            ("[::ffff:1.2.3.4]:5678", "1.2.3.4"),
            ("2001:db8::1:5678", "2001:db8::1:5678"),
        ] {
            assert_eq!(read("10.0.0.1", &[("x-forwarded-for", hops)]), (client.into(), FORWARDED_FOR), "{hops}");
        }
        assert_eq!(read("10.0.0.1", &[("x-vercel-ip", "nonsense"), ("x-forwarded-for", "1.2.3.4")]).0, "10.0.0.1");
        assert_eq!(read("10.0.0.1", &[("x-vercel-ip", "9.9.9.9"), ("x-vercel-ip", "1.2.3.4")]).0, "10.0.0.1");
    }
}
