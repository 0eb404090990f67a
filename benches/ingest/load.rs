//! The load: one envelope in flight on each connection, or many on each stream. It runs on one thread.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tokio::task::{JoinHandle, spawn_local};
use tokio::time::sleep;

use super::frames::{check_ack, write_text_frame};
use super::options::Options;
use super::payload::{BODY_BYTES, Body, Run};
use super::postgres::Postgres;
use super::report::Measured;
use super::server::Server;
use super::support::connection::{Connection, find};
use super::support::histogram::Histogram;
use super::support::process::Costs;

/// Time for what is in flight to be answered at the end.
const DRAIN_WITHIN: Duration = Duration::from_secs(30);

/// How envelopes travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// `POST /api/daemon-event`, one in flight.
    Http,
    /// `GET /api/daemon/stream`, so many in flight.
    Ws {
        /// Envelopes in flight on each stream.
        pipelined: usize,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    WarmUp,
    Measure,
    Stop,
}

/// What all connections share; they run on one thread.
pub struct Load {
    phase: Cell<Phase>,
    acknowledged: Cell<u64>,
    /// Envelopes that may still be sent, where their number is limited.
    left: Cell<u64>,
    latency: RefCell<Histogram>,
}

impl Load {
    fn new(limit: u64) -> Rc<Self> {
        Rc::new(Self {
            phase: Cell::new(Phase::WarmUp),
            acknowledged: Cell::new(0),
            left: Cell::new(limit),
            latency: RefCell::new(Histogram::new()),
        })
    }

    /// Acknowledged so far, in all phases.
    pub fn acknowledged(&self) -> u64 {
        self.acknowledged.get()
    }

    /// Whether one more may be sent.
    fn take(&self) -> bool {
        let left = self.left.get();
        if self.phase.get() == Phase::Stop || left == 0 {
            return false;
        }
        self.left.set(left - 1);
        true
    }

    fn answered(&self, sent: Instant, now: Instant) {
        self.acknowledged.set(self.acknowledged.get() + 1);
        if self.phase.get() == Phase::Measure {
            let micros = now.duration_since(sent).as_micros();
            self.latency.borrow_mut().record(u64::try_from(micros).unwrap_or(u64::MAX));
        }
    }
}

/// The connections of a load, each with the number of envelopes that it was acknowledged.
pub struct Driving {
    /// Shared state.
    pub load: Rc<Load>,
    tasks: Vec<JoinHandle<Result<u64>>>,
}

/// Starts one connection for each run. It stops by itself after `limit` envelopes.
pub fn drive(server: &Server, runs: &[Run], transport: Transport, limit: u64) -> Driving {
    let load = Load::new(limit);
    let port = server.port();
    let task = |run: &Run| {
        let (load, run) = (Rc::clone(&load), run.clone());
        match transport {
            Transport::Http => spawn_local(async move { drive_http(port, &run, &load).await }),
            Transport::Ws { pipelined } => spawn_local(async move { drive_ws(port, &run, &load, pipelined).await }),
        }
    };
    let tasks = runs.iter().map(task).collect();
    Driving { load, tasks }
}

impl Driving {
    /// Whether a connection has ended: by the limit or by an error.
    pub fn ended(&self) -> bool {
        self.tasks.iter().any(JoinHandle::is_finished)
    }

    /// Waits for what is in flight, and says how many each run was acknowledged.
    pub async fn finish(self) -> Result<Vec<u64>> {
        let mut acknowledged = Vec::with_capacity(self.tasks.len());
        for task in self.tasks {
            acknowledged.push(tokio::time::timeout(DRAIN_WITHIN, task).await.context("not all was answered")???);
        }
        Ok(acknowledged)
    }
}

/// Measures one transport on new runs, and compares what was acknowledged with what is stored.
pub async fn measure(
    postgres: &Postgres,
    server: &Rc<Server>,
    options: &Options,
    transport: Transport,
    name: &str,
) -> Result<Measured> {
    let runs = server.create_runs(name, options.connections).await?;
    postgres.settle()?;
    let driving = drive(server, &runs, transport, u64::MAX);
    sleep(options.warm_up).await;
    let costs = || Costs::now(&[server.pid(), postgres.pid()]);
    let before = costs()?;
    let since = Instant::now();
    driving.load.phase.set(Phase::Measure);
    while since.elapsed() < options.time && !driving.ended() {
        sleep(Duration::from_millis(50).min(options.time.saturating_sub(since.elapsed()))).await;
    }
    driving.load.phase.set(Phase::Stop);
    let elapsed = since.elapsed();
    let costs = costs()?.since(&before);
    let noise_percent = costs.noise_percent(Instant::now());
    let load = Rc::clone(&driving.load);
    let acknowledged = driving.finish().await?;
    check_stored(postgres, server, &runs, &acknowledged).await?;
    let latency = load.latency.borrow().clone();
    let events = latency.total();
    Ok(Measured { events_per_second: events as f64 / elapsed.as_secs_f64(), events, latency, costs, noise_percent })
}

/// What was acknowledged is stored, says the API and says the database; and nothing else is.
pub async fn check_stored(postgres: &Postgres, server: &Server, runs: &[Run], acknowledged: &[u64]) -> Result<()> {
    let stored = postgres.query("bench", "select run_id, count(*), max(seq) from run_event group by run_id")?;
    for (run, &acknowledged) in runs.iter().zip(acknowledged) {
        let (accepted, last) = server.accepted(run).await?;
        let expected = format!("{}|{acknowledged}|{}", run.id, acknowledged.wrapping_sub(1) as i64);
        if accepted != acknowledged
            || last != acknowledged.checked_sub(1)
            || (acknowledged > 0 && !stored.lines().any(|line| line == expected))
        {
            bail!(
                "run {}: {acknowledged} events were acknowledged; the API says {accepted} up to {last:?}; stored is {:?}",
                run.id,
                stored.lines().find(|line| line.starts_with(&run.id))
            );
        }
    }
    Ok(())
}

/// The head of an event's request.
pub fn http_head(run: &Run) -> Vec<u8> {
    format!(
        "POST /api/daemon-event HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Daemon-Token: {}\r\nX-Daemon-Version: bench\r\n\
         X-Daemon-Capabilities: daemon_event_envelope_v2\r\nContent-Type: application/json\r\n\
         Content-Length: {BODY_BYTES}\r\n\r\n",
        run.token
    )
    .into_bytes()
}

async fn drive_http(port: u16, run: &Run, load: &Load) -> Result<u64> {
    let mut connection = Connection::open(port).await?;
    let head = http_head(run);
    let mut body = Body::new(run);
    let mut request = Vec::with_capacity(head.len() + BODY_BYTES);
    let mut seq = 0;
    while load.take() {
        request.clear();
        request.extend_from_slice(&head);
        body.write(seq, &mut request);
        let sent = Instant::now();
        let (status, answer) = connection.exchange(&request).await?;
        if status != 200 {
            bail!("seq {seq} was answered with {status}: {}", String::from_utf8_lossy(answer));
        }
        check_ack(answer, seq)?;
        load.answered(sent, Instant::now());
        seq += 1;
    }
    Ok(seq)
}

/// Opens a stream and waits for `hello`.
pub async fn open_stream(port: u16, run: &Run) -> Result<Connection> {
    let mut connection = Connection::open(port).await?;
    let request = format!(
        "GET /api/daemon/stream HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: cnVud2FyZGVuLWJlbmNoMQ==\r\nX-Daemon-Token: {}\r\n\
         X-Daemon-Capabilities: daemon_event_envelope_v2\r\n\r\n",
        run.token
    );
    let (status, _) = connection.exchange(request.as_bytes()).await?;
    anyhow::ensure!(status == 101, "the handshake was answered with {status}");
    loop {
        if let Some(hello) = connection.text_frame()? {
            let expected = find(hello, b"\"type\":\"hello\"").is_some() && find(hello, run.id.as_bytes()).is_some();
            anyhow::ensure!(expected, "the first frame is {}", String::from_utf8_lossy(hello));
            return Ok(connection);
        }
        connection.read().await?;
    }
}

async fn drive_ws(port: u16, run: &Run, load: &Load, pipelined: usize) -> Result<u64> {
    let mut connection = open_stream(port, run).await?;
    let mut body = Body::new(run);
    let mut frames = Vec::with_capacity(pipelined * (BODY_BYTES + 8));
    let mut in_flight = VecDeque::with_capacity(pipelined);
    let (mut next, mut answered) = (0, 0);
    loop {
        frames.clear();
        let now = Instant::now();
        while in_flight.len() < pipelined && load.take() {
            write_text_frame(BODY_BYTES, &mut frames, |out| body.write(next, out));
            in_flight.push_back(now);
            next += 1;
        }
        if in_flight.is_empty() {
            return Ok(answered);
        }
        connection.send(&frames).await?;
        connection.read().await?;
        let now = Instant::now();
        while let Some(ack) = connection.text_frame()? {
            check_ack(ack, answered)?;
            let sent = in_flight.pop_front().context("an acknowledgement too many")?;
            load.answered(sent, now);
            answered += 1;
        }
    }
}
