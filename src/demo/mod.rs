//! `runwarden demo`: the main job, shown on this machine with nothing but Git and a shell.
//!
//! - `show`: one demonstration from its start to its table, behind [`cli::DemoArgs`]; `act` is its middle
//! - `scene`: the small web app and the agent that works on it; `repository` puts them into a folder
//! - `preview`: the app, started and looked at through the proxy; `static_server` serves it inside the sandbox, `page`
//!   shows it in a person's own browser
//! - `server`, `daemon`: the real server in a thread, the real daemon as a child process
//! - [`link`]: the bad connection between the two
//! - `host`, `live`: what a host application does: start a run, read it, follow it
//! - `strangers`: envelopes that a server must not store, sent by the demonstration itself
//! - `check`, `report`: whether every message is there exactly once, and the table that says so
//! - `screen`: what a person sees meanwhile

mod act;
mod check;
pub mod cli;
mod daemon;
mod host;
pub mod link;
mod live;
mod page;
mod preview;
mod report;
mod repository;
mod screen;
mod server;
mod show;
mod static_server;
mod strangers;
