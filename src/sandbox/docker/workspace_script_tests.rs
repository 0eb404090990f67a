//! The scripts of a workspace while somebody else changes it: between two steps of a script, by a tool that does
//! something else first.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

use super::{READ, WRITE};

/// A workspace, and what lies beside it.
struct Place {
    name: String,
    shell: PathBuf,
    folder: TempDir,
}

fn find(program: &str) -> Option<PathBuf> {
    ["/bin", "/usr/bin"].iter().map(|folder| Path::new(folder).join(program)).find(|file| file.exists())
}

impl Place {
    /// Each shell of this machine with the tools of coreutils and with busybox's.
    fn all() -> Vec<Self> {
        let shells = ["dash", "bash"].into_iter().filter_map(find);
        let tools = [None, find("busybox")];
        let all: Vec<_> = shells.flat_map(|shell| tools.clone().map(|tools| Self::new(shell.clone(), tools))).collect();
        assert!(!all.is_empty());
        all
    }

    fn new(shell: PathBuf, busybox: Option<PathBuf>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for name in ["bin", "tools", "workspace", "out"] {
            fs::create_dir(folder.path().join(name)).unwrap();
        }
        for tool in ["cat", "chmod", "head", "ln", "mkdir", "mv", "readlink", "rm", "stat", "wc"] {
            let real = busybox.clone().or_else(|| find(tool)).unwrap();
            symlink(real, folder.path().join("tools").join(tool)).unwrap();
        }
        let name = format!("{} with {}", shell.display(), busybox.map_or("coreutils", |_| "busybox"));
        Self { name, shell, folder }
    }

    fn workspace(&self) -> PathBuf {
        self.folder.path().join("workspace")
    }

    fn out(&self) -> PathBuf {
        self.folder.path().join("out")
    }

    /// Before `tool` does its work, `script` runs in the workspace; `$out` is the folder outside.
    fn before(&self, tool: &str, script: &str) {
        let file = self.folder.path().join("bin").join(tool);
        let real = self.folder.path().join("tools").join(tool);
        let text = format!("#!/bin/sh\n{script}\nexec {} \"$@\"\n", real.display());
        fs::write(&file, text).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// Exit code and output of a script.
    fn run(&self, script: &str, args: &[&str], input: &str) -> (i32, String) {
        let path = ["bin", "tools"].map(|name| self.folder.path().join(name).display().to_string()).join(":");
        let mut child = Command::new(&self.shell)
            .args(["-c", script, "runwarden"])
            .arg(self.workspace())
            .args(args)
            .env_clear()
            .env("PATH", path)
            .env("out", self.out())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        let output = child.wait_with_output().unwrap();
        (output.status.code().unwrap(), String::from_utf8(output.stdout).unwrap())
    }

    fn write(&self, path: &str) -> i32 {
        self.run(WRITE, &[path, "4"], "body").0
    }

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn assert_nothing_is_outside(&self) {
        assert_eq!(fs::read_to_string(self.out().join("mine")).unwrap(), "mine", "{}", self.name);
        assert_eq!(Self::names(&self.out()), ["mine"], "{}", self.name);
        let mode = fs::metadata(self.out().join("mine")).unwrap().permissions().mode();
        assert_eq!(mode & 0o111, 0, "{}: {mode:o}", self.name);
    }
}

#[test]
fn a_link_that_comes_in_between_does_not_lead_a_file_out() {
    for place in Place::all() {
        fs::write(place.out().join("mine"), "mine").unwrap();
        // In the place of the file, once it was seen that nothing lies there.
        place.before("head", "ln -s \"$out\" t");
        // Coreutils replace the link, busybox refuses.
        let (code, what) = (place.write("t"), fs::symlink_metadata(place.workspace().join("t")).unwrap());
        assert!(if what.is_file() { code == 0 } else { code == 75 }, "{}: {code} {what:?}", place.name);
        place.assert_nothing_is_outside();
        assert_eq!(Place::names(&place.workspace()), ["t"], "{}: nothing is left beside it", place.name);
        fs::remove_file(place.workspace().join("t")).unwrap();

        // A link to a file is replaced, and what it leads to stays.
        place.before("head", "ln -s \"$out/mine\" t");
        assert_eq!(place.write("t"), 0, "{}", place.name);
        place.assert_nothing_is_outside();
        assert!(fs::symlink_metadata(place.workspace().join("t")).unwrap().is_file(), "{}", place.name);
        fs::remove_file(place.workspace().join("t")).unwrap();

        // A folder.
        place.before("head", "mkdir t");
        assert_eq!(place.write("t"), 73, "{}", place.name);
        assert_eq!(Place::names(&place.workspace().join("t")), [""; 0], "{}", place.name);
        fs::remove_dir(place.workspace().join("t")).unwrap();

        // In the place of what is not the file yet.
        let swap = "for new in .runwarden-*; do rm \"$new\"; ln -s \"$out/mine\" \"$new\"; done";
        for tool in ["head", "wc", "chmod"] {
            fs::write(place.workspace().join("t"), "old").unwrap();
            fs::set_permissions(place.workspace().join("t"), fs::Permissions::from_mode(0o755)).unwrap();
            for other in ["head", "wc", "chmod"] {
                place.before(other, "");
            }
            place.before(tool, swap);
            place.write("t");
            place.assert_nothing_is_outside();
            let _ = fs::remove_file(place.workspace().join("t"));
        }
    }
}

#[test]
fn a_file_is_written_whole_and_a_program_stays_one() {
    for place in Place::all() {
        let mode = |path: &str| fs::metadata(place.workspace().join(path)).unwrap().permissions().mode();
        assert_eq!(place.write("a/b"), 0, "{}", place.name);
        assert_eq!(mode("a/b") & 0o111, 0, "{}", place.name);
        fs::set_permissions(place.workspace().join("a/b"), fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(place.write("a/b"), 0, "{}", place.name);
        assert_ne!(mode("a/b") & 0o100, 0, "{}", place.name);
        // Less than was announced is no file.
        assert_eq!(place.run(WRITE, &["a/b", "5"], "less").0, 77, "{}", place.name);
        assert_eq!(fs::read_to_string(place.workspace().join("a/b")).unwrap(), "body", "{}", place.name);
        assert_eq!(Place::names(&place.workspace().join("a")), ["b"], "{}", place.name);
        // Without its `-T` there is no safe way.
        place.before("mv", "case $1 in *T*) exit 1;; esac");
        assert_eq!(place.write("a/c"), 77, "{}", place.name);
        assert_eq!(Place::names(&place.workspace().join("a")), ["b"], "{}", place.name);
    }
}

#[test]
fn what_a_link_out_of_the_workspace_leads_to_does_not_matter() {
    for place in Place::all() {
        fs::write(place.out().join("mine"), "mine").unwrap();
        fs::create_dir(place.workspace().join("in")).unwrap();
        for (name, to) in [
            ("file", "../out/mine"),
            ("folder", "../out"),
            ("none", "../out/none"),
            ("device", "/dev/null"),
            ("root", "/"),
            ("inside", "in"),
            ("nothing", "in/none"),
            ("loop", "loop"),
        ] {
            symlink(to, place.workspace().join(name)).unwrap();
        }
        for (path, code) in [
            ("file", 75),
            ("folder", 75),
            ("folder/mine", 75),
            ("folder/none", 75),
            ("none", 75),
            ("device", 75),
            ("root", 75),
            ("inside", 73),
            ("nothing", 72),
            ("loop", 72),
            ("in", 73),
            ("in/none", 72),
        ] {
            assert_eq!(place.run(READ, &[path, "9"], ""), (code, String::new()), "{}: {path}", place.name);
        }
    }
}
