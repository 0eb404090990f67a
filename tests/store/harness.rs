//! A fresh database for each test, and raw SQL beside the port.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use runwarden::store::Migrated;
use runwarden::store::postgres::PostgresStore;
use runwarden::store::sqlite::SqliteStore;
use runwarden_actors::contract::RunId;
use runwarden_actors::ports::Store;
use sqlx::migrate::Migrator;
use sqlx::postgres::PgConnection;
use sqlx::sqlite::SqliteConnection;
use sqlx::{AssertSqlSafe, Connection, Row};
use tempfile::TempDir;

use crate::postgres_server;

pub const CALL_TIMEOUT: Duration = Duration::from_secs(30);

enum Place {
    Postgres(String),
    Sqlite(PathBuf, #[allow(dead_code, reason = "removed when the test ends")] TempDir),
}

pub struct Database {
    pub store: Arc<dyn Store>,
    place: Place,
}

impl Database {
    pub async fn postgres() -> Self {
        let url = postgres_server::new_database().await;
        let store = PostgresStore::connect(&url, 6, CALL_TIMEOUT).await.unwrap();
        store.migrate().await.unwrap();
        Self { store: Arc::new(store), place: Place::Postgres(url) }
    }

    pub async fn sqlite() -> Self {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("runwarden.db");
        let store = SqliteStore::open(&path).await.unwrap();
        store.migrate().await.unwrap();
        Self { store: Arc::new(store), place: Place::Sqlite(path, folder) }
    }

    /// With the migrations up to this one alone.
    pub async fn postgres_at(version: i64) -> Self {
        let url = postgres_server::new_database().await;
        let mut connection = PgConnection::connect(&url).await.unwrap();
        migrator("migrations/postgres").await.run_to(version, &mut connection).await.unwrap();
        let store = PostgresStore::connect(&url, 6, CALL_TIMEOUT).await.unwrap();
        Self { store: Arc::new(store), place: Place::Postgres(url) }
    }

    /// With the migrations up to this one alone.
    pub async fn sqlite_at(version: i64) -> Self {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("runwarden.db");
        let store = SqliteStore::open(&path).await.unwrap();
        let mut connection = SqliteConnection::connect(path.to_str().unwrap()).await.unwrap();
        migrator("migrations/sqlite").await.run_to(version, &mut connection).await.unwrap();
        Self { store: Arc::new(store), place: Place::Sqlite(path, folder) }
    }

    /// What another server on the same database would use.
    pub async fn another_server(&self) -> Arc<dyn Store> {
        match &self.place {
            Place::Postgres(url) => Arc::new(PostgresStore::connect(url, 6, CALL_TIMEOUT).await.unwrap()),
            Place::Sqlite(path, _) => Arc::new(SqliteStore::open(path).await.unwrap()),
        }
    }

    /// What a server does when it starts.
    pub async fn migrate(&self) -> Migrated {
        match &self.place {
            Place::Postgres(url) => {
                PostgresStore::connect(url, 3, CALL_TIMEOUT).await.unwrap().migrate().await.unwrap()
            }
            Place::Sqlite(path, _) => SqliteStore::open(path).await.unwrap().migrate().await.unwrap(),
        }
    }

    /// Whether somebody had to be told to try again because two waited for each other. SQLite has one writer.
    pub fn had_deadlocks(&self) -> bool {
        match &self.place {
            Place::Postgres(url) => postgres_server::log_of(url).contains("deadlock detected"),
            Place::Sqlite(..) => false,
        }
    }

    pub fn is_postgres(&self) -> bool {
        matches!(self.place, Place::Postgres(_))
    }

    /// A run id as SQL.
    pub fn id(&self, run: RunId) -> String {
        match self.place {
            Place::Postgres(_) => format!("'{run}'"),
            Place::Sqlite(..) => format!("x'{}'", run.as_uuid().simple()),
        }
    }

    /// An instant as SQL.
    pub fn instant(&self, millis: i64) -> String {
        match self.place {
            Place::Postgres(_) => format!("to_timestamp({millis} / 1000.0)"),
            Place::Sqlite(..) => millis.to_string(),
        }
    }

    /// Runs SQL as an operator would, and says how many rows it changed.
    pub async fn raw(&self, sql: &str) -> Result<u64, String> {
        let sql = AssertSqlSafe(sql.to_owned());
        match &self.place {
            Place::Postgres(url) => {
                let mut connection = PgConnection::connect(url).await.unwrap();
                let done = sqlx::query(sql).execute(&mut connection).await;
                done.map(|done| done.rows_affected()).map_err(|error| error.to_string())
            }
            Place::Sqlite(path, _) => {
                let mut connection = SqliteConnection::connect(path.to_str().unwrap()).await.unwrap();
                let done = sqlx::query(sql).execute(&mut connection).await;
                done.map(|done| done.rows_affected()).map_err(|error| error.to_string())
            }
        }
    }

    /// The first column of a query, as text.
    pub async fn texts(&self, sql: &str) -> Vec<String> {
        let sql = AssertSqlSafe(sql.to_owned());
        match &self.place {
            Place::Postgres(url) => {
                let mut connection = PgConnection::connect(url).await.unwrap();
                let rows = sqlx::query(sql).fetch_all(&mut connection).await.unwrap();
                rows.iter().map(|row| row.get(0)).collect()
            }
            Place::Sqlite(path, _) => {
                let mut connection = SqliteConnection::connect(path.to_str().unwrap()).await.unwrap();
                let rows = sqlx::query(sql).fetch_all(&mut connection).await.unwrap();
                rows.iter().map(|row| row.get(0)).collect()
            }
        }
    }

    /// How many rows of a table meet a condition.
    pub async fn count(&self, table: &str, condition: &str) -> i64 {
        let rows = self.texts(&format!("select cast(count(*) as text) from {table} where {condition}")).await;
        rows[0].parse().unwrap()
    }
}

async fn migrator(folder: &str) -> Migrator {
    Migrator::new(Path::new(env!("CARGO_MANIFEST_DIR")).join(folder)).await.unwrap()
}
