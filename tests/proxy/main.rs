//! Preview sessions and the proxy, against a real server and a real upstream; only the sandbox's provider is a fake
//! that says where the upstream is.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, missing_docs)]

#[path = "../support/app.rs"]
mod app;
#[path = "../faults/cable.rs"]
#[allow(dead_code, reason = "its own binary uses all of it")]
mod cable;
#[path = "../support/postgres.rs"]
mod postgres;
#[path = "../support/redis.rs"]
mod redis_server;

mod preview;
mod raw;
mod upstream;

mod access;
mod access_lost;
mod addresses;
mod audit;
mod bodies;
mod bypass;
mod endings;
mod enter;
mod framing;
mod headers;
mod hosts;
mod limits;
mod outages;
mod paths;
mod revocation;
mod sessions;
mod stopping;
mod subscription;
mod tokens;
mod websocket;
