//! The table of settings. `serve --help` and `docs/settings.md` are made from it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use super::ConfigError;

/// One setting.
#[derive(Debug, Clone, Copy)]
pub struct Setting {
    /// Its name in the environment; the same in lower case in the file.
    pub name: &'static str,
    /// Its default, as it would be written; words in parentheses are a description.
    pub default: &'static str,
    /// What it is, with unit and bounds.
    pub about: &'static str,
    /// Whether its value is never shown.
    pub secret: bool,
}

const fn setting(name: &'static str, default: &'static str, about: &'static str) -> Setting {
    Setting { name, default, about, secret: false }
}

const fn secret(name: &'static str, default: &'static str, about: &'static str) -> Setting {
    Setting { name, default, about, secret: true }
}

/// Every setting there is.
pub const SETTINGS: &[Setting] = &[
    setting("HOST", "127.0.0.1", "Address to listen on."),
    setting("PORT", "4002", "TCP port to listen on, 0 to 65535; 0 takes a free one."),
    setting("DATA_DIR", "./data", "Folder of the embedded database, objects and generated secrets."),
    secret(
        "DATABASE_URL",
        "(SQLite in DATA_DIR)",
        "`postgres://user:password@host/database` for production and for more than one server.",
    ),
    setting("DATABASE_MAX_CONNECTIONS", "10", "Connections to Postgres, 3 to 200."),
    setting("MIGRATE_ON_START", "on", "`on` brings the schema up to date at start; `off` refuses an older one."),
    secret("REDIS_URL", "(embedded)", "`redis://host:port`; required with Postgres when several servers run."),
    setting(
        "OBJECT_STORE_URL",
        "(files in DATA_DIR)",
        "`s3://bucket/prefix` keeps large payloads in S3 or a compatible store.",
    ),
    setting("AWS_REGION", "us-east-1", "Region of the bucket; `auto` for R2."),
    setting("AWS_ENDPOINT_URL", "(AWS)", "Endpoint of a compatible store, such as R2 or MinIO."),
    setting("AWS_ACCESS_KEY_ID", "(none)", "Access key of the bucket."),
    secret("AWS_SECRET_ACCESS_KEY", "(none)", "Secret key of the bucket."),
    secret("AWS_SESSION_TOKEN", "(none)", "Session token of temporary credentials."),
    secret(
        "INTERNAL_SERVICE_KEY",
        "(generated in DATA_DIR)",
        "What host applications send as X-Internal-Service-Key; required with Postgres.",
    ),
    secret("ADMIN_TOKEN", "(generated in DATA_DIR)", "Token of the admin routes; required with Postgres."),
    setting(
        "DOCKER_HOST",
        "unix:///var/run/docker.sock",
        "Docker engine, `unix:///path` or `tcp://host:port`, for runs bound to `docker`, and for sessions' containers and their previews.",
    ),
    setting(
        "PROCESS_SANDBOX_ROOT",
        "(unset: the process provider is refused)",
        "Folder in which every `repoDir` of the process provider must lie. It runs commands on this host: \
         development only.",
    ),
    setting(
        "PREVIEW_HOST_SUFFIX",
        "(unset: previews are on paths only)",
        "Domain below which each preview has a host of its own, such as `preview.localhost`.",
    ),
    setting(
        "PREVIEW_WEBSOCKET",
        "(off on paths, on on preview hosts)",
        "`on` or `off` decides for both whether WebSocket is proxied.",
    ),
    setting(
        "PREVIEW_PATH_SANDBOX",
        "on",
        "`on` puts answers on paths under a CSP sandbox; all previews on paths share one origin, so `off` lets each \
         reach the others.",
    ),
    setting(
        "PREVIEW_FORWARD_HEADERS",
        "(none)",
        "Request headers that previews get beside the usual ones, separated by commas; never credentials.",
    ),
    setting(
        "PREVIEW_FRAME_ANCESTORS",
        "*",
        "Who may frame previews that are opened in a frame, as CSP writes it: origins separated by spaces. Pages embed \
         previews where their origin stands here by name; `*` lets them frame only.",
    ),
    setting(
        "PREVIEW_BYPASS_UNTIL",
        "(unset: no bypass)",
        "Emergency only: until this instant (RFC 3339, at most 4 hours after the start) PREVIEW_BYPASS_USERS are let into \
         previews while Redis is away. An instant that has passed stops the start.",
    ),
    setting(
        "PREVIEW_BYPASS_USERS",
        "(unset: no bypass)",
        "Emergency only: 1 to 100 user ids, separated by commas; required with PREVIEW_BYPASS_UNTIL, and no pattern.",
    ),
    setting("PREVIEW_ENVIRONMENT", "development", "Names this installation in the keys of shared caches."),
    setting(
        "TRUSTED_PROXIES",
        "(none)",
        "Networks of proxies whose CLIENT_IP_HEADERS name the client, separated by commas.",
    ),
    setting(
        "CLIENT_IP_HEADERS",
        "x-forwarded-for",
        "Headers in which trusted proxies name the client, the first that is there counts: `x-forwarded-for`, \
         `x-vercel-ip`, or both. Name only what your proxy sets itself.",
    ),
    setting(
        "ALLOWED_UPSTREAM_NETWORKS",
        "(none)",
        "Networks in which Docker's and process sandboxes' previews may be reached, separated by commas, such as \
         `172.17.0.0/16`.",
    ),
    setting("LIMIT_START_USER", "30/10", "Preview starts of a user: in a minute / in 10 s."),
    setting("LIMIT_START_IP", "120/30", "Preview starts of an address: in a minute / in 10 s."),
    setting("LIMIT_EXCHANGE_USER", "60/20", "Exchanges of a user: in a minute / in 10 s."),
    setting("LIMIT_EXCHANGE_IP", "240/60", "Exchanges of an address: in a minute / in 10 s."),
    setting("LIMIT_PROXY_SESSION", "1200/240", "Proxied requests of a preview: in a minute / in 10 s."),
    setting("LIMIT_PROXY_IP", "3600/600", "Proxied requests of an address: in a minute / in 10 s."),
    setting(
        "ACCESS_SOURCE",
        "owner",
        "Who may see a repository's previews: `owner` (the user that the run belongs to), `github` (collaborators), \
         an http or https URL of the host application, or `static:FILE` for development.",
    ),
    secret("GITHUB_TOKEN", "(none)", "Token for GitHub's API; required by `ACCESS_SOURCE=github`."),
    setting(
        "GITHUB_API_URL",
        "https://api.github.com",
        "Base of GitHub's API, for GitHub Enterprise; `http://` only for one on this host.",
    ),
    setting("DAYTONA_API_URL", "https://app.daytona.io/api", "Daytona's API; `http://` only for one on this host."),
    secret("DAYTONA_API_KEY", "(unset: Daytona is not asked)", "Key for Daytona's API."),
    setting("DAYTONA_ORGANIZATION_ID", "(that of the key)", "Organization, for keys that belong to several."),
    setting(
        "DAYTONA_PREVIEW_SUFFIX",
        ".daytonaproxy01.net,.daytonaproxy01.eu",
        "Domains of Daytona's preview proxy, comma-separated, each with its leading dot. Previews whose address \
         lies elsewhere are refused.",
    ),
    setting(
        "CONTAINER_PREVIEWS_PUBLIC",
        "(on on a loopback HOST; else it must be said)",
        "`on` or `off`: whether `/previews/{sessionId}/…` shows registered ports of containers. It asks nobody who they \
         are: whoever reaches HOST and knows a session's id sees its app.",
    ),
    setting(
        "CONTAINER_PREVIEWS_INTERNAL",
        "(on on a loopback HOST; else it must be said)",
        "`on` or `off`: the same for `/internal-previews/proxy/{sessionId}/…`, which is meant for an internal network and \
         asks nobody either.",
    ),
    setting("CONTAINER_PREVIEW_REMOVAL", "off", "`on`: registrations of containers' ports can be removed."),
    setting(
        "CONTAINER_EVENTS",
        "off",
        "`on`: a container that stops or disappears loses its registrations; the engine's events are watched.",
    ),
    setting("CONTAINER_NAMED_PORTS", "off", "`on`: a session can register up to 16 more ports, by name."),
    setting("CONTAINER_PREVIEW_HEALTH", "off", "`on`: it can be asked why a container's preview does not answer."),
    setting(
        "CONTAINER_IDLE_STOP_SECONDS",
        "0",
        "Time without a request or command after which a container that was created here is stopped, 1 to 2592000 s; 0: \
         never. One server only: others do not know of its requests.",
    ),
    setting(
        "CONTAINER_IDLE_WARNING_SECONDS",
        "(60, or half of CONTAINER_IDLE_STOP_SECONDS)",
        "Time before that at which a warning event comes.",
    ),
    setting(
        "CONTAINER_IMAGE",
        "(none)",
        "Image of containers whose creator names none; the engine must have it, nothing is pulled.",
    ),
    setting("CONTAINER_NETWORK", "bridge", "Network of the engine that created containers join."),
    setting(
        "CONTAINER_WORKSPACE",
        "/workspace",
        "Folder of a container's workspace, a volume that goes with it. Not below `/proc`, `/sys` or `/dev`, and not `/tmp`.",
    ),
    setting(
        "CONTAINER_MEMORY_MAX_BYTES",
        "2147483648",
        "Memory of a created container, 8388608 to 1099511627776; its creator may ask for less.",
    ),
    setting(
        "CONTAINER_CPU_MAX_MILLIS",
        "2000",
        "Thousandths of a CPU of a created container, 10 to 1000000; its creator may ask for less.",
    ),
    setting(
        "CONTAINER_PIDS_MAX",
        "512",
        "Processes and threads of a created container, 2 to 100000; its creator may ask for less.",
    ),
    setting(
        "CONTAINER_READ_ONLY_ROOT",
        "on",
        "`on`: created containers write to their workspace and `/tmp` only. `off` lets their creator decide.",
    ),
    setting("ROLLOUT_PHASE", "internal", "Frozen into each run: `internal`, `beta` or `general`."),
    setting("RUN_SILENCE_TIMEOUT_SECONDS", "21600", "Silence after which an active run is ended, 60 to 2592000 s."),
    setting(
        "MISSING_END_SHA_TIMEOUT_SECONDS",
        "300",
        "Wait for `endSha` after a terminal event that lacked it, 1 to 86400 s.",
    ),
    setting("SWEEP_INTERVAL_SECONDS", "60", "Pause between backstop sweeps, 1 to 3600 s."),
    setting("ACTOR_IDLE_SECONDS", "300", "Time without work after which a run's actor goes away, 1 to 86400 s."),
    setting("WORKERS", "(one for each core)", "HTTP worker threads, 1 to 64."),
    setting(
        "RUN_THREADS",
        "0",
        "Threads of their own that run actors are spread over, 0 to 64; 0 keeps them on the main thread, beside the \
         database's tasks.",
    ),
    setting("MAX_CONNECTIONS", "25000", "Open connections for each worker, 10 to 1000000."),
    setting("SHUTDOWN_TIMEOUT_SECONDS", "30", "Time for what is in flight after SIGTERM, 1 to 600 s."),
    setting("LOG_FORMAT", "text", "`text` or `json`, on standard error."),
    setting("LOG_LEVEL", "info", "A level (`error`, `warn`, `info`, `debug`) or a list such as `info,sqlx=warn`."),
];

/// Values as they were written, by name.
#[derive(Default, Clone)]
pub struct RawSettings(BTreeMap<&'static str, String>);

impl RawSettings {
    /// Reads the file, if any, and then the environment over it. An empty value counts as not set.
    pub fn read(
        file: Option<&Path>,
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, ConfigError> {
        let mut values = BTreeMap::new();
        if let Some(file) = file {
            read_file(file, &mut values)?;
        }
        for (name, value) in environment {
            if let Some(setting) = SETTINGS.iter().find(|setting| setting.name == name) {
                values.insert(setting.name, value);
            }
        }
        values.retain(|_, value| !value.is_empty());
        Ok(Self(values))
    }

    /// From pairs, for tests and `demo`.
    pub fn from_pairs<'a>(pairs: impl IntoIterator<Item = (&'a str, String)>) -> Result<Self, ConfigError> {
        Self::read(None, pairs.into_iter().map(|(name, value)| (name.to_owned(), value)))
    }

    /// The value, where one is given.
    pub fn get(&self, name: &'static str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// The value as an error shows it.
    pub(super) fn shown(&self, name: &'static str) -> String {
        let secret = SETTINGS.iter().any(|setting| setting.name == name && setting.secret);
        match self.get(name) {
            None => "not set".to_owned(),
            Some(_) if secret => "(a secret)".to_owned(),
            Some(value) => format!("`{}`", without_credentials(value).chars().take(100).collect::<String>()),
        }
    }

    pub(super) fn invalid(&self, name: &'static str, expected: impl Into<String>) -> ConfigError {
        ConfigError::Invalid { name, given: self.shown(name), expected: expected.into() }
    }
}

impl std::fmt::Debug for RawSettings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_map().entries(self.0.keys().map(|name| (*name, self.shown(name)))).finish()
    }
}

/// A URL without what stands before its host: a password may have been put where none belongs.
fn without_credentials(value: &str) -> String {
    match (value.split_once("://"), value.rfind('@')) {
        (Some((scheme, _)), Some(at)) => format!("{scheme}://(hidden)@{}", &value[at + 1..]),
        _ => value.to_owned(),
    }
}

fn read_file(file: &Path, values: &mut BTreeMap<&'static str, String>) -> Result<(), ConfigError> {
    let problem = |message: String| ConfigError::File { file: file.to_owned(), message };
    let text = std::fs::read_to_string(file).map_err(|error| ConfigError::Invalid {
        name: "RUNWARDEN_CONFIG",
        given: format!("`{}`", file.display()),
        expected: format!("a TOML file with settings that this user may read (--config names it too): {error}"),
    })?;
    // The parser's message quotes the line; a secret may stand in it.
    let table: toml::Table = text.parse().map_err(|error: toml::de::Error| {
        let line = error.span().map_or(0, |span| text[..span.start.min(text.len())].lines().count());
        problem(format!("line {line} is not TOML: {}", error.message()))
    })?;
    for (key, value) in table {
        let Some(setting) = SETTINGS.iter().find(|setting| setting.name.eq_ignore_ascii_case(&key)) else {
            return Err(ConfigError::UnknownKey { file: file.to_owned(), key });
        };
        let text = match value {
            toml::Value::String(text) => text,
            toml::Value::Integer(number) => number.to_string(),
            toml::Value::Boolean(on) => if on { "on" } else { "off" }.to_owned(),
            _ => return Err(problem(format!("`{key}` must be text, an integer or a boolean"))),
        };
        values.insert(setting.name, text);
    }
    Ok(())
}

/// The table as `serve --help` shows it.
pub fn help_text() -> String {
    let mut text = String::from(
        "Settings come from a TOML file (--config, keys in lower case) and the environment, environment last:\n",
    );
    for setting in SETTINGS {
        let _ = write!(text, "\n  {}  [default: {}]\n      {}\n", setting.name, setting.default, setting.about);
    }
    text
}

/// The table as `docs/settings.md` shows it.
#[cfg(test)]
fn markdown() -> String {
    let mut text = String::from(
        "# Settings\n\nGenerated from `src/config/settings.rs`; a test fails when the two differ.\n\n\
         Settings come from a TOML file (`runwarden serve --config FILE`, the same names in lower case) and from \
         the environment, environment last. A wrong value stops the start with the setting's name, its value \
         (secrets never) and what would be right. An empty value counts as not set.\n\n\
         | name | default | what it is |\n|---|---|---|\n",
    );
    for setting in SETTINGS {
        let default = if setting.default.starts_with('(') {
            setting.default.trim_matches(['(', ')']).to_owned()
        } else {
            format!("`{}`", setting.default)
        };
        let secret = if setting.secret { " Secret." } else { "" };
        let _ = writeln!(text, "| `{}` | {default} | {}{secret} |", setting.name, setting.about);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_comes_after_the_file_and_strangers_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("runwarden.toml");
        std::fs::write(&file, "port = 5000\nhost = \"0.0.0.0\"\nmigrate_on_start = false\n").unwrap();
        let raw =
            RawSettings::read(Some(&file), [("PORT".into(), "6000".into()), ("PATH".into(), "/bin".into())]).unwrap();
        assert_eq!((raw.get("PORT"), raw.get("HOST")), (Some("6000"), Some("0.0.0.0")));
        assert_eq!(raw.get("MIGRATE_ON_START"), Some("off"));
        std::fs::write(&file, "prot = 5000\n").unwrap();
        let error = RawSettings::read(Some(&file), []).unwrap_err().to_string();
        assert!(error.contains("`prot` is not a setting"), "{error}");
    }

    #[test]
    fn a_secret_is_shown_nowhere() {
        let raw = RawSettings::from_pairs([("ADMIN_TOKEN", "s3cret-value".to_owned())]).unwrap();
        assert!(!format!("{raw:?}").contains("s3cret"));
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("runwarden.toml");
        std::fs::write(&file, "admin_token = \"s3cret-value\" trailing\n").unwrap();
        let error = RawSettings::read(Some(&file), []).unwrap_err();
        assert!(!format!("{error} {error:?}").contains("s3cret"), "{error}");
    }

    #[test]
    fn the_generated_page_is_the_table() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/settings.md");
        if std::env::var_os("UPDATE_GENERATED").is_some() {
            std::fs::write(path, markdown()).unwrap();
        }
        assert_eq!(
            std::fs::read_to_string(path).unwrap(),
            markdown(),
            "run the tests with UPDATE_GENERATED=1 to write docs/settings.md anew"
        );
    }
}
