//! `Sandbox` in containers of a real Docker engine.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::thread::{scope, spawn};

use runwarden::sandbox::DockerSandbox;
use runwarden_actors::contract::{CodesandboxId, CommitSha, SandboxProvider};
use runwarden_actors::ports::{Sandbox, SandboxError, SandboxTarget};
use tempfile::TempDir;

use crate::docker_engine::DockerEngine;
use crate::git_repository::{COMMITTED, IN_WORKING_TREE, Repository, entries};

fn target(container: &str, repo_dir: Option<&str>) -> SandboxTarget {
    SandboxTarget {
        provider: SandboxProvider::Docker,
        codesandbox_id: CodesandboxId::parse(container).unwrap(),
        repo_dir: repo_dir.map(str::to_owned),
    }
}

fn sha(text: &str) -> CommitSha {
    CommitSha::parse(text).unwrap()
}

/// A folder that any user of a container may enter.
fn folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    folder
}

/// A container with a repository as its `/workspace`.
async fn container(name: &str, user: &str) -> (TempDir, Repository, DockerSandbox) {
    let folder = folder();
    let repository = Repository::init(folder.path(), &[]);
    let engine = DockerEngine::shared();
    engine.run(name, user, folder.path()).await;
    (folder, repository, DockerSandbox::new(&engine.host()).unwrap())
}

#[tokio::test]
async fn head_and_changes_are_what_git_says() {
    // The repository belongs to another user than the container's in one case.
    for (name, user) in [("changes-root", "0:0"), ("changes-user", "1234:1234")] {
        let (_folder, repository, sandbox) = container(name, user).await;
        let (base, end) = repository.with_changes();
        for target in [target(name, None), target(name, Some("/workspace"))] {
            assert_eq!(sandbox.head_sha(&target).await.unwrap().as_str(), end);
            let changes = sandbox.changed_paths(&target, &sha(&base), Some(&sha(&end))).await.unwrap();
            assert_eq!(entries(&changes), COMMITTED);
        }
        repository.dirty();
        let changes = sandbox.changed_paths(&target(name, None), &sha(&base), None).await.unwrap();
        assert_eq!(entries(&changes), IN_WORKING_TREE);
    }
}

#[tokio::test]
async fn a_container_is_known_by_its_id_too() {
    let (_folder, repository, sandbox) = container("by-id", "0:0").await;
    repository.write("a", "a");
    let commit = repository.commit();
    let client = DockerEngine::shared().client().await;
    let id = client.inspect_container("by-id", None).await.unwrap().id.unwrap();
    assert_eq!(sandbox.head_sha(&target(&id, None)).await.unwrap().as_str(), commit);
    assert_eq!(sandbox.head_sha(&target(&id[..12], None)).await.unwrap().as_str(), commit);
}

#[tokio::test]
async fn nothing_in_the_repository_is_written() {
    let (folder, repository, sandbox) = container("untouched", "0:0").await;
    let (base, _) = repository.with_changes();
    let touched = Command::new("touch").args(["-d", "2001-01-01"]).arg(folder.path().join("kept.txt")).status();
    assert!(touched.unwrap().success());
    let files = || {
        let listed = Command::new("find").arg(folder.path()).args(["-printf", "%p %s %T@\n"]).output().unwrap();
        String::from_utf8(listed.stdout).unwrap()
    };
    let before = files();
    sandbox.head_sha(&target("untouched", None)).await.unwrap();
    let changes = sandbox.changed_paths(&target("untouched", None), &sha(&base), None).await.unwrap();
    assert_eq!(entries(&changes), COMMITTED);
    assert_eq!(files(), before);
}

#[tokio::test]
async fn a_container_that_does_not_run_is_not_running() {
    let (_folder, repository, sandbox) = container("stopped", "0:0").await;
    repository.write("a", "a");
    repository.commit();
    let client = DockerEngine::shared().client().await;
    let ask = async |name: &str| sandbox.head_sha(&target(name, None)).await;
    ask("stopped").await.unwrap();

    client.pause_container("stopped").await.unwrap();
    assert!(matches!(ask("stopped").await, Err(SandboxError::NotRunning(_))));
    client.unpause_container("stopped").await.unwrap();
    ask("stopped").await.unwrap();

    client.stop_container("stopped", None).await.unwrap();
    assert!(matches!(ask("stopped").await, Err(SandboxError::NotRunning(_))));
    client.start_container("stopped", None).await.unwrap();
    ask("stopped").await.unwrap();

    client.stop_container("stopped", None).await.unwrap();
    client.remove_container("stopped", None).await.unwrap();
    assert!(matches!(ask("stopped").await, Err(SandboxError::NotRunning(_))));

    for name in ["no-such-container", "../images/json?x=", "a/b", "-a", "..", "a b", "é"] {
        assert!(matches!(ask(name).await, Err(SandboxError::NotRunning(_))), "{name}");
    }
}

#[tokio::test]
async fn what_git_cannot_answer_is_an_error() {
    let (folder, repository, sandbox) = container("errors", "0:0").await;
    let failed = |error: SandboxError, why: &str| {
        assert!(matches!(error, SandboxError::CommandFailed(_)) && error.to_string().contains(why), "{error}");
    };
    failed(sandbox.head_sha(&target("errors", None)).await.unwrap_err(), "exit code 128");
    repository.write("a", "a");
    let base = sha(&repository.commit());
    for (dir, why) in
        [("/tmp", "not a git repository"), ("/none", "/none"), ("workspace", "absolute"), ("/a\nb", "absolute")]
    {
        let target = target("errors", Some(dir));
        failed(sandbox.head_sha(&target).await.unwrap_err(), why);
        assert!(matches!(
            sandbox.changed_paths(&target, &base, None).await.unwrap_err(),
            SandboxError::CommandFailed(_)
        ));
    }
    let unknown = sha(&"1".repeat(40));
    failed(sandbox.changed_paths(&target("errors", None), &unknown, None).await.unwrap_err(), "git diff");

    let deep = folder.path().join("n".repeat(240)).join("n".repeat(240)).join("n".repeat(240));
    fs::create_dir_all(&deep).unwrap();
    for n in 0..4400 {
        fs::write(deep.join(format!("{}{n}", "n".repeat(240))), "").unwrap();
    }
    failed(sandbox.changed_paths(&target("errors", None), &base, None).await.unwrap_err(), "4194304 bytes");
}

#[tokio::test]
async fn an_engine_that_went_away_is_unavailable_until_it_is_back() {
    let (folder, repository, _) = container("away", "0:0").await;
    repository.write("a", "a");
    let commit = repository.commit();
    let socket = folder.path().join("engine.sock");
    let sandbox = DockerSandbox::new(&format!("unix://{}", socket.display())).unwrap();
    let ask = || async { sandbox.head_sha(&target("away", None)).await };
    for _ in 0..2 {
        assert!(matches!(ask().await, Err(SandboxError::ProviderUnavailable(_))));
        symlink(DockerEngine::shared().socket(), &socket).unwrap();
        assert_eq!(ask().await.unwrap().as_str(), commit);
        fs::remove_file(&socket).unwrap();
    }
}

#[tokio::test]
async fn an_engine_is_reached_over_tcp_too() {
    let (_folder, repository, _) = container("tcp", "0:0").await;
    repository.write("a", "a");
    let commit = repository.commit();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let socket = DockerEngine::shared().socket();
    spawn(move || {
        for stream in listener.incoming() {
            let (stream, socket) = (stream.unwrap(), socket.clone());
            spawn(move || forward(&stream, &socket));
        }
    });
    let sandbox = DockerSandbox::new(&format!("tcp://{address}")).unwrap();
    assert_eq!(sandbox.head_sha(&target("tcp", None)).await.unwrap().as_str(), commit);
}

/// Carries bytes both ways until both sides have ended.
fn forward(client: &TcpStream, socket: &Path) {
    let engine = UnixStream::connect(socket).unwrap();
    scope(|scope| {
        scope.spawn(|| {
            let _ = std::io::copy(&mut &*client, &mut &engine);
            let _ = engine.shutdown(std::net::Shutdown::Write);
        });
        let _ = std::io::copy(&mut &engine, &mut &*client);
        let _ = client.shutdown(std::net::Shutdown::Write);
    });
}

/// The clock jumps ahead whenever nothing else can happen.
#[tokio::test(start_paused = true)]
async fn an_engine_that_hangs_is_not_waited_for() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let sandbox = DockerSandbox::new(&format!("tcp://{}", listener.local_addr().unwrap())).unwrap();
    let error = sandbox.head_sha(&target("any", None)).await.unwrap_err();
    assert!(matches!(error, SandboxError::Timeout(_)), "{error}");
}
