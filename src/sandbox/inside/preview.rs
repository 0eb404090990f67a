//! A preview command inside a sandbox (section 5): started, looked at and ended by small scripts, so that it goes on
//! by itself and every server sees the same.

use runwarden_actors::contract::RunId;
use runwarden_actors::contract::limits::PREVIEW_OUTPUT_TAIL_BYTES;
use runwarden_actors::ports::{CommandReport, CommandState, PreviewCommand, SandboxError, SandboxTarget};

use super::exec::{Exec, ExecCall, ExecLimits};

const START: &str = concat!(include_str!("common.sh"), include_str!("start.sh"));
const REPORT: &str = concat!(include_str!("common.sh"), include_str!("report.sh"));
const STOP: &str = concat!(include_str!("common.sh"), include_str!("stop.sh"));
const SUPERVISOR: &str = include_str!("supervisor.sh");
const PROBE: &str = include_str!("probe.sh");

/// The script's answer where the repository's folder cannot be entered.
const NO_REPOSITORY: i64 = 71;
/// Most that a script prints: the end of the output, and a line before it.
const ANSWER_MAX_BYTES: usize = PREVIEW_OUTPUT_TAIL_BYTES + 64;

fn call<'a>(what: &'a str, script: &'a str, args: &[&'a str]) -> ExecCall<'a> {
    let limits = ExecLimits { stdout_bytes: ANSWER_MAX_BYTES, ..ExecLimits::default() };
    ExecCall { limits, ..ExecCall::script(what, script, args) }
}

/// Names of what the sandbox lacks.
pub(crate) async fn missing_tools(
    sandbox: &dyn Exec,
    target: &SandboxTarget,
    repo_dir: &str,
) -> Result<Vec<String>, SandboxError> {
    let what = "probe for previews";
    let answer = sandbox.exec(target, call(what, PROBE, &[repo_dir])).await?;
    if matches!(answer.exit_code, 126 | 127) {
        return Ok(vec!["sh".to_owned()]);
    }
    let missing = answer.success(what)?;
    Ok(String::from_utf8_lossy(&missing).lines().map(ToOwned::to_owned).collect())
}

/// Starts it, listening on `host` by the variable `HOST`, and waits until it can be looked at.
pub(crate) async fn start_preview(
    sandbox: &dyn Exec,
    target: &SandboxTarget,
    repo_dir: &str,
    host: &str,
    command: &PreviewCommand,
) -> Result<(), SandboxError> {
    let what = "start the preview command";
    let (port, run) = (command.config.port.to_string(), command.run_id.to_string());
    let args = [&port, &run, repo_dir, &command.config.command, host, SUPERVISOR];
    let answer = sandbox.exec(target, call(what, START, &args)).await?;
    if answer.exit_code == NO_REPOSITORY {
        return Err(SandboxError::CommandFailed(format!("there is no folder `{repo_dir}`")));
    }
    answer.success(what).map(|_| ())
}

/// How it fares.
pub(crate) async fn preview_report(
    sandbox: &dyn Exec,
    target: &SandboxTarget,
    run_id: RunId,
    port: u16,
) -> Result<CommandReport, SandboxError> {
    let what = "look at the preview command";
    let (port, run, most) = (port.to_string(), run_id.to_string(), PREVIEW_OUTPUT_TAIL_BYTES.to_string());
    let answer = sandbox.exec(target, call(what, REPORT, &[&port, &run, &most])).await?.success(what)?;
    let line = answer.iter().position(|byte| *byte == b'\n').unwrap_or(answer.len());
    let state = match std::str::from_utf8(&answer[..line]) {
        Ok("running") => CommandState::Running,
        code => CommandState::Exited { exit_code: code.ok().and_then(|code| code.trim().parse().ok()) },
    };
    Ok(CommandReport { state, output_tail: tail_text(answer.get(line + 1..).unwrap_or_default()) })
}

/// Ends it with all that it started.
pub(crate) async fn stop_preview(
    sandbox: &dyn Exec,
    target: &SandboxTarget,
    run_id: RunId,
    port: u16,
) -> Result<(), SandboxError> {
    let what = "stop the preview command";
    let (port, run) = (port.to_string(), run_id.to_string());
    sandbox.exec(target, call(what, STOP, &[&port, &run])).await?.success(what).map(|_| ())
}

/// The end of an output as text of at most [`PREVIEW_OUTPUT_TAIL_BYTES`]: bytes that are no text take three each.
pub(crate) fn tail_text(bytes: &[u8]) -> String {
    let mut text = String::from_utf8_lossy(bytes).into_owned();
    let mut from = text.len().saturating_sub(PREVIEW_OUTPUT_TAIL_BYTES);
    while !text.is_char_boundary(from) {
        from += 1;
    }
    text.split_off(from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_an_output_is_bounded_text() {
        assert_eq!(tail_text(b"ready\n"), "ready\n");
        let torn = [&b"\xa9"[..], "é".repeat(3000).as_bytes(), &[0xff; 100]].concat();
        let text = tail_text(&torn);
        assert!(text.len() <= PREVIEW_OUTPUT_TAIL_BYTES && text.ends_with('\u{fffd}'), "{}", text.len());
    }
}
