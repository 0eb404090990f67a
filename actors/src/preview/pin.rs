//! Which addresses an upstream may have (section 5, upstream). Pure decisions; the caller resolves, and connects to
//! exactly what was decided here.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use thiserror::Error;

use crate::contract::{PinningMode, Timestamp};
use crate::ports::store::PinnedAddresses;
use crate::ports::{NameAnswers, Scheme};

/// How long an address that a provider reported is believed: a container's may be another one's soon after it stopped.
pub const REPORTED_TTL_SECONDS: u32 = 5;
/// Shortest and longest time that an answer of the name system is believed, whatever its TTL says.
const NAMED_TTL_SECONDS: std::ops::RangeInclusive<u32> = 5..=300;
/// Most addresses that are pinned of each kind.
const ADDRESSES_MAX: usize = 32;

/// Why an address or a name is refused. All are `proxy_ssrf_blocked`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum PinDenied {
    /// A reported address outside of the operator's networks.
    #[error("the provider's address lies outside of ALLOWED_UPSTREAM_NETWORKS")]
    NetworkNotAllowed,
    /// A kind of address that is never public.
    #[error("the upstream's address is {0}")]
    AddressDenied(&'static str),
    /// The name has no addresses.
    #[error("the upstream's name has no addresses")]
    NoAddress,
    /// The name is not the provider's, or leads away from it.
    #[error("the upstream's name is not the provider's own, or leads away from it")]
    NotTrusted,
    /// Other addresses than before, and the one refresh is not due or was had.
    #[error("the upstream's addresses have changed")]
    Rebind,
    /// `provider_asn` is named and not built.
    #[error("pinning mode provider_asn is deferred")]
    Deferred,
}

/// A list of networks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Networks(Vec<IpNet>);

impl Networks {
    /// Reads a comma-separated list of networks (`10.0.0.0/8`) and single addresses; the offending part on failure.
    pub fn parse(list: &str) -> Result<Self, String> {
        let one = |part: &str| {
            IpNet::from_str(part).or_else(|_| IpAddr::from_str(part).map(IpNet::from)).map_err(|_| part.to_owned())
        };
        list.split(',').map(str::trim).filter(|part| !part.is_empty()).map(one).collect::<Result<_, _>>().map(Self)
    }

    /// Whether the address lies in one of them. A v4-mapped address counts as what it maps.
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.0.iter().any(|network| network.contains(&address))
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

const fn v4(a: u8, b: u8, c: u8, d: u8, prefix: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), prefix)
}

const fn v6(high: [u16; 3], prefix: u8) -> Ipv6Net {
    Ipv6Net::new_assert(Ipv6Addr::new(high[0], high[1], high[2], 0, 0, 0, 0, 0), prefix)
}

/// Every IPv4 network that is not the public internet (IANA's special-purpose registry).
const DENIED_V4: &[(Ipv4Net, &str)] = &[
    (v4(0, 0, 0, 0, 8), "unspecified"),
    (v4(10, 0, 0, 0, 8), "private"),
    (v4(100, 64, 0, 0, 10), "shared"),
    (v4(127, 0, 0, 0, 8), "loopback"),
    (v4(169, 254, 0, 0, 16), "link-local"),
    (v4(172, 16, 0, 0, 12), "private"),
    (v4(192, 0, 0, 0, 24), "reserved"),
    (v4(192, 0, 2, 0, 24), "for documentation"),
    (v4(192, 88, 99, 0, 24), "a relay of 6to4"),
    (v4(192, 168, 0, 0, 16), "private"),
    (v4(198, 18, 0, 0, 15), "for benchmarks"),
    (v4(198, 51, 100, 0, 24), "for documentation"),
    (v4(203, 0, 113, 0, 24), "for documentation"),
    (v4(224, 0, 0, 0, 4), "multicast"),
    (v4(240, 0, 0, 0, 4), "reserved"),
];

/// IPv6 networks inside 2000::/3 that are not the public internet. Everything outside of 2000::/3 is refused.
const DENIED_V6: &[(Ipv6Net, &str)] = &[
    (v6([0x2001, 0, 0], 23), "reserved"),
    (v6([0x2001, 0xdb8, 0], 32), "for documentation"),
    (v6([0x3fff, 0, 0], 20), "for documentation"),
];

const GLOBAL_V6: Ipv6Net = v6([0x2000, 0, 0], 3);
const SIX_TO_FOUR: Ipv6Net = v6([0x2002, 0, 0], 16);
const NAT64: Ipv6Net = v6([0x64, 0xff9b, 0], 96);

/// What an address is, where it is not one of the public internet.
pub fn denied_address(address: IpAddr) -> Option<&'static str> {
    match address {
        IpAddr::V4(address) => DENIED_V4.iter().find(|(network, _)| network.contains(&address)).map(|(_, what)| *what),
        IpAddr::V6(address) => denied_v6(address),
    }
}

fn denied_v6(address: Ipv6Addr) -> Option<&'static str> {
    let octets = address.octets();
    let embedded = |at: usize| {
        let v4 = Ipv4Addr::new(octets[at], octets[at + 1], octets[at + 2], octets[at + 3]);
        denied_address(IpAddr::V4(v4))
    };
    if address.to_ipv4_mapped().is_some() || NAT64.contains(&address) {
        return embedded(12);
    }
    if SIX_TO_FOUR.contains(&address) {
        return embedded(2);
    }
    if address.is_loopback() {
        return Some("loopback");
    }
    if address.is_unspecified() {
        return Some("unspecified");
    }
    if address.is_multicast() {
        return Some("multicast");
    }
    if address.is_unicast_link_local() {
        return Some("link-local");
    }
    if address.is_unique_local() {
        return Some("unique-local");
    }
    if !GLOBAL_V6.contains(&address) {
        return Some("reserved");
    }
    DENIED_V6.iter().find(|(network, _)| network.contains(&address)).map(|(_, what)| *what)
}

/// Pins exactly the address that a provider reported for its sandbox.
pub fn pin_reported(address: IpAddr, allowed: &Networks, now: Timestamp) -> Result<PinnedAddresses, PinDenied> {
    let address = address.to_canonical();
    if address.is_unspecified() || address.is_multicast() {
        return Err(PinDenied::AddressDenied("no address of a host"));
    }
    if !allowed.contains(address) {
        return Err(PinDenied::NetworkNotAllowed);
    }
    let mut pinned = PinnedAddresses {
        addresses_v4: Vec::new(),
        addresses_v6: Vec::new(),
        cname_chain: Vec::new(),
        ttl_seconds: REPORTED_TTL_SECONDS,
        resolved_at: now,
        pinning_mode: PinningMode::StrictIp,
    };
    match address {
        IpAddr::V4(address) => pinned.addresses_v4.push(address),
        IpAddr::V6(address) => pinned.addresses_v6.push(address),
    }
    Ok(pinned)
}

/// Pins what a name of the provider resolved to. TLS proves the name, so over it the addresses may change below the
/// same anchors; without it they may not.
pub fn pin_named(
    scheme: Scheme,
    host: &str,
    trusted_suffix: &str,
    answers: &NameAnswers,
    now: Timestamp,
) -> Result<PinnedAddresses, PinDenied> {
    let below =
        |name: &str| trusted_suffix.starts_with('.') && trusted_suffix.len() > 1 && name.ends_with(trusted_suffix);
    if !below(host) || host.len() <= trusted_suffix.len() {
        return Err(PinDenied::NotTrusted);
    }
    let all = answers.v4.iter().map(|a| IpAddr::V4(*a)).chain(answers.v6.iter().map(|a| IpAddr::V6(*a)));
    let mut any = false;
    // One bad address spoils the answer: a mixed one is how a rebinding looks.
    for address in all {
        any = true;
        if let Some(what) = denied_address(address) {
            return Err(PinDenied::AddressDenied(what));
        }
    }
    if !any {
        return Err(PinDenied::NoAddress);
    }
    Ok(PinnedAddresses {
        addresses_v4: answers.v4.iter().copied().take(ADDRESSES_MAX).collect(),
        addresses_v6: answers.v6.iter().copied().take(ADDRESSES_MAX).collect(),
        cname_chain: answers.cname_chain.clone(),
        ttl_seconds: answers.ttl_seconds.clamp(*NAMED_TTL_SECONDS.start(), *NAMED_TTL_SECONDS.end()),
        resolved_at: now,
        pinning_mode: if scheme == Scheme::Https { PinningMode::TlsSniHost } else { PinningMode::StrictIp },
    })
}

/// What a later look-up means for what was pinned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Recheck {
    /// Inside of what was pinned; go on with it.
    Inside,
    /// Other addresses of the same anchors; connect to these, nothing is written.
    SameAnchors,
    /// Other addresses; the one refresh has to be taken for them.
    Refresh,
}

/// Whether the addresses have to be looked up again.
pub fn is_due(last_check_at: Timestamp, pinned: &PinnedAddresses, now: Timestamp) -> bool {
    now.millis_since(last_check_at) >= i64::from(pinned.ttl_seconds) * 1000
}

/// Compares a later look-up, itself checked by [`pin_named`] or [`pin_reported`], with what was pinned. Call it only
/// once the look-up [`is_due`]: before that nothing is looked up at all.
pub fn recheck(pinned: &PinnedAddresses, fresh: &PinnedAddresses, refreshed_once: bool) -> Result<Recheck, PinDenied> {
    if pinned.pinning_mode == PinningMode::ProviderAsn || fresh.pinning_mode == PinningMode::ProviderAsn {
        return Err(PinDenied::Deferred);
    }
    if fresh.pinning_mode != pinned.pinning_mode {
        return Err(PinDenied::Rebind);
    }
    if fresh.addresses().all(|address| pinned.addresses().any(|known| known == address)) {
        return Ok(Recheck::Inside);
    }
    if pinned.pinning_mode == PinningMode::TlsSniHost && fresh.cname_chain.last() == pinned.cname_chain.last() {
        return Ok(Recheck::SameAnchors);
    }
    if refreshed_once { Err(PinDenied::Rebind) } else { Ok(Recheck::Refresh) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_800_000_000_000);

    #[test]
    fn no_spelling_of_an_inner_address_is_public() {
        for inner in [
            "0.0.0.0",
            "0.1.2.3",
            "10.1.2.3",
            "100.64.0.1",
            "100.127.255.255",
            "127.0.0.1",
            "127.255.0.1",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.8",
            "192.0.2.1",
            "192.168.1.1",
            "198.18.0.1",
            "198.51.100.1",
            "203.0.113.9",
            "224.0.0.1",
            "239.1.1.1",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "::7f00:1",
            "64:ff9b::7f00:1",
            "64:ff9b::a00:1",
            "64:ff9b:1::1",
            "2002:7f00:1::",
            "2002:a00:1::1",
            "2002:c0a8:101::",
            "2001::1",
            "2001:db8::1",
            "3fff::1",
            "fe80::1",
            "fc00::1",
            "fdff::1",
            "ff02::1",
            "100::1",
            "fec0::1",
        ] {
            let address: IpAddr = inner.parse().unwrap();
            assert!(denied_address(address).is_some(), "{inner}");
        }
        for public in [
            "1.1.1.1",
            "100.63.255.255",
            "100.128.0.0",
            "172.32.0.1",
            "2606:4700::1111",
            "64:ff9b::101:101",
            "2002:101:101::",
        ] {
            assert_eq!(denied_address(public.parse().unwrap()), None, "{public}");
        }
    }

    #[test]
    fn a_reported_address_must_lie_in_the_operators_networks() {
        let allowed = Networks::parse("172.17.0.0/16, 127.0.0.1,fd00::/8").unwrap();
        for (address, fine) in [
            ("172.17.0.5", true),
            ("::ffff:172.17.0.5", true),
            ("172.18.0.5", false),
            ("127.0.0.1", true),
            ("127.0.0.2", false),
            ("fd12::1", true),
            ("1.1.1.1", false),
            ("0.0.0.0", false),
        ] {
            assert_eq!(pin_reported(address.parse().unwrap(), &allowed, NOW).is_ok(), fine, "{address}");
        }
        assert!(pin_reported("172.17.0.5".parse().unwrap(), &Networks::default(), NOW).is_err());
        assert!(pin_reported("0.0.0.0".parse().unwrap(), &Networks::parse("0.0.0.0/0").unwrap(), NOW).is_err());
        assert_eq!(Networks::parse("10.0.0.0/8,nonsense").unwrap_err(), "nonsense");
    }

    fn answers(v4: &[&str], chain: &[&str]) -> NameAnswers {
        NameAnswers {
            v4: v4.iter().map(|a| a.parse().unwrap()).collect(),
            v6: Vec::new(),
            cname_chain: chain.iter().map(|name| (*name).to_owned()).collect(),
            ttl_seconds: 60,
        }
    }

    fn named(scheme: Scheme, v4: &[&str], chain: &[&str]) -> Result<PinnedAddresses, PinDenied> {
        pin_named(scheme, "5173-box.preview.example", ".preview.example", &answers(v4, chain), NOW)
    }

    #[test]
    fn a_name_must_be_the_providers_and_public_as_a_whole() {
        assert!(named(Scheme::Https, &["1.1.1.1"], &[]).is_ok());
        assert_eq!(named(Scheme::Https, &["1.1.1.1", "10.0.0.1"], &[]), Err(PinDenied::AddressDenied("private")));
        assert_eq!(named(Scheme::Https, &[], &[]), Err(PinDenied::NoAddress));
        for host in ["evil.example", "preview.example", ".preview.example", "xpreview.example"] {
            let pinned = pin_named(Scheme::Https, host, ".preview.example", &answers(&["1.1.1.1"], &[]), NOW);
            assert_eq!(pinned, Err(PinDenied::NotTrusted), "{host}");
        }
        assert_eq!(pin_named(Scheme::Https, "a.b", "", &answers(&["1.1.1.1"], &[]), NOW), Err(PinDenied::NotTrusted));
    }

    #[test]
    fn other_addresses_are_taken_once_or_below_the_same_anchor() {
        let plain = named(Scheme::Http, &["1.1.1.1", "1.1.1.2"], &[]).unwrap();
        assert_eq!(recheck(&plain, &named(Scheme::Http, &["1.1.1.2"], &[]).unwrap(), true), Ok(Recheck::Inside));
        let moved = named(Scheme::Http, &["1.1.1.2", "8.8.8.8"], &[]).unwrap();
        assert_eq!(recheck(&plain, &moved, false), Ok(Recheck::Refresh));
        assert_eq!(recheck(&plain, &moved, true), Err(PinDenied::Rebind));
        let tls = named(Scheme::Https, &["1.1.1.1"], &["edge.preview.example"]).unwrap();
        let same = named(Scheme::Https, &["8.8.8.8"], &["edge.preview.example"]).unwrap();
        assert_eq!(recheck(&tls, &same, true), Ok(Recheck::SameAnchors));
        let away = named(Scheme::Https, &["8.8.8.8"], &["edge.evil.example"]).unwrap();
        assert_eq!(recheck(&tls, &away, true), Err(PinDenied::Rebind));
        assert_eq!(recheck(&tls, &moved, false), Err(PinDenied::Rebind));
        let deferred = PinnedAddresses { pinning_mode: PinningMode::ProviderAsn, ..tls.clone() };
        assert_eq!(recheck(&deferred, &tls, false), Err(PinDenied::Deferred));
    }

    #[test]
    fn nothing_is_looked_up_before_its_time() {
        let pinned = named(Scheme::Http, &["1.1.1.1"], &[]).unwrap();
        assert!(!is_due(NOW, &pinned, NOW.plus_millis(59_999)));
        assert!(is_due(NOW, &pinned, NOW.plus_millis(60_000)));
    }
}
