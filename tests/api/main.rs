//! The HTTP and WebSocket interface, against a real server on both databases.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

#[path = "../support/app.rs"]
mod app;
#[path = "../support/postgres.rs"]
mod postgres;
#[path = "../support/redis.rs"]
mod redis_server;

mod bad_input;
mod daemon_events;
mod daemon_stream;
mod doctor_command;
mod keys_command;
mod migrate_command;
mod operations;
mod readers;
mod runs;
mod serve_command;
mod terminal;

/// One test for each database.
macro_rules! on_both {
    ($(#[$meta:meta])* $name:ident, |$db:ident| $body:block) => {
        mod $name {
            use super::*;

            fn body($db: crate::app::Db) $body

            #[test]
            fn sqlite() {
                body(crate::app::Db::Sqlite);
            }

            #[test]
            fn postgres() {
                body(crate::app::Db::Postgres);
            }
        }
    };
}
pub(crate) use on_both;
