//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::support::arguments::{number, setting};

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// One envelope in flight on each connection.
    Http,
    /// Many in flight on each stream.
    Ws,
    /// `pgbench`.
    Peer,
    /// Resident memory of the server.
    Memory,
}

/// The command line, read.
#[derive(Debug, Clone)]
pub struct Options {
    /// Measured time of each part.
    pub time: Duration,
    /// Time before it that is not counted.
    pub warm_up: Duration,
    /// Times that everything is measured; medians are printed.
    pub rounds: usize,
    /// Share of the machine that others may take, percent; a noisier measurement is made again.
    pub max_noise_percent: f64,
    /// Parts; all where empty.
    pub only: Vec<Part>,
    /// Events of the long run.
    pub events: u64,
    /// Live runs.
    pub runs: usize,
    /// Connections, streams and clients of the peer.
    pub connections: usize,
    /// Envelopes in flight on each stream.
    pub pipelined: usize,
    /// Where the database lies; the system's folder for temporary files where there is none.
    pub folder: Option<PathBuf>,
    /// A server to measure instead of the one built beside this bench.
    pub server: Option<PathBuf>,
    /// Settings of the server, beside those that the bench needs.
    pub settings: Vec<(String, String)>,
}

/// Shown on `--help`.
pub const HELP: &str = "\
cargo bench --bench ingest -- [options]

  --seconds N       measured time of each part and round [10]
  --warm-up N       seconds before it that are not counted [2]
  --rounds N        rounds; the table shows medians [3]
  --max-noise P     measure again, up to 50 times, while others take more than P % of the machine [100]
  --quick           one round of 3 seconds, and 100,000 events in the long run
  --only PART       http, ws, peer or memory; may be given more than once [all]
  --events N        events of the long run [1,000,000]
  --runs N          live runs [10,000]
  --connections N   connections, streams and clients of the peer [32]
  --pipelined N     envelopes in flight on each stream [64]
  --folder DIR      where the database lies [the folder for temporary files]
  --server FILE     another build of the server
  --set NAME=VALUE  a setting of the server; may be given more than once
";

impl Options {
    /// Reads the arguments; `None` where only help was asked for.
    pub fn read(arguments: impl IntoIterator<Item = String>) -> Result<Option<Self>> {
        let mut options = Self {
            time: Duration::from_secs(10),
            warm_up: Duration::from_secs(2),
            rounds: 3,
            max_noise_percent: 100.0,
            only: Vec::new(),
            events: 1_000_000,
            runs: 10_000,
            connections: 32,
            pipelined: 64,
            folder: None,
            server: None,
            settings: Vec::new(),
        };
        let mut arguments = arguments.into_iter();
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().with_context(|| format!("{argument} needs a value"));
            match argument.as_str() {
                // What cargo itself adds.
                "--bench" => {}
                "--help" | "-h" => return Ok(None),
                "--seconds" => options.time = Duration::from_secs(number(&value()?)?.clamp(1, 3600)),
                "--warm-up" => options.warm_up = Duration::from_secs(number(&value()?)?.min(600)),
                "--rounds" => options.rounds = usize::try_from(number(&value()?)?.clamp(1, 100))?,
                "--max-noise" => options.max_noise_percent = number(&value()?)? as f64,
                "--quick" => {
                    options.time = Duration::from_secs(3);
                    options.warm_up = Duration::from_secs(1);
                    options.rounds = 1;
                    options.events = 100_000;
                }
                "--only" => options.only.push(match value()?.as_str() {
                    "http" => Part::Http,
                    "ws" => Part::Ws,
                    "peer" => Part::Peer,
                    "memory" => Part::Memory,
                    other => bail!("--only {other}: http, ws, peer or memory"),
                }),
                "--events" => options.events = number(&value()?)?.clamp(1, 1_000_000_000),
                "--runs" => options.runs = usize::try_from(number(&value()?)?.clamp(1, 1_000_000))?,
                "--connections" => options.connections = usize::try_from(number(&value()?)?.clamp(1, 90))?,
                "--pipelined" => options.pipelined = usize::try_from(number(&value()?)?.clamp(1, 4096))?,
                "--folder" => options.folder = Some(value()?.into()),
                "--server" => options.server = Some(value()?.into()),
                "--set" => options.settings.push(setting(&value()?)?),
                other => bail!("{other} is not an option\n\n{HELP}"),
            }
        }
        Ok(Some(options))
    }

    /// Whether a part is to be measured.
    pub fn wants(&self, part: Part) -> bool {
        self.only.is_empty() || self.only.contains(&part)
    }
}
