//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::support::arguments::{number, setting};

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The upstream without a proxy.
    Direct,
    /// nginx.
    Nginx,
    /// http-proxy-middleware.
    Node,
    /// The server with its embedded coordinator.
    Embedded,
    /// The server with Redis.
    Redis,
    /// Memory with many idle event streams.
    Streams,
}

/// The command line, read.
#[derive(Debug, Clone)]
pub struct Options {
    /// Measured time of each part, size and round.
    pub time: Duration,
    /// Time before it that is not counted.
    pub warm_up: Duration,
    /// Times that everything is measured; medians are printed.
    pub rounds: usize,
    /// Share of the machine that others may take, percent; a noisier measurement is made again.
    pub max_noise_percent: f64,
    /// Parts; all where empty.
    pub only: Vec<Part>,
    /// Loads by their names; all where empty.
    pub loads: Vec<String>,
    /// Connections of the load.
    pub connections: usize,
    /// Preview sessions that the connections are spread over: each has 16 slots.
    pub sessions: usize,
    /// Idle event streams.
    pub streams: usize,
    /// Where files lie; the system's folder for temporary files where there is none.
    pub folder: Option<PathBuf>,
    /// A server to measure instead of the one built beside this bench.
    pub server: Option<PathBuf>,
    /// Settings of the server, beside those that the bench needs.
    pub settings: Vec<(String, String)>,
}

/// Shown on `--help`.
pub const HELP: &str = "\
cargo bench --bench proxy -- [options]

  --seconds N       measured time of each part, load and round [5]
  --warm-up N       seconds before it that are not counted [1]
  --rounds N        rounds; the table shows medians [3]
  --max-noise P     measure again, up to 50 times, while others take more than P % of the machine [100]
  --quick           one round of 2 seconds, and 2,000 streams
  --only PART       direct, nginx, node, embedded, redis or streams; may be given more than once [all]
  --load NAME       1kB, 1MB or one; may be given more than once [all]
  --connections N   connections of the loads 1kB and 1MB [32]
  --sessions N      preview sessions that they are spread over, each with 16 slots [4]
  --streams N       idle event streams [10,000]
  --folder DIR      where files lie [the folder for temporary files]
  --server FILE     another build of the server
  --set NAME=VALUE  a setting of the server; may be given more than once

It needs nginx and redis-server (on Debian: apt-get install nginx-light redis-server), git, and node with npm.
";

impl Options {
    /// Reads the arguments; `None` where only help was asked for.
    pub fn read(arguments: impl IntoIterator<Item = String>) -> Result<Option<Self>> {
        let mut options = Self {
            time: Duration::from_secs(5),
            warm_up: Duration::from_secs(1),
            rounds: 3,
            max_noise_percent: 100.0,
            only: Vec::new(),
            loads: Vec::new(),
            connections: 32,
            sessions: 4,
            streams: 10_000,
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
                    options.time = Duration::from_secs(2);
                    options.rounds = 1;
                    options.streams = 2_000;
                }
                "--only" => options.only.push(match value()?.as_str() {
                    "direct" => Part::Direct,
                    "nginx" => Part::Nginx,
                    "node" => Part::Node,
                    "embedded" => Part::Embedded,
                    "redis" => Part::Redis,
                    "streams" => Part::Streams,
                    other => bail!("--only {other}: direct, nginx, node, embedded, redis or streams"),
                }),
                "--load" => options.loads.push(value()?),
                "--connections" => options.connections = usize::try_from(number(&value()?)?.clamp(1, 1000))?,
                "--sessions" => options.sessions = usize::try_from(number(&value()?)?.clamp(1, 1000))?,
                "--streams" => options.streams = usize::try_from(number(&value()?)?.clamp(1, 25_000))?,
                "--folder" => options.folder = Some(value()?.into()),
                "--server" => options.server = Some(value()?.into()),
                "--set" => options.settings.push(setting(&value()?)?),
                other => bail!("{other} is not an option\n\n{HELP}"),
            }
        }
        anyhow::ensure!(
            options.connections <= options.sessions * 16,
            "{} connections need more than {} sessions: each has 16 slots",
            options.connections,
            options.sessions
        );
        Ok(Some(options))
    }

    /// Whether a part is to be measured.
    pub fn wants(&self, part: Part) -> bool {
        self.only.is_empty() || self.only.contains(&part)
    }

    /// Whether a load is to be measured.
    pub fn wants_load(&self, name: &str) -> bool {
        self.loads.is_empty() || self.loads.iter().any(|load| load == name)
    }
}
