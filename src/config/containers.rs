//! The settings of container previews, checked (section 8).

use std::net::IpAddr;

use super::{ConfigError, RawSettings};

/// How container previews work here.
#[derive(Debug, Clone)]
pub struct ContainersConfig {
    /// Whether `/previews/…` is served.
    pub public: bool,
    /// Whether `/internal-previews/…` is served.
    pub internal: bool,
}

impl ContainersConfig {
    /// Checks everything; `host` is what the server listens on.
    pub fn from_raw(raw: &RawSettings, host: IpAddr) -> Result<Self, ConfigError> {
        Ok(Self {
            public: open_route(raw, "CONTAINER_PREVIEWS_PUBLIC", host)?,
            internal: open_route(raw, "CONTAINER_PREVIEWS_INTERNAL", host)?,
        })
    }
}

/// A route without authentication is served to others than this machine only where the operator has said so.
fn open_route(raw: &RawSettings, name: &'static str, host: IpAddr) -> Result<bool, ConfigError> {
    match switch(raw, name)? {
        Some(on) => Ok(on),
        None if host.is_loopback() => Ok(true),
        None => Err(ConfigError::Missing {
            name,
            expected: format!(
                "HOST {host} is no loopback address and the route that it stands for asks nobody who they are: say `off`, or \
                 `on` if whoever reaches this address may see the containers' previews"
            ),
        }),
    }
}

fn switch(raw: &RawSettings, name: &'static str) -> Result<Option<bool>, ConfigError> {
    match raw.get(name) {
        None => Ok(None),
        Some("on" | "true") => Ok(Some(true)),
        Some("off" | "false") => Ok(Some(false)),
        Some(_) => Err(raw.invalid(name, "`on` or `off`")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(host: &str, pairs: &[(&str, &str)]) -> Result<ContainersConfig, ConfigError> {
        let pairs = pairs.iter().map(|(name, value)| (*name, (*value).to_owned()));
        ContainersConfig::from_raw(&RawSettings::from_pairs(pairs).unwrap(), host.parse().unwrap())
    }

    #[test]
    fn routes_without_authentication_are_open_to_this_machine_alone_unless_it_is_said() {
        for host in ["127.0.0.1", "127.8.0.1", "::1"] {
            let config = config(host, &[]).unwrap();
            assert!(config.public && config.internal, "{host}");
        }
        let (public, internal) = ("CONTAINER_PREVIEWS_PUBLIC", "CONTAINER_PREVIEWS_INTERNAL");
        for host in ["0.0.0.0", "::", "192.0.2.2", "::ffff:127.0.0.1"] {
            for (said, missing) in
                [([].as_slice(), public), (&[(public, "on")], internal), (&[(internal, "off")], public)]
            {
                let error = config(host, said).unwrap_err().to_string();
                let remedy =
                    error.starts_with(&format!("{missing} is not set")) && error.contains("say `off`, or `on`");
                assert!(remedy && error.contains(host), "{error}");
            }
            let config = config(host, &[(public, "on"), (internal, "off")]).unwrap();
            assert!(config.public && !config.internal, "{host}");
        }
        let error = config("127.0.0.1", &[(public, "maybe")]).unwrap_err().to_string();
        assert!(error.contains("`maybe`; it must be `on` or `off`"), "{error}");
    }
}
