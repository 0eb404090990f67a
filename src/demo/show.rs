//! One demonstration from its start to its table.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context;
use runwarden_actors::contract::limits::PREVIEW_SESSION_SECONDS;
use tempfile::TempDir;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::act::{Act, Stage, Terminal, tell};
use super::check::{compare, read_journal};
use super::cli::DemoArgs;
use super::daemon::{Daemon, Place};
use super::host::{Host, NewRun, RunRow, THREAD};
use super::link::{FaultPlan, FaultyLink};
use super::live::LiveReader;
use super::page::{Door, Page};
use super::preview::preview_config;
use super::report::Report;
use super::repository::{AGENT, Repo, need_git};
use super::screen::Screen;
use super::server::Server;
use super::strangers::{self, CHAT};
use crate::telemetry::init_logs_in_file;

const INTERRUPTED: u8 = 130;
/// Longest delay of the link.
const DELAY_MAX: Duration = Duration::from_millis(30);
/// From the last acknowledgement to the compared HEAD, and to the live reader's last event.
const END_WITHIN: Duration = Duration::from_secs(30);
/// The same where the daemon has failed, so that there may be no end to wait for.
const FAILED_END_WITHIN: Duration = Duration::from_secs(2);

/// The signals that end the demonstration.
struct Interrupts([Signal; 3]);

impl Interrupts {
    fn watch() -> anyhow::Result<Self> {
        let watch = |kind| signal(kind).context("signals cannot be watched");
        Ok(Self([watch(SignalKind::interrupt())?, watch(SignalKind::terminate())?, watch(SignalKind::hangup())?]))
    }

    async fn next(&mut self) {
        let [interrupt, terminate, hangup] = &mut self.0;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    }
}

/// How it went.
enum End {
    Good,
    /// Something is not as it has to be; the table and the list were printed.
    Bad,
    Interrupted,
}

/// Shows everything, takes it down, and says what came of it.
#[allow(clippy::print_stderr, reason = "a command's error goes to its terminal")]
pub(super) async fn show(args: &DemoArgs) -> ExitCode {
    let mut screen = Screen::new(args.quiet);
    let mut kept = None;
    let ended = match prepare().await {
        Ok((folder, mut interrupts)) => {
            let mut stage = Stage::default();
            let ended = tokio::select! {
                biased;
                () = interrupts.next() => Ok(End::Interrupted),
                ended = play(args, folder.path(), &mut stage, &mut screen) => ended,
            };
            if args.keep && matches!(ended, Ok(End::Good | End::Bad)) {
                interrupts.next().await;
                screen.print("");
            }
            let taken_down = stage.end().await;
            let ended = ended.and_then(|end| taken_down.map(|()| end));
            if matches!(ended, Ok(End::Bad) | Err(_)) && !args.keep {
                kept = Some(folder.keep());
            } else if let Err(error) = folder.close() {
                eprintln!("runwarden demo: the temporary folder is not wholly deleted: {error}");
            }
            ended
        }
        Err(error) => Err(error),
    };
    let code = match ended {
        Ok(End::Good) => ExitCode::SUCCESS,
        Ok(End::Bad) => ExitCode::FAILURE,
        Ok(End::Interrupted) => {
            screen.print("Interrupted; everything is taken down.");
            ExitCode::from(INTERRUPTED)
        }
        Err(error) => {
            screen.print("");
            eprintln!("runwarden demo: {error:#}");
            ExitCode::FAILURE
        }
    };
    if let Some(folder) = kept {
        eprintln!("The logs are kept: server.log and daemon.log in {}", folder.display());
    }
    code
}

async fn prepare() -> anyhow::Result<(TempDir, Interrupts)> {
    need_git().await?;
    let interrupts = Interrupts::watch()?;
    let folder = tempfile::Builder::new().prefix("runwarden-demo-").tempdir().context("a temporary folder")?;
    let log = folder.path().join("server.log");
    let log = std::fs::File::create(&log).with_context(|| format!("file {}", log.display()))?;
    init_logs_in_file(log, "info");
    Ok((folder, interrupts))
}

/// Where everything lies in the temporary folder.
struct Paths {
    data: PathBuf,
    repo: PathBuf,
    agent: PathBuf,
    journal: PathBuf,
    spool: PathBuf,
    daemon_log: PathBuf,
}

async fn play(args: &DemoArgs, folder: &Path, stage: &mut Stage, screen: &mut Terminal) -> anyhow::Result<End> {
    let started = Instant::now();
    // The server compares real paths.
    let folder = folder.canonicalize().context("the temporary folder")?;
    let paths = Paths {
        data: folder.join("data"),
        repo: folder.join("tea-timer"),
        agent: folder.join("agent.sh"),
        journal: folder.join("agent-journal.jsonl"),
        spool: folder.join("daemon.spool"),
        daemon_log: folder.join("daemon.log"),
    };
    headline(args, screen);
    std::fs::write(&paths.agent, AGENT).context("the agent's script")?;
    std::fs::write(&paths.journal, "").context("the agent's journal")?;
    let repo = Repo::make(paths.repo.clone()).await?;
    screen.say(&format!("  repository  a tea timer, first commit {}", short(repo.start_sha.as_str())));

    let door = Door::open()?;
    let server =
        Server::start(&paths.data, &folder, args.port, door.origins()).await.with_context(|| match args.port {
            0 => "the server does not start".to_owned(),
            port => format!("the server does not start; --port {port} may be taken, without it a free one is used"),
        })?;
    let host = Host::new(&server.url, &server.key);
    let (url, key) = (server.url.clone(), server.key.clone());
    stage.server = Some(server);
    screen.say(&format!("  server      {url}, SQLite in a temporary folder"));

    let plan = FaultPlan { delay_max: DELAY_MAX, ..FaultPlan::nasty(args.seed) };
    let link = FaultyLink::start(&url, plan.clone()).context("the link does not start")?;
    screen.say(&format!("  link        {}, in front of it, bad on purpose", link.url()));

    // The chat's next run takes its place; whoever still speaks for it later is a stranger.
    let before = host.create_run(CHAT, "first-request").await?;
    let run = host.create_run_with(CHAT, "second-request", preview_config()?).await?;
    let repo_dir = repo.path.to_str().context("the temporary folder is not UTF-8; let TMPDIR name another one")?;
    host.bind(run.run_id, &repo.start_sha, repo_dir).await?;
    screen.say(&format!("  run         {}", run.run_id));
    screen.say("");

    let live = LiveReader::start(host.clone(), run.run_id);
    let place = Place {
        server: link.url(),
        thread: THREAD,
        chat: CHAT,
        repo: &paths.repo,
        spool: &paths.spool,
        log: &paths.daemon_log,
        agent: &paths.agent,
        journal: &paths.journal,
    };
    let stats = link.stats();
    stage.daemon = Some(Daemon::start(&place, &run)?);
    stage.link = Some(link);

    let mut act = Act { host: &host, run: &run, before: &before, live: &live, stats: &stats, plan, started };
    let (mut strangers, daemon_problem) = act.watch(stage, &paths.journal, screen).await?;
    let patience = if daemon_problem.is_some() { FAILED_END_WITHIN } else { END_WITHIN };
    let row = act.wait_for_the_end(patience).await?;
    if row.ended_at.is_some() {
        let last = strangers::after_the_end(&host, &run).await?;
        tell(screen, &last);
        strangers.push(last);
    }

    let journal = std::fs::read_to_string(&paths.journal).context("the agent's journal")?;
    let said = read_journal(&journal)?;
    act.wait_for_the_live_reader(said.len(), patience).await;
    let record = host.events(run.run_id).await?;
    let session = host.start_preview(&run).await;
    let preview = match &session {
        Ok(session) => host.visit(session).await.map_err(|error| format!("{error:#}")),
        Err(error) => Err(format!("{error:#}")),
    };
    let report = Report {
        seed: args.seed,
        stored: compare(&said, &record),
        live: compare(&said, &live.into_events()),
        envelopes: record.len(),
        link: &stats,
        // Once more: its counters have moved with the last duplicates.
        run: RunRow { counters: host.run(run.run_id).await?.counters, ..row },
        set_aside: host.quarantine().await?,
        strangers,
        head: repo.head().await?,
        commits: repo.commits().await?,
        daemon_problem,
        preview,
        time: started.elapsed(),
    };
    screen.say("");
    screen.print(&report.table());
    let problems = report.problems();
    if problems.is_empty() {
        screen.print("Everything that was sent is stored exactly once and in order.");
    } else {
        screen.print("This is not as it has to be:");
        for problem in &problems {
            screen.print(&format!("  - {problem}"));
        }
    }
    if args.keep {
        if let Ok(session) = session {
            let page = Page::serve(door, &url, &key, &run, session)?;
            screen.print(&the_link(&page.link));
            stage.page = Some(page);
        }
        screen.print(&commands(&url, &folder, &run));
    } else if problems.is_empty() {
        screen.say("");
        screen.say("Next: `runwarden demo --keep` leaves the server running, with a link to");
        screen.say("the app's preview for your browser, and with commands to try.");
        screen.say("README.md starts a server to stay; docs/concepts.md explains what you have seen.");
    }
    Ok(if problems.is_empty() { End::Good } else { End::Bad })
}

fn headline(args: &DemoArgs, screen: &mut Terminal) {
    screen.say(&format!(
        "Runwarden demo, seed {}\n\n\
         A coding agent edits and commits in a Git repository. Its daemon reports every\n\
         message to the server over a link that cuts connections, loses frames and\n\
         answers, sends things twice, and repeats old ones late.\n\
         Lines with `demo:` tell what the demo itself does beside the agent.\n",
        args.seed
    ));
}

fn short(sha: &str) -> &str {
    sha.get(..12).unwrap_or(sha)
}

fn the_link(link: &str) -> String {
    let minutes = PREVIEW_SESSION_SECONDS / 60;
    format!(
        "
See the app that the agent has changed, in your browser:

  {link}

The preview lives for {minutes} minutes, then the page offers to start it again; all
of it lives until Ctrl-C. The link holds no secret: the page asks for a fresh
token each time."
    )
}

/// For a look at what is still running.
fn commands(url: &str, folder: &Path, run: &NewRun) -> String {
    let quoted = |path: &Path| format!("'{}'", path.display().to_string().replace('\'', r"'\''"));
    format!(
        "
The server is still running. To look around, in a second terminal:

  URL={url}
  KEY=$(cat {key})
  RUN={run_id}

  # the run: how it ended, its counters, its commits
  curl -sS -H \"X-Internal-Service-Key: $KEY\" \"$URL/api/internal/runs/$RUN\"; echo

  # its events, page by page (?after=SEQ)
  curl -sS -H \"X-Internal-Service-Key: $KEY\" \"$URL/api/internal/runs/$RUN/events\"; echo

  # the same as a stream: what is stored, then what comes
  curl -sSN -H \"X-Internal-Service-Key: $KEY\" -H 'Accept: text/event-stream' \\
    \"$URL/api/internal/runs/$RUN/events\"

  # what was set aside, and why
  curl -sS -H \"X-Internal-Service-Key: $KEY\" \"$URL/api/internal/quarantine?threadId={THREAD}\"; echo

  # health and metrics
  curl -sS \"$URL/readyz\"; echo; curl -sS \"$URL/metrics\"

  # what the agent did
  git -C {repo} log --stat

Logs: server.log and daemon.log in {folder}
Ctrl-C stops the server and deletes that folder.",
        key = quoted(&folder.join("data/secrets/internal_service_key")),
        run_id = run.run_id,
        repo = quoted(&folder.join("tea-timer")),
        folder = folder.display(),
    )
}
