//! What the embedded coordination must not forget: single-use marks and preview keys (section 13, `REDIS_URL`).
//!
//! They stand in a small SQLite file of their own, so that they are there also where the database is Postgres. Several
//! processes may have it open: SQLite's lock makes each change one step, and a server sees another's change at its next
//! look.

use std::fs::{OpenOptions, Permissions};
use std::future::Future;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use runwarden_actors::contract::limits::STORE_CALL_TIMEOUT_MS;
use runwarden_actors::contract::{KeyNamespace, Timestamp};
use runwarden_actors::ports::{CoordinationError, KeyRing, PreviewKey};
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};
use sqlx::{ConnectOptions as _, Connection as _};
use tokio::time::timeout;

use super::expiring::Expiring;
use super::key_pair::KeyPair;

/// Name of the file in `DATA_DIR`.
pub const COORDINATION_FILE: &str = "coordination.sqlite3";
/// Marks that may be alive at once. Past it new ones are refused: callers fail closed.
pub const EMBEDDED_MARKS_MAX: usize = 200_000;

/// The layout of the file that this build reads and writes.
const LAYOUT: i64 = 1;
/// Takes the write lock at once: a transaction that reads first and writes later can be refused half-way.
const BEGIN_WRITE: &str = "begin immediate";

/// Where marks and keys are.
pub(super) enum Durable {
    /// For tests without a folder.
    Memory(Mutex<Memory>),
    /// A file; one connection.
    File(SqlitePool),
}

/// Marks and keys that a restart forgets.
pub(super) struct Memory {
    marks: Expiring<String, ()>,
    keys: Vec<(KeyNamespace, KeyPair)>,
}

/// A failure of the file; the text has no value in it.
#[derive(Debug, thiserror::Error)]
enum FileError {
    #[error(transparent)]
    Sql(#[from] sqlx::Error),
    #[error("{0}")]
    Io(#[from] std::io::Error),
    #[error("it was written by a newer version of this program (layout {0})")]
    Newer(i64),
    #[error("a key in it is damaged")]
    Damaged,
    #[error(transparent)]
    Refused(#[from] CoordinationError),
}

impl Durable {
    pub(super) fn memory(marks_max: usize) -> Self {
        Self::Memory(Mutex::new(Memory { marks: Expiring::new("single-use marks", marks_max), keys: Vec::new() }))
    }

    /// Opens the file in the folder, and makes it where there is none.
    pub(super) async fn file(folder: &Path) -> Result<Self, CoordinationError> {
        let path = folder.join(COORDINATION_FILE);
        let opened = bounded(async {
            make_private(&path)?;
            // One connection: its transactions wait for each other here, and for other processes in SQLite.
            let pool = SqlitePoolOptions::new()
                .max_connections(1)
                .acquire_timeout(call_timeout())
                .test_before_acquire(false)
                .idle_timeout(None)
                .max_lifetime(None)
                .connect_with(options(&path))
                .await?;
            let mut held = pool.acquire().await?;
            lay_out(&mut held).await?;
            Ok(Self::File(pool))
        });
        opened.await.map_err(|CoordinationError(why)| CoordinationError(format!("{}: {why}", path.display())))
    }

    /// Sets all marks or none.
    pub(super) async fn use_once(&self, marks: &[String], ttl: i64, now: Timestamp) -> Result<bool, CoordinationError> {
        match self {
            Self::Memory(memory) => locked(memory).use_once(marks, ttl, now),
            Self::File(pool) => within(pool, async |held| use_once(held, marks, ttl, now).await).await,
        }
    }

    /// The namespace's keys; `candidate` becomes the active one where there is none.
    pub(super) async fn ring(
        &self,
        namespace: KeyNamespace,
        candidate: &PreviewKey,
        now: Timestamp,
    ) -> Result<KeyRing, CoordinationError> {
        // Most looks find everything as it should be, and write nothing.
        if let Self::File(pool) = self {
            let mut pair = within(pool, async |held| load(held, namespace).await).await?;
            if pair.active.is_some() && !pair.drop_expired(now) {
                return pair.into_ring();
            }
        }
        self.change(namespace, now, |pair| pair.ensure(candidate).map(|_| ())).await.map(|(ring, ())| ring)
    }

    pub(super) async fn rotate(
        &self,
        namespace: KeyNamespace,
        fresh: &PreviewKey,
        grace: i64,
        now: Timestamp,
    ) -> Result<KeyRing, CoordinationError> {
        self.change(namespace, now, |pair| pair.rotate(fresh, now.plus_millis(grace))).await.map(|(ring, ())| ring)
    }

    pub(super) async fn revoke(
        &self,
        namespace: KeyNamespace,
        kid: &str,
        fresh: &PreviewKey,
        now: Timestamp,
    ) -> Result<Option<KeyRing>, CoordinationError> {
        let changed = self.change(namespace, now, |pair| {
            let was_there = pair.revoke(kid, fresh)?;
            // A ring has an active key, also where nothing was revoked.
            pair.ensure(fresh)?;
            Ok(was_there)
        });
        changed.await.map(|(ring, was_there)| was_there.then_some(ring))
    }

    /// Reads, changes and writes the keys of a namespace in one step.
    async fn change<T>(
        &self,
        namespace: KeyNamespace,
        now: Timestamp,
        change: impl FnOnce(&mut KeyPair) -> Result<T, CoordinationError>,
    ) -> Result<(KeyRing, T), CoordinationError> {
        match self {
            Self::Memory(memory) => {
                let mut memory = locked(memory);
                let pair = memory.pair(namespace);
                pair.drop_expired(now);
                let done = change(pair)?;
                let ring = KeyPair { active: pair.active.clone(), previous: pair.previous.clone() }.into_ring()?;
                Ok((ring, done))
            }
            Self::File(pool) => {
                within(pool, async |held| {
                    let mut tx = held.begin_with(BEGIN_WRITE).await?;
                    let mut pair = load(&mut tx, namespace).await?;
                    pair.drop_expired(now);
                    let done = change(&mut pair)?;
                    save(&mut tx, namespace, &pair).await?;
                    tx.commit().await?;
                    Ok((pair.into_ring()?, done))
                })
                .await
            }
        }
    }
}

impl Memory {
    fn pair(&mut self, namespace: KeyNamespace) -> &mut KeyPair {
        let at = self.keys.iter().position(|(of, _)| *of == namespace).unwrap_or_else(|| {
            self.keys.push((namespace, KeyPair::default()));
            self.keys.len() - 1
        });
        &mut self.keys[at].1
    }

    fn use_once(&mut self, marks: &[String], ttl: i64, now: Timestamp) -> Result<bool, CoordinationError> {
        if marks.iter().any(|mark| self.marks.live(mark.as_str(), now).is_some()) {
            return Ok(false);
        }
        self.marks.make_room(marks.len(), now)?;
        for mark in marks {
            self.marks.insert(mark.as_str(), (), now.plus_millis(ttl), now)?;
        }
        Ok(true)
    }
}

fn locked(memory: &Mutex<Memory>) -> MutexGuard<'_, Memory> {
    memory.lock().unwrap_or_else(PoisonError::into_inner)
}

const fn call_timeout() -> Duration {
    Duration::from_millis(STORE_CALL_TIMEOUT_MS)
}

fn options(path: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(false)
        .journal_mode(SqliteJournalMode::Wal)
        // In WAL mode anything less may forget the last marks when the power fails.
        .synchronous(SqliteSynchronous::Full)
        .busy_timeout(call_timeout() / 2)
        .pragma("temp_store", "memory")
        // What is deleted may be a secret.
        .pragma("secure_delete", "on")
        .disable_statement_logging()
}

/// Makes the file for its owner alone, before SQLite would make it for everybody: keys stand in it.
fn make_private(path: &Path) -> std::io::Result<()> {
    let file = OpenOptions::new().create(true).append(true).mode(0o600).open(path)?;
    file.set_permissions(Permissions::from_mode(0o600))
}

/// The call's outcome, or an error where it takes too long.
async fn bounded<T>(call: impl Future<Output = Result<T, FileError>>) -> Result<T, CoordinationError> {
    match timeout(call_timeout(), call).await {
        Ok(outcome) => outcome.map_err(|error| CoordinationError(format!("the coordination file: {error}"))),
        Err(_) => {
            Err(CoordinationError(format!("the coordination file did not answer within {STORE_CALL_TIMEOUT_MS} ms")))
        }
    }
}

/// A call with the connection. A transaction that is dropped rolls back; after a failure (a full disk may end one by
/// itself) the connection is opened anew.
async fn within<T>(
    pool: &SqlitePool,
    call: impl AsyncFnOnce(&mut SqliteConnection) -> Result<T, FileError>,
) -> Result<T, CoordinationError> {
    bounded(async {
        let mut held = pool.acquire().await?;
        let outcome = call(&mut held).await;
        if matches!(outcome, Err(FileError::Sql(_))) {
            held.close_on_drop();
        }
        outcome
    })
    .await
}

async fn lay_out(connection: &mut SqliteConnection) -> Result<(), FileError> {
    let mut tx = connection.begin_with(BEGIN_WRITE).await?;
    let layout: i64 = sqlx::query_scalar("pragma user_version").fetch_one(&mut *tx).await?;
    match layout {
        LAYOUT => return Ok(()),
        0 => {}
        newer => return Err(FileError::Newer(newer)),
    }
    for statement in [
        "create table used_mark (mark text primary key, expires_at integer not null) strict, without rowid",
        "create index used_mark_expires_at on used_mark (expires_at)",
        "create table preview_key (
            namespace text not null,
            role text not null check (role in ('active', 'previous')),
            kid text not null,
            secret blob not null check (length(secret) = 32),
            created_at integer not null,
            good_until integer check ((good_until is null) = (role = 'active')),
            primary key (namespace, role)
         ) strict, without rowid",
        "pragma user_version = 1",
    ] {
        sqlx::query(statement).execute(&mut *tx).await?;
    }
    tx.commit().await?;
    Ok(())
}

async fn use_once(
    connection: &mut SqliteConnection,
    marks: &[String],
    ttl: i64,
    now: Timestamp,
) -> Result<bool, FileError> {
    let mut tx = connection.begin_with(BEGIN_WRITE).await?;
    sqlx::query("delete from used_mark where expires_at <= $1").bind(now.as_millis()).execute(&mut *tx).await?;
    let alive: i64 = sqlx::query_scalar("select count(*) from used_mark").fetch_one(&mut *tx).await?;
    if usize::try_from(alive).unwrap_or(usize::MAX).saturating_add(marks.len()) > EMBEDDED_MARKS_MAX {
        return Err(CoordinationError(format!("{EMBEDDED_MARKS_MAX} single-use marks are alive already")).into());
    }
    let expires_at = now.plus_millis(ttl).as_millis();
    for (at, mark) in marks.iter().enumerate() {
        let set = sqlx::query("insert into used_mark (mark, expires_at) values ($1, $2) on conflict do nothing")
            .bind(mark)
            .bind(expires_at)
            .execute(&mut *tx)
            .await?
            .rows_affected();
        // The same mark twice in one call is one mark.
        if set == 0 && !marks[..at].contains(mark) {
            return Ok(false);
        }
    }
    tx.commit().await?;
    Ok(true)
}

async fn load(connection: &mut SqliteConnection, namespace: KeyNamespace) -> Result<KeyPair, FileError> {
    let rows: Vec<(String, Vec<u8>, i64, Option<i64>)> =
        sqlx::query_as("select kid, secret, created_at, good_until from preview_key where namespace = $1")
            .bind(namespace.as_str())
            .fetch_all(connection)
            .await?;
    let mut pair = KeyPair::default();
    for (kid, secret, created_at, good_until) in rows {
        let secret = secret.try_into().map_err(|_| FileError::Damaged)?;
        let key = PreviewKey { kid, secret, created_at: Timestamp::from_millis(created_at) };
        match good_until {
            None => pair.active = Some(key),
            Some(until) => pair.previous = Some((key, Timestamp::from_millis(until))),
        }
    }
    Ok(pair)
}

async fn save(connection: &mut SqliteConnection, namespace: KeyNamespace, pair: &KeyPair) -> Result<(), FileError> {
    sqlx::query("delete from preview_key where namespace = $1")
        .bind(namespace.as_str())
        .execute(&mut *connection)
        .await?;
    let active = pair.active.as_ref().map(|key| ("active", key, None));
    let previous = pair.previous.as_ref().map(|(key, until)| ("previous", key, Some(until.as_millis())));
    for (role, key, good_until) in [active, previous].into_iter().flatten() {
        sqlx::query(
            "insert into preview_key (namespace, role, kid, secret, created_at, good_until) \
             values ($1, $2, $3, $4, $5, $6)",
        )
        .bind(namespace.as_str())
        .bind(role)
        .bind(&key.kid)
        .bind(key.secret.as_slice())
        .bind(key.created_at.as_millis())
        .bind(good_until)
        .execute(&mut *connection)
        .await?;
    }
    Ok(())
}
