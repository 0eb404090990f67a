//! The load: one request in flight on each connection, on one thread. All proxies are driven alike.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tokio::task::{JoinHandle, spawn_local};
use tokio::time::sleep;

use super::options::Options;
use super::stage::Browser;
use super::support::connection::Connection;
use super::support::histogram::Histogram;
use super::support::process::Costs;
use super::upstream::{LARGE, SMALL};

/// Time for what is in flight to be answered at the end.
const DRAIN_WITHIN: Duration = Duration::from_secs(30);
/// Room for large bodies, so that the load costs little.
const READ_BYTES: usize = 256 * 1024;

/// What is asked for.
#[derive(Debug, Clone, Copy)]
pub struct Load {
    /// As the tables and `--load` call it.
    pub name: &'static str,
    /// Path of the app.
    pub path: &'static str,
    /// Size of the body.
    pub bytes: usize,
    /// Whether there is one connection instead of the many.
    pub alone: bool,
}

/// All loads.
pub const LOADS: [Load; 3] = [
    Load { name: "1kB", path: SMALL, bytes: 1 << 10, alone: false },
    Load { name: "1MB", path: LARGE, bytes: 1 << 20, alone: false },
    Load { name: "one", path: SMALL, bytes: 1 << 10, alone: true },
];

/// Who is asked.
pub struct Target {
    /// TCP port on the loopback address.
    pub port: u16,
    /// The ways in; connections take turns. Peers ignore the cookie.
    pub browsers: Vec<Browser>,
    /// Whose CPU time is read: the proxy, the upstream, and Redis where there is one.
    pub processes: Vec<u32>,
}

/// What one load came to in one round.
#[derive(Clone)]
pub struct Measured {
    /// Answers per second.
    pub per_second: f64,
    /// Times from sending to the last byte.
    pub latency: Histogram,
    /// What it cost: [`Target::processes`] in that order.
    pub costs: Costs,
    /// The share of the machine that others took meanwhile, percent.
    pub noise_percent: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    WarmUp,
    Measure,
    Stop,
}

struct Shared {
    phase: Cell<Phase>,
    latency: RefCell<Histogram>,
}

/// The request as a browser would send it.
pub fn request(browser: &Browser, path: &str, accept: &str) -> Vec<u8> {
    format!(
        "GET {}{path} HTTP/1.1\r\nHost: 127.0.0.1\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0) \
         Gecko/20100101 Firefox/140.0\r\nAccept: {accept}\r\nAccept-Language: en-US,en;q=0.5\r\n\
         Accept-Encoding: gzip, deflate, br\r\nReferer: http://127.0.0.1{}/\r\nCookie: {}\r\nSec-Fetch-Dest: script\r\n\
         Sec-Fetch-Mode: cors\r\nSec-Fetch-Site: same-origin\r\n\r\n",
        browser.base_path, browser.base_path, browser.cookie
    )
    .into_bytes()
}

/// Measures one load.
pub async fn measure(target: &Target, load: Load, options: &Options) -> Result<Measured> {
    let shared = Rc::new(Shared { phase: Cell::new(Phase::WarmUp), latency: RefCell::new(Histogram::new()) });
    let connections = if load.alone { 1 } else { options.connections };
    let tasks: Vec<JoinHandle<Result<()>>> = (0..connections)
        .map(|number| {
            let browser = &target.browsers[number % target.browsers.len()];
            let request = request(browser, load.path, "*/*");
            let (shared, port) = (Rc::clone(&shared), target.port);
            spawn_local(async move { drive(port, &request, load.bytes, &shared).await })
        })
        .collect();
    sleep(options.warm_up).await;
    let before = Costs::now(&target.processes)?;
    let since = Instant::now();
    shared.phase.set(Phase::Measure);
    while since.elapsed() < options.time && !tasks.iter().any(JoinHandle::is_finished) {
        sleep(Duration::from_millis(50).min(options.time.saturating_sub(since.elapsed()))).await;
    }
    shared.phase.set(Phase::Stop);
    let elapsed = since.elapsed();
    let costs = Costs::now(&target.processes)?.since(&before);
    let noise_percent = costs.noise_percent(Instant::now());
    for task in tasks {
        tokio::time::timeout(DRAIN_WITHIN, task).await.context("not all was answered")???;
    }
    let latency = shared.latency.borrow().clone();
    Ok(Measured { per_second: latency.total() as f64 / elapsed.as_secs_f64(), latency, costs, noise_percent })
}

async fn drive(port: u16, request: &[u8], bytes: usize, shared: &Shared) -> Result<()> {
    let mut connection = Connection::with_room(port, READ_BYTES).await?;
    while shared.phase.get() != Phase::Stop {
        let sent = Instant::now();
        connection.send(request).await?;
        let (status, length) = connection.drained_answer().await?;
        anyhow::ensure!((status, length) == (200, bytes), "a request was answered with {status} and {length} bytes");
        if shared.phase.get() == Phase::Measure {
            let micros = sent.elapsed().as_micros();
            shared.latency.borrow_mut().record(u64::try_from(micros).unwrap_or(u64::MAX));
        }
    }
    Ok(())
}
