//! The windows that count previews' uses (section 5, limits).

use std::net::{IpAddr, Ipv6Addr};

use crate::contract::limits::{
    LIMIT_BURST_WINDOW_MS, LIMIT_EXCHANGE_IP_BURST, LIMIT_EXCHANGE_IP_PER_MINUTE, LIMIT_EXCHANGE_USER_BURST,
    LIMIT_EXCHANGE_USER_PER_MINUTE, LIMIT_PROXY_IP_BURST, LIMIT_PROXY_IP_PER_MINUTE, LIMIT_PROXY_SESSION_BURST,
    LIMIT_PROXY_SESSION_PER_MINUTE, LIMIT_START_IP_BURST, LIMIT_START_IP_PER_MINUTE, LIMIT_START_USER_BURST,
    LIMIT_START_USER_PER_MINUTE, LIMIT_SUSTAINED_WINDOW_MS,
};
use crate::contract::names::KEY_PREVIEW_LIMIT;
use crate::contract::{Limiter, PreviewSessionId, UserId};
use crate::ports::LimitWindow;

/// Bits of an address of version 6 that are a client's own to choose.
const V6_HOST_BITS: u32 = 64;

/// Whom an address is counted as. Whoever has one address of version 6 has the 2^64 around it, and would get windows
/// of their own with each: all of them are their network's first. One of version 4 in another spelling is that one.
pub fn counted_as(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        v4 @ IpAddr::V4(_) => v4,
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> V6_HOST_BITS << V6_HOST_BITS).into(),
    }
}

/// Uses of one subject.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LimitPair {
    /// In a minute.
    pub per_minute: u32,
    /// In ten seconds.
    pub burst: u32,
}

/// All limits; defaults are the contract's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PreviewLimits {
    /// `session/start`, of a user.
    pub start_user: LimitPair,
    /// `session/start`, of an address.
    pub start_ip: LimitPair,
    /// Exchange and subscription tokens, of a user.
    pub exchange_user: LimitPair,
    /// Exchange and subscription tokens, of an address.
    pub exchange_ip: LimitPair,
    /// Proxied requests, of a session.
    pub proxy_session: LimitPair,
    /// Proxied requests, of an address.
    pub proxy_ip: LimitPair,
}

impl Default for PreviewLimits {
    fn default() -> Self {
        let pair = |per_minute, burst| LimitPair { per_minute, burst };
        Self {
            start_user: pair(LIMIT_START_USER_PER_MINUTE, LIMIT_START_USER_BURST),
            start_ip: pair(LIMIT_START_IP_PER_MINUTE, LIMIT_START_IP_BURST),
            exchange_user: pair(LIMIT_EXCHANGE_USER_PER_MINUTE, LIMIT_EXCHANGE_USER_BURST),
            exchange_ip: pair(LIMIT_EXCHANGE_IP_PER_MINUTE, LIMIT_EXCHANGE_IP_BURST),
            proxy_session: pair(LIMIT_PROXY_SESSION_PER_MINUTE, LIMIT_PROXY_SESSION_BURST),
            proxy_ip: pair(LIMIT_PROXY_IP_PER_MINUTE, LIMIT_PROXY_IP_BURST),
        }
    }
}

impl PreviewLimits {
    /// The windows of a start.
    pub fn start(&self, user: &UserId, ip: &IpAddr) -> Vec<LimitWindow> {
        let [a, b] = windows("start", Limiter::User, user.as_str(), self.start_user);
        let [c, d] = windows("start", Limiter::Ip, &counted_as(*ip).to_string(), self.start_ip);
        vec![a, b, c, d]
    }

    /// The windows of an exchange, once its user is known.
    pub fn exchange_user(&self, user: &UserId) -> Vec<LimitWindow> {
        windows("exchange", Limiter::User, user.as_str(), self.exchange_user).into()
    }

    /// The windows of an exchange before its token is looked at.
    pub fn exchange_ip(&self, ip: &IpAddr) -> Vec<LimitWindow> {
        windows("exchange", Limiter::Ip, &counted_as(*ip).to_string(), self.exchange_ip).into()
    }

    /// The windows of a proxied request.
    pub fn proxy(&self, session: PreviewSessionId, ip: &IpAddr) -> Vec<LimitWindow> {
        let [a, b] = windows("proxy", Limiter::Session, &session.to_string(), self.proxy_session);
        let [c, d] = windows("proxy", Limiter::Ip, &counted_as(*ip).to_string(), self.proxy_ip);
        vec![a, b, c, d]
    }
}

fn windows(route: &str, limiter: Limiter, subject: &str, pair: LimitPair) -> [LimitWindow; 2] {
    let window = |name: &str, limit, window_ms| LimitWindow {
        key: format!("{KEY_PREVIEW_LIMIT}:{route}:{limiter}:{subject}:{name}"),
        limiter,
        limit,
        window_ms,
    };
    [window("minute", pair.per_minute, LIMIT_SUSTAINED_WINDOW_MS), window("burst", pair.burst, LIMIT_BURST_WINDOW_MS)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_counted_as_its_network_in_version_6_alone() {
        for (address, counted) in [
            ("192.0.2.1", "192.0.2.1"),
            ("::ffff:192.0.2.1", "192.0.2.1"),
            ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
            ("2001:db8:1:2::", "2001:db8:1:2::"),
            ("::1", "::"),
        ] {
            assert_eq!(counted_as(address.parse().unwrap()).to_string(), counted, "{address}");
        }
    }
}
