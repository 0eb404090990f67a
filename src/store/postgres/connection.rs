//! Connections, migrations and the schema's version.

use std::future::Future;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use runwarden_actors::contract::Timestamp;
use runwarden_actors::ports::{Store, StoreError};
use sqlx::migrate::{Migrate as _, MigrateError, Migrator};
use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgConnectOptions, PgConnection, PgPool, PgPoolOptions};
use sqlx::types::time::OffsetDateTime;
use sqlx::{ConnectOptions, Connection, Postgres, Transaction};

use super::commit::Writer;
use super::reach::Reach;
use crate::store::batch::{BatchWriter, GroupCommit};
use crate::store::failure::Failure;
use crate::store::schema::{MIGRATIONS, Migrated, MigrationRow, SchemaVersion};

static MIGRATOR: Migrator = Migrator { ignore_missing: true, ..sqlx::migrate!("migrations/postgres") };

/// Durable writes under way at once: while one waits for the disk, the other is worked out.
const WRITERS: u32 = 2;

/// How long a durable write waits for a row that another session has locked. It holds everybody who is written with it, and
/// one of the [`WRITERS`]; who gives up has lost a race, and after a few of them waits on a connection of its own.
const LOCK_WAIT: Duration = Duration::from_millis(250);

/// A connection that was idle for so long is asked whether it is still there.
pub(super) const PING_AFTER_IDLE: Duration = Duration::from_secs(1);

/// The port on Postgres 14 or newer. Clones share their connections.
#[derive(Clone)]
pub struct PostgresStore {
    pool: PgPool,
    writer: Arc<Writer>,
    pub(super) commits: Arc<GroupCommit>,
    options: PgConnectOptions,
    reach: Reach,
    call_timeout: Duration,
}

impl PostgresStore {
    /// Connects to `url` (`postgres://user:password@host:port/database`) with at most `max_connections` (at least
    /// 3); every call ends after `call_timeout`. Must be called within a Tokio runtime that lives as long as the
    /// store. The URL stands in no error.
    #[tracing::instrument(name = "store.connect", skip_all)]
    pub async fn connect(url: &str, max_connections: u32, call_timeout: Duration) -> Result<Self, StoreError> {
        let options = PgConnectOptions::from_str(url)
            .map_err(|_| StoreError::Unavailable("the database URL cannot be read as a Postgres URL".to_owned()))?
            .application_name("runwarden")
            .disable_statement_logging();
        let millis = call_timeout.as_millis();
        let limited = options.clone().options([
            ("statement_timeout", millis.to_string()),
            ("idle_in_transaction_session_timeout", (millis * 2).to_string()),
            ("jit", "off".to_owned()),
        ]);
        // The commit statements are planned once, with nothing known of the tables' later sizes; they must reach every
        // row through an index, and in its order, whatever the statistics say. Their batches shall not spill to disk.
        let writing = limited.clone().options([
            ("plan_cache_mode", "force_generic_plan"),
            ("enable_seqscan", "off"),
            ("enable_bitmapscan", "off"),
            ("work_mem", "64MB"),
            ("lock_timeout", &LOCK_WAIT.as_millis().to_string()),
        ]);
        let pool = pool_of(max_connections.saturating_sub(WRITERS).max(1), call_timeout).connect_lazy_with(limited);
        let writers = pool_of(WRITERS, call_timeout).connect_lazy_with(writing);
        // A pool tries again until its time is up and then only says so; a first connection by itself says at once
        // what is wrong.
        let first = tokio::time::timeout(call_timeout, options.connect()).await;
        // The server drops the connection if this fails.
        let _ = first.map_err(|_| Failure::too_slow())?.map_err(Failure::from)?.close().await;
        let reach = Reach::of(&options);
        let writer = Arc::new(Writer::new(writers, reach.clone(), call_timeout));
        let batches: Arc<dyn BatchWriter> = Arc::<Writer>::clone(&writer);
        let commits = Arc::new(GroupCommit::start(batches, WRITERS as usize, call_timeout));
        Ok(Self { pool, writer, commits, options, reach, call_timeout })
    }

    /// Brings the schema to this build's version, and says what that took. Servers that start together take turns.
    /// Takes as long as it takes.
    #[tracing::instrument(name = "store.migrate", skip_all)]
    pub async fn migrate(&self) -> Result<Migrated, StoreError> {
        let mut connection = self.options.connect().await.map_err(Failure::from)?;
        let result = migrate(&mut connection).await;
        // The migration has ended either way; with its connection the server drops the lock, too.
        let _ = connection.close().await;
        result.map_err(|error| match error {
            MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => Failure::from(error).into(),
            other => StoreError::Rejected(other.to_string()),
        })
    }

    /// The schema that the database has, and the one that this build wants.
    #[tracing::instrument(name = "store.schema_version", skip_all)]
    pub async fn schema_version(&self) -> Result<SchemaVersion, StoreError> {
        let mut held = self.acquire().await?;
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

    /// A connection for one call; see [`settle`].
    pub(super) async fn acquire(&self) -> Result<PoolConnection<Postgres>, StoreError> {
        acquire(&self.pool, &self.reach, self.call_timeout).await.map_err(Into::into)
    }

    /// A transaction that owns its connection.
    pub(super) async fn begin(&self) -> Result<Transaction<'static, Postgres>, StoreError> {
        match self.limit(async { Ok(self.pool.begin().await?) }).await {
            Some(begun) => Ok(begun?),
            None => Err(Failure::too_slow().into()),
        }
    }

    /// The future's outcome, or `None` where it took longer than a call may.
    pub(super) async fn limit<T>(&self, call: impl Future<Output = Result<T, Failure>>) -> Option<Result<T, Failure>> {
        tokio::time::timeout(self.call_timeout, call).await.ok()
    }
}

async fn has_migrations(connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar("select to_regclass('_sqlx_migrations') is not null").fetch_one(connection).await
}

/// What the database has had.
async fn migrations(connection: &mut PgConnection) -> Result<Vec<MigrationRow>, sqlx::Error> {
    if !has_migrations(connection).await? {
        return Ok(Vec::new());
    }
    sqlx::query_as(MIGRATIONS).fetch_all(connection).await
}

async fn migrate(connection: &mut PgConnection) -> Result<Migrated, MigrateError> {
    // The migrator takes the same lock, which counts how often one connection has it: what is applied between the two
    // looks is ours alone.
    connection.lock().await?;
    let before = migrations(connection).await?;
    MIGRATOR.run(&mut *connection).await?;
    Ok(Migrated::between(&before, migrations(connection).await?))
}

fn pool_of(max_connections: u32, call_timeout: Duration) -> PgPoolOptions {
    // Half of a call's time, so that the error comes before the caller's own patience ends.
    let options = PgPoolOptions::new().max_connections(max_connections).acquire_timeout(call_timeout / 2);
    // Each connection was asked when it came back; only one that has been idle may have been cut meanwhile.
    options.test_before_acquire(false).before_acquire(|connection, meta| {
        Box::pin(async move {
            if meta.idle_for >= PING_AFTER_IDLE {
                connection.ping().await?;
            }
            Ok(true)
        })
    })
}

/// A connection, or [`Failure::Unavailable`]: after `call_timeout`, and within about a second where the database refuses
/// connections. A pool whose connections are all in use is waited for.
pub(super) async fn acquire(
    pool: &PgPool,
    reach: &Reach,
    call_timeout: Duration,
) -> Result<PoolConnection<Postgres>, Failure> {
    tokio::select! {
        // A connection that is there is taken, whatever the door looks like.
        biased;
        connection = tokio::time::timeout(call_timeout, pool.acquire()) => match connection {
            Ok(connection) => Ok(connection?),
            Err(_) => Err(Failure::too_slow()),
        },
        () = reach.is_refused() => Err(Failure::Unavailable("the database refuses connections".to_owned())),
    }
}

/// Gives the connection back. One whose call was cut off is closed: nobody knows what it still does.
pub(super) fn settle<T>(
    mut connection: PoolConnection<Postgres>,
    outcome: Option<Result<T, Failure>>,
) -> Result<T, Failure> {
    let outcome = outcome.unwrap_or_else(|| Err(Failure::too_slow()));
    if matches!(outcome, Err(Failure::Unavailable(_))) {
        connection.close_on_drop();
    }
    outcome
}

/// The instant as Postgres takes it. Times come from the server's clock, so the bounds are never met.
pub(super) fn at(instant: Timestamp) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(instant.as_millis()) * 1_000_000)
        .unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

#[async_trait]
impl Store for PostgresStore {
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
            self.writer.close().await;
            self.pool.close().await;
        };
        if tokio::time::timeout(self.call_timeout, both).await.is_err() {
            tracing::warn!("connections to the database did not close in time");
        }
    }
}
