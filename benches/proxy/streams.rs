//! Memory of the server with many idle event streams.

use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::{Resource, Rlimit, setrlimit};
use tokio::task::spawn_local;
use tokio::time::{sleep, timeout};

use super::load::request;
use super::options::Options;
use super::stage::{Browser, Stage};
use super::support::connection::{Connection, find};
use super::support::process::{Memory, memory};
use super::upstream::{EVENT, EVENTS};

/// Slots of a session.
const SLOTS: usize = 16;
/// Connections that open sessions and streams side by side.
const OPENERS: usize = 16;
/// Room for the head and the one event.
const READ_BYTES: usize = 1024;
/// How long one stream may take to begin.
const OPEN_WITHIN: Duration = Duration::from_secs(30);

/// What the streams came to.
pub struct Streams {
    /// How many were open at once.
    pub open: usize,
    /// Of so many sessions.
    pub sessions: usize,
    /// After the first session, before the streams.
    pub before: Memory,
    /// With all sessions, before the streams.
    pub with_sessions: Memory,
    /// With all streams.
    pub while_open: Memory,
    /// After all were closed.
    pub after: Memory,
}

/// Files that one process needs: a connection to either side for each stream, and some of its own.
pub fn files_needed(options: &Options) -> u64 {
    2 * options.streams as u64 + 500
}

/// Raises the limit of this process, which its children inherit.
pub fn raise_files(needed: u64) -> Result<()> {
    let limit = rustix::process::getrlimit(Resource::Nofile);
    let is_enough = |limit: Option<u64>| limit.is_none_or(|files| files >= needed);
    if is_enough(limit.current) {
        return Ok(());
    }
    let maximum = if is_enough(limit.maximum) { limit.maximum } else { Some(needed) };
    setrlimit(Resource::Nofile, Rlimit { current: Some(needed), maximum })
        .with_context(|| format!("{needed} open files are needed: raise `ulimit -n`, or ask for fewer --streams"))
}

/// Opens them all, waits, and closes them.
pub async fn measure(folder: &Path, options: &Options) -> Result<Streams> {
    let stage = Rc::new(Stage::start(folder, "streams", options, None).await?);
    let first = stage.open().await?;
    let before = memory(stage.server.pid())?;
    let sessions = options.streams.div_ceil(SLOTS);
    let mut browsers = vec![first];
    let opening: Vec<_> = (0..OPENERS)
        .map(|opener| {
            let stage = Rc::clone(&stage);
            spawn_local(async move {
                let mut browsers = Vec::new();
                for _ in (1 + opener..sessions).step_by(OPENERS) {
                    browsers.push(stage.open().await?);
                }
                anyhow::Ok(browsers)
            })
        })
        .collect();
    for opened in opening {
        browsers.extend(opened.await??);
    }
    let with_sessions = memory(stage.server.pid())?;
    let wanted: Rc<Vec<Browser>> =
        Rc::new(browsers.iter().flat_map(|browser| std::iter::repeat_n(browser.clone(), SLOTS)).collect());
    let opening: Vec<_> = (0..OPENERS)
        .map(|opener| {
            let (wanted, port, count) = (Rc::clone(&wanted), stage.server.port, options.streams);
            spawn_local(async move {
                let mut streams = Vec::new();
                for browser in wanted[..count].iter().skip(opener).step_by(OPENERS) {
                    streams.push(timeout(OPEN_WITHIN, open(port, browser)).await.context("a stream did not begin")??);
                }
                anyhow::Ok(streams)
            })
        })
        .collect();
    let mut streams = Vec::new();
    for opened in opening {
        streams.extend(opened.await??);
    }
    sleep(Duration::from_secs(3)).await;
    let while_open = memory(stage.server.pid())?;
    let open = streams.len();
    // Whichever was cut meanwhile has something to read: its end.
    anyhow::ensure!(streams.iter().all(Connection::is_silent), "a stream was cut");
    drop(streams);
    sleep(Duration::from_secs(3)).await;
    let after = memory(stage.server.pid())?;
    if let Some(stage) = Rc::into_inner(stage) {
        stage.server.stop()?;
    }
    Ok(Streams { open, sessions, before, with_sessions, while_open, after })
}

/// A stream that has said its one thing.
async fn open(port: u16, browser: &Browser) -> Result<Connection> {
    let mut connection = Connection::with_room(port, READ_BYTES).await?;
    connection.send(&request(browser, EVENTS, "text/event-stream")).await?;
    let head = connection.head().await?;
    anyhow::ensure!(head.status == 200, "a stream was answered with {}", head.status);
    while find(connection.unused(), EVENT.as_bytes()).is_none() {
        connection.read().await?;
    }
    connection.forget();
    Ok(connection)
}
