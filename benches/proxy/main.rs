//! The preview proxy beside its peers: the real server with every check on, with its embedded coordinator and with
//! Redis, nginx, and http-proxy-middleware, in front of the same upstream. See `docs/performance.md`.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "the tables are what this program is for")]
#![allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_possible_wrap,
    reason = "counts and times here are far below 2^52"
)]

mod load;
mod options;
mod peers;
mod report;
mod stage;
mod streams;
#[path = "../support/mod.rs"]
mod support;
mod upstream;

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result};
use tokio::task::LocalSet;

use load::{LOADS, Target};
use options::{Options, Part};
use peers::Peer;
use report::{Peers, Row};
use stage::{Browser, Stage};
use support::process::memory;
use support::quiet::undisturbed;
use support::server::last_words;

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
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    if arguments.first().is_some_and(|first| first == upstream::ARGUMENT) {
        return LocalSet::new().block_on(&runtime, upstream::serve());
    }
    if arguments.is_empty() {
        // As `cargo test --all-targets` would start it.
        println!("nothing to do; start it with `cargo bench --bench proxy`");
        return Ok(());
    }
    let Some(options) = Options::read(arguments)? else {
        print!("{}", options::HELP);
        return Ok(());
    };
    LocalSet::new().block_on(&runtime, bench(&options))
}

const DIRECT: &str = "no proxy";
const NGINX: &str = "peer: nginx, one worker";
const NODE: &str = "peer: http-proxy-middleware, as documented";
const NODE_KEPT: &str = "peer: http-proxy-middleware, kept connections";
const EMBEDDED: &str = "server, embedded coordinator";
const REDIS: &str = "server, Redis";

async fn bench(options: &Options) -> Result<()> {
    let parent = options.folder.clone().unwrap_or_else(std::env::temp_dir);
    let folder = tempfile::Builder::new().prefix("runwarden-bench-").tempdir_in(&parent);
    let folder = folder.with_context(|| format!("cannot make a folder in {}", parent.display()))?;
    println!("{} cores; files in {}", std::thread::available_parallelism()?, folder.path().display());
    let rows = measure_loads(folder.path(), options).await?;
    report::print_loads(
        &rows,
        &Peers { nginx: NGINX, node: NODE, node_kept: NODE_KEPT, direct: DIRECT },
        options.connections,
    );
    report::print_memory(&rows);
    if options.wants(Part::Streams) {
        streams::raise_files(streams::files_needed(options))?;
        let streams = streams::measure(folder.path(), options).await;
        report::print_streams(&streams.with_context(|| last_words(folder.path(), "streams"))?);
    }
    Ok(())
}

/// Everybody once for each load in each round, so that a slow minute of the machine does not fall on one of them alone.
/// All run all the time; those that are not asked cost nothing.
async fn measure_loads(folder: &Path, options: &Options) -> Result<Vec<Row>> {
    let subjects = Subjects::start(folder, options).await?;
    let targets = subjects.targets(options).await?;
    let mut rows: Vec<Row> = targets.iter().map(|(name, _)| Row::new(name)).collect();
    for ((_, target), row) in targets.iter().zip(&mut rows) {
        row.memory.push(memory(target.processes[0])?);
    }
    for round in 1..=options.rounds {
        for (at, load) in LOADS.into_iter().enumerate() {
            if !options.wants_load(load.name) {
                continue;
            }
            for ((name, target), row) in targets.iter().zip(&mut rows) {
                let measured = undisturbed(
                    options.max_noise_percent,
                    |measured: &load::Measured| measured.noise_percent,
                    async || {
                        let measured = load::measure(target, load, options).await;
                        let measured = measured.with_context(|| format!("{name}: {}", subjects.last_words(folder)))?;
                        let (rate, noise) = (measured.per_second, measured.noise_percent);
                        println!(
                            "  round {round}, {}: {name}: {rate:.0} requests/s; others took {noise:.0} % of the machine",
                            load.name
                        );
                        Ok(measured)
                    },
                );
                row.rounds[at].push(measured.await?);
            }
        }
        for ((_, target), row) in targets.iter().zip(&mut rows) {
            row.memory.push(memory(target.processes[0])?);
        }
    }
    subjects.stop()?;
    Ok(rows)
}

/// Everything that runs while loads are measured.
struct Subjects {
    /// The upstream of everybody but the server with Redis, which starts one of its own.
    embedded: Stage,
    browsers: Vec<Browser>,
    redis: Option<(Stage, Peer)>,
    nginx: Option<Peer>,
    node: Option<[Peer; 2]>,
}

impl Subjects {
    async fn start(folder: &Path, options: &Options) -> Result<Self> {
        let embedded = Stage::start(folder, "embedded", options, None).await?;
        let browsers = open(&embedded, options).await.with_context(|| last_words(folder, "embedded"))?;
        let upstream = embedded.upstream;
        let nginx = if options.wants(Part::Nginx) { Some(Peer::nginx(folder, upstream).await?) } else { None };
        let node = if options.wants(Part::Node) { Some(Peer::node(folder, upstream).await?) } else { None };
        let redis = if options.wants(Part::Redis) {
            let redis = Peer::redis(folder).await?;
            let url = format!("redis://127.0.0.1:{}/", redis.port);
            Some((Stage::start(folder, "redis-server", options, Some(url)).await?, redis))
        } else {
            None
        };
        Ok(Self { embedded, browsers, redis, nginx, node })
    }

    async fn targets(&self, options: &Options) -> Result<Vec<(&'static str, Target)>> {
        let upstream = self.embedded.upstream_pid().await?;
        // As long as the server's, and of no meaning.
        let stranger = Browser { base_path: String::new(), cookie: self.browsers[0].cookie.clone() };
        let mut targets = Vec::new();
        if options.wants(Part::Direct) {
            let (port, browsers) = (self.embedded.upstream, vec![stranger.clone()]);
            targets.push((DIRECT, Target { port, browsers, processes: vec![upstream] }));
        }
        let [node, node_kept] = self.node.as_ref().map_or([None; 2], |peers| peers.each_ref().map(Some));
        for (name, peer) in [(NGINX, self.nginx.as_ref()), (NODE, node), (NODE_KEPT, node_kept)] {
            if let Some(peer) = peer {
                let (port, browsers) = (peer.port, vec![stranger.clone()]);
                targets.push((name, Target { port, browsers, processes: vec![peer.pid(), upstream] }));
            }
        }
        if options.wants(Part::Embedded) {
            let (server, browsers) = (&self.embedded.server, self.browsers.clone());
            targets.push((EMBEDDED, Target { port: server.port, browsers, processes: vec![server.pid(), upstream] }));
        }
        if let Some((stage, redis)) = &self.redis {
            let browsers = open(stage, options).await?;
            let processes = vec![stage.server.pid(), stage.upstream_pid().await?, redis.pid()];
            targets.push((REDIS, Target { port: stage.server.port, browsers, processes }));
        }
        Ok(targets)
    }

    fn last_words(&self, folder: &Path) -> String {
        let redis = self.redis.as_ref().map(|_| last_words(folder, "redis-server")).unwrap_or_default();
        format!("{}\n{redis}", last_words(folder, "embedded"))
    }

    fn stop(self) -> Result<()> {
        self.embedded.server.stop()?;
        if let Some((stage, _)) = self.redis {
            stage.server.stop()?;
        }
        Ok(())
    }
}

async fn open(stage: &Stage, options: &Options) -> Result<Vec<Browser>> {
    let mut browsers = Vec::with_capacity(options.sessions);
    for _ in 0..options.sessions {
        browsers.push(stage.open().await?);
    }
    Ok(browsers)
}
