//! Connections, migrations and the schema's version.

use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use runwarden_actors::contract::limits::STORE_CALL_TIMEOUT_MS;
use runwarden_actors::ports::{Store, StoreError};
use sqlx::migrate::{MigrateError, Migrator};
use sqlx::pool::PoolConnection;
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};
use sqlx::{ConnectOptions, Sqlite};

use super::commit::Writer;
use crate::store::batch::GroupCommit;
use crate::store::failure::Failure;
use crate::store::schema::{MIGRATIONS, Migrated, MigrationRow, SchemaVersion};

static MIGRATOR: Migrator = Migrator { ignore_missing: true, ..sqlx::migrate!("migrations/sqlite") };

/// Takes the write lock at once: a transaction that reads first and writes later can be refused half-way.
pub(super) const BEGIN_WRITE: &str = "begin immediate";

/// Connections that only read.
const READERS: u32 = 4;

/// The port on SQLite. Clones share their connections.
#[derive(Clone)]
pub struct SqliteStore {
    readers: SqlitePool,
    /// One connection: whoever has it is this process's only writer.
    writer: SqlitePool,
    pub(super) commits: Arc<GroupCommit>,
    call_timeout: Duration,
}

impl SqliteStore {
    /// Opens the database file, and creates it where there is none; its folder must exist. Every call ends after
    /// [`STORE_CALL_TIMEOUT_MS`]. Must be called within a Tokio runtime that lives as long as the store.
    #[tracing::instrument(name = "store.open", skip_all)]
    pub async fn open(path: &Path) -> Result<Self, StoreError> {
        let call_timeout = Duration::from_millis(STORE_CALL_TIMEOUT_MS);
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            // In WAL mode anything less may forget the last commits when the power fails.
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            .busy_timeout(call_timeout / 2)
            // Pages: a checkpoint for every 32 MiB of log, and the log file shrinks to 64 MiB after one.
            .pragma("wal_autocheckpoint", "8192")
            .pragma("journal_size_limit", "67108864")
            // KiB, hence negative.
            .pragma("cache_size", "-32768")
            .pragma("temp_store", "memory")
            // Rows that a reader may be ahead of the one who asked; one may be a large payload.
            .row_buffer_size(8)
            .disable_statement_logging();
        // The writer is opened first: it creates the file and turns the log on.
        let writer = pool(1, call_timeout).connect_with(options.clone());
        let writer = match tokio::time::timeout(call_timeout, writer).await {
            Ok(writer) => writer.map_err(Failure::from)?,
            Err(_) => return Err(Failure::too_slow().into()),
        };
        let readers =
            pool(READERS, call_timeout).connect_lazy_with(options.create_if_missing(false).pragma("query_only", "on"));
        let batches = Arc::new(Writer { pool: writer.clone(), call_timeout });
        let commits = Arc::new(GroupCommit::start(batches, 1, call_timeout));
        Ok(Self { readers, writer, commits, call_timeout })
    }

    /// Brings the schema to this build's version, and says what that took. Takes as long as it takes.
    #[tracing::instrument(name = "store.migrate", skip_all)]
    pub async fn migrate(&self) -> Result<Migrated, StoreError> {
        let mut held = self.writer().await?;
        let before = migrations(&mut held).await?;
        MIGRATOR.run(&mut *held).await.map_err(|error| match error {
            MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => Failure::from(error).into(),
            other => StoreError::Rejected(other.to_string()),
        })?;
        Ok(Migrated::between(&before, migrations(&mut held).await?))
    }

    /// The schema that the database has, and the one that this build wants.
    #[tracing::instrument(name = "store.schema_version", skip_all)]
    pub async fn schema_version(&self) -> Result<SchemaVersion, StoreError> {
        let mut held = self.reader().await?;
        let outcome = self
            .limit(async {
                if !has_migrations(&mut held).await? {
                    return Ok(Vec::new());
                }
                Ok(sqlx::query_as("select version, success from _sqlx_migrations").fetch_all(&mut *held).await?)
            })
            .await;
        Ok(SchemaVersion::new(&settle(held, outcome)?, &MIGRATOR))
    }

    /// A connection that only reads; see [`settle`].
    pub(super) async fn reader(&self) -> Result<PoolConnection<Sqlite>, StoreError> {
        acquire(&self.readers, self.call_timeout).await.map_err(Into::into)
    }

    /// The connection that writes; see [`settle`].
    pub(super) async fn writer(&self) -> Result<PoolConnection<Sqlite>, StoreError> {
        acquire(&self.writer, self.call_timeout).await.map_err(Into::into)
    }

    /// The future's outcome, or `None` where it took longer than a call may.
    pub(super) async fn limit<T>(&self, call: impl Future<Output = Result<T, Failure>>) -> Option<Result<T, Failure>> {
        tokio::time::timeout(self.call_timeout, call).await.ok()
    }
}

async fn has_migrations(connection: &mut SqliteConnection) -> Result<bool, Failure> {
    let sql = "select exists (select 1 from sqlite_master where type = 'table' and name = '_sqlx_migrations')";
    Ok(sqlx::query_scalar(sql).fetch_one(connection).await?)
}

/// What the database has had.
async fn migrations(connection: &mut SqliteConnection) -> Result<Vec<MigrationRow>, Failure> {
    if !has_migrations(connection).await? {
        return Ok(Vec::new());
    }
    Ok(sqlx::query_as(MIGRATIONS).fetch_all(connection).await?)
}

fn pool(max_connections: u32, call_timeout: Duration) -> SqlitePoolOptions {
    SqlitePoolOptions::new()
        .max_connections(max_connections)
        .acquire_timeout(call_timeout)
        // A file does not go away like a server does.
        .test_before_acquire(false)
        .idle_timeout(None)
        .max_lifetime(None)
}

/// A connection, or [`Failure::Unavailable`] after `call_timeout`.
pub(super) async fn acquire(pool: &SqlitePool, call_timeout: Duration) -> Result<PoolConnection<Sqlite>, Failure> {
    match tokio::time::timeout(call_timeout, pool.acquire()).await {
        Ok(connection) => Ok(connection?),
        Err(_) => Err(Failure::too_slow()),
    }
}

/// Gives the connection back. One whose call was cut off, or whose transaction SQLite may have ended by itself (a full
/// disk does that), is closed and opened anew.
pub(super) fn settle<T>(
    mut connection: PoolConnection<Sqlite>,
    outcome: Option<Result<T, Failure>>,
) -> Result<T, Failure> {
    let outcome = outcome.unwrap_or_else(|| Err(Failure::too_slow()));
    if matches!(outcome, Err(Failure::Unavailable(_))) {
        connection.close_on_drop();
    }
    outcome
}

#[async_trait]
impl Store for SqliteStore {
    #[tracing::instrument(name = "store.ping", skip_all)]
    async fn ping(&self) -> Result<(), StoreError> {
        if !self.commits.is_open() {
            return Err(StoreError::Unavailable("the group commit has ended".to_owned()));
        }
        self.schema_version().await?.check()
    }

    #[tracing::instrument(name = "store.close", skip_all)]
    async fn close(&self) {
        self.commits.close().await;
        let both = async {
            self.readers.close().await;
            self.writer.close().await;
        };
        if tokio::time::timeout(self.call_timeout, both).await.is_err() {
            tracing::warn!("the database file did not close in time");
        }
    }
}
