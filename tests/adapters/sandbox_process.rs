//! `Sandbox` on folders of this host: real `git`, hostile repositories.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::process::Command;

use runwarden::sandbox::{GIT_OUTPUT_MAX_BYTES, ProcessSandbox};
use runwarden_actors::contract::{CodesandboxId, CommitSha, SandboxProvider};
use runwarden_actors::ports::{Sandbox, SandboxError, SandboxTarget};
use tempfile::TempDir;

use crate::git_repository::{COMMITTED, IN_WORKING_TREE, Repository, entries};

struct World {
    folder: TempDir,
    sandbox: ProcessSandbox,
}

impl World {
    /// A root with room beside it for what must not be reached.
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("root")).unwrap();
        let sandbox = ProcessSandbox::new(&folder.path().join("root")).unwrap();
        Self { folder, sandbox }
    }

    fn repository(&self, options: &[&str]) -> Repository {
        Repository::init(&self.folder.path().join("root/repository"), options)
    }

    async fn head(&self, repo_dir: &Path) -> Result<CommitSha, SandboxError> {
        self.sandbox.head_sha(&target(repo_dir.to_str())).await
    }

    async fn changed(&self, repository: &Repository, base: &str, end: Option<&str>) -> Result<Vec<u8>, SandboxError> {
        let end = end.map(sha);
        self.sandbox.changed_paths(&target(repository.path.to_str()), &sha(base), end.as_ref()).await
    }
}

fn target(repo_dir: Option<&str>) -> SandboxTarget {
    SandboxTarget {
        provider: SandboxProvider::Process,
        codesandbox_id: CodesandboxId::parse("s-1").unwrap(),
        repo_dir: repo_dir.map(str::to_owned),
    }
}

fn sha(text: &str) -> CommitSha {
    CommitSha::parse(text).unwrap()
}

fn refused<T: std::fmt::Debug>(answer: Result<T, SandboxError>, why: &str) {
    let error = answer.unwrap_err();
    assert!(!matches!(error, SandboxError::Timeout(_)) && error.to_string().contains(why), "{error}");
}

#[tokio::test]
async fn head_and_changes_are_what_git_says() {
    for format in ["sha1", "sha256"] {
        let world = World::new();
        let repository = world.repository(&["--object-format", format]);
        let (base, end) = repository.with_changes();
        assert_eq!(world.head(&repository.path).await.unwrap().as_str(), end);
        assert_eq!(entries(&world.changed(&repository, &base, Some(&end)).await.unwrap()), COMMITTED);
        assert_eq!(entries(&world.changed(&repository, &end, Some(&end)).await.unwrap()), [""; 0]);
        repository.dirty();
        assert_eq!(entries(&world.changed(&repository, &base, None).await.unwrap()), IN_WORKING_TREE);
        assert_eq!(entries(&world.changed(&repository, &base, Some(&end)).await.unwrap()), COMMITTED);
    }
}

#[tokio::test]
async fn nothing_in_the_repository_is_written() {
    let world = World::new();
    let repository = world.repository(&[]);
    let (base, _) = repository.with_changes();
    // With other times than the index says, `git diff` would write it anew.
    repository.git(&["update-index", "--refresh"]);
    let touched = Command::new("touch").arg("-d").arg("2001-01-01").arg(repository.path.join("kept.txt")).status();
    assert!(touched.unwrap().success());
    let files = || {
        let listed = Command::new("find").arg(&repository.path).args(["-printf", "%p %s %T@\n"]).output().unwrap();
        String::from_utf8(listed.stdout).unwrap()
    };
    let before = files();
    world.head(&repository.path).await.unwrap();
    assert_eq!(entries(&world.changed(&repository, &base, None).await.unwrap()), COMMITTED);
    assert_eq!(files(), before);
}

#[tokio::test]
async fn a_hostile_repository_runs_nothing_on_the_host() {
    let world = World::new();
    let repository = world.repository(&[]);
    let (base, end) = repository.with_changes();
    let trap = world.folder.path().join("trap");
    let sprung = world.folder.path().join("sprung");
    fs::write(&trap, format!("#!/bin/sh\necho \"$0 $*\" >> '{}'\ncat\n", sprung.display())).unwrap();
    fs::set_permissions(&trap, fs::Permissions::from_mode(0o755)).unwrap();
    let run = trap.to_str().unwrap();

    let hooks = repository.path.join(".git/hooks");
    fs::create_dir_all(&hooks).unwrap();
    for hook in ["post-index-change", "reference-transaction", "fsmonitor-watchman", "post-checkout"] {
        symlink(&trap, hooks.join(hook)).unwrap();
    }
    for (name, value) in [
        ("core.fsmonitor", run),
        ("core.hooksPath", hooks.to_str().unwrap()),
        ("core.pager", run),
        ("core.sshCommand", run),
        ("core.gitProxy", run),
        ("core.alternateRefsCommand", run),
        ("core.askPass", run),
        ("credential.helper", run),
        ("diff.external", run),
        ("diff.trap.textconv", run),
        ("diff.trap.command", run),
        ("filter.trap.clean", run),
        ("filter.trap.smudge", run),
        ("filter.trap.process", run),
        ("filter.trap.required", "true"),
        ("alias.diff", &format!("!{run}")),
        ("alias.rev-parse", &format!("!{run}")),
        ("extensions.partialClone", "origin"),
        ("remote.origin.url", &format!("ext::{run} %S")),
        ("remote.origin.uploadpack", run),
        ("remote.origin.promisor", "true"),
        ("protocol.ext.allow", "always"),
        ("protocol.allow", "always"),
    ] {
        repository.git(&["config", name, value]);
    }
    repository.write(".gitattributes", "* filter=trap diff=trap\n");
    fs::create_dir_all(repository.path.join(".git/info")).unwrap();
    fs::write(repository.path.join(".git/info/attributes"), "* filter=trap diff=trap\n").unwrap();
    // Where the times have moved, only the contents tell, and the filter would be asked for them.
    repository.write("changed.txt", "other\n");
    let touched = Command::new("touch").args(["-d", "2001-01-01"]).arg(repository.path.join("kept.txt")).status();
    assert!(touched.unwrap().success());

    assert_eq!(world.head(&repository.path).await.unwrap().as_str(), end);
    assert_eq!(entries(&world.changed(&repository, &base, Some(&end)).await.unwrap()), COMMITTED);
    let in_tree = entries(&world.changed(&repository, &base, None).await.unwrap());
    assert!(in_tree.contains(&"M changed.txt".to_owned()), "{in_tree:?}");
    // An object that is missing would be fetched by whatever the repository names.
    refused(world.changed(&repository, &"1".repeat(40), Some(&end)).await, "git diff");
    assert!(!sprung.exists(), "ran: {}", fs::read_to_string(&sprung).unwrap());

    // The trap is real: an unguarded git walks into it.
    let _ = Command::new("git").args(["diff", &base]).current_dir(&repository.path).output().unwrap();
    assert!(sprung.exists());
}

#[tokio::test]
async fn a_submodule_is_not_entered() {
    let world = World::new();
    let repository = world.repository(&[]);
    let (base, _) = repository.with_changes();
    let inner = Repository::init(&repository.path.join("inner"), &[]);
    inner.write("file", "text\n");
    let inner_commit = inner.commit();
    repository.git(&["update-index", "--add", "--cacheinfo", &format!("160000,{inner_commit},inner")]);
    repository.git(&["commit", "--quiet", "--message", "a submodule"]);
    let sprung = world.folder.path().join("sprung");
    inner.git(&["config", "core.fsmonitor", &format!("touch '{}' #", sprung.display())]);
    inner.write("file", "other\n");

    let changes = entries(&world.changed(&repository, &base, None).await.unwrap());
    assert!(changes.contains(&"A inner".to_owned()), "{changes:?}");
    assert!(!sprung.exists());
    let _ = Command::new("git").args(["diff"]).current_dir(&repository.path).output().unwrap();
    assert!(sprung.exists(), "the trap is real");
}

#[tokio::test]
async fn nothing_outside_the_root_is_reached() {
    let world = World::new();
    let inside = world.repository(&[]);
    inside.write("a", "a");
    inside.commit();
    let root = world.folder.path().join("root");
    let outside = Repository::init(&world.folder.path().join("outside"), &[]);
    outside.write("secret", "secret");
    outside.commit();

    refused(world.sandbox.head_sha(&target(None)).await, "needs repoDir");
    refused(world.sandbox.head_sha(&target(Some("repository"))).await, "absolute");
    refused(world.sandbox.head_sha(&target(Some(""))).await, "absolute");
    refused(world.head(&outside.path).await, "outside PROCESS_SANDBOX_ROOT");
    refused(world.head(&root.join("../outside")).await, "outside PROCESS_SANDBOX_ROOT");
    refused(world.head(Path::new("/")).await, "outside PROCESS_SANDBOX_ROOT");
    refused(world.head(&root.join("missing")).await, "sandbox_not_running");
    refused(world.head(&root).await, "not the top of a Git working tree");
    fs::create_dir(inside.path.join("sub")).unwrap();
    refused(world.head(&inside.path.join("sub")).await, "not the top of a Git working tree");
    // A folder beside the root whose name begins like it.
    let neighbour = Repository::init(&world.folder.path().join("root-2"), &[]);
    refused(world.head(&neighbour.path).await, "outside PROCESS_SANDBOX_ROOT");

    symlink(&outside.path, root.join("link")).unwrap();
    refused(world.head(&root.join("link")).await, "outside PROCESS_SANDBOX_ROOT");
    symlink(&inside.path, root.join("link-inside")).unwrap();
    assert!(world.head(&root.join("link-inside")).await.is_ok());

    for (name, pointer) in [("by-link", None), ("by-file", Some(format!("gitdir: {}/.git\n", outside.path.display())))]
    {
        let dir = root.join(name);
        fs::create_dir(&dir).unwrap();
        match pointer {
            None => symlink(outside.path.join(".git"), dir.join(".git")).unwrap(),
            Some(text) => fs::write(dir.join(".git"), text).unwrap(),
        }
        refused(world.head(&dir).await, "outside PROCESS_SANDBOX_ROOT");
    }

    let objects = inside.path.join(".git/objects");
    fs::remove_dir_all(&objects).unwrap();
    symlink(outside.path.join(".git/objects"), &objects).unwrap();
    refused(world.head(&inside.path).await, "outside PROCESS_SANDBOX_ROOT");
}

#[tokio::test]
async fn a_linked_working_tree_is_a_repository_too() {
    let world = World::new();
    let repository = world.repository(&[]);
    let (base, end) = repository.with_changes();
    let linked = world.folder.path().join("root/linked");
    repository.git(&["worktree", "add", "--quiet", "--detach", linked.to_str().unwrap(), &base]);
    assert_eq!(world.head(&linked).await.unwrap().as_str(), base);
    let linked = Repository { path: linked };
    linked.write("changed.txt", "linked\n");
    assert_eq!(entries(&world.changed(&linked, &base, None).await.unwrap()), ["M changed.txt"]);
    assert_eq!(entries(&world.changed(&linked, &base, Some(&end)).await.unwrap()), COMMITTED);
}

#[tokio::test]
async fn settings_that_describe_files_are_heeded() {
    let world = World::new();
    let repository = world.repository(&[]);
    repository.write("script.sh", "true\n");
    let base = repository.commit();
    fs::set_permissions(repository.path.join("script.sh"), fs::Permissions::from_mode(0o755)).unwrap();
    assert_eq!(entries(&world.changed(&repository, &base, None).await.unwrap()), ["M script.sh"]);
    repository.git(&["config", "core.fileMode", "false"]);
    assert_eq!(entries(&world.changed(&repository, &base, None).await.unwrap()), [""; 0]);
}

#[tokio::test]
async fn what_cannot_be_answered_is_an_error() {
    let world = World::new();
    let repository = world.repository(&[]);
    refused(world.head(&repository.path).await, "git rev-parse HEAD");
    repository.write("a", "a");
    let base = repository.commit();
    refused(world.changed(&repository, &"1".repeat(40), None).await, "git diff");
    fs::write(repository.path.join(".git/index"), "no index").unwrap();
    refused(world.changed(&repository, &base, None).await, "git diff");
    fs::remove_file(repository.path.join(".git/index")).unwrap();
    assert!(Command::new("mkfifo").arg(repository.path.join(".git/index")).status().unwrap().success());
    refused(world.changed(&repository, &base, None).await, "not a regular file");
}

#[tokio::test]
async fn a_list_beyond_the_cap_is_an_error_not_a_part_of_it() {
    let world = World::new();
    let repository = world.repository(&[]);
    repository.write("a", "a");
    let base = repository.commit();
    let name = "n".repeat(240);
    let folder = repository.path.join(&name).join(&name).join(&name);
    fs::create_dir_all(&folder).unwrap();
    for n in 0..GIT_OUTPUT_MAX_BYTES / 960 {
        fs::write(folder.join(format!("{name}{n}")), "").unwrap();
    }
    refused(world.changed(&repository, &base, None).await, "4194304 bytes");
}

#[tokio::test]
async fn a_question_that_is_given_up_leaves_no_process_behind() {
    let world = World::new();
    let repository = world.repository(&[]);
    let (base, _) = repository.with_changes();
    // Reading a pipe that nobody writes to, `git` would wait for ever.
    let exclude = repository.path.join("dir/.gitignore");
    fs::create_dir(repository.path.join("dir")).unwrap();
    assert!(Command::new("mkfifo").arg(&exclude).status().unwrap().success());
    fs::write(repository.path.join("dir/file"), "").unwrap();

    let (base, target) = (sha(&base), target(repository.path.to_str()));
    let question = world.sandbox.changed_paths(&target, &base, None);
    let running = || {
        let listed = Command::new("ps").args(["-eo", "args"]).output().unwrap();
        let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
        listed
            .lines()
            .filter(|line| line.contains("ls-files") && line.contains(repository.path.to_str().unwrap()))
            .count()
    };
    let asked = async {
        while running() == 0 {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    tokio::select! {
        answer = question => panic!("git did not wait: {answer:?}"),
        () = asked => {}
    }
    for _ in 0..500 {
        if running() == 0 {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    panic!("git lives on");
}
