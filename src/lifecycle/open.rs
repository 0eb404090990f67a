//! What the settings name, opened: the database, the coordination store, the object store, the sandboxes.

use std::sync::Arc;
use std::time::Duration;

use runwarden_actors::contract::limits::STORE_CALL_TIMEOUT_MS;
use runwarden_actors::ports::store::StoreError;
use runwarden_actors::ports::{Clock, Coordination, EvidenceStore, Store};
use secrecy::ExposeSecret;
use thiserror::Error;

use crate::config::{Config, DatabaseConfig, ObjectsConfig};
use crate::coordination::{EmbeddedCoordination, RedisCoordination};
use crate::data_dir::make_folder;
use crate::evidence::ObjectEvidence;
use crate::outbound::OutboundClient;
use crate::sandbox::{DaytonaSandbox, DockerSandbox, ProcessSandbox, Sandboxes};
use crate::store::Migrated;
use crate::store::postgres::PostgresStore;
use crate::store::sqlite::SqliteStore;

/// Why the server does not start.
#[derive(Debug, Error)]
pub enum StartError {
    /// The database.
    #[error("{}the database ({kind}) does not open: {error}", database_setting(kind, error))]
    Database {
        /// `sqlite` or `postgres`.
        kind: &'static str,
        /// Why.
        error: StoreError,
    },
    /// Redis, or the embedded file.
    #[error("the coordination store does not open: {0}")]
    Coordination(String),
    /// A setting that only its adapter can judge.
    #[error("{0}")]
    Setting(String),
    /// A folder or a socket.
    #[error("{what}: {error}")]
    Io {
        /// What was tried.
        what: String,
        /// Why it failed.
        error: std::io::Error,
    },
    /// Keys.
    #[error("the daemon token keys could not be read or made")]
    Keys,
}

/// What a database that does not open was asked for by. Of `DATABASE_URL` nothing is shown: it may hold a password.
fn database_setting(kind: &str, error: &StoreError) -> &'static str {
    match (error, kind) {
        (StoreError::Unavailable(_), "postgres") => {
            "DATABASE_URL is (a secret); it must be `postgres://user:password@host:port/database` of a Postgres that \
             answers: "
        }
        (StoreError::Unavailable(_), _) => "DATABASE_URL is not set, and in DATA_DIR ",
        // It is there and says by itself what is wrong.
        _ => "",
    }
}

/// Opens the database that the settings name.
pub async fn open_store(config: &Config) -> Result<Arc<dyn Store>, StartError> {
    Ok(open_and_migrate(config).await?.0)
}

/// The same, with what was done to its schema; nothing where `MIGRATE_ON_START` is off.
pub async fn open_and_migrate(config: &Config) -> Result<(Arc<dyn Store>, Migrated), StartError> {
    let mut migrated = Migrated::default();
    let failed = |error| StartError::Database { kind: config.database.kind(), error };
    match &config.database {
        DatabaseConfig::Sqlite(path) => {
            make_folder(&config.data_dir)?;
            make_private(path)?;
            let store = SqliteStore::open(path).await.map_err(failed)?;
            if config.migrate_on_start {
                migrated = store.migrate().await.map_err(failed)?;
            }
            // Refuses an older schema, where it was not to be migrated.
            store.ping().await.map_err(failed)?;
            Ok((Arc::new(store), migrated))
        }
        DatabaseConfig::Postgres { url, max_connections } => {
            let limit = Duration::from_millis(STORE_CALL_TIMEOUT_MS);
            let store = PostgresStore::connect(url.expose_secret(), *max_connections, limit).await.map_err(failed)?;
            if config.migrate_on_start {
                migrated = store.migrate().await.map_err(failed)?;
            }
            // Refuses an older schema, where it was not to be migrated.
            store.ping().await.map_err(failed)?;
            Ok((Arc::new(store), migrated))
        }
    }
}

/// Opens the coordination store that the settings name.
pub async fn open_coordination(config: &Config, clock: &Arc<dyn Clock>) -> Result<Arc<dyn Coordination>, StartError> {
    match &config.redis_url {
        None => {
            make_folder(&config.data_dir)?;
            let embedded = EmbeddedCoordination::open(Arc::clone(clock), &config.data_dir)
                .await
                .map_err(|error| StartError::Coordination(error.0))?;
            Ok(Arc::new(embedded))
        }
        Some(url) => {
            let redis = RedisCoordination::new(url.expose_secret())
                .map_err(|error| StartError::Coordination(error.to_string()))?;
            Ok(Arc::new(redis))
        }
    }
}

/// Opens the object store that the settings name.
pub fn open_objects(config: &Config) -> Result<Arc<dyn EvidenceStore>, StartError> {
    let evidence = match &config.objects {
        ObjectsConfig::Files(folder) => ObjectEvidence::folder(folder),
        ObjectsConfig::S3 { url, aws } => ObjectEvidence::s3(url, aws),
    };
    Ok(Arc::new(evidence.map_err(|error| StartError::Setting(error.to_string()))?))
}

/// The providers that the settings allow.
pub fn open_sandboxes(config: &Config) -> Result<Sandboxes, StartError> {
    let docker = open_docker(config)?;
    let process = match &config.sandbox.process_root {
        None => None,
        Some(root) => Some(ProcessSandbox::new(root).map_err(|error| StartError::Setting(error.to_string()))?),
    };
    let daytona = OutboundClient::new()
        .and_then(|client| DaytonaSandbox::new(config.sandbox.daytona.clone(), client))
        .map_err(StartError::Setting)?;
    Ok(Sandboxes::new(docker, process, daytona))
}

/// The Docker engine; nothing is asked of it yet.
pub fn open_docker(config: &Config) -> Result<DockerSandbox, StartError> {
    DockerSandbox::new(&config.sandbox.docker_host).map_err(|error| StartError::Setting(error.to_string()))
}

/// Makes the file for its owner alone, before SQLite would make it for everybody: keys and payloads stand in it.
fn make_private(file: &std::path::Path) -> Result<(), StartError> {
    use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
    let made = std::fs::OpenOptions::new().create(true).append(true).mode(0o600).open(file);
    made.and_then(|made| made.set_permissions(std::fs::Permissions::from_mode(0o600)))
        .map_err(|error| StartError::Io { what: format!("file {} in DATA_DIR", file.display()), error })
}
