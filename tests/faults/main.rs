//! What goes wrong while a server works: it is killed, stopped, or one of several; its database, Redis, objects or
//! disk go away; its clients do. Against real processes and servers.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

#[path = "../support/app.rs"]
mod app;
#[path = "../support/postgres.rs"]
mod postgres;
#[path = "../support/redis.rs"]
mod redis;
#[path = "../support/s3.rs"]
mod s3;

mod cable;
mod cell;
mod database;
mod feed;
mod processes;
mod remote;
mod socket;

mod actors;
mod client_gone;
mod database_away;
mod disk_full;
mod graceful_stop;
mod kills;
mod neighbours_away;
mod two_servers;

/// Says it in the test's output even where the test passes.
fn summary(line: &str) {
    use std::io::Write as _;
    // Printed with a macro it would only be shown for a test that fails.
    std::io::stdout().lock().write_all(format!("{line}\n").as_bytes()).unwrap();
}
