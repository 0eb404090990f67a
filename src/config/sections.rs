//! The typed settings, checked.

use std::io::ErrorKind;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use runwarden_actors::contract::RolloutPhase;
use secrecy::{ExposeSecret, SecretString};

use crate::evidence::AwsSettings;
use crate::sandbox::DaytonaSettings;
use crate::telemetry::LogFormat;

use super::daytona::daytona;
use super::secrets::read_or_generate;
use super::{AccessConfig, BypassConfig, ConfigError, ContainersConfig, PreviewsConfig, RawSettings};

/// Shortest shared secret: what is shorter can be guessed.
const SECRET_MIN_BYTES: usize = 16;

/// Everything that the server is told at start.
#[derive(Debug, Clone)]
pub struct Config {
    /// Listening.
    pub server: ServerConfig,
    /// Folder for everything embedded.
    pub data_dir: PathBuf,
    /// Database.
    pub database: DatabaseConfig,
    /// Whether the schema is brought up to date at start.
    pub migrate_on_start: bool,
    /// Redis; embedded where there is none.
    pub redis_url: Option<SecretString>,
    /// Who is let in while Redis is away; nobody unless it is asked for.
    pub bypass: Option<BypassConfig>,
    /// Objects.
    pub objects: ObjectsConfig,
    /// Shared secrets.
    pub secrets: SecretsConfig,
    /// Sandboxes.
    pub sandbox: SandboxConfig,
    /// Previews.
    pub previews: PreviewsConfig,
    /// Container previews.
    pub containers: ContainersConfig,
    /// Who may see previews.
    pub access: AccessConfig,
    /// Runs.
    pub runs: RunsConfig,
    /// Logs.
    pub log: LogConfig,
}

/// Listening.
#[derive(Debug, Clone)]
pub struct ServerConfig {
    /// Address.
    pub host: IpAddr,
    /// Port; 0 takes a free one.
    pub port: u16,
    /// HTTP worker threads.
    pub workers: usize,
    /// Connections for each worker.
    pub max_connections: usize,
    /// Time for what is in flight.
    pub shutdown_timeout: Duration,
}

/// Database.
#[derive(Debug, Clone)]
pub enum DatabaseConfig {
    /// A file.
    Sqlite(PathBuf),
    /// A server.
    Postgres {
        /// With the password in it.
        url: SecretString,
        /// Pool size.
        max_connections: u32,
    },
}

impl DatabaseConfig {
    /// `sqlite` or `postgres`.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Sqlite(_) => "sqlite",
            Self::Postgres { .. } => "postgres",
        }
    }
}

/// Objects.
#[derive(Debug, Clone)]
pub enum ObjectsConfig {
    /// A folder.
    Files(PathBuf),
    /// A bucket.
    S3 {
        /// `s3://bucket/prefix`.
        url: String,
        /// Its credentials and server.
        aws: AwsSettings,
    },
}

/// Shared secrets.
#[derive(Debug, Clone)]
pub struct SecretsConfig {
    /// Of host applications.
    pub internal_service_key: SecretString,
    /// Of operators.
    pub admin_token: SecretString,
    /// Where they were generated or found, on the embedded default.
    pub folder: Option<PathBuf>,
}

/// Sandboxes.
#[derive(Debug, Clone)]
pub struct SandboxConfig {
    /// Docker engine.
    pub docker_host: String,
    /// Root of the process provider; refused where there is none.
    pub process_root: Option<PathBuf>,
    /// Daytona.
    pub daytona: DaytonaSettings,
}

/// Runs.
#[derive(Debug, Clone)]
pub struct RunsConfig {
    /// Frozen into each run.
    pub rollout_phase: RolloutPhase,
    /// Silence that ends a run.
    pub silence_timeout: Duration,
    /// Wait for `endSha`.
    pub missing_end_sha_timeout: Duration,
    /// Pause between sweeps.
    pub sweep_interval: Duration,
    /// Idle time of an actor.
    pub actor_idle: Duration,
    /// Threads of actors.
    pub threads: usize,
}

/// Logs.
#[derive(Debug, Clone)]
pub struct LogConfig {
    /// Format.
    pub format: LogFormat,
    /// Level or filter.
    pub filter: String,
}

impl LogConfig {
    /// Read first, so that everything after it can be logged.
    pub fn from_raw(raw: &RawSettings) -> Result<Self, ConfigError> {
        let format = match raw.get("LOG_FORMAT").unwrap_or("text") {
            "text" => LogFormat::Text,
            "json" => LogFormat::Json,
            _ => return Err(raw.invalid("LOG_FORMAT", "`text` or `json`")),
        };
        let filter = raw.get("LOG_LEVEL").unwrap_or("info").to_owned();
        // A word that is no level would be read as the name of a part of the program, and switch everything else off.
        let known =
            |part: &str| part.contains('=') || part.trim().parse::<tracing::level_filters::LevelFilter>().is_ok();
        if !filter.split(',').all(known) || tracing_subscriber::EnvFilter::try_new(&filter).is_err() {
            return Err(raw.invalid("LOG_LEVEL", "a level or a list such as `info,sqlx=warn`"));
        }
        Ok(Self { format, filter })
    }
}

impl Config {
    /// Whether database or coordination store are in `data_dir`: then one server alone may work there.
    pub const fn is_embedded(&self) -> bool {
        matches!(self.database, DatabaseConfig::Sqlite(_)) || self.redis_url.is_none()
    }

    /// Checks everything. On the embedded default it makes `DATA_DIR` and the secrets in it.
    pub fn from_raw(raw: &RawSettings) -> Result<Self, ConfigError> {
        let data_dir = PathBuf::from(raw.get("DATA_DIR").unwrap_or("./data"));
        let database = database(raw, &data_dir)?;
        let secrets = secrets(raw, &database, &data_dir)?;
        let server = server(raw)?;
        Ok(Self {
            containers: ContainersConfig::from_raw(raw, server.host)?,
            server,
            database,
            migrate_on_start: match raw.get("MIGRATE_ON_START").unwrap_or("on") {
                "on" | "true" => true,
                "off" | "false" => false,
                _ => return Err(raw.invalid("MIGRATE_ON_START", "`on` or `off`")),
            },
            redis_url: redis(raw)?,
            bypass: BypassConfig::from_raw(raw)?,
            objects: objects(raw, &data_dir)?,
            secrets,
            sandbox: sandbox(raw)?,
            previews: PreviewsConfig::from_raw(raw)?,
            access: AccessConfig::from_raw(raw)?,
            runs: runs(raw)?,
            log: LogConfig::from_raw(raw)?,
            data_dir,
        })
    }
}

pub(super) fn integer(
    raw: &RawSettings,
    name: &'static str,
    default: u64,
    min: u64,
    max: u64,
) -> Result<u64, ConfigError> {
    let Some(text) = raw.get(name) else { return Ok(default) };
    text.trim()
        .parse()
        .ok()
        .filter(|number| (min..=max).contains(number))
        .ok_or_else(|| raw.invalid(name, format!("an integer from {min} to {max}")))
}

fn seconds(raw: &RawSettings, name: &'static str, default: u64, min: u64, max: u64) -> Result<Duration, ConfigError> {
    integer(raw, name, default, min, max).map(Duration::from_secs)
}

fn count(raw: &RawSettings, name: &'static str, default: u64, min: u64, max: u64) -> Result<usize, ConfigError> {
    integer(raw, name, default, min, max).map(|number| usize::try_from(number).unwrap_or(usize::MAX))
}

fn server(raw: &RawSettings) -> Result<ServerConfig, ConfigError> {
    let cores = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
    Ok(ServerConfig {
        host: raw
            .get("HOST")
            .unwrap_or("127.0.0.1")
            .parse()
            .map_err(|_| raw.invalid("HOST", "an IP address such as 127.0.0.1, 0.0.0.0 or ::1"))?,
        port: integer(raw, "PORT", 4002, 0, 65_535).map(|port| u16::try_from(port).unwrap_or(4002))?,
        workers: count(raw, "WORKERS", u64::try_from(cores.min(64)).unwrap_or(2), 1, 64)?,
        max_connections: count(raw, "MAX_CONNECTIONS", 25_000, 10, 1_000_000)?,
        shutdown_timeout: seconds(raw, "SHUTDOWN_TIMEOUT_SECONDS", 30, 1, 600)?,
    })
}

fn database(raw: &RawSettings, data_dir: &Path) -> Result<DatabaseConfig, ConfigError> {
    let max = integer(raw, "DATABASE_MAX_CONNECTIONS", 10, 3, 200)?;
    let max_connections = u32::try_from(max).unwrap_or(10);
    match raw.get("DATABASE_URL") {
        None => Ok(DatabaseConfig::Sqlite(data_dir.join("runwarden.sqlite3"))),
        Some(url) if url.starts_with("postgres://") || url.starts_with("postgresql://") => {
            Ok(DatabaseConfig::Postgres { url: SecretString::from(url.to_owned()), max_connections })
        }
        Some(_) => Err(raw
            .invalid("DATABASE_URL", "`postgres://user:password@host:port/database`, or unset for SQLite in DATA_DIR")),
    }
}

fn redis(raw: &RawSettings) -> Result<Option<SecretString>, ConfigError> {
    match raw.get("REDIS_URL") {
        None => Ok(None),
        Some(url) if ["redis://", "rediss://", "redis+unix://", "unix://"].iter().any(|s| url.starts_with(s)) => {
            Ok(Some(SecretString::from(url.to_owned())))
        }
        Some(_) => Err(raw.invalid("REDIS_URL", "`redis://host:port` or `rediss://host:port`")),
    }
}

fn objects(raw: &RawSettings, data_dir: &Path) -> Result<ObjectsConfig, ConfigError> {
    let Some(url) = raw.get("OBJECT_STORE_URL") else {
        return Ok(ObjectsConfig::Files(data_dir.join("objects")));
    };
    if !url.starts_with("s3://") || url.len() == "s3://".len() {
        let expected = "`s3://bucket` or `s3://bucket/prefix`, or unset for files in DATA_DIR";
        return Err(raw.invalid("OBJECT_STORE_URL", expected));
    }
    let given = |name| raw.get(name).map(ToOwned::to_owned);
    Ok(ObjectsConfig::S3 {
        url: url.to_owned(),
        aws: AwsSettings {
            access_key_id: given("AWS_ACCESS_KEY_ID"),
            secret_access_key: given("AWS_SECRET_ACCESS_KEY"),
            session_token: given("AWS_SESSION_TOKEN"),
            region: given("AWS_REGION"),
            endpoint_url: given("AWS_ENDPOINT_URL"),
        },
    })
}

fn secrets(raw: &RawSettings, database: &DatabaseConfig, data_dir: &Path) -> Result<SecretsConfig, ConfigError> {
    let embedded = matches!(database, DatabaseConfig::Sqlite(_));
    let folder = data_dir.join("secrets");
    let one = |name: &'static str, file: &str| -> Result<SecretString, ConfigError> {
        match raw.get(name) {
            Some(value) if value.len() < SECRET_MIN_BYTES => {
                Err(raw
                    .invalid(name, format!("at least {SECRET_MIN_BYTES} characters; `openssl rand -hex 32` makes one")))
            }
            // Something in a header: text that HTTP cannot carry would lock everybody out.
            Some(value) if value.bytes().all(|byte| byte.is_ascii_graphic()) => {
                Ok(SecretString::from(value.to_owned()))
            }
            Some(_) => Err(raw.invalid(name, "printable ASCII without spaces")),
            None if embedded => read_or_generate(&folder, file).map_err(|error| match error.kind() {
                ErrorKind::InvalidData => ConfigError::File { file: folder.join(file), message: error.to_string() },
                // Set or not: this is the folder that is meant.
                _ => ConfigError::Invalid {
                    name: "DATA_DIR",
                    given: format!("`{}`", data_dir.display()),
                    expected: format!("a folder that this user may make and write to: {error} (secrets/{file})"),
                },
            }),
            None => Err(ConfigError::Missing {
                name,
                expected: "with Postgres it must be given, the same on every server".to_owned(),
            }),
        }
    };
    let secrets = SecretsConfig {
        internal_service_key: one("INTERNAL_SERVICE_KEY", "internal_service_key")?,
        admin_token: one("ADMIN_TOKEN", "admin_token")?,
        folder: embedded.then_some(folder.clone()),
    };
    if secrets.internal_service_key.expose_secret() == secrets.admin_token.expose_secret() {
        return Err(raw.invalid("ADMIN_TOKEN", "another secret than INTERNAL_SERVICE_KEY"));
    }
    Ok(secrets)
}

fn sandbox(raw: &RawSettings) -> Result<SandboxConfig, ConfigError> {
    let docker_host = raw.get("DOCKER_HOST").unwrap_or("unix:///var/run/docker.sock").to_owned();
    if !crate::sandbox::is_docker_host(&docker_host) {
        return Err(raw.invalid("DOCKER_HOST", "`unix:///path/to/socket` or `tcp://host:port`"));
    }
    let process_root = match raw.get("PROCESS_SANDBOX_ROOT") {
        None => None,
        Some(path) => Some(
            std::fs::canonicalize(path)
                .ok()
                .filter(|path| path.is_dir())
                .ok_or_else(|| raw.invalid("PROCESS_SANDBOX_ROOT", "an existing folder"))?,
        ),
    };
    Ok(SandboxConfig { docker_host, process_root, daytona: daytona(raw)? })
}

fn runs(raw: &RawSettings) -> Result<RunsConfig, ConfigError> {
    use runwarden_actors::contract::limits::{
        ACTOR_IDLE_SECONDS, MISSING_END_SHA_TIMEOUT_SECONDS, RUN_SILENCE_TIMEOUT_SECONDS, SWEEP_INTERVAL_SECONDS,
    };
    let phase = raw.get("ROLLOUT_PHASE").unwrap_or(RolloutPhase::Internal.as_str());
    Ok(RunsConfig {
        rollout_phase: phase.parse().map_err(|_| raw.invalid("ROLLOUT_PHASE", "`internal`, `beta` or `general`"))?,
        silence_timeout: seconds(raw, "RUN_SILENCE_TIMEOUT_SECONDS", RUN_SILENCE_TIMEOUT_SECONDS, 60, 2_592_000)?,
        missing_end_sha_timeout: seconds(
            raw,
            "MISSING_END_SHA_TIMEOUT_SECONDS",
            MISSING_END_SHA_TIMEOUT_SECONDS,
            1,
            86_400,
        )?,
        sweep_interval: seconds(raw, "SWEEP_INTERVAL_SECONDS", SWEEP_INTERVAL_SECONDS, 1, 3_600)?,
        actor_idle: seconds(raw, "ACTOR_IDLE_SECONDS", ACTOR_IDLE_SECONDS, 1, 86_400)?,
        threads: count(raw, "RUN_THREADS", 0, 0, 64)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(pairs: &[(&str, &str)]) -> Result<Config, ConfigError> {
        let folder = tempfile::tempdir().unwrap();
        let mut all = vec![("DATA_DIR", folder.path().display().to_string())];
        all.extend(pairs.iter().map(|(name, value)| (*name, (*value).to_owned())));
        Config::from_raw(&RawSettings::from_pairs(all).unwrap())
    }

    #[test]
    fn nothing_has_to_be_set() {
        let config = config(&[]).unwrap();
        assert_eq!((config.server.host.to_string().as_str(), config.server.port), ("127.0.0.1", 4002));
        assert!(matches!(config.database, DatabaseConfig::Sqlite(_)));
        assert!(config.redis_url.is_none() && config.sandbox.process_root.is_none());
    }

    #[test]
    fn a_wrong_value_is_named_with_what_would_be_right() {
        for (name, value, words) in [
            ("PORT", "70000", "an integer from 0 to 65535"),
            ("HOST", "localhost", "an IP address"),
            ("DATABASE_URL", "mysql://x", "postgres://"),
            ("REDIS_URL", "http://x", "redis://"),
            ("OBJECT_STORE_URL", "s3://", "s3://bucket"),
            ("DOCKER_HOST", "ssh://x", "unix://"),
            ("DOCKER_HOST", "http://engine:2375", "`tcp://host:port`"),
            ("DOCKER_HOST", "unix://", "`unix:///path/to/socket`"),
            ("PROCESS_SANDBOX_ROOT", "/nonexistent-folder", "an existing folder"),
            ("ROLLOUT_PHASE", "gamma", "`beta`"),
            ("LOG_FORMAT", "xml", "`json`"),
            ("LOG_LEVEL", "loud", "a level"),
            ("SHUTDOWN_TIMEOUT_SECONDS", "0", "from 1 to 600"),
            ("ADMIN_TOKEN", "two words of a token", "printable ASCII"),
            ("INTERNAL_SERVICE_KEY", "short", "at least 16 characters"),
            ("DAYTONA_API_URL", "http://daytona.example/api", "https://"),
            ("DAYTONA_API_URL", "nonsense", "https://"),
            ("DAYTONA_API_KEY", "two words", "printable ASCII"),
            ("DAYTONA_PREVIEW_SUFFIX", "preview.example.com", "leading dot"),
            ("DAYTONA_PREVIEW_SUFFIX", ".com", "leading dot"),
            ("DAYTONA_PREVIEW_SUFFIX", ".a.example,", "leading dot"),
        ] {
            let error = config(&[(name, value)]).unwrap_err().to_string();
            assert!(error.starts_with(name) && error.contains(words), "{error}");
        }
        for (name, url) in [
            ("DATABASE_URL", "mysql://user:pa55@x"),
            ("OBJECT_STORE_URL", "https://user:pa55@x"),
            ("DOCKER_HOST", "ssh://user:pa55@x"),
        ] {
            let error = config(&[(name, url)]).unwrap_err().to_string();
            assert!(!error.contains("pa55"), "{error}");
        }
    }

    const KEY: &str = "a-key-of-the-tests";

    #[test]
    fn postgres_asks_for_its_secrets() {
        let error = config(&[("DATABASE_URL", "postgres://localhost/x")]).unwrap_err().to_string();
        assert!(error.starts_with("INTERNAL_SERVICE_KEY is not set"), "{error}");
        let pairs =
            [("DATABASE_URL", "postgres://u:pw@localhost/x"), ("INTERNAL_SERVICE_KEY", KEY), ("ADMIN_TOKEN", KEY)];
        assert!(config(&pairs).unwrap_err().to_string().contains("another secret"));
        let pairs = [pairs[0], pairs[1], ("ADMIN_TOKEN", "another-token-of-the-tests")];
        let config = config(&pairs).unwrap();
        assert!(!format!("{config:?}").contains("pw@"));
    }
}
