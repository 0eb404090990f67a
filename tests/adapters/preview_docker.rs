//! `PreviewHost` in containers of a real Docker engine whose image is busybox and nothing more.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::time::Duration;

use runwarden::sandbox::DockerSandbox;
use runwarden_actors::contract::{CodesandboxId, SandboxProvider};
use runwarden_actors::ports::{
    CommandReport, CommandState, PreviewHost, SandboxError, SandboxTarget, Scheme, UpstreamReach,
};
use tempfile::TempDir;
use tokio::time::sleep;

use crate::docker_engine::DockerEngine;
use crate::preview_command::{NEVER, command, config, run};

struct World {
    name: &'static str,
    folder: TempDir,
    sandbox: DockerSandbox,
}

impl World {
    async fn new(name: &'static str, user: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).unwrap();
        let engine = DockerEngine::shared();
        engine.run_reachable(name, user, folder.path()).await;
        Self { name, folder, sandbox: DockerSandbox::new(&engine.host()).unwrap() }
    }

    fn target(&self) -> SandboxTarget {
        SandboxTarget {
            provider: SandboxProvider::Docker,
            codesandbox_id: CodesandboxId::parse(self.name).unwrap(),
            repo_dir: None,
        }
    }

    async fn start(&self, n: u8, port: u16, text: &str) {
        self.sandbox.start_preview(&self.target(), &command(n, port, text)).await.unwrap();
    }

    async fn report(&self, n: u8, port: u16) -> CommandReport {
        self.sandbox.preview_report(&self.target(), run(n), port).await.unwrap()
    }

    async fn ended(&self, n: u8, port: u16) -> CommandReport {
        for _ in 0..100 {
            let report = self.report(n, port).await;
            if report.state != CommandState::Running {
                return report;
            }
            sleep(Duration::from_millis(50)).await;
        }
        panic!("it goes on");
    }

    /// The first answer of the app at its upstream.
    async fn page(&self, port: u16) -> String {
        let upstream = self.sandbox.upstream(&self.target(), port).await.unwrap();
        assert_eq!((upstream.scheme, upstream.port, upstream.auth_headers.len()), (Scheme::Http, port, 0));
        let UpstreamReach::Reported(address) = upstream.reach else { panic!("{upstream:?}") };
        assert_eq!(upstream.host, address.to_string());
        for _ in 0..100 {
            if let Some(text) = get(address, port) {
                return text;
            }
            sleep(Duration::from_millis(50)).await;
        }
        panic!("nothing listens at {address}:{port}: {:?}", self.report(1, port).await);
    }
}

fn get(address: IpAddr, port: u16) -> Option<String> {
    let mut stream = TcpStream::connect_timeout(&SocketAddr::new(address, port), Duration::from_secs(2)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    stream.write_all(b"GET /page.txt HTTP/1.0\r\n\r\n").ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    Some(text)
}

const SERVE: &str = "echo serving; exec httpd -f -p \"$HOST:$PORT\"";

#[tokio::test]
async fn an_app_is_started_reached_and_ended() {
    for (name, user) in [("preview-root", "0:0"), ("preview-user", "1234:1234")] {
        let world = World::new(name, user).await;
        fs::write(world.folder.path().join("page.txt"), "hello from the sandbox").unwrap();
        let missing = world.sandbox.missing_capabilities(&world.target(), &config(8080, SERVE)).await.unwrap();
        assert_eq!(missing, [""; 0], "{name}");
        assert_eq!(world.report(1, 8080).await, NEVER, "{name}");
        world.start(1, 8080, SERVE).await;
        world.start(1, 8080, SERVE).await;
        assert!(world.page(8080).await.ends_with("hello from the sandbox"), "{name}");
        // What it prints is kept beside what it serves.
        let mut report = world.report(1, 8080).await;
        for _ in 0..100 {
            if !report.output_tail.is_empty() {
                break;
            }
            sleep(Duration::from_millis(50)).await;
            report = world.report(1, 8080).await;
        }
        assert_eq!((report.state, report.output_tail.as_str()), (CommandState::Running, "serving\n"), "{name}");
        assert_eq!(world.report(2, 8080).await, NEVER, "{name}");

        // Another run takes the port over; another port is another command.
        world.start(3, 8081, "exec sleep 1000").await;
        world.start(2, 8080, SERVE).await;
        assert!(world.page(8080).await.ends_with("hello from the sandbox"), "{name}");
        assert_eq!(world.report(2, 8080).await.state, CommandState::Running, "{name}");
        assert_eq!(world.report(1, 8080).await, NEVER, "{name}");
        assert_eq!(world.report(3, 8081).await.state, CommandState::Running, "{name}");

        world.sandbox.stop_preview(&world.target(), run(2), 8080).await.unwrap();
        let UpstreamReach::Reported(address) = world.sandbox.upstream(&world.target(), 8080).await.unwrap().reach
        else {
            panic!("{name}")
        };
        assert_eq!(get(address, 8080), None, "{name}");
    }
}

#[tokio::test]
async fn a_command_that_fails_says_how() {
    let world = World::new("preview-fails", "0:0").await;
    world.start(1, 8080, "echo before; echo after >&2; exit 3").await;
    let report = world.ended(1, 8080).await;
    assert_eq!(report.state, CommandState::Exited { exit_code: Some(3) });
    assert_eq!(report.output_tail, "before\nafter\n");

    world.start(1, 8080, "yes 'on and on' | head -c 20000000; echo the end; exit 4").await;
    let report = world.ended(1, 8080).await;
    assert_eq!(report.state, CommandState::Exited { exit_code: Some(4) });
    assert!(report.output_tail.len() == 4096 && report.output_tail.ends_with("\nthe end\n"), "{report:?}");
}

#[tokio::test]
async fn a_stop_ends_grandchildren_too() {
    let world = World::new("preview-stop", "0:0").await;
    let command = "setsid sh -c 'echo up >apart; exec httpd -f -p 9001' & \
                   env -i PATH=/bin sh -c 'exec httpd -f -p 9002' & \
                   (trap '' TERM; sh -c 'exec httpd -f -p 9003') & exec httpd -f -p 9000";
    world.start(1, 9000, command).await;
    for port in 9000..=9003 {
        world.page(port).await;
    }
    world.sandbox.stop_preview(&world.target(), run(1), 9000).await.unwrap();
    let UpstreamReach::Reported(address) = world.sandbox.upstream(&world.target(), 9000).await.unwrap().reach else {
        panic!()
    };
    for port in 9000..=9003 {
        assert_eq!(get(address, port), None, "{port}");
    }
}

#[tokio::test]
async fn a_stopped_container_is_not_running_and_forgets_its_command() {
    let world = World::new("preview-gone", "0:0").await;
    world.start(1, 8080, SERVE).await;
    let client = DockerEngine::shared().client().await;
    let not_running = async || {
        let target = world.target();
        let answers = [
            world.sandbox.upstream(&target, 8080).await.map(|_| ()),
            world.sandbox.preview_report(&target, run(1), 8080).await.map(|_| ()),
            world.sandbox.start_preview(&target, &command(1, 8080, SERVE)).await,
            world.sandbox.missing_capabilities(&target, &config(8080, SERVE)).await.map(|_| ()),
            world.sandbox.read_repo_file(&target, "a", 9).await.map(|_| ()),
            world.sandbox.stop_preview(&target, run(1), 8080).await,
        ];
        for answer in answers {
            assert!(matches!(answer, Err(SandboxError::NotRunning(_))), "{answer:?}");
        }
    };
    client.pause_container(world.name).await.unwrap();
    not_running().await;
    client.unpause_container(world.name).await.unwrap();
    assert_eq!(world.report(1, 8080).await.state, CommandState::Running);

    client.stop_container(world.name, None).await.unwrap();
    not_running().await;
    // The files are there again, the processes are not.
    client.start_container(world.name, None).await.unwrap();
    assert_eq!(world.report(1, 8080).await.state, CommandState::Exited { exit_code: None });
    world.start(1, 8080, SERVE).await;
    assert_eq!(world.report(1, 8080).await.state, CommandState::Running);

    client.stop_container(world.name, None).await.unwrap();
    client.remove_container(world.name, None).await.unwrap();
    not_running().await;
}

#[tokio::test]
async fn a_container_without_a_network_has_no_upstream() {
    let folder = tempfile::tempdir().unwrap();
    let engine = DockerEngine::shared();
    engine.run("preview-alone", "0:0", folder.path()).await;
    let world = World { name: "preview-alone", folder, sandbox: DockerSandbox::new(&engine.host()).unwrap() };
    let error = world.sandbox.upstream(&world.target(), 8080).await.unwrap_err();
    assert!(matches!(&error, SandboxError::CommandFailed(why) if why.contains("no address")), "{error}");
}

#[tokio::test]
async fn files_are_read_only_where_they_lie_inside() {
    let world = World::new("preview-files", "0:0").await;
    let root = world.folder.path();
    fs::create_dir(root.join(".terragon")).unwrap();
    fs::write(root.join(".terragon/preview.json"), "{}").unwrap();
    symlink("/bin/busybox", root.join("escape")).unwrap();
    symlink("/bin", root.join("folder")).unwrap();
    let read = async |path: &str, most: usize| world.sandbox.read_repo_file(&world.target(), path, most).await;
    assert_eq!(read(".terragon/preview.json", 2).await.unwrap().as_deref(), Some(b"{}".as_slice()));
    assert_eq!(read(".terragon/none.json", 2).await.unwrap(), None);
    for (path, why) in [
        ("escape", "outside"),
        ("folder/busybox", "outside"),
        ("../bin/busybox", "outside"),
        (".terragon", "not a regular file"),
        ("/bin/busybox", "relative"),
    ] {
        let error = read(path, 10_000_000).await.unwrap_err();
        assert!(matches!(&error, SandboxError::CommandFailed(text) if text.contains(why)), "{path}: {error}");
    }
    let error = read(".terragon/preview.json", 1).await.unwrap_err();
    assert!(error.to_string().contains("more than 1 bytes"), "{error}");
}

#[tokio::test]
async fn a_folder_or_shell_that_is_missing_is_named() {
    let world = World::new("preview-lacks", "0:0").await;
    let elsewhere = SandboxTarget { repo_dir: Some("/none".to_owned()), ..world.target() };
    let missing = world.sandbox.missing_capabilities(&elsewhere, &config(8080, SERVE)).await.unwrap();
    assert_eq!(missing, ["the folder /none"]);
    let error = world.sandbox.start_preview(&elsewhere, &command(1, 8080, SERVE)).await.unwrap_err();
    assert!(error.to_string().contains("no folder `/none`"), "{error}");

    let client = DockerEngine::shared().client().await;
    let remove = bollard::exec::CreateExecOptions { cmd: Some(vec!["rm", "/bin/sh"]), ..Default::default() };
    let exec = client.create_exec(world.name, remove).await.unwrap().id;
    client.start_exec(&exec, None::<bollard::exec::StartExecOptions>).await.unwrap();
    for _ in 0..100 {
        let missing = world.sandbox.missing_capabilities(&world.target(), &config(8080, SERVE)).await;
        match missing {
            Ok(missing) if missing == ["sh"] => return,
            _ => sleep(Duration::from_millis(50)).await,
        }
    }
    panic!("a container without a shell was not noticed");
}
