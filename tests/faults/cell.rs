//! A process that a test may kill, freeze and start again. A shell holds it, so that it ends with the test process
//! however that ends, and may give it a small disk of its own that nobody else sees.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Obeys one word a line and answers each with one line.
const SHELL: &str = r#"
    log=$1; disk=$2; size=$3; shift 3
    exec 2>>"$log"
    if [ -n "$size" ]; then mount -t tmpfs -o "size=$size,mode=0777" tmpfs "$disk" || exit 1; fi
    server=
    while read -r word; do
        case $word in
            start) "$@" >>"$log" 2>&1 </dev/null & server=$!; echo $server ;;
            wait) wait $server; echo $? ;;
            fill) dd if=/dev/zero of="$disk/ballast" bs=1024 2>/dev/null; echo $? ;;
            empty) rm -f "$disk/ballast"; echo $? ;;
        esac
    done
    [ -z "$server" ] || kill -KILL "$server" 2>/dev/null
"#;

/// A command that can be started again and again.
pub struct Cell {
    shell: Child,
    words: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
    process: Option<Pid>,
}

impl Cell {
    /// Starts nothing yet. The environment is the command's; its output is appended to `log`. With a size, such as
    /// `8m`, `disk` becomes a file system of that size which only this command sees.
    pub fn new(command: &Command, log: &Path, disk: Option<(&Path, &str)>) -> Self {
        let mut shell = if disk.is_some() {
            let mut unshare = Command::new("unshare");
            let id = Command::new("id").arg("-u").output().unwrap();
            if id.stdout != b"0\n" {
                unshare.args(["--user", "--map-root-user"]);
            }
            unshare.args(["--mount", "sh"]);
            unshare
        } else {
            Command::new("sh")
        };
        let (disk, size) = disk.unwrap_or((Path::new("/nonexistent"), ""));
        shell.args(["-c", SHELL, "cell"]).arg(log).arg(disk).arg(size);
        shell.arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => shell.env(name, value),
                None => shell.env_remove(name),
            };
        }
        // Not in the test's process group: what ends that group must leave the shell to clean up.
        let mut shell = shell.process_group(0).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let words = shell.stdin.take();
        let answers = BufReader::new(shell.stdout.take().unwrap());
        Self { shell, words, answers, process: None }
    }

    /// Starts the command; its process is there when this returns, and may not have done anything yet.
    pub fn start(&mut self) -> Pid {
        assert!(self.process.is_none(), "it runs already");
        let process = Pid::from_raw(self.ask("start").parse().unwrap());
        self.process = Some(process);
        process
    }

    /// Kills it with SIGKILL, if it still runs, and waits for its end. Its exit code, as a shell says it.
    pub fn kill(&mut self) -> i32 {
        let _ = kill(self.pid(), Signal::SIGKILL);
        self.wait()
    }

    pub fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).unwrap();
    }

    /// Whether it has ended; then [`wait`](Self::wait) returns at once.
    pub fn has_ended(&self) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap_or_default();
        // The state follows the name, which stands in parentheses and may hold anything.
        stat.rsplit(')').next().is_none_or(|rest| rest.trim_start().is_empty() || rest.trim_start().starts_with('Z'))
    }

    /// Polls for the end and gives the exit code; fails after `patience`.
    pub async fn ended(&mut self, what: &str, patience: Duration) -> i32 {
        let waited = tokio::time::timeout(patience, async {
            while !self.has_ended() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        });
        assert!(waited.await.is_ok(), "{what} does not end");
        self.wait()
    }

    pub fn wait(&mut self) -> i32 {
        let code = self.ask("wait").parse().unwrap();
        self.process = None;
        code
    }

    pub fn pid(&self) -> Pid {
        self.process.expect("it runs")
    }

    pub const fn runs(&self) -> bool {
        self.process.is_some()
    }

    /// Fills its disk to the last byte.
    pub fn fill_disk(&mut self) {
        assert_ne!(self.ask("fill"), "0", "the disk is not full");
    }

    /// Gives back what [`fill_disk`](Self::fill_disk) took.
    pub fn empty_disk(&mut self) {
        assert_eq!(self.ask("empty"), "0");
    }

    fn ask(&mut self, word: &str) -> String {
        writeln!(self.words.as_mut().unwrap(), "{word}").unwrap();
        let mut answer = String::new();
        self.answers.read_line(&mut answer).unwrap();
        assert!(!answer.is_empty(), "the shell is gone");
        answer.trim().to_owned()
    }
}

impl Drop for Cell {
    fn drop(&mut self) {
        drop(self.words.take());
        let _ = self.shell.wait();
    }
}
