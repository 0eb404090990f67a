//! The settings of previews, checked (sections 5 and 13).

use runwarden_actors::preview::pin::Networks;
use runwarden_actors::preview::{LimitPair, PreviewLimits};

use super::{ConfigError, RawSettings};
use crate::auth::{AddressHeader, TrustedProxies};
use crate::proxy::headers::may_be_listed;

/// Most headers that may be forwarded beside the contract's.
const FORWARD_HEADERS_MAX: usize = 32;

/// How previews work here.
#[derive(Debug, Clone)]
pub struct PreviewsConfig {
    /// `preview.localhost`: sessions have hosts of their own below it. Lower case, no port.
    pub host_suffix: Option<String>,
    /// Whether WebSocket is proxied on paths.
    pub websocket_on_paths: bool,
    /// Whether WebSocket is proxied on preview hosts.
    pub websocket_on_hosts: bool,
    /// Whether answers on paths carry the CSP sandbox.
    pub path_sandbox: bool,
    /// Request headers that are forwarded beside the contract's; lower case.
    pub forward_headers: Vec<String>,
    /// Who may frame a preview that is opened in a frame, as CSP writes it: what was set, and the preview itself.
    pub frame_ancestors: String,
    /// Names the installation in cache keys.
    pub environment: String,
    /// Proxies that name the client, and in which headers.
    pub trusted_proxies: TrustedProxies,
    /// Where addresses that Docker and process sandboxes report may lie.
    pub allowed_networks: Networks,
    /// Limits.
    pub limits: PreviewLimits,
}

impl PreviewsConfig {
    /// Checks everything.
    pub fn from_raw(raw: &RawSettings) -> Result<Self, ConfigError> {
        let host_suffix = host_suffix(raw)?;
        let (websocket_on_paths, websocket_on_hosts) = match raw.get("PREVIEW_WEBSOCKET") {
            None => (false, true),
            Some("on" | "true") => (true, true),
            Some("off" | "false") => (false, false),
            Some(_) => return Err(raw.invalid("PREVIEW_WEBSOCKET", "`on` or `off`, or unset")),
        };
        Ok(Self {
            host_suffix,
            websocket_on_paths,
            websocket_on_hosts,
            path_sandbox: match raw.get("PREVIEW_PATH_SANDBOX").unwrap_or("on") {
                "on" | "true" => true,
                "off" | "false" => false,
                _ => return Err(raw.invalid("PREVIEW_PATH_SANDBOX", "`on` or `off`")),
            },
            forward_headers: forward_headers(raw)?,
            frame_ancestors: frame_ancestors(raw)?,
            environment: environment(raw)?,
            trusted_proxies: TrustedProxies {
                networks: networks(raw, "TRUSTED_PROXIES")?,
                headers: address_headers(raw)?,
            },
            allowed_networks: networks(raw, "ALLOWED_UPSTREAM_NETWORKS")?,
            limits: limits(raw)?,
        })
    }

    /// Whether sessions that need WebSocket can have it, in one routing at least.
    pub const fn websocket(&self) -> bool {
        self.websocket_on_paths || (self.websocket_on_hosts && self.host_suffix.is_some())
    }
}

fn host_suffix(raw: &RawSettings) -> Result<Option<String>, ConfigError> {
    let Some(suffix) = raw.get("PREVIEW_HOST_SUFFIX") else { return Ok(None) };
    let suffix = suffix.to_ascii_lowercase();
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
    };
    // A session's id and its dot come before it.
    if suffix.len() <= 200 && suffix.contains('.') && suffix.split('.').all(label) {
        Ok(Some(suffix))
    } else {
        Err(raw
            .invalid("PREVIEW_HOST_SUFFIX", "a domain such as `preview.example.com`, without a leading dot or a port"))
    }
}

fn forward_headers(raw: &RawSettings) -> Result<Vec<String>, ConfigError> {
    let wrong = || {
        raw.invalid(
            "PREVIEW_FORWARD_HEADERS",
            "a comma-separated list of at most 32 header names, without credentials, Host, hop-by-hop, X-Forwarded-* or \
             Sec-* headers",
        )
    };
    let list = raw.get("PREVIEW_FORWARD_HEADERS").unwrap_or_default();
    let names: Vec<String> =
        list.split(',').map(|name| name.trim().to_ascii_lowercase()).filter(|name| !name.is_empty()).collect();
    let fine = |name: &String| hyper::header::HeaderName::from_bytes(name.as_bytes()).is_ok() && may_be_listed(name);
    if names.len() <= FORWARD_HEADERS_MAX && names.iter().all(fine) { Ok(names) } else { Err(wrong()) }
}

fn frame_ancestors(raw: &RawSettings) -> Result<String, ConfigError> {
    let sources = raw.get("PREVIEW_FRAME_ANCESTORS").unwrap_or("*");
    let fine = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b';' | b',') || byte == b' ';
    if !sources.trim().is_empty() && sources.bytes().all(fine) {
        let listed = |wanted: &[&str]| sources.split(' ').any(|source| wanted.contains(&source));
        // Each page around a frame has to be allowed: an app that frames pages of its own, and the tab on a path that is
        // filled by a frame, are around theirs.
        if listed(&["*", "'none'", "'self'"]) {
            Ok(sources.trim().to_owned())
        } else {
            Ok(format!("{} 'self'", sources.trim()))
        }
    } else {
        Err(raw.invalid("PREVIEW_FRAME_ANCESTORS", "origins separated by spaces, such as `https://app.example.com`"))
    }
}

pub(super) fn environment(raw: &RawSettings) -> Result<String, ConfigError> {
    let name = raw.get("PREVIEW_ENVIRONMENT").unwrap_or("development");
    let fine = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    if (1..=64).contains(&name.len()) && name.bytes().all(fine) {
        Ok(name.to_owned())
    } else {
        Err(raw.invalid("PREVIEW_ENVIRONMENT", "1 to 64 letters, digits, `-` or `_`"))
    }
}

fn networks(raw: &RawSettings, name: &'static str) -> Result<Networks, ConfigError> {
    Networks::parse(raw.get(name).unwrap_or_default())
        .map_err(|_| raw.invalid(name, "networks and addresses separated by commas, such as `172.17.0.0/16,fd00::/8`"))
}

fn address_headers(raw: &RawSettings) -> Result<Vec<AddressHeader>, ConfigError> {
    let list = raw.get("CLIENT_IP_HEADERS").unwrap_or(AddressHeader::ForwardedFor.name());
    let named: Option<Vec<_>> = list.split(',').map(|name| AddressHeader::parse(name.trim())).collect();
    let once = |headers: &Vec<_>| (1..headers.len()).all(|at| !headers[..at].contains(&headers[at]));
    named.filter(once).ok_or_else(|| {
        raw.invalid(
            "CLIENT_IP_HEADERS",
            "`x-forwarded-for`, `x-vercel-ip`, or both in their order, separated by a comma",
        )
    })
}

fn limits(raw: &RawSettings) -> Result<PreviewLimits, ConfigError> {
    let mut limits = PreviewLimits::default();
    for (name, pair) in [
        ("LIMIT_START_USER", &mut limits.start_user),
        ("LIMIT_START_IP", &mut limits.start_ip),
        ("LIMIT_EXCHANGE_USER", &mut limits.exchange_user),
        ("LIMIT_EXCHANGE_IP", &mut limits.exchange_ip),
        ("LIMIT_PROXY_SESSION", &mut limits.proxy_session),
        ("LIMIT_PROXY_IP", &mut limits.proxy_ip),
    ] {
        if let Some(text) = raw.get(name) {
            *pair = limit(text).ok_or_else(|| {
                raw.invalid(
                    name,
                    "`MINUTE/BURST`: uses in a minute and in ten seconds, 1 to 1000000000, such as `60/20`",
                )
            })?;
        }
    }
    Ok(limits)
}

fn limit(text: &str) -> Option<LimitPair> {
    let (minute, burst) = text.split_once('/')?;
    let number = |text: &str| text.trim().parse().ok().filter(|number| (1..=1_000_000_000).contains(number));
    Some(LimitPair { per_minute: number(minute)?, burst: number(burst)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Result<PreviewsConfig, ConfigError> {
        let pairs = pairs.iter().map(|(name, value)| (*name, (*value).to_owned()));
        PreviewsConfig::from_raw(&RawSettings::from_pairs(pairs).unwrap())
    }

    #[test]
    fn the_defaults_let_nothing_in() {
        let config = read(&[]).unwrap();
        assert!(config.host_suffix.is_none() && !config.websocket() && config.path_sandbox);
        assert!(config.allowed_networks.is_empty() && config.trusted_proxies.networks.is_empty());
        assert_eq!(config.trusted_proxies.headers, [AddressHeader::ForwardedFor]);
        let platform = read(&[("CLIENT_IP_HEADERS", "X-Vercel-IP, x-forwarded-for")]).unwrap();
        assert_eq!(platform.trusted_proxies.headers, AddressHeader::ALL);
        assert_eq!(config.limits, PreviewLimits::default());
        assert!(read(&[("PREVIEW_HOST_SUFFIX", "Preview.localhost")]).unwrap().websocket());
        let off = read(&[("PREVIEW_HOST_SUFFIX", "preview.localhost"), ("PREVIEW_WEBSOCKET", "off")]).unwrap();
        assert!(!off.websocket());
        assert_eq!(off.host_suffix.as_deref(), Some("preview.localhost"));
    }

    #[test]
    fn a_wrong_value_is_named() {
        for (name, value) in [
            ("PREVIEW_HOST_SUFFIX", "localhost"),
            ("PREVIEW_HOST_SUFFIX", ".preview.localhost"),
            ("PREVIEW_HOST_SUFFIX", "preview.localhost:80"),
            ("PREVIEW_WEBSOCKET", "maybe"),
            ("PREVIEW_PATH_SANDBOX", "maybe"),
            ("PREVIEW_FORWARD_HEADERS", "rsc,Authorization"),
            ("PREVIEW_FORWARD_HEADERS", "cookie"),
            ("PREVIEW_FORWARD_HEADERS", "x-forwarded-for"),
            ("PREVIEW_FORWARD_HEADERS", "connection"),
            ("PREVIEW_FORWARD_HEADERS", "a b"),
            ("PREVIEW_FRAME_ANCESTORS", "https://a; script-src *"),
            ("PREVIEW_ENVIRONMENT", "a:b"),
            ("TRUSTED_PROXIES", "10.0.0.0/33"),
            ("CLIENT_IP_HEADERS", "x-real-ip"),
            ("CLIENT_IP_HEADERS", "x-vercel-ip,x-vercel-ip"),
            ("ALLOWED_UPSTREAM_NETWORKS", "everything"),
            ("LIMIT_PROXY_IP", "100"),
            ("LIMIT_PROXY_IP", "0/1"),
        ] {
            let error = read(&[(name, value)]).unwrap_err().to_string();
            assert!(error.starts_with(name), "{name}={value}: {error}");
        }
        assert_eq!(
            read(&[("PREVIEW_FORWARD_HEADERS", "RSC, next-action")]).unwrap().forward_headers,
            ["rsc", "next-action"]
        );
        for (set, meant) in [
            ("https://a.example https://b.example", "https://a.example https://b.example 'self'"),
            ("'self' https://a.example", "'self' https://a.example"),
            ("* https://a.example", "* https://a.example"),
            ("'none'", "'none'"),
        ] {
            assert_eq!(read(&[("PREVIEW_FRAME_ANCESTORS", set)]).unwrap().frame_ancestors, meant);
        }
        let pair = LimitPair { per_minute: 9, burst: 3 };
        assert_eq!(read(&[("LIMIT_START_USER", "9/3")]).unwrap().limits.start_user, pair);
    }
}
