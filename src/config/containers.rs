//! The settings of container previews, checked (section 8).

use std::net::IpAddr;
use std::time::Duration;

use crate::containers::idle::IdleStop;
use crate::sandbox::Surroundings;

use super::previews::environment;
use super::sections::integer;
use super::{ConfigError, RawSettings};

/// How container previews work here.
#[derive(Debug, Clone)]
#[allow(clippy::struct_excessive_bools, reason = "one for each setting that is a switch")]
pub struct ContainersConfig {
    /// Whether `/previews/…` is served.
    pub public: bool,
    /// Whether `/internal-previews/…` is served.
    pub internal: bool,
    /// Whether registrations may be removed.
    pub removal: bool,
    /// Whether a container that ends loses its registration.
    pub events: bool,
    /// Whether a session may have more ports, by name.
    pub named_ports: bool,
    /// Whether it can be asked why a preview does not answer.
    pub health: bool,
    /// When containers that nobody uses are stopped.
    pub idle_stop: Option<IdleStop>,
    /// Bounds of containers that are created here.
    pub bounds: ContainerBounds,
    /// What all of them have.
    pub around: Surroundings,
}

/// Default and maximum of what a caller chooses for a container.
#[derive(Debug, Clone)]
pub struct ContainerBounds {
    /// Image, where the caller names none.
    pub image: Option<String>,
    /// Memory.
    pub memory_max_bytes: u64,
    /// Thousandths of a CPU.
    pub cpu_max_millis: u64,
    /// Processes and threads.
    pub pids_max: u64,
    /// Whether no caller may have a root that can be written.
    pub read_only_root: bool,
}

impl ContainersConfig {
    /// Checks everything; `host` is what the server listens on.
    pub fn from_raw(raw: &RawSettings, host: IpAddr) -> Result<Self, ConfigError> {
        Ok(Self {
            public: open_route(raw, "CONTAINER_PREVIEWS_PUBLIC", host)?,
            internal: open_route(raw, "CONTAINER_PREVIEWS_INTERNAL", host)?,
            removal: switch(raw, "CONTAINER_PREVIEW_REMOVAL")?.unwrap_or(false),
            events: switch(raw, "CONTAINER_EVENTS")?.unwrap_or(false),
            named_ports: switch(raw, "CONTAINER_NAMED_PORTS")?.unwrap_or(false),
            health: switch(raw, "CONTAINER_PREVIEW_HEALTH")?.unwrap_or(false),
            idle_stop: idle_stop(raw)?,
            bounds: ContainerBounds {
                image: raw.get("CONTAINER_IMAGE").map(ToOwned::to_owned),
                memory_max_bytes: integer(raw, "CONTAINER_MEMORY_MAX_BYTES", 2 << 30, 8 << 20, 1 << 40)?,
                cpu_max_millis: integer(raw, "CONTAINER_CPU_MAX_MILLIS", 2000, 10, 1_000_000)?,
                pids_max: integer(raw, "CONTAINER_PIDS_MAX", 512, 2, 100_000)?,
                read_only_root: switch(raw, "CONTAINER_READ_ONLY_ROOT")?.unwrap_or(true),
            },
            around: Surroundings { network: network(raw)?, workspace: workspace(raw)?, environment: environment(raw)? },
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

fn idle_stop(raw: &RawSettings) -> Result<Option<IdleStop>, ConfigError> {
    let after = integer(raw, "CONTAINER_IDLE_STOP_SECONDS", 0, 0, 2_592_000)?;
    let warning = integer(raw, "CONTAINER_IDLE_WARNING_SECONDS", (after / 2).min(60), 0, 2_592_000)?;
    if after == 0 {
        return Ok(None);
    }
    if warning >= after {
        return Err(raw.invalid("CONTAINER_IDLE_WARNING_SECONDS", "less than CONTAINER_IDLE_STOP_SECONDS"));
    }
    Ok(Some(IdleStop { after: Duration::from_secs(after), warning: Duration::from_secs(warning) }))
}

/// A network by its name; the host's own, or another container's, would give it away.
fn network(raw: &RawSettings) -> Result<String, ConfigError> {
    let name = raw.get("CONTAINER_NETWORK").unwrap_or("bridge");
    let letters = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
    if name != "host" && name.len() <= 128 && name.bytes().all(letters) {
        Ok(name.to_owned())
    } else {
        Err(raw.invalid("CONTAINER_NETWORK", "the name of a network of the engine, not `host`"))
    }
}

fn workspace(raw: &RawSettings) -> Result<String, ConfigError> {
    let path = raw.get("CONTAINER_WORKSPACE").unwrap_or(crate::sandbox::DOCKER_REPO_DIR);
    let fine = |segment: &str| !matches!(segment, "" | "." | "..") && !segment.contains(char::is_control);
    match path.strip_prefix('/') {
        Some(rest) if rest.split('/').all(fine) && !is_the_engines(rest) => Ok(path.to_owned()),
        _ => {
            let expected = "an absolute path such as `/workspace`, not below `/proc`, `/sys` or `/dev`, and not `/tmp`";
            Err(raw.invalid("CONTAINER_WORKSPACE", expected))
        }
    }
}

/// Where the engine mounts something of its own, or we do.
fn is_the_engines(path: &str) -> bool {
    path == "tmp" || matches!(path.split('/').next(), Some("proc" | "sys" | "dev"))
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
        for (name, value, words) in [
            ("CONTAINER_NETWORK", "host", "not `host`"),
            ("CONTAINER_NETWORK", "container:x", "the name of a network"),
            ("CONTAINER_WORKSPACE", "/a/../b", "an absolute path"),
            ("CONTAINER_WORKSPACE", "/", "an absolute path"),
            ("CONTAINER_WORKSPACE", "workspace", "an absolute path"),
            ("CONTAINER_WORKSPACE", "/proc", "not below `/proc`"),
            ("CONTAINER_WORKSPACE", "/sys/kernel", "not below `/proc`"),
            ("CONTAINER_WORKSPACE", "/dev/shm", "not below `/proc`"),
            ("CONTAINER_WORKSPACE", "/tmp", "not `/tmp`"),
            ("CONTAINER_PIDS_MAX", "1", "from 2 to 100000"),
            ("CONTAINER_EVENTS", "yes", "`on` or `off`"),
        ] {
            let error = config("127.0.0.1", &[(name, value)]).unwrap_err().to_string();
            assert!(error.starts_with(name) && error.contains(words), "{error}");
        }
        let (stop, warn) = ("CONTAINER_IDLE_STOP_SECONDS", "CONTAINER_IDLE_WARNING_SECONDS");
        assert_eq!(config("::1", &[]).unwrap().idle_stop, None);
        let seconds = |pairs: &[(&str, &str)]| {
            config("::1", pairs).unwrap().idle_stop.map(|idle| (idle.after.as_secs(), idle.warning.as_secs()))
        };
        assert_eq!(seconds(&[(stop, "600")]), Some((600, 60)));
        assert_eq!(seconds(&[(stop, "60"), (warn, "10")]), Some((60, 10)));
        assert!(config("::1", &[(stop, "60"), (warn, "60")]).unwrap_err().to_string().starts_with(warn));
        let error = config("127.0.0.1", &[(public, "maybe")]).unwrap_err().to_string();
        assert!(error.contains("`maybe`; it must be `on` or `off`"), "{error}");
    }
}
