//! Real repositories for the sandbox tests.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A repository in a folder of this host.
pub struct Repository {
    pub path: PathBuf,
}

impl Repository {
    /// An empty one at `path`.
    pub fn init(path: &Path, options: &[&str]) -> Self {
        fs::create_dir_all(path).unwrap();
        let repository = Self { path: path.to_owned() };
        let mut arguments = vec!["init", "--quiet", "--template="];
        arguments.extend(options);
        repository.git(&arguments);
        repository
    }

    /// Runs `git` as a user would, and returns what it printed.
    pub fn git(&self, arguments: &[&str]) -> String {
        let output = Command::new("git")
            .args(["-c", "user.name=Test", "-c", "user.email=test@example.com", "-c", "commit.gpgSign=false"])
            .args(arguments)
            .current_dir(&self.path)
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .output()
            .unwrap();
        assert!(output.status.success(), "git {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// Writes a file.
    pub fn write(&self, name: &str, text: &str) {
        let path = self.path.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// Commits everything and returns the commit.
    pub fn commit(&self) -> String {
        self.git(&["add", "--all"]);
        self.git(&["commit", "--quiet", "--message", "a change"]);
        self.git(&["rev-parse", "HEAD"])
    }

    /// Two commits with every kind of change between them; returns both.
    pub fn with_changes(&self) -> (String, String) {
        let text = |name: &str| format!("a line of {name}\n").repeat(40);
        self.write("kept.txt", &text("kept"));
        self.write("changed.txt", &text("changed"));
        self.write("removed.txt", "removed\n");
        self.write("old name.txt", &text("renamed"));
        self.write(".gitignore", "ignored.txt\n");
        let base = self.commit();
        self.write("changed.txt", &(text("changed") + "after\n"));
        self.write("copied.txt", &text("changed"));
        self.write("added.txt", "added\n");
        fs::remove_file(self.path.join("removed.txt")).unwrap();
        fs::rename(self.path.join("old name.txt"), self.path.join("new\nname.txt")).unwrap();
        (base, self.commit())
    }

    /// Changes the working tree of [`with_changes`](Self::with_changes) without a commit.
    pub fn dirty(&self) {
        self.write("kept.txt", "kept no more\n");
        self.write("dir/untracked\n\u{e9}.txt", "new\n");
        self.write("ignored.txt", "ignored\n");
    }
}

/// What `git diff --name-status -z` says, as sorted entries with parts joined by a space.
pub fn entries(list: &[u8]) -> Vec<String> {
    let text = String::from_utf8(list.to_vec()).unwrap();
    let mut parts = text.strip_suffix('\0').unwrap_or(&text).split('\0').filter(|part| !part.is_empty());
    let mut entries = Vec::new();
    while let Some(status) = parts.next() {
        let paths = if status.starts_with(['R', 'C']) { 2 } else { 1 };
        let paths: Vec<_> = parts.by_ref().take(paths).collect();
        entries.push(format!("{status} {}", paths.join(" -> ")));
    }
    entries.sort();
    entries
}

/// What lies between the two commits of [`Repository::with_changes`].
pub const COMMITTED: [&str; 5] = [
    "A added.txt",
    "C100 changed.txt -> copied.txt",
    "D removed.txt",
    "M changed.txt",
    "R100 old name.txt -> new\nname.txt",
];
/// What lies between the first of them and the working tree after [`Repository::dirty`].
pub const IN_WORKING_TREE: [&str; 7] = [
    "?? dir/untracked\n\u{e9}.txt",
    "A added.txt",
    "C100 changed.txt -> copied.txt",
    "D removed.txt",
    "M changed.txt",
    "M kept.txt",
    "R100 old name.txt -> new\nname.txt",
];
