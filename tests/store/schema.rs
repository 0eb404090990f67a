//! The schema beside the vocabulary, migrations, and what errors give away.

use std::collections::BTreeSet;
use std::path::Path;

use runwarden::store::postgres::PostgresStore;
use runwarden::store::sqlite::SqliteStore;
use runwarden_actors::contract::{
    DiffSource, FeatureFlag, OpenMode, PreviewErrorCode, PreviewSessionState, QuarantineReason, ReadyDowngradeState,
    RunStatus, SandboxProvider, TerminalKind, TriggerSource, UiValidationOutcome, UnsupportedReason, ValidationStatus,
};
use runwarden_actors::ports::{Store, StoreError};

use crate::harness::{CALL_TIMEOUT, Database};
use crate::postgres_server;

on_both!(
    check_constraints_allow_exactly_the_vocabulary,
    the_partial_unique_index_covers_the_active_statuses,
    the_promised_indexes_are_there,
    migrating_again_changes_nothing,
);

/// Column, and the names that it may hold.
fn vocabulary() -> Vec<(&'static str, &'static str, BTreeSet<String>)> {
    macro_rules! all {
        ($name:ident) => {
            $name::ALL.iter().map(|name| name.as_str().to_owned()).collect()
        };
    }
    vec![
        ("thread_run", "trigger_source", all!(TriggerSource)),
        ("thread_run", "status", all!(RunStatus)),
        ("thread_run", "sandbox_provider", all!(SandboxProvider)),
        ("thread_run", "terminal_kind", all!(TerminalKind)),
        ("thread_run", "diff_source", all!(DiffSource)),
        ("thread_run_context", "active_sandbox_provider", all!(SandboxProvider)),
        ("thread_run_context", "active_status", all!(RunStatus)),
        ("daemon_event_quarantine", "reason", all!(QuarantineReason)),
        ("daemon_event_quarantine_day", "reason", all!(QuarantineReason)),
        ("feature_flag_override", "flag", all!(FeatureFlag)),
        ("preview_session", "sandbox_provider", all!(SandboxProvider)),
        ("preview_session", "open_mode", all!(OpenMode)),
        ("preview_session", "state", all!(PreviewSessionState)),
        ("preview_session", "unsupported_reason", all!(UnsupportedReason)),
        ("preview_session", "config_open_mode", all!(OpenMode)),
        ("preview_session", "error_code", all!(PreviewErrorCode)),
        ("preview_validation_attempt", "status", all!(ValidationStatus)),
        ("preview_validation_attempt", "diff_source", all!(DiffSource)),
        ("thread_ui_validation", "ui_validation_outcome", all!(UiValidationOutcome)),
        ("thread_ui_validation", "ready_downgrade_state", all!(ReadyDowngradeState)),
    ]
}

/// What stands in single quotes.
fn quoted(text: &str) -> BTreeSet<String> {
    text.split('\'').skip(1).step_by(2).map(str::to_owned).collect()
}

/// The definition of the check on this column alone.
async fn check(database: &Database, table: &str, column: &str) -> String {
    if database.is_postgres() {
        // Of the column, or of the domain that is its type.
        let sql = format!(
            "select pg_get_constraintdef(c.oid) from pg_attribute a join pg_constraint c \
             on c.conrelid = a.attrelid and c.conkey = array[a.attnum] or c.contypid = a.atttypid \
             where c.contype = 'c' and a.attrelid = '{table}'::regclass and a.attname = '{column}'"
        );
        database.texts(&sql).await.concat()
    } else {
        let table = database.texts(&format!("select sql from sqlite_master where name = '{table}'")).await.concat();
        let start = table.find(&format!("check ({column} in (")).unwrap();
        table[start..].split("))").next().unwrap().to_owned()
    }
}

async fn check_constraints_allow_exactly_the_vocabulary(database: Database) {
    for (table, column, names) in vocabulary() {
        assert_eq!(quoted(&check(&database, table, column).await), names, "{table}.{column}");
    }
}

async fn index(database: &Database, name: &str) -> String {
    let sql = if database.is_postgres() {
        format!("select indexdef from pg_indexes where indexname = '{name}'")
    } else {
        format!("select sql from sqlite_master where type = 'index' and name = '{name}'")
    };
    let found = database.texts(&sql).await.concat().to_lowercase();
    assert!(!found.is_empty(), "{name} is missing");
    found
}

async fn the_partial_unique_index_covers_the_active_statuses(database: Database) {
    let active = RunStatus::ALL.iter().filter(|status| status.is_active()).map(ToString::to_string).collect();
    let found = index(&database, "thread_run_active_key").await;
    assert!(found.contains("unique"));
    assert_eq!(quoted(&found), active);
    let open = PreviewSessionState::ALL.iter().filter(|state| state.is_open()).map(ToString::to_string).collect();
    for name in ["preview_session_open_idx", "preview_session_open_access_idx", "preview_session_open_expires_idx"] {
        assert_eq!(quoted(&index(&database, name).await), open, "{name}");
    }
}

async fn the_promised_indexes_are_there(database: Database) {
    for (name, columns, unique) in [
        ("thread_run_start_request_key", "(thread_id, thread_chat_id, start_request_id)", true),
        ("thread_run_terminal_event_key", "(run_id, terminal_event_id)", true),
        ("thread_run_chat_created_idx", "(thread_id, thread_chat_id, created_at desc)", false),
        ("thread_run_context_active_run_idx", "(active_run_id)", false),
        ("run_event_event_id_key", "(run_id, event_id)", true),
        ("daemon_event_quarantine_thread_created_idx", "(thread_id, created_at desc, id desc)", false),
        ("preview_session_run_created_idx", "(run_id, created_at desc)", false),
        ("preview_session_thread_created_idx", "(thread_id, created_at desc)", false),
        ("preview_session_open_access_idx", "(user_id, repo_full_name)", false),
        ("preview_session_open_expires_idx", "(expires_at)", false),
    ] {
        let found = index(&database, name).await;
        assert!(found.contains(columns), "{found}");
        assert_eq!(found.contains("unique"), unique, "{found}");
    }
}

async fn migrating_again_changes_nothing(database: Database) {
    database.store.ping().await.unwrap();
    let before = database.count("_sqlx_migrations", "1 = 1").await;
    let again = database.migrate().await;
    assert_eq!((again.applied, i64::try_from(again.in_place)), (Vec::new(), Ok(before)));
    assert_eq!(database.count("_sqlx_migrations", "1 = 1").await, before);
    // A newer server's migration does not turn this one out; a missing one does.
    let newer = "insert into _sqlx_migrations (version, description, success, checksum, execution_time) \
                 select 9999, 'newer', success, checksum, 0 from _sqlx_migrations where version = 1";
    assert_eq!(database.raw(newer).await, Ok(1));
    database.migrate().await;
    database.store.ping().await.unwrap();
    database.raw("delete from _sqlx_migrations where version > 1").await.unwrap();
    let error = database.store.ping().await.unwrap_err();
    assert!(error.to_string().contains("run `runwarden migrate`"), "{error}");
}

#[tokio::test]
async fn a_database_without_schema_is_told_apart_from_one_out_of_reach() {
    let store = PostgresStore::connect(&postgres_server::new_database().await, 3, CALL_TIMEOUT).await.unwrap();
    assert_eq!(store.schema_version().await.unwrap().applied, None);
    assert!(matches!(store.ping().await, Err(StoreError::Rejected(_))));
    let folder = tempfile::TempDir::new().unwrap();
    let store = SqliteStore::open(&folder.path().join("new.db")).await.unwrap();
    assert_eq!(store.schema_version().await.unwrap().applied, None);
    assert!(matches!(store.ping().await, Err(StoreError::Rejected(_))));
}

#[tokio::test]
async fn servers_that_start_together_migrate_once() {
    let url = postgres_server::new_database().await;
    let start = async || {
        let store = PostgresStore::connect(&url, 3, CALL_TIMEOUT).await.unwrap();
        let migrated = store.migrate().await.unwrap();
        store.ping().await.unwrap();
        (migrated.applied.len(), migrated.in_place)
    };
    let (one, two, three) = futures_util::future::join3(start(), start(), start()).await;
    // One of them has done it all, and the others say that it was there.
    let mut counts = [one, two, three];
    counts.sort_unstable();
    let all = counts[2].0;
    assert_eq!(counts, [(0, all), (0, all), (all, 0)]);
}

#[tokio::test]
async fn an_error_never_tells_the_password() {
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    for url in [
        format!("postgres://someone:hunter2@127.0.0.1:{closed}/db"),
        "postgres://someone:hunter2@host:not-a-port/db".to_owned(),
        "postgres://someone:hunter2@host/db?sslmode=hunter2".to_owned(),
        "hunter2".to_owned(),
    ] {
        let error = PostgresStore::connect(&url, 3, CALL_TIMEOUT).await.err().unwrap();
        assert!(matches!(error, StoreError::Unavailable(_)));
        assert!(!format!("{error} {error:?}").contains("hunter2"), "{error:?}");
    }
}

#[tokio::test]
async fn a_database_file_that_cannot_be_opened_is_unavailable() {
    let error = SqliteStore::open(Path::new("/nowhere/runwarden.db")).await.err().unwrap();
    assert!(matches!(error, StoreError::Unavailable(_)), "{error}");
}
