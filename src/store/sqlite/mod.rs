//! SQLite: one server, in its data directory.

mod closing;
mod commit;
mod connection;
mod effects;
mod events;
mod finish;
mod flags;
mod keys;
mod previews;
mod progress;
mod quarantine;
mod runs;
mod ui_validation;

#[cfg(test)]
mod disk_full_tests;

pub use connection::SqliteStore;
