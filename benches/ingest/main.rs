//! Ingestion beside its peer: the real server over HTTP and WebSocket, and `pgbench` with one transaction for an
//! event, in the same run on the same Postgres. See `docs/performance.md`.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "the tables are what this program is for")]
#![allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_possible_wrap,
    reason = "counts and times here are far below 2^52"
)]

mod frames;
mod load;
mod memory;
mod options;
mod payload;
mod peer;
mod postgres;
mod report;
mod server;
#[path = "../support/mod.rs"]
mod support;

use std::process::ExitCode;
use std::rc::Rc;

use anyhow::{Context, Result};
use tokio::task::LocalSet;

use load::Transport;
use options::{Options, Part};
use peer::Manner;
use postgres::Postgres;
use report::{Measured, Row};
use server::Server;
use support::quiet::undisturbed;

fn main() -> ExitCode {
    match start() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn start() -> Result<()> {
    if std::env::args().len() < 2 {
        // As `cargo test --all-targets` would start it.
        println!("nothing to do; start it with `cargo bench --bench ingest`");
        return Ok(());
    }
    let Some(options) = Options::read(std::env::args().skip(1))? else {
        print!("{}", options::HELP);
        return Ok(());
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, bench(&options))
}

async fn bench(options: &Options) -> Result<()> {
    let postgres = Postgres::start(options.folder.as_deref())?;
    println!("{}", postgres.query("postgres", "select version()")?);
    println!("{} cores; database in {}", std::thread::available_parallelism()?, postgres.folder.display());
    let rates = measure_rates(&postgres, options).await;
    let rates = rates.with_context(|| last_words(&postgres))?;
    report::print_rates(&rates, PEER);
    if options.wants(Part::Memory) {
        measure_memory(&postgres, options).await.with_context(|| last_words(&postgres))?;
    }
    postgres.stop()
}

const PEER: &str = "peer: pgbench, one transaction for an event";
const ONE_STATEMENT: &str = "pgbench, the same as one statement";

/// Every part once in each round, so that a slow minute of the machine does not fall on one of them alone.
async fn measure_rates(postgres: &Postgres, options: &Options) -> Result<Vec<Row>> {
    let (http, ws) = (
        format!("server, HTTP, {} connections", options.connections),
        format!("server, WebSocket, {} streams, {} in flight each", options.connections, options.pipelined),
    );
    let row = |name: &str, goal| Row { name: name.to_owned(), goal, rounds: Vec::new() };
    let mut rows = vec![row(PEER, None), row(ONE_STATEMENT, None), row(&http, Some(2.5)), row(&ws, Some(5.0))];
    let pipelined = Transport::Ws { pipelined: options.pipelined };
    let parts = [
        (Part::Peer, Measure::Peer(Manner::Transaction)),
        (Part::Peer, Measure::Peer(Manner::OneStatement)),
        (Part::Http, Measure::Server(Transport::Http)),
        (Part::Ws, Measure::Server(pipelined)),
    ];
    let mut number = 0;
    for round in 1..=options.rounds {
        for (row, (part, measure)) in rows.iter_mut().zip(parts) {
            if !options.wants(part) {
                continue;
            }
            let name = &row.name;
            let measured = undisturbed(options.max_noise_percent, Measured::noise, async || {
                number += 1;
                let measured = measure.once(postgres, options, number).await?;
                let (rate, noise) = (measured.events_per_second, measured.noise_percent);
                println!("  round {round}: {name}: {rate:.0} events/s; others took {noise:.0} % of the machine");
                Ok(measured)
            });
            row.rounds.push(measured.await?);
        }
    }
    Ok(rows)
}

#[derive(Debug, Clone, Copy)]
enum Measure {
    Peer(Manner),
    Server(Transport),
}

impl Measure {
    async fn once(self, postgres: &Postgres, options: &Options, number: usize) -> Result<Measured> {
        postgres.begin_anew()?;
        match self {
            Self::Peer(manner) => {
                peer::prepare(postgres, options)?;
                peer::measure(postgres, options, manner)
            }
            Self::Server(transport) => {
                let server = Rc::new(Server::start(postgres, options).await?);
                let measured = load::measure(postgres, &server, options, transport, &number.to_string()).await?;
                stop(server)?;
                Ok(measured)
            }
        }
    }
}

async fn measure_memory(postgres: &Postgres, options: &Options) -> Result<()> {
    println!("\nmemory with {} live runs", options.runs);
    postgres.begin_anew()?;
    let server = Rc::new(Server::start(postgres, options).await?);
    let live = memory::live_runs(&server, options).await?;
    stop(server)?;
    println!("memory over {} events", options.events);
    let server = Rc::new(Server::start(postgres, options).await?);
    let samples = memory::long_run(postgres, &server, options).await?;
    stop(server)?;
    report::print_live_runs(options.runs, &live);
    report::print_long_run(&samples);
    Ok(())
}

/// Nobody else holds it once its tasks have ended.
fn stop(server: Rc<Server>) -> Result<()> {
    Rc::into_inner(server).map_or(Ok(()), Server::stop)
}

/// What the server wrote last, for an error.
fn last_words(postgres: &Postgres) -> String {
    support::server::last_words(&postgres.folder, server::NAME)
}
