//! `PreviewHost` on folders of this host.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::symlink;
use std::time::Duration;

use runwarden::sandbox::ProcessSandbox;
use runwarden_actors::contract::{CodesandboxId, SandboxProvider};
use runwarden_actors::ports::{
    CommandReport, CommandState, PreviewHost, SandboxError, SandboxTarget, Scheme, UpstreamReach,
};
use tempfile::TempDir;
use tokio::time::sleep;

use crate::git_repository::Repository;
use crate::preview_command::{NEVER, command, config, free_port, run};

struct World {
    _folder: TempDir,
    repository: Repository,
    sandbox: ProcessSandbox,
    port: u16,
}

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let repository = Repository::init(&folder.path().join("root/repository"), &[]);
        let sandbox = ProcessSandbox::new(&folder.path().join("root")).unwrap();
        Self { _folder: folder, repository, sandbox, port: free_port() }
    }

    fn target(&self, id: &str) -> SandboxTarget {
        SandboxTarget {
            provider: SandboxProvider::Process,
            codesandbox_id: CodesandboxId::parse(id).unwrap(),
            repo_dir: Some(self.repository.path.display().to_string()),
        }
    }

    async fn start(&self, n: u8, text: &str) -> Result<(), SandboxError> {
        self.sandbox.start_preview(&self.target("s-1"), &command(n, self.port, text)).await
    }

    async fn report(&self, n: u8) -> CommandReport {
        self.sandbox.preview_report(&self.target("s-1"), run(n), self.port).await.unwrap()
    }

    async fn ended(&self, n: u8) -> CommandReport {
        for _ in 0..200 {
            let report = self.report(n).await;
            if report.state != CommandState::Running {
                return report;
            }
            sleep(Duration::from_millis(50)).await;
        }
        panic!("it goes on");
    }

    /// What a command writes to a file, once it is there.
    async fn written(&self, name: &str) -> String {
        for _ in 0..200 {
            match fs::read_to_string(self.repository.path.join(name)) {
                Ok(text) if text.ends_with('\n') => return text.trim().to_owned(),
                _ => sleep(Duration::from_millis(50)).await,
            }
        }
        panic!("no {name}");
    }
}

/// Whether the process is there and no zombie.
fn lives(pid: &str) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

async fn gone(pid: &str) {
    for _ in 0..200 {
        if !lives(pid) {
            return;
        }
        sleep(Duration::from_millis(50)).await;
    }
    panic!("{pid} lives");
}

#[tokio::test]
async fn an_app_is_started_reached_and_ended() {
    let world = World::new();
    world.repository.write("page.txt", "hello from the folder");
    let target = world.target("s-1");
    let serve = "echo serving; exec busybox httpd -f -p \"$HOST:$PORT\"";
    assert_eq!(world.sandbox.missing_capabilities(&target, &config(world.port, serve)).await.unwrap(), [""; 0]);
    assert_eq!(world.report(1).await, NEVER);
    assert!(matches!(world.sandbox.upstream(&target, world.port).await, Err(SandboxError::NotRunning(_))));
    world.start(1, serve).await.unwrap();
    let upstream = world.sandbox.upstream(&target, world.port).await.unwrap();
    assert_eq!((upstream.scheme, upstream.host.as_str(), upstream.port), (Scheme::Http, "127.0.0.1", world.port));
    assert_eq!(upstream.reach, UpstreamReach::Reported([127, 0, 0, 1].into()));
    let mut stream = loop {
        match TcpStream::connect(("127.0.0.1", world.port)) {
            Ok(stream) => break stream,
            Err(_) => sleep(Duration::from_millis(50)).await,
        }
        assert_eq!(world.report(1).await.state, CommandState::Running);
    };
    stream.write_all(b"GET /page.txt HTTP/1.0\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    assert!(text.ends_with("hello from the folder"), "{text}");
    // What it prints is read beside what it serves.
    for _ in 0..100 {
        if !world.report(1).await.output_tail.is_empty() {
            break;
        }
        sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(world.report(1).await.output_tail, "serving\n");

    // The address is every sandbox's, so another one is not led to it.
    assert!(matches!(world.sandbox.upstream(&world.target("s-2"), world.port).await, Err(SandboxError::NotRunning(_))));
    world.sandbox.stop_preview(&target, run(1), world.port).await.unwrap();
    assert!(TcpStream::connect(("127.0.0.1", world.port)).is_err());
    assert_eq!(world.report(1).await, NEVER);
}

#[tokio::test]
async fn the_same_run_starts_once_and_another_takes_over() {
    let world = World::new();
    let text = "echo $$ >>pids; exec sleep 100";
    world.start(1, text).await.unwrap();
    world.start(1, text).await.unwrap();
    let first = world.written("pids").await;
    assert!(lives(&first), "{first}");
    world.start(2, "exec sleep 100").await.unwrap();
    assert!(!lives(&first));
    assert_eq!(world.report(1).await, NEVER);
    world.sandbox.stop_preview(&world.target("s-1"), run(1), world.port).await.unwrap();
    assert_eq!(world.report(2).await.state, CommandState::Running);
}

#[tokio::test]
async fn a_command_that_fails_says_how() {
    let world = World::new();
    world.start(1, "pwd; echo after >&2; exit 3").await.unwrap();
    let report = world.ended(1).await;
    assert_eq!(report.state, CommandState::Exited { exit_code: Some(3) });
    let folder = world.repository.path.canonicalize().unwrap();
    assert!(report.output_tail.contains(&format!("{}\n", folder.display())), "{report:?}");
    assert!(report.output_tail.contains("after\n"), "{report:?}");

    world.start(1, "yes 'on and on' | head -c 20000000; echo; echo the end").await.unwrap();
    let report = world.ended(1).await;
    assert_eq!(report.state, CommandState::Exited { exit_code: Some(0) });
    assert!(report.output_tail.len() == 4096 && report.output_tail.ends_with("\nthe end\n"), "{report:?}");
}

#[tokio::test]
async fn a_command_sees_nothing_of_the_servers_environment() {
    let world = World::new();
    world.start(1, "env").await.unwrap();
    let output = world.ended(1).await.output_tail;
    let known = ["PATH", "HOME", "USER", "LANG", "LC_ALL", "TMPDIR", "PORT", "HOST", "PWD", "OLDPWD", "SHLVL", "_"];
    for line in output.lines() {
        let name = line.split('=').next().unwrap();
        assert!(known.contains(&name), "{line}");
    }
    assert!(output.contains("HOST=127.0.0.1\n"), "{output}");
    // Cargo gives its tests variables that must not come through.
    assert!(std::env::var_os("CARGO_MANIFEST_DIR").is_some());
}

#[tokio::test]
async fn a_stop_ends_everything_in_its_group_and_the_server_takes_it_along() {
    let world = World::new();
    let text = "(trap '' TERM; sh -c 'echo $$ >child; exec sleep 100') & exec sleep 100";
    world.start(1, text).await.unwrap();
    let child = world.written("child").await;
    world.sandbox.stop_preview(&world.target("s-1"), run(1), world.port).await.unwrap();
    gone(&child).await;

    fs::remove_file(world.repository.path.join("child")).unwrap();
    world.start(1, text).await.unwrap();
    let child = world.written("child").await;
    drop(world);
    gone(&child).await;
}

#[tokio::test]
async fn what_a_command_leaves_behind_ends_with_it() {
    let world = World::new();
    world.start(1, "sh -c 'echo $$ >child; exec sleep 100' & while [ ! -s child ]; do sleep 0.1; done").await.unwrap();
    assert_eq!(world.ended(1).await.state, CommandState::Exited { exit_code: Some(0) });
    gone(&world.written("child").await).await;
}

#[tokio::test]
async fn a_port_of_somebody_else_is_refused() {
    let world = World::new();
    let _other = TcpListener::bind(("127.0.0.1", world.port)).unwrap();
    let error = world.start(1, "exec sleep 100").await.unwrap_err();
    assert!(matches!(&error, SandboxError::CommandFailed(why) if why.contains("taken")), "{error}");
    assert_eq!(world.report(1).await, NEVER);
}

#[tokio::test]
async fn files_are_read_only_where_they_lie_inside() {
    let world = World::new();
    let root = &world.repository.path;
    fs::create_dir(root.join(".terragon")).unwrap();
    fs::write(root.join(".terragon/preview.json"), "{}").unwrap();
    fs::write(root.parent().unwrap().join("repository-secret"), "secret").unwrap();
    symlink("../repository-secret", root.join("escape")).unwrap();
    symlink("/etc", root.join("folder")).unwrap();
    symlink(".terragon/preview.json", root.join("within")).unwrap();
    let target = world.target("s-1");
    let read = async |path: &str, most: usize| world.sandbox.read_repo_file(&target, path, most).await;
    assert_eq!(read(".terragon/preview.json", 2).await.unwrap().as_deref(), Some(b"{}".as_slice()));
    assert_eq!(read("within", 2).await.unwrap().as_deref(), Some(b"{}".as_slice()));
    assert_eq!(read(".terragon/none.json", 2).await.unwrap(), None);
    assert_eq!(read("within/none", 2).await.unwrap(), None);
    for (path, why) in [
        ("escape", "outside"),
        ("folder/passwd", "outside"),
        ("../repository-secret", "outside"),
        (".terragon", "not a regular file"),
        ("/etc/passwd", "relative"),
    ] {
        let error = read(path, 10_000_000).await.unwrap_err();
        assert!(matches!(&error, SandboxError::CommandFailed(text) if text.contains(why)), "{path}: {error}");
    }
    assert!(read(".terragon/preview.json", 1).await.unwrap_err().to_string().contains("more than 1 bytes"));
}

/// A worker of the HTTP server has a runtime of its own, which ends before the server where it has nothing to do.
#[tokio::test]
async fn a_command_outlives_the_runtime_that_asked_for_it() {
    let world = std::sync::Arc::new(World::new());
    let asking = std::sync::Arc::clone(&world);
    let asked = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(asking.start(1, "echo up; sleep 1; echo still > there; exec sleep 30"))
    });
    tokio::task::spawn_blocking(|| asked.join().unwrap()).await.unwrap().unwrap();
    assert_eq!(world.written("there").await, "still");
    let report = world.report(1).await;
    assert_eq!((report.state, report.output_tail.trim()), (CommandState::Running, "up"));
}
