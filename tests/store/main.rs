//! One suite for both databases: every test below runs against Postgres and against SQLite.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

#[path = "../support/postgres.rs"]
mod postgres_server;

/// Makes a test for each database of every function named, which takes a fresh [`harness::Database`].
macro_rules! on_both {
    ($($name:ident),+ $(,)?) => {
        mod postgres {
            $(#[tokio::test] async fn $name() { super::$name(crate::harness::Database::postgres().await).await; } )+
        }
        mod sqlite {
            $(#[tokio::test] async fn $name() { super::$name(crate::harness::Database::sqlite().await).await; } )+
        }
    };
}

mod binding;
mod commits;
mod effects;
mod events;
mod flags;
mod harness;
mod immutability;
mod outages;
mod preview_closing;
mod preview_outbox;
mod preview_rules;
mod preview_sample;
mod previews;
mod progress;
mod quarantine;
mod races;
mod runs;
mod sample;
mod schema;
mod sweep;
mod ui_validation;
