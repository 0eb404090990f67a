//! The scripts in each shell that this machine has: dash, bash, and busybox with nothing but itself.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use runwarden_actors::contract::{CodesandboxId, PreviewConfig, RunId, SandboxProvider};
use runwarden_actors::ports::{CommandReport, CommandState, PreviewCommand, SandboxError, SandboxTarget};
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use super::*;

/// Ports are handed out by count: nothing listens on them, but each names a folder of this host.
static NEXT: AtomicU32 = AtomicU32::new(0);

/// A "sandbox" that is this host, with a `PATH` of its own.
struct Local {
    name: &'static str,
    folder: TempDir,
    path: String,
    port: u16,
}

#[async_trait]
impl Exec for Local {
    async fn exec(&self, _: &SandboxTarget, call: ExecCall<'_>) -> Result<ExecAnswer, SandboxError> {
        let mut command = tokio::process::Command::new(self.folder.path().join("bin").join(call.argv[0]));
        command.args(&call.argv[1..]).env_clear().env("PATH", &self.path).kill_on_drop(true);
        let output = tokio::time::timeout(call.limits.time, command.output()).await.map_err(|_| call.timed_out())?;
        let output = output.unwrap();
        assert!(output.stdout.len() <= call.limits.stdout_bytes, "{}: {}", call.what, output.stdout.len());
        let exit_code = i64::from(output.status.code().unwrap_or(-1));
        Ok(ExecAnswer { exit_code, stdout: output.stdout, stderr: output.stderr })
    }
}

impl Drop for Local {
    fn drop(&mut self) {
        for suffix in ["", ".lock"] {
            let _ = fs::remove_dir_all(format!("/tmp/.runwarden-preview/{}{suffix}", self.port));
        }
    }
}

fn find(program: &str) -> Option<PathBuf> {
    ["/bin", "/usr/bin"].iter().map(|folder| Path::new(folder).join(program)).find(|file| file.exists())
}

impl Local {
    fn all() -> Vec<Self> {
        let all: Vec<_> = ["dash", "bash", "busybox"].into_iter().filter_map(Self::new).collect();
        assert!(!all.is_empty());
        all
    }

    fn new(name: &'static str) -> Option<Self> {
        let shell = find(name)?;
        let folder = tempfile::tempdir().unwrap();
        let bin = folder.path().join("bin");
        fs::create_dir(&bin).unwrap();
        fs::create_dir(folder.path().join("repository")).unwrap();
        symlink(&shell, bin.join("sh")).unwrap();
        let mut path = bin.display().to_string();
        if name == "busybox" {
            let applets = Command::new(&shell).arg("--list").output().unwrap().stdout;
            for applet in String::from_utf8(applets).unwrap().lines().filter(|applet| *applet != "sh") {
                symlink(&shell, bin.join(applet)).unwrap();
            }
        } else {
            path.push_str(":/usr/bin:/bin");
        }
        let number = std::process::id() * 64 + NEXT.fetch_add(1, Ordering::Relaxed);
        let port = u16::try_from(10_000 + number % 50_000).unwrap();
        Some(Self { name, folder, path, port })
    }

    fn repository(&self) -> PathBuf {
        self.folder.path().join("repository")
    }

    fn target(&self) -> SandboxTarget {
        SandboxTarget {
            provider: SandboxProvider::Docker,
            codesandbox_id: CodesandboxId::parse("local").unwrap(),
            repo_dir: Some(self.repository().display().to_string()),
        }
    }

    async fn start(&self, run: RunId, command: &str) -> Result<(), SandboxError> {
        let json = serde_json::json!({"schemaVersion": 1, "command": command, "port": self.port, "healthPath": "/",
            "requiresWebsocket": false});
        let config = PreviewConfig::parse(json.to_string().as_bytes()).unwrap();
        let command = PreviewCommand { run_id: run, config };
        start_preview(self, &self.target(), self.repository().to_str().unwrap(), "0.0.0.0", &command).await
    }

    async fn report(&self, run: RunId) -> CommandReport {
        preview_report(self, &self.target(), run, self.port).await.unwrap()
    }

    async fn stop(&self, run: RunId) {
        stop_preview(self, &self.target(), run, self.port).await.unwrap();
    }

    /// The report once the command has ended.
    async fn ended(&self, run: RunId) -> CommandReport {
        for _ in 0..200 {
            let report = self.report(run).await;
            if report.state != CommandState::Running {
                return report;
            }
            sleep(Duration::from_millis(50)).await;
        }
        panic!("{}: it goes on", self.name);
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.repository().join(name), text).unwrap();
    }

    fn read(&self, name: &str) -> Option<String> {
        fs::read_to_string(self.repository().join(name)).ok()
    }

    /// What a command writes to a file, once it is there.
    async fn written(&self, name: &str) -> String {
        for _ in 0..200 {
            match self.read(name) {
                Some(text) if text.ends_with('\n') => return text.trim().to_owned(),
                _ => sleep(Duration::from_millis(50)).await,
            }
        }
        panic!("{}: no {name}", self.name);
    }
}

fn run(n: u8) -> RunId {
    RunId::parse(&format!("01890000-0000-7000-8000-0000000000{n:02x}")).unwrap()
}

/// Whether the process is there and no zombie.
fn lives(pid: &str) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

const NEVER: CommandReport =
    CommandReport { state: CommandState::Exited { exit_code: None }, output_tail: String::new() };

#[tokio::test]
async fn a_command_runs_in_the_repository_and_says_how_it_ended() {
    for sandbox in Local::all() {
        let name = sandbox.name;
        assert_eq!(missing_tools(&sandbox, &sandbox.target(), "/").await.unwrap(), [""; 0], "{name}");
        assert_eq!(sandbox.report(run(1)).await, NEVER, "{name}");
        sandbox.start(run(1), "pwd; echo \"$PORT $HOST $0\"; umask; echo oops >&2; exit 3").await.unwrap();
        let report = sandbox.ended(run(1)).await;
        assert_eq!(report.state, CommandState::Exited { exit_code: Some(3) }, "{name}");
        let mask = String::from_utf8(Command::new("sh").args(["-c", "umask"]).output().unwrap().stdout).unwrap();
        let expected = format!("{}\n{} 0.0.0.0 sh\n{mask}oops\n", sandbox.repository().display(), sandbox.port);
        assert_eq!(report.output_tail, expected, "{name}");
        // It is another run's business no more than its own after the stop.
        assert_eq!(sandbox.report(run(2)).await, NEVER, "{name}");
        sandbox.stop(run(1)).await;
        assert_eq!(sandbox.report(run(1)).await, NEVER, "{name}");
    }
}

#[tokio::test]
async fn the_same_run_starts_once_and_another_takes_over() {
    for sandbox in Local::all() {
        let name = sandbox.name;
        let command = "echo $$ >>pids; echo one more; exec sleep 100";
        let twice = futures_util::future::join(sandbox.start(run(1), command), sandbox.start(run(1), command)).await;
        assert!(twice.0.is_ok() && twice.1.is_ok(), "{name}: {twice:?}");
        sandbox.start(run(1), command).await.unwrap();
        let first = sandbox.written("pids").await;
        assert!(first.parse::<u32>().is_ok() && lives(&first), "{name}: {first}");
        assert_eq!(sandbox.report(run(1)).await.state, CommandState::Running, "{name}");

        sandbox.start(run(2), "echo two; exec sleep 100").await.unwrap();
        assert!(!lives(&first), "{name}");
        assert_eq!(sandbox.report(run(1)).await, NEVER, "{name}");
        // One that lost its place ends nothing.
        sandbox.stop(run(1)).await;
        assert_eq!(sandbox.report(run(2)).await.state, CommandState::Running, "{name}");
        sandbox.stop(run(2)).await;

        // One that has ended may be started again.
        sandbox.start(run(1), "exit 1").await.unwrap();
        sandbox.ended(run(1)).await;
        sandbox.start(run(1), "exec sleep 100").await.unwrap();
        assert_eq!(sandbox.report(run(1)).await.state, CommandState::Running, "{name}");
        sandbox.stop(run(1)).await;
    }
}

#[tokio::test]
async fn a_stop_ends_everything_that_the_command_started() {
    for sandbox in Local::all() {
        let name = sandbox.name;
        // One ignores TERM, one has a session of its own, one has another environment.
        sandbox.write("stubborn.sh", "trap '' TERM; echo $$ >stubborn; while :; do sleep 0.2; done");
        let command = "sh stubborn.sh & setsid sh -c 'echo $$ >apart; exec sleep 100' & \
                       env -i PATH=\"$PATH\" sh -c 'echo $$ >bare; exec sleep 100' & \
                       sh -c 'echo $$ >child; sleep 100 & wait'";
        sandbox.start(run(1), command).await.unwrap();
        let mut pids = Vec::new();
        for file in ["stubborn", "apart", "bare", "child"] {
            pids.push(sandbox.written(file).await);
        }
        assert!(pids.iter().all(|pid| lives(pid)), "{name}: {pids:?}");
        sandbox.stop(run(1)).await;
        let left: Vec<_> = pids.iter().filter(|pid| lives(pid)).collect();
        assert!(left.is_empty(), "{name}: {left:?} of {pids:?}");
        assert_eq!(sandbox.report(run(1)).await, NEVER, "{name}");
    }
}

#[tokio::test]
async fn a_command_may_tidy_up_before_it_is_ended() {
    for sandbox in Local::all() {
        sandbox.write("tidy.sh", "trap 'echo tidied >tidied; exit' TERM; echo up >up; while :; do sleep 0.1; done");
        sandbox.start(run(1), "exec sh tidy.sh").await.unwrap();
        sandbox.written("up").await;
        sandbox.stop(run(1)).await;
        assert_eq!(sandbox.read("tidied").as_deref(), Some("tidied\n"), "{}", sandbox.name);
    }
}

#[tokio::test]
async fn endless_output_is_bounded_and_its_end_is_kept() {
    for sandbox in Local::all() {
        let name = sandbox.name;
        sandbox.start(run(1), "yes 'again and again' | head -c 40000000; echo; echo the end; exit 4").await.unwrap();
        let report = sandbox.ended(run(1)).await;
        assert_eq!(report.state, CommandState::Exited { exit_code: Some(4) }, "{name}");
        assert!(report.output_tail.ends_with("\nthe end\n"), "{name}: {:?}", report.output_tail);
        assert_eq!(report.output_tail.len(), 4096, "{name}");
        let size: u64 = fs::read_dir(format!("/tmp/.runwarden-preview/{}", sandbox.port))
            .unwrap()
            .map(|entry| entry.unwrap().metadata().unwrap().len())
            .sum();
        assert!(size <= 9 * 1024 * 1024, "{name}: {size}");
        sandbox.stop(run(1)).await;
    }
}

#[tokio::test]
async fn many_small_pieces_keep_their_end_too() {
    let sandbox = Local::all().remove(0);
    let command = "i=0; while [ $i -lt 9000 ]; do echo $i; i=$((i+1)); done";
    sandbox.start(run(1), command).await.unwrap();
    let report = sandbox.ended(run(1)).await;
    assert!(report.output_tail.ends_with("\n8998\n8999\n") && report.output_tail.len() == 4096, "{report:?}");
    sandbox.stop(run(1)).await;
}

#[tokio::test]
async fn what_a_killed_start_left_behind_is_overcome() {
    let sandbox = Local::all().remove(0);
    sandbox.start(run(1), "exec sleep 100").await.unwrap();
    let lock = PathBuf::from(format!("/tmp/.runwarden-preview/{}.lock", sandbox.port));
    fs::create_dir(&lock).unwrap();
    let mut gone = Command::new("true").spawn().unwrap();
    gone.wait().unwrap();
    fs::write(lock.join("pid"), format!("{}\n", gone.id())).unwrap();
    // Nobody who is gone is waited for; whoever does not say who it is would be, for 7 s.
    let began = Instant::now();
    sandbox.stop(run(1)).await;
    assert!(began.elapsed() < Duration::from_secs(6), "{:?}", began.elapsed());
    assert!(!lock.exists());
    assert_eq!(sandbox.report(run(1)).await, NEVER);
}

#[tokio::test]
async fn a_holder_that_lives_is_waited_for() {
    let sandbox = Local::all().remove(0);
    sandbox.start(run(1), "exec sleep 100").await.unwrap();
    let lock = PathBuf::from(format!("/tmp/.runwarden-preview/{}.lock", sandbox.port));
    fs::create_dir(&lock).unwrap();
    fs::write(lock.join("pid"), format!("{}\n", std::process::id())).unwrap();
    let given_back = async {
        sleep(Duration::from_secs(1)).await;
        let running = sandbox.report(run(1)).await.state == CommandState::Running;
        fs::remove_dir_all(&lock).unwrap();
        running
    };
    let ((), waited) = futures_util::future::join(sandbox.stop(run(1)), given_back).await;
    assert!(waited);
    assert_eq!(sandbox.report(run(1)).await, NEVER);
}

#[tokio::test]
async fn another_life_of_the_sandbox_has_no_command() {
    let sandbox = Local::all().remove(0);
    sandbox.start(run(1), "exec sleep 100").await.unwrap();
    let life = format!("/tmp/.runwarden-preview/{}/life", sandbox.port);
    let ours = fs::read_to_string(&life).unwrap();
    assert!(ours.trim().strip_prefix("life ").is_some_and(|ticks| ticks.parse::<u64>().is_ok()), "{ours}");
    fs::write(&life, "life 1\n").unwrap();
    assert_eq!(sandbox.report(run(1)).await, NEVER);
    fs::write(&life, ours).unwrap();
    sandbox.stop(run(1)).await;
}

#[tokio::test]
async fn a_file_is_read_where_it_lies_inside() {
    for sandbox in Local::all() {
        let name = sandbox.name;
        let repository = sandbox.repository();
        let read = async |path: &str, most: usize| {
            read_repo_file(&sandbox, &sandbox.target(), repository.to_str().unwrap(), path, most).await
        };
        fs::create_dir(repository.join(".terragon")).unwrap();
        fs::write(repository.join(".terragon/preview.json"), [b'{', 0xff, 0, b'}']).unwrap();
        assert_eq!(read(".terragon/preview.json", 4).await.unwrap(), Some(vec![b'{', 0xff, 0, b'}']), "{name}");
        assert_eq!(read(".terragon/none", 4).await.unwrap(), None, "{name}");
        assert_eq!(read("none/none", 4).await.unwrap(), None, "{name}");
        let refused = async |path: &str, most: usize, why: &str| {
            let error = read(path, most).await.unwrap_err();
            assert!(
                matches!(&error, SandboxError::CommandFailed(text) if text.contains(why)),
                "{name} {path}: {error}"
            );
        };
        refused(".terragon/preview.json", 3, "more than 3 bytes").await;
        refused(".terragon", 99, "not a regular file").await;
        refused("/etc/passwd", 99, "relative path").await;
        refused("../bin/sh", 99, "outside").await;
        fs::write(sandbox.folder.path().join("repository-secret"), "x").unwrap();
        symlink("../repository-secret", repository.join("link")).unwrap();
        symlink("/etc", repository.join("etc")).unwrap();
        symlink(".terragon/preview.json", repository.join("within")).unwrap();
        refused("link", 9999, "outside").await;
        refused("etc/passwd", 99999, "outside").await;
        assert!(read("within", 4).await.unwrap().is_some(), "{name}");
        assert!(Command::new("mkfifo").arg(repository.join("pipe")).status().unwrap().success());
        refused("pipe", 99, "not a regular file").await;
        let gone = read_repo_file(&sandbox, &sandbox.target(), "/nonexistent", "a", 9).await.unwrap_err();
        assert!(gone.to_string().contains("no folder"), "{name}: {gone}");
    }
}

#[tokio::test]
async fn what_is_missing_is_named() {
    let mut bare = Local::new("dash").or_else(|| Local::new("bash")).unwrap();
    "/nonexistent".clone_into(&mut bare.path);
    let missing = missing_tools(&bare, &bare.target(), "/nonexistent").await.unwrap();
    for needed in ["cat", "dd", "tail", "the folder /nonexistent"] {
        assert!(missing.iter().any(|name| name == needed), "{needed}: {missing:?}");
    }
    assert!(!missing.iter().any(|name| name.contains("tmp")), "{missing:?}");
}

#[tokio::test]
async fn a_link_in_the_place_of_the_state_is_not_believed() {
    let sandbox = Local::all().remove(0);
    let state = PathBuf::from(format!("/tmp/.runwarden-preview/{}", sandbox.port));
    let elsewhere = sandbox.folder.path().join("elsewhere");
    sandbox.start(run(1), "exec sleep 100").await.unwrap();
    fs::rename(&state, &elsewhere).unwrap();
    symlink(&elsewhere, &state).unwrap();
    assert_eq!(sandbox.report(run(1)).await, NEVER);
    // Whoever starts next takes the link away and leaves alone what it leads to.
    sandbox.start(run(2), "exec sleep 100").await.unwrap();
    assert!(elsewhere.join("run").exists());
    sandbox.stop(run(2)).await;
    fs::rename(&elsewhere, &state).unwrap();
    sandbox.stop(run(1)).await;
}
