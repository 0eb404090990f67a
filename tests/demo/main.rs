//! The demonstration, as a person starts it: the real binary, its table, its exit code, what it leaves behind.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

/// The demo with a temporary folder of its own.
fn demo(folder: &TempDir, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_runwarden"));
    command
        .arg("demo")
        .args(arguments)
        .env("TMPDIR", folder.path())
        // Settings of a server must not reach it, nor a repository that the caller stands in.
        .env("DATABASE_URL", "postgres://nobody@127.0.0.1:1/nothing")
        .env("GIT_DIR", "/nonexistent")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// The number in the table's line that starts with this label.
fn value(table: &str, label: &str) -> u64 {
    let line = table.lines().find_map(|line| line.trim_start().strip_prefix(label));
    let number = line.and_then(|rest| rest.split_whitespace().next()?.parse().ok());
    number.unwrap_or_else(|| panic!("no line {label:?} with a number in:\n{table}"))
}

fn is_empty(folder: &Path) -> bool {
    std::fs::read_dir(folder).unwrap().next().is_none()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn assert_all_is_well(table: &str, seed: &str) {
    assert!(table.contains(&format!("Result, seed {seed}")), "{table}");

    let said = value(table, "messages sent by the agent");
    assert!(said >= 200, "{table}");
    assert_eq!(value(table, "messages stored by the server"), said);
    assert_eq!(value(table, "messages seen by a live reader"), said);
    assert_eq!((value(table, "lost "), value(table, "stored twice")), (0, 0));

    let envelopes = value(table, "envelopes that carried the messages");
    let (streamed, posted) = (value(table, "over a stream"), value(table, "over HTTP"));
    assert_eq!(value(table, "times the daemon sent one"), streamed + posted);
    assert!(streamed + posted >= envelopes && streamed > 0 && posted > 0, "{table}");
    assert!(value(table, "duplicates refused") > 0, "{table}");
    assert_eq!(value(table, "ignored, after the end"), 1);

    assert_eq!(value(table, "quarantined"), 3);
    for reason in ["missing_run_id, it names no run", "mismatch, of the run before", "late_gap, number 1 after 2"] {
        assert_eq!(value(table, reason), 1);
    }
    assert_eq!(value(table, "of the agent's own"), 0);

    let kinds =
        ["lost on the way", "arrived, answer lost", "sent on twice", "repeated late, out of order", "held back"];
    let kinds = kinds.map(|kind| value(table, kind));
    assert_eq!(value(table, "mistakes made by the link"), kinds.iter().sum::<u64>());
    assert!(kinds.iter().all(|made| *made > 0), "{table}");

    assert!(value(table, "commits made by the agent") >= 3, "{table}");
    assert_eq!(value(table, "preview of the changed app, status"), 200);
    assert!(value(table, "bytes of its page") > 300, "{table}");
    let sha = |label: &str| {
        let rest = table.lines().find_map(|line| line.trim_start().strip_prefix(label)).unwrap();
        rest.split_whitespace().next().unwrap().to_owned()
    };
    assert_eq!(sha("HEAD, asked of git"), sha("endSha, stored by the server"));
    assert_eq!(sha("diffSource, decided by the server"), "sha");
    assert!(table.contains("Everything that was sent is stored exactly once and in order."), "{table}");
    assert!(table.lines().all(|line| line.chars().count() <= 80), "a line is too long for a terminal:\n{table}");
}

#[test]
fn nothing_is_lost_or_stored_twice() {
    let folder = tempfile::tempdir().unwrap();
    let output = demo(&folder, &["--seed", "7"]).output().unwrap();
    let table = stdout(&output);
    assert_eq!(output.status.code(), Some(0), "{table}\n{}", String::from_utf8_lossy(&output.stderr));
    assert_all_is_well(&table, "7");
    assert!(is_empty(folder.path()), "something was left behind");
}

/// The demo as a child that dies with its test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

impl Running {
    fn pid(&self) -> i32 {
        i32::try_from(self.0.id()).unwrap()
    }

    /// Reads on until a line has these words; gives everything read.
    fn until(lines: &mut impl Iterator<Item = std::io::Result<String>>, words: &str) -> String {
        let mut read = String::new();
        for line in lines {
            let line = line.unwrap();
            read.push_str(&line);
            read.push('\n');
            if line.contains(words) {
                return read;
            }
        }
        panic!("never: {words}\n{read}");
    }
}

/// The only child of this process whose arguments have this word.
fn child_of(parent: i32, word: &str) -> Option<i32> {
    std::fs::read_dir("/proc").unwrap().find_map(|entry| {
        let pid: i32 = entry.ok()?.file_name().to_str()?.parse().ok()?;
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let of: i32 = stat.get(stat.rfind(')')? + 1..)?.split_whitespace().nth(1)?.parse().ok()?;
        let arguments = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let has_word = arguments.split(|byte| *byte == 0).any(|argument| argument == word.as_bytes());
        (of == parent && has_word).then_some(pid)
    })
}

#[test]
fn a_loss_is_found_and_the_logs_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    let mut running = Running(demo(&folder, &[]).spawn().unwrap());
    let mut lines = BufReader::new(running.0.stdout.take().unwrap()).lines();
    Running::until(&mut lines, "demo: an envelope that names no run");
    // Nobody starts this daemon again: what its agent says from now on goes nowhere.
    let daemon = child_of(running.pid(), "daemon").expect("the daemon is a child of the demo");
    kill(Pid::from_raw(daemon), Signal::SIGKILL).unwrap();
    let table = Running::until(&mut lines, "This is not as it has to be:");
    assert!(value(&table, "lost ") > 0, "{table}");
    assert_eq!(value(&table, "stored twice"), 0);
    let problems: Vec<_> = lines.map(Result::unwrap).collect();
    assert!(problems.iter().any(|line| line.contains("what the server stored: ") && line.contains(" lost: ")));
    assert!(problems.iter().any(|line| line.contains("the daemon ended with signal: 9")));
    assert_eq!(running.0.wait().unwrap().code(), Some(1));
    let kept = std::fs::read_dir(folder.path()).unwrap().next().unwrap().unwrap().path();
    assert!(kept.join("server.log").is_file() && kept.join("daemon.log").is_file());
}

#[test]
fn an_interrupt_takes_everything_down() {
    let folder = tempfile::tempdir().unwrap();
    let mut running = Running(demo(&folder, &[]).spawn().unwrap());
    let mut lines = BufReader::new(running.0.stdout.take().unwrap()).lines();
    Running::until(&mut lines, "demo: an envelope that names no run");
    let daemon = child_of(running.pid(), "daemon").expect("the daemon is a child of the demo");
    let agent = child_of(daemon, "sh").expect("the agent is a child of the daemon");
    kill(Pid::from_raw(running.pid()), Signal::SIGINT).unwrap();
    Running::until(&mut lines, "Interrupted; everything is taken down.");
    assert_eq!(running.0.wait().unwrap().code(), Some(130));
    assert!(is_empty(folder.path()), "something was left behind");
    for pid in [daemon, agent] {
        let gone = std::fs::read_to_string(format!("/proc/{pid}/stat")).map_or(true, |stat| stat.contains(") Z "));
        assert!(gone, "process {pid} still runs");
    }
}

#[test]
fn another_seed_kept_running_with_commands_that_work() {
    let folder = tempfile::tempdir().unwrap();
    let mut running = Running(demo(&folder, &["--seed", "20240229", "--keep", "--quiet"]).spawn().unwrap());
    let mut lines = BufReader::new(running.0.stdout.take().unwrap()).lines();
    let read = Running::until(&mut lines, "Ctrl-C stops the server");
    let (table, commands) = read.split_once("The server is still running.").unwrap();
    assert!(table.starts_with("Result, seed"), "--quiet shows the table only:\n{table}");
    assert_all_is_well(table, "20240229");
    let indented: Vec<_> = commands.lines().skip_while(|line| !line.starts_with("  URL=")).collect();
    let script = indented.iter().filter(|line| line.starts_with("  ")).map(|line| line.trim_start());
    // The live stream has no end of its own.
    let script = script.map(|line| line.replace("curl -sSN", "curl -sSN --max-time 1")).collect::<Vec<_>>().join("\n");
    assert!(!script.contains(&std::fs::read_to_string(key_file(folder.path())).unwrap()), "the key is printed");
    let output = Command::new("sh").arg("-c").arg(&script).output().unwrap();
    let printed = stdout(&output);
    for words in
        ["\"diffSource\":\"sha\"", "\"nextAfter\":", "\nid: 0\n", "\"late_gap\"", "runwarden_envelopes", "A tea timer"]
    {
        assert!(printed.contains(words), "{words} is not in:\n{printed}\n{script}");
    }
    kill(Pid::from_raw(running.pid()), Signal::SIGTERM).unwrap();
    assert_eq!(running.0.wait().unwrap().code(), Some(0));
    assert!(is_empty(folder.path()), "something was left behind");
}

fn key_file(folder: &Path) -> std::path::PathBuf {
    let inside = std::fs::read_dir(folder).unwrap().next().unwrap().unwrap().path();
    inside.join("data/secrets/internal_service_key")
}

#[test]
fn without_git_it_says_what_to_install() {
    let folder = tempfile::tempdir().unwrap();
    let output = demo(&folder, &[]).env("PATH", folder.path()).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(said.contains("git was not found") && said.contains("apt install git"), "{said}");
    assert!(is_empty(folder.path()));
}

#[test]
fn a_port_that_is_taken_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let output = demo(&folder, &["--port", &port]).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(said.contains(&format!("--port {port}")), "{said}");
}
