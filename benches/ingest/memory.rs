//! Resident memory of the server: with many live runs, and over a long run.

use std::rc::Rc;
use std::time::Duration;

use anyhow::{Result, bail};
use tokio::task::spawn_local;
use tokio::time::sleep;

use super::frames::check_ack;
use super::load::{Transport, check_stored, drive, http_head};
use super::options::Options;
use super::payload::{Body, Run};
use super::postgres::Postgres;
use super::server::Server;
use super::support::connection::Connection;
use super::support::process::{Memory, memory};

/// Connections that send the one event of each live run.
const SENDERS: usize = 32;

/// Memory with many live runs.
pub struct LiveRuns {
    /// Just after the start.
    pub idle: Memory,
    /// With all runs alive.
    pub live: Memory,
    /// How many actors were alive, as the server says.
    pub actors: u64,
}

/// Makes the runs, sends one event of each, and reads the memory while all their actors are alive.
pub async fn live_runs(server: &Rc<Server>, options: &Options) -> Result<LiveRuns> {
    let idle = memory(server.pid())?;
    let runs = Rc::new(server.create_runs("live", options.runs).await?);
    let senders: Vec<_> = (0..SENDERS)
        .map(|sender| {
            let (runs, port) = (Rc::clone(&runs), server.port());
            spawn_local(async move {
                let mut connection = Connection::open(port).await?;
                for run in runs.iter().skip(sender).step_by(SENDERS) {
                    send_one(&mut connection, run).await?;
                }
                anyhow::Ok(())
            })
        })
        .collect();
    for sender in senders {
        sender.await??;
    }
    // The gauge is renewed every 10 seconds.
    let mut actors = 0;
    for _ in 0..60 {
        sleep(Duration::from_millis(250)).await;
        actors = server.live_runs().await?;
        if actors >= options.runs as u64 {
            break;
        }
    }
    Ok(LiveRuns { idle, live: memory(server.pid())?, actors })
}

async fn send_one(connection: &mut Connection, run: &Run) -> Result<()> {
    let mut request = http_head(run);
    Body::new(run).write(0, &mut request);
    let (status, answer) = connection.exchange(&request).await?;
    if status != 200 {
        bail!("an event was answered with {status}: {}", String::from_utf8_lossy(answer));
    }
    check_ack(answer, 0)
}

/// Memory at a point of the long run.
pub struct Sample {
    /// Events acknowledged.
    pub events: u64,
    /// Memory then.
    pub memory: Memory,
}

/// Sends `options.events` over streams and reads the memory after every tenth of them.
pub async fn long_run(postgres: &Postgres, server: &Rc<Server>, options: &Options) -> Result<Vec<Sample>> {
    let runs = server.create_runs("long", options.connections).await?;
    let driving = drive(server, &runs, Transport::Ws { pipelined: options.pipelined }, options.events);
    let mut samples = vec![Sample { events: 0, memory: memory(server.pid())? }];
    for tenth in 1..=10 {
        let events = options.events * tenth / 10;
        while driving.load.acknowledged() < events {
            // A connection ends early where it failed, or near the end where no envelope was left for it.
            if driving.ended() && tenth < 10 {
                break;
            }
            if driving.ended() && driving.load.acknowledged() < events {
                sleep(Duration::from_millis(10)).await;
                break;
            }
            sleep(Duration::from_millis(20)).await;
        }
        samples.push(Sample { events: driving.load.acknowledged(), memory: memory(server.pid())? });
        println!("  {:>3} %  {:.1} MB", tenth * 10, samples.last().map_or(0.0, |sample| sample.memory.now_mb));
    }
    let acknowledged = driving.finish().await?;
    check_stored(postgres, server, &runs, &acknowledged).await?;
    let total: u64 = acknowledged.iter().sum();
    anyhow::ensure!(total == options.events, "{total} of {} events were acknowledged", options.events);
    Ok(samples)
}
