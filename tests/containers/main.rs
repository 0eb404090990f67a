//! Container previews and the Docker primitives below them (section 8), against a real server and a real engine with
//! real containers. The modules `checklist_*` are the testing checklist of the phase, line by line.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, missing_docs)]

#[path = "../support/app.rs"]
mod app;
#[path = "../support/docker.rs"]
mod docker;
#[path = "../support/postgres.rs"]
mod postgres;
#[path = "../proxy/raw.rs"]
mod raw;

mod fake_engine;
mod world;

mod checklist_7_3a;
mod checklist_7_3b;
mod checklist_7_3c;
mod engine_answers;
mod error_table;
mod files;
mod files_raced;
mod later;
mod messages;
mod misuse;
mod primitives;
mod strangers;
mod switches;
mod transport;
