//! What happens on the stage while the agent works.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{anyhow, bail};
use tokio::time::sleep;

use super::daemon::Daemon;
use super::host::{Host, NewRun, RunRow};
use super::link::{FaultPlan, Link, LinkStats};
use super::live::LiveReader;
use super::page::Page;
use super::screen::Screen;
use super::server::Server;
use super::strangers::{self, Stranger};

const LOOK_EVERY: Duration = Duration::from_millis(100);
/// The agent needs about ten seconds; a machine that is very busy gets its time.
const GIVE_UP_AFTER: Duration = Duration::from_mins(3);

pub(super) type Terminal = Screen<std::io::Stdout>;

/// What has to be taken down again, in whatever state the demonstration ends.
#[derive(Default)]
pub(super) struct Stage {
    pub(super) server: Option<Server>,
    pub(super) link: Option<Link>,
    pub(super) daemon: Option<Daemon>,
    pub(super) page: Option<Page>,
}

impl Stage {
    pub(super) async fn end(self) -> anyhow::Result<()> {
        if let Some(page) = self.page {
            page.stop().await;
        }
        if let Some(daemon) = self.daemon {
            daemon.end().await;
        }
        if let Some(link) = self.link {
            link.stop().await;
        }
        match self.server {
            Some(server) => server.end().await,
            None => Ok(()),
        }
    }
}

/// Says what was sent beside the agent, and what became of it.
pub(super) fn tell(screen: &mut Terminal, stranger: &Stranger) {
    screen.say(&format!("  demo: {}\n        -> {}", stranger.what, stranger.answer()));
}

/// What happens while the agent works, by the number of stored messages.
#[derive(Clone, Copy)]
enum Cue {
    WithoutRun,
    OfTheRunBefore,
    RefuseStreams,
    Overtaken,
}

const CUES: [(usize, Cue); 4] =
    [(50, Cue::WithoutRun), (100, Cue::OfTheRunBefore), (150, Cue::RefuseStreams), (200, Cue::Overtaken)];

/// The agent's work, watched.
pub(super) struct Act<'a> {
    pub(super) host: &'a Host,
    pub(super) run: &'a NewRun,
    pub(super) before: &'a NewRun,
    pub(super) live: &'a LiveReader,
    pub(super) stats: &'a Arc<LinkStats>,
    pub(super) plan: FaultPlan,
    pub(super) started: Instant,
}

impl Act<'_> {
    /// Until the daemon has ended. Gives what was sent meanwhile, and what is wrong with the daemon's exit.
    pub(super) async fn watch(
        &mut self,
        stage: &mut Stage,
        journal: &Path,
        screen: &mut Terminal,
    ) -> anyhow::Result<(Vec<Stranger>, Option<String>)> {
        let mut strangers = Vec::new();
        let mut cues = CUES.into_iter().peekable();
        loop {
            let exit = stage.daemon.as_mut().map_or(Ok(None), Daemon::ended)?;
            // Whatever has not had its turn has it at the end.
            while let Some((_, cue)) = cues.next_if(|(at, _)| exit.is_some() || self.live.messages() >= *at) {
                strangers.extend(self.carry_out(cue, stage, screen).await?);
            }
            let said = lines_of(journal)?;
            screen.progress(&format!(
                "{:>6.1} s   sent {said}   stored {}   mistakes of the link {}   connections {}",
                self.started.elapsed().as_secs_f64(),
                self.live.messages(),
                self.stats.made_in_all(),
                self.stats.connections(),
            ));
            if let Some(status) = exit {
                stage.daemon = None;
                let problem = (!status.success()).then(|| format!("the daemon ended with {status}; see daemon.log"));
                return Ok((strangers, problem));
            }
            self.still_possible(stage)?;
            sleep(LOOK_EVERY).await;
        }
    }

    fn still_possible(&self, stage: &Stage) -> anyhow::Result<()> {
        if stage.server.as_ref().is_none_or(Server::has_ended) {
            bail!("the server has ended by itself");
        }
        if self.started.elapsed() > GIVE_UP_AFTER {
            bail!("it is not finished after {} s; is this machine very busy?", GIVE_UP_AFTER.as_secs());
        }
        Ok(())
    }

    async fn carry_out(&self, cue: Cue, stage: &Stage, screen: &mut Terminal) -> anyhow::Result<Option<Stranger>> {
        let stranger = match cue {
            Cue::WithoutRun => strangers::without_run(self.host, self.run).await?,
            Cue::OfTheRunBefore => strangers::of_the_run_before(self.host, self.before).await?,
            Cue::Overtaken => strangers::overtaken(self.host).await?,
            Cue::RefuseStreams => {
                if let Some(link) = &stage.link {
                    link.change_plan(FaultPlan { refuse_stream: Some(501), ..self.plan.clone() });
                }
                screen.say("  demo: the link refuses streams from now on; the daemon goes on over HTTP");
                return Ok(None);
            }
        };
        tell(screen, &stranger);
        Ok(Some(stranger))
    }

    /// Until the server has compared HEAD and closed the run.
    pub(super) async fn wait_for_the_end(&self, patience: Duration) -> anyhow::Result<RunRow> {
        let waiting = Instant::now();
        loop {
            let row = self.host.run(self.run.run_id).await?;
            if row.ended_at.is_some() && row.diff_source.is_some() || waiting.elapsed() > patience {
                return Ok(row);
            }
            sleep(LOOK_EVERY).await;
        }
    }

    /// What it lacks in the end is a problem of the report.
    pub(super) async fn wait_for_the_live_reader(&self, messages: usize, patience: Duration) {
        let waiting = Instant::now();
        while self.live.messages() < messages && waiting.elapsed() < patience {
            sleep(LOOK_EVERY).await;
        }
    }
}

/// Whole lines of the journal so far.
fn lines_of(journal: &Path) -> anyhow::Result<usize> {
    let text = std::fs::read(journal).map_err(|error| anyhow!("the agent's journal: {error}"))?;
    Ok(text.split(|byte| *byte == b'\n').count().saturating_sub(1))
}
