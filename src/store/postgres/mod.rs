//! Postgres: production, any number of servers on one database.

mod closing;
mod commit;
mod connection;
mod effects;
mod events;
mod finish;
mod flags;
mod held;
mod keys;
mod plain;
mod previews;
mod progress;
mod quarantine;
mod reach;
mod runs;
mod ui_validation;

pub use connection::PostgresStore;
