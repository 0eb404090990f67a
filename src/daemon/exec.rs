//! The whole life of one run, from the agent's start to the last acknowledgement.

use std::cell::RefCell;
use std::io::ErrorKind;

use runwarden_actors::contract::{Position, Seq};
use tokio::process::ChildStdout;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::agent::{Agent, end_leftover};
use super::batch::Batch;
use super::conversation::{Cause, Conversation, Ending, agent_is_gone};
use super::envelope::{Last, seal};
use super::error::DaemonError;
use super::git;
use super::lines::{Line, LineReader, to_message};
use super::message::Message;
use super::options::{ExecOptions, InvalidOption};
pub use super::outbox::Deliveries;
use super::outbox::Outbox;
use super::spool::{AgentMark, Identity, Spool, SpoolError};
use super::transport::{Answer, Api, Backoff, deliver};

/// Exit code where the agent was lost with an earlier daemon.
const EXIT_AGENT_LOST: i32 = 70;
const EXIT_NOT_FOUND: i32 = 127;
const EXIT_NOT_STARTED: i32 = 126;

/// How a run went whose every envelope was dealt with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// The agent's exit code; 128 and the signal's number where a signal ended it; 126 and 127 where it could not be
    /// started; 70 where an earlier daemon was killed and the agent with it.
    pub exit_code: i32,
    /// Whether an earlier daemon had started the agent, so that this one only finished its work.
    pub resumed: bool,
    /// What became of the envelopes that this daemon has sent.
    pub deliveries: Deliveries,
}

/// Runs the agent, delivers everything it says, and ends the run. To be polled where actix's runtime is. Dropped
/// half-way it leaves the spool as a killed daemon would.
pub async fn exec(options: ExecOptions) -> Result<Outcome, DaemonError> {
    options.limits.check()?;
    if options.command.is_empty() {
        let problem = "name the agent's program after `--`".to_owned();
        return Err(InvalidOption { name: "COMMAND", problem }.into());
    }
    let mut spool = open_spool(&options).await?;
    let agent = spool.agent();
    if let Some(exit_code) = spool.closed() {
        tracing::info!(exit_code, "this run is closed already");
        return Ok(Outcome { exit_code, resumed: true, deliveries: Deliveries::default() });
    }
    let api = Api::new(&options);
    if agent.is_none() {
        // Said before the agent has done hours of work, not after.
        if git::head(&options.repo).await.is_none() {
            tracing::warn!(repo = %options.repo.display(),
                "if this stays so, the run ends without endSha; --repo names the repository's folder");
        }
        let position = ask_position(&options, &api).await?;
        spool.start_at(position.map_or(0, |seq| seq.get().saturating_add(1)))?;
    }
    let outbox = Outbox::new(spool, &options);
    let exit_code = tokio::select! {
        biased;
        exit_code = produce(&options, &outbox, agent) => exit_code?,
        never = deliver(&options, &api, &outbox) => match never {},
        never = outbox.keep_recording() => match never {},
    };
    outbox.record().await?;
    Ok(Outcome { exit_code, resumed: agent.is_some(), deliveries: outbox.deliveries() })
}

async fn open_spool(options: &ExecOptions) -> Result<Spool, DaemonError> {
    let identity = Identity {
        thread_id: options.thread_id.clone(),
        thread_chat_id: options.thread_chat_id.clone(),
        run_id: options.run_id,
    };
    let path = options.spool.clone();
    let opened = spawn_blocking(move || Spool::open(&path, &identity)).await.unwrap_or_else(|error| {
        let source = std::io::Error::other(error);
        Err(SpoolError::Io { path: options.spool.clone(), action: "opened", source })
    });
    let (spool, opened) = opened?;
    if opened.torn_bytes > 0 {
        tracing::warn!(
            torn_bytes = opened.torn_bytes,
            spool = %options.spool.display(),
            "the spool's tail was torn; it was never sent, and is kept in the file that ends in .torn"
        );
    }
    Ok(spool)
}

/// Where the server stands, before the first envelope of a new spool is given its `seq`. Also shows a useless token
/// before the agent has done any work.
async fn ask_position(options: &ExecOptions, api: &Api) -> Result<Option<Seq>, DaemonError> {
    let limit = options.limits.start_timeout;
    let unreachable = |last_error| DaemonError::ServerUnreachable { waited_seconds: limit.as_secs(), last_error };
    let mut last_error = "no answer".to_owned();
    let ask = async {
        let mut backoff = Backoff::new(options);
        loop {
            match api.position().await {
                Answer::Good(Position { run_id, last_accepted_seq }) if run_id == options.run_id => {
                    return Ok(last_accepted_seq);
                }
                Answer::Good(other) => {
                    let (expected, actual) = (options.run_id.to_string(), other.run_id.to_string());
                    return Err(DaemonError::WrongRun { expected, actual });
                }
                Answer::Unauthorized(status) => {
                    let spool = options.spool.clone();
                    return Err(DaemonError::Unauthorized { status, held: 0, spool });
                }
                Answer::Refused { status, message, .. } => {
                    let last_error = format!("status {status} {message}; does --server name a Runwarden server?");
                    return Err(DaemonError::ServerUnreachable { waited_seconds: 0, last_error });
                }
                Answer::Again { why, after } => {
                    tracing::warn!(why, "the server does not answer yet");
                    last_error = why;
                    sleep(backoff.step_at_least(after)).await;
                }
            }
        }
    };
    let answer = tokio::select! {
        answer = timeout(limit, ask) => answer,
        () = options.stop.more_than(0) => return Err(DaemonError::StoppedBeforeStart),
    };
    answer.unwrap_or_else(|_| Err(unreachable(last_error)))
}

/// Everything but the sending: returns once all is dealt with.
async fn produce(options: &ExecOptions, outbox: &Outbox, earlier: Option<AgentMark>) -> Result<i32, DaemonError> {
    let exit_code = match earlier {
        None => run_agent(options, outbox).await?,
        Some(mark) => close_after_restart(options, outbox, mark).await?,
    };
    drain(options, outbox).await?;
    Ok(exit_code)
}

async fn run_agent(options: &ExecOptions, outbox: &Outbox) -> Result<i32, DaemonError> {
    // Remembered before and after: whoever comes next must never start a second agent beside this one.
    outbox.mark_agent(AgentMark { pid: None, started_ticks: None }).await?;
    let conversation = RefCell::new(Conversation::default());
    let ending = match Agent::start(&options.command) {
        Ok((mut agent, stdout)) => {
            let spoken = converse(options, outbox, &mut agent, stdout, &conversation).await;
            if spoken.is_err() {
                agent.kill();
            }
            spoken?
        }
        Err(error) => {
            let exit_code = if error.kind() == ErrorKind::NotFound { EXIT_NOT_FOUND } else { EXIT_NOT_STARTED };
            tracing::error!(%error, "the agent could not be started");
            let cause = Some(Cause::Failed(format!("the agent could not be started: {error}")));
            Ending { exit_code, cause, ..Ending::default() }
        }
    };
    outbox.allow_overrun();
    let (before, last) = conversation.into_inner().end(&ending);
    if let Some(message) = before {
        send(options, outbox, vec![message], None).await?;
    }
    let end_sha = git::head(&options.repo).await;
    send(options, outbox, vec![last], Some(Last { exit_code: ending.exit_code, end_sha })).await?;
    Ok(ending.exit_code)
}

async fn send(
    options: &ExecOptions,
    outbox: &Outbox,
    messages: Vec<Message>,
    last: Option<Last>,
) -> Result<(), DaemonError> {
    let entry = seal(options, outbox.next_seq(), &messages, last)?;
    Ok(outbox.push(entry).await?)
}

/// Reads the agent while it lives, and what its pipes hold afterwards.
async fn converse(
    options: &ExecOptions,
    outbox: &Outbox,
    agent: &mut Agent,
    stdout: ChildStdout,
    conversation: &RefCell<Conversation>,
) -> Result<Ending, DaemonError> {
    let limits = &options.limits;
    outbox.mark_agent(agent.mark()).await?;
    let cut_off = CancellationToken::new();
    let mut listening = std::pin::pin!(listen(options, outbox, stdout, conversation, &cut_off));
    let cannot_go_on = async {
        outbox.stuck().await;
        "the server refuses the token and the spool is full".to_owned()
    };
    let (status, cause) = {
        let watching = agent.watch(&options.stop, cannot_go_on, limits.kill_grace, || {
            conversation.borrow_mut().stopping();
        });
        let mut watching = std::pin::pin!(watching);
        tokio::select! {
            heard = &mut listening => {
                heard?;
                watching.await
            }
            ended = &mut watching => {
                // What the pipe still holds is little, and nothing more comes.
                outbox.allow_overrun();
                let heard = timeout(limits.output_grace, &mut listening).await;
                if let Ok(heard) = heard {
                    heard?;
                } else {
                    tracing::warn!("a process that the agent left behind keeps its output open; it is no longer read");
                    cut_off.cancel();
                    listening.await?;
                }
                ended
            }
        }
    };
    Ok(agent.ending(status, cause, limits.output_grace).await)
}

/// Turns lines into messages and messages into envelopes until the output ends or is cut off.
async fn listen(
    options: &ExecOptions,
    outbox: &Outbox,
    stdout: ChildStdout,
    conversation: &RefCell<Conversation>,
    cut_off: &CancellationToken,
) -> Result<(), DaemonError> {
    let mut lines = LineReader::new(stdout, options.limits.line_bytes);
    let mut batch = Batch::new(&options.limits);
    loop {
        let due_at = batch.due_at();
        let line = tokio::select! {
            biased;
            () = cut_off.cancelled() => break,
            () = sleep_until(due_at.unwrap_or_else(Instant::now)), if due_at.is_some() => {
                if let Some(messages) = batch.take() {
                    send(options, outbox, messages, None).await?;
                }
                continue;
            }
            line = lines.next() => line,
        };
        let line = line.unwrap_or_else(|error| {
            tracing::error!(%error, "the agent's output cannot be read");
            None
        });
        let Some(line) = line else { break };
        for messages in gather(&line, conversation, &mut batch) {
            send(options, outbox, messages, None).await?;
        }
    }
    while let Some(line) = lines.buffered() {
        for messages in gather(&line, conversation, &mut batch) {
            send(options, outbox, messages, None).await?;
        }
    }
    if let Some(messages) = batch.take() {
        send(options, outbox, messages, None).await?;
    }
    Ok(())
}

/// One line more; the batches that are to go out now.
fn gather(line: &Line, conversation: &RefCell<Conversation>, batch: &mut Batch) -> impl Iterator<Item = Vec<Message>> {
    let message = to_message(line).and_then(|message| conversation.borrow_mut().take(message));
    let before = message.and_then(|message| batch.push(message, Instant::now()));
    let full = if batch.is_full() { batch.take() } else { None };
    before.into_iter().chain(full)
}

/// An earlier daemon was killed. What it had written down is sent; what its agent said since is lost with the pipe,
/// so the agent, should it still run, is ended, and the run with it.
async fn close_after_restart(options: &ExecOptions, outbox: &Outbox, mark: AgentMark) -> Result<i32, DaemonError> {
    let survived = end_leftover(mark, options.limits.kill_grace).await;
    if let Some(exit_code) = outbox.terminal() {
        return Ok(exit_code);
    }
    tracing::warn!(survived, held = outbox.held(), "the daemon was restarted; the run is closed");
    outbox.allow_overrun();
    let end_sha = git::head(&options.repo).await;
    let last = Last { exit_code: EXIT_AGENT_LOST, end_sha };
    send(options, outbox, vec![agent_is_gone()], Some(last)).await?;
    Ok(EXIT_AGENT_LOST)
}

/// Waits for the last acknowledgements.
async fn drain(options: &ExecOptions, outbox: &Outbox) -> Result<(), DaemonError> {
    let limit = options.limits.drain_timeout;
    let undelivered =
        |why: String| Err(DaemonError::Undelivered { held: outbox.held(), spool: outbox.path.clone(), why });
    let asked_before = options.stop.count();
    tokio::select! {
        biased;
        () = outbox.empty() => Ok(()),
        status = outbox.refused() => {
            Err(DaemonError::Unauthorized { status, held: outbox.held(), spool: outbox.path.clone() })
        }
        () = options.stop.more_than(asked_before) => undelivered("before it was told to stop".to_owned()),
        () = sleep(limit) => undelivered(format!("within {} s", limit.as_secs())),
    }
}
