//! The peer: what a program does that writes each event in a transaction of its own.

use std::fmt::Write as _;
use std::fs;
use std::time::Instant;

use anyhow::{Context, Result};

use super::options::Options;
use super::payload::{BODY_BYTES, filler};
use super::postgres::Postgres;
use super::report::Measured;
use super::support::guard;
use super::support::histogram::Histogram;
use super::support::host::path;
use super::support::process::Costs;

/// The same durable work for each event as the server's: a row of 1 kB, two unique indexes, and the run's place.
const TABLES: &str = "
create table peer_run (run bigint primary key, last_seq bigint not null, updated_at timestamptz not null)
    with (fillfactor = 50);
create table peer_event (
    run bigint not null, seq bigint not null, event_id text not null, payload text not null,
    received_at timestamptz not null, primary key (run, seq)
);
create unique index peer_event_event_id_key on peer_event (run, event_id);
";

/// How the peer writes its transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    /// `BEGIN`, two statements, `COMMIT`: four round trips.
    Transaction,
    /// One statement that does both: one round trip. The most that one commit for each event can reach.
    OneStatement,
}

impl Manner {
    fn script(self) -> &'static str {
        match self {
            Self::Transaction => {
                "\\set run :client_id + 1\n\
                 begin;\n\
                 update peer_run set last_seq = last_seq + 1, updated_at = now() where run = :run \
                    returning last_seq as seq \\gset\n\
                 insert into peer_event (run, seq, event_id, payload, received_at) \
                    values (:run, :seq, gen_random_uuid()::text, :payload, now());\n\
                 commit;\n"
            }
            Self::OneStatement => {
                "\\set run :client_id + 1\n\
                 with moved as (update peer_run set last_seq = last_seq + 1, updated_at = now() where run = :run \
                    returning last_seq) \
                 insert into peer_event (run, seq, event_id, payload, received_at) \
                    select :run, last_seq, gen_random_uuid()::text, :payload, now() from moved;\n"
            }
        }
    }
}

/// Makes the peer's tables.
pub fn prepare(postgres: &Postgres, options: &Options) -> Result<()> {
    let runs =
        format!("insert into peer_run select run, 0, now() from generate_series(1, {}) run", options.connections);
    postgres.query("bench", TABLES)?;
    postgres.query("bench", &runs).map(drop)
}

/// Measures it.
pub fn measure(postgres: &Postgres, options: &Options, manner: Manner) -> Result<Measured> {
    postgres.settle()?;
    if !options.warm_up.is_zero() {
        pgbench(postgres, options, manner, options.warm_up.as_secs())?;
    }
    let stored_before = stored(postgres)?;
    let before = Costs::now(&[postgres.pid()])?;
    // The postmaster's children leave their CPU time to it when they end, and pgbench leaves its own to the bench.
    let output = pgbench(postgres, options, manner, options.time.as_secs())?;
    let mut costs = Costs::now(&[postgres.pid()])?.since(&before);
    let noise_percent = costs.noise_percent(Instant::now());
    // No server has a part in it.
    costs.processes.insert(0, 0);
    let find = |before: &str| {
        let rest = output.split(before).nth(1).with_context(|| format!("`{before}` is not in:\n{output}"))?;
        let number: String = rest.trim_start().chars().take_while(|c| c.is_ascii_digit() || *c == '.').collect();
        number.parse::<f64>().with_context(|| format!("no number after `{before}` in:\n{output}"))
    };
    let events = find("number of transactions actually processed:")?;
    let failed = find("number of failed transactions:")?;
    let added = stored(postgres)? - stored_before;
    anyhow::ensure!(failed < 0.5, "{failed} transactions of the peer failed");
    anyhow::ensure!((added as f64 - events).abs() < 0.5, "the peer says {events} events, and {added} are stored");
    Ok(Measured {
        events_per_second: find("tps =")?,
        events: events as u64,
        latency: latencies(postgres)?,
        costs,
        noise_percent,
    })
}

fn stored(postgres: &Postgres) -> Result<u64> {
    Ok(postgres.query("bench", "select count(*) from peer_event")?.parse()?)
}

fn pgbench(postgres: &Postgres, options: &Options, manner: Manner, seconds: u64) -> Result<String> {
    let folder = postgres.folder.join("peer");
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir(&folder)?;
    let script = folder.join("script.sql");
    fs::write(&script, manner.script())?;
    let pgbench = postgres.program("pgbench");
    let mut payload = String::from("payload=");
    let _ = write!(payload, "{}", filler(BODY_BYTES));
    let (port, clients, seconds) = (postgres.port.to_string(), options.connections.to_string(), seconds.to_string());
    guard::run(
        &[
            path(&pgbench)?,
            "-n",
            "-h",
            "127.0.0.1",
            "-p",
            &port,
            "-U",
            "postgres",
            "-M",
            "prepared",
            "-f",
            path(&script)?,
            "-c",
            &clients,
            "-j",
            "2",
            "-T",
            &seconds,
            "-D",
            &payload,
            "--log",
            "--sampling-rate=0.1",
            "bench",
        ],
        &folder,
    )
}

/// A tenth of all latencies, from the logs.
fn latencies(postgres: &Postgres) -> Result<Histogram> {
    let mut histogram = Histogram::new();
    for entry in fs::read_dir(postgres.folder.join("peer"))? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with("pgbench_log") {
            for line in fs::read_to_string(entry.path())?.lines() {
                let micros = line.split(' ').nth(2).and_then(|micros| micros.parse().ok());
                histogram.record(micros.with_context(|| format!("not a line of pgbench's log: {line}"))?);
            }
        }
    }
    Ok(histogram)
}
