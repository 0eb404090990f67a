//! Programs that end when the bench ends, however it ends.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};

use anyhow::{Context, Result};

/// The shell holds the program and waits for the end of its own standard input, which comes when the bench closes
/// it or is gone. Then the program gets the signal, and 10 seconds later the last one.
const SHELL: &str = r#"
remove=$1; signal=$2; shift 2
"$@" </dev/null >&2 &
pid=$!
echo "$pid"
cat >/dev/null
kill -s "$signal" "$pid" 2>/dev/null
tries=0
while kill -0 "$pid" 2>/dev/null && [ "$tries" -lt 100 ]; do sleep 0.1; tries=$((tries + 1)); done
kill -s KILL "$pid" 2>/dev/null
wait "$pid"
if [ -n "$remove" ]; then rm -rf -- "$remove"; fi
"#;

/// A program under guard.
pub struct Guarded {
    shell: Child,
    lifeline: Option<ChildStdin>,
    /// The program's process id.
    pub pid: u32,
}

impl Guarded {
    /// Starts a program; what it prints goes to `log`. `remove` is a folder that goes away after it.
    pub fn start(
        command: &[&str],
        environment: &[(&str, String)],
        signal: &str,
        log: &Path,
        remove: Option<&Path>,
    ) -> Result<Self> {
        let log = std::fs::File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
        let mut shell = Command::new("sh");
        shell.args(["-c", SHELL, "guard"]).arg(remove.unwrap_or_else(|| Path::new(""))).arg(signal).args(command);
        shell.envs(environment.iter().map(|(name, value)| (*name, value)));
        shell.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log);
        // Ctrl-C ends the bench alone; the guards then end what they hold, in order.
        shell.process_group(0);
        let mut shell = shell.spawn().context("cannot start a shell")?;
        let lifeline = shell.stdin.take();
        let mut line = String::new();
        BufReader::new(shell.stdout.take().context("no output of the shell")?).read_line(&mut line)?;
        let pid = line.trim().parse().with_context(|| format!("{} did not start", command.join(" ")))?;
        Ok(Self { shell, lifeline, pid })
    }

    /// Ends the program and waits for it.
    pub fn stop(mut self) -> Result<()> {
        self.end().map(drop)
    }

    fn end(&mut self) -> Result<ExitStatus> {
        drop(self.lifeline.take());
        Ok(self.shell.wait()?)
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        let _ = self.end();
    }
}

/// Runs a program to its end under a guard of its own and returns what it printed. It must not be one that waits
/// for input.
pub fn run(command: &[&str], directory: &Path) -> Result<String> {
    const SHELL: &str = r#"
"$@" </dev/null &
pid=$!
{ cat >/dev/null; kill -s KILL "$pid" 2>/dev/null; } <&3 >/dev/null 2>&1 &
lifeline=$!
exec 3<&-
wait "$pid"
code=$?
kill "$lifeline" 2>/dev/null
exit "$code"
"#;
    let mut shell = Command::new("sh")
        .args(["-c", &format!("exec 3<&0\n{SHELL}"), "guard"])
        .args(command)
        .current_dir(directory)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
        .context("cannot start a shell")?;
    let lifeline = shell.stdin.take();
    let mut errors = shell.stderr.take().context("no errors of the shell")?;
    // Read beside the output, so that neither pipe fills up.
    let errors = std::thread::spawn(move || {
        let mut text = String::new();
        errors.read_to_string(&mut text).map(|_| text)
    });
    let mut output = String::new();
    shell.stdout.take().context("no output of the shell")?.read_to_string(&mut output)?;
    let status = shell.wait()?;
    drop(lifeline);
    let errors = errors.join().ok().and_then(Result::ok).unwrap_or_default();
    anyhow::ensure!(status.success(), "{} ended with {status}:\n{output}\n{errors}", command.join(" "));
    Ok(output)
}
