//! Files of a session's workspace (section 8): read, written and listed by small scripts inside the container, as its own
//! user. Paths are relative and lead nowhere else, also not by a link.

use std::time::Duration;

use runwarden_actors::contract::ContainerSessionId;
use runwarden_actors::contract::limits::{CONTAINER_FILE_MAX_BYTES, CONTAINER_LIST_MAX, CONTAINER_PATH_MAX_BYTES};
use thiserror::Error;
use tokio::time::timeout;

use super::command::MARK;
use super::containers::{ContainerError, DockerContainers, complaint};
use super::engine::{Collected, ExecRun, WhenFull};

const READ: &str = concat!(include_str!("../inside/outside.sh"), include_str!("../inside/read.sh"));
const WRITE: &str = concat!(
    include_str!("../inside/outside.sh"),
    include_str!("../inside/workspace.sh"),
    include_str!("../inside/write.sh")
);
const LIST: &str = concat!(
    include_str!("../inside/outside.sh"),
    include_str!("../inside/workspace.sh"),
    include_str!("../inside/list.sh")
);
const STAT: &str = concat!(
    include_str!("../inside/outside.sh"),
    include_str!("../inside/workspace.sh"),
    include_str!("../inside/stat.sh")
);

/// Time for one of them.
const WITHIN_MS: u64 = 20_000;
/// Most that is kept of a script's complaint.
const STDERR_MAX_BYTES: usize = 4096;
/// Most that a list prints: long names, and a line of numbers each.
const LIST_MAX_BYTES: usize = CONTAINER_LIST_MAX * 320;

/// Why a file could not be had.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum FileError {
    /// Not a relative path without `..`.
    #[error(
        "the path must be relative to the workspace, without `..` and control characters, and at most 1024 bytes long"
    )]
    BadPath,
    /// There is none.
    #[error("there is no `{0}`")]
    NotFound(String),
    /// It is there and no regular file.
    #[error("`{0}` is not a regular file")]
    NotAFile(String),
    /// It is there and no folder.
    #[error("`{0}` is not a folder")]
    NotAFolder(String),
    /// A link leads out of the workspace, or the file that would be written is a link.
    #[error("`{0}` leads out of the workspace by a link, or is one")]
    Outside(String),
    /// Above the bound.
    #[error("`{0}` has more than {CONTAINER_FILE_MAX_BYTES} bytes")]
    TooLarge(String),
    /// The container has no such folder.
    #[error("the container has no workspace at `{0}`")]
    NoWorkspace(String),
    /// It was written, and at once something else in the container has put something else in its place.
    #[error("`{0}` was written, and is no regular file any more")]
    Replaced(String),
    /// The script failed: what it complained about.
    #[error("the container could not do it: {0}")]
    Failed(String),
    /// The container.
    #[error(transparent)]
    Container(#[from] ContainerError),
}

/// Whose workspace, and how one operation in it is known.
#[derive(Debug, Clone)]
pub struct Workspace<'a> {
    /// Session.
    pub session: &'a ContainerSessionId,
    /// Its folder in the container.
    pub root: &'a str,
    /// Different for each operation: it marks its processes.
    pub mark: &'a str,
}

/// What an entry is; a link is one whatever it leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryKind {
    /// A regular file.
    File,
    /// A folder.
    Folder,
    /// A symbolic link.
    Link,
    /// A device, pipe or socket.
    Other,
}

/// An entry of a workspace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its name alone; bytes that are no text are replaced.
    pub name: String,
    /// What it is.
    pub kind: EntryKind,
    /// Size in bytes.
    pub size: u64,
    /// Permissions, the lowest twelve bits.
    pub mode: u32,
    /// Last change, in seconds since 1970.
    pub modified_at: i64,
}

/// A folder's entries by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listing {
    /// At most [`CONTAINER_LIST_MAX`].
    pub entries: Vec<Entry>,
    /// Whether there are more.
    pub truncated: bool,
}

impl DockerContainers {
    /// A regular file's bytes.
    pub async fn read_file(&self, within: &Workspace<'_>, path: &str) -> Result<Vec<u8>, FileError> {
        let path = checked(path)?;
        let most = (CONTAINER_FILE_MAX_BYTES + 1).to_string();
        let bytes = self.script(within, READ, &[&path, &most], None, CONTAINER_FILE_MAX_BYTES + 1).await?;
        if bytes.len() > CONTAINER_FILE_MAX_BYTES { Err(FileError::TooLarge(path)) } else { Ok(bytes) }
    }

    /// Writes a regular file whole, or leaves it as it was. Folders on the way are made. What lies there afterwards is
    /// looked at.
    pub async fn write_file(&self, within: &Workspace<'_>, path: &str, bytes: &[u8]) -> Result<Entry, FileError> {
        let path = checked(path)?;
        if path == "." {
            return Err(FileError::NotAFile(path));
        }
        if bytes.len() > CONTAINER_FILE_MAX_BYTES {
            return Err(FileError::TooLarge(path));
        }
        let count = bytes.len().to_string();
        self.script(within, WRITE, &[&path, &count], Some(bytes), STDERR_MAX_BYTES).await?;
        match self.stat_file(within, &path).await {
            Ok(entry) => match entry.kind {
                EntryKind::File => Ok(entry),
                EntryKind::Link => Err(FileError::Outside(path)),
                EntryKind::Folder | EntryKind::Other => Err(FileError::Replaced(path)),
            },
            Err(FileError::NotFound(_)) => Err(FileError::Replaced(path)),
            Err(error) => Err(error),
        }
    }

    /// A folder's entries.
    pub async fn list_files(&self, within: &Workspace<'_>, path: &str) -> Result<Listing, FileError> {
        let path = checked(path)?;
        let most = (CONTAINER_LIST_MAX + 1).to_string();
        let printed = self.script(within, LIST, &[&path, &most], None, LIST_MAX_BYTES).await?;
        let mut entries = entries(&printed)?;
        let truncated = entries.len() > CONTAINER_LIST_MAX;
        entries.truncate(CONTAINER_LIST_MAX);
        Ok(Listing { entries, truncated })
    }

    /// One entry.
    pub async fn stat_file(&self, within: &Workspace<'_>, path: &str) -> Result<Entry, FileError> {
        let path = checked(path)?;
        let printed = self.script(within, STAT, &[&path], None, LIST_MAX_BYTES).await?;
        entries(&printed)?.pop().ok_or(FileError::NotFound(path))
    }

    async fn script(
        &self,
        within: &Workspace<'_>,
        script: &str,
        args: &[&str],
        input: Option<&[u8]>,
        output_max: usize,
    ) -> Result<Vec<u8>, FileError> {
        let name = within.session.container_name();
        let mark = format!("{MARK}={}", within.mark);
        let words = ["sh", "-c", script, "runwarden", within.root].into_iter().chain(args.iter().copied()).collect();
        let run = ExecRun { argv: words, env: vec![&mark], dir: None, input };
        let mut kept = Collected::new(output_max, STDERR_MAX_BYTES, WhenFull::Stop);
        let ended = match timeout(Duration::from_millis(WITHIN_MS), self.engine.run(&name, &run, &mut kept)).await {
            Ok(Ok(ended)) => ended,
            Ok(Err(error)) => return Err(self.explain(&name, error).await.into()),
            Err(_) => {
                self.kill(&name, &mark).await;
                return Err(ContainerError::Timeout(WITHIN_MS).into());
            }
        };
        let path = args.first().map_or_else(String::new, |path| (*path).to_owned());
        match ended {
            Some(0) => Ok(kept.stdout),
            Some(71) => Err(FileError::NoWorkspace(within.root.to_owned())),
            Some(72) => Err(FileError::NotFound(path)),
            Some(73) => Err(FileError::NotAFile(path)),
            Some(75) => Err(FileError::Outside(path)),
            Some(76) => Err(FileError::NotAFolder(path)),
            Some(code) => {
                let said = String::from_utf8_lossy(&kept.stderr);
                Err(FileError::Failed(format!("exit code {code}: {}", complaint(&said))))
            }
            None => {
                self.kill(&name, &mark).await;
                Err(FileError::Failed("it printed more than it may".to_owned()))
            }
        }
    }
}

/// The path without `.` and empty segments; `.` is the workspace itself.
fn checked(path: &str) -> Result<String, FileError> {
    let wrong = path.starts_with('/') || path.len() > CONTAINER_PATH_MAX_BYTES || path.chars().any(char::is_control);
    let segments: Vec<&str> = path.split('/').filter(|segment| !matches!(*segment, "" | ".")).collect();
    if wrong || segments.contains(&"..") {
        return Err(FileError::BadPath);
    }
    Ok(if segments.is_empty() { ".".to_owned() } else { segments.join("/") })
}

/// `mode size seconds NUL name NUL`, as the scripts print it.
fn entries(printed: &[u8]) -> Result<Vec<Entry>, FileError> {
    let strange = || FileError::Failed("its `stat` does not print what it should".to_owned());
    let mut parts = printed.split(|byte| *byte == 0);
    let mut entries = Vec::new();
    while let (Some(numbers), Some(name)) = (parts.next(), parts.next()) {
        let numbers = std::str::from_utf8(numbers).map_err(|_| strange())?;
        let mut numbers = numbers.split_ascii_whitespace();
        let mode = numbers.next().and_then(|mode| u32::from_str_radix(mode, 16).ok()).ok_or_else(strange)?;
        entries.push(Entry {
            name: String::from_utf8_lossy(name).into_owned(),
            kind: match mode & 0xf000 {
                0x8000 => EntryKind::File,
                0x4000 => EntryKind::Folder,
                0xa000 => EntryKind::Link,
                _ => EntryKind::Other,
            },
            size: numbers.next().and_then(|size| size.parse().ok()).ok_or_else(strange)?,
            mode: mode & 0xfff,
            modified_at: numbers.next().and_then(|time| time.parse().ok()).ok_or_else(strange)?,
        });
    }
    Ok(entries)
}

#[cfg(test)]
#[path = "workspace_script_tests.rs"]
mod script_tests;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_leads_down_only() {
        for (path, is) in
            [("a/b", "a/b"), ("./a//b/", "a/b"), ("", "."), (".", "."), ("..a/b..", "..a/b.."), ("é", "é")]
        {
            assert_eq!(checked(path).as_deref(), Ok(is), "{path}");
        }
        for path in ["/a", "..", "a/../b", "a/..", "a\nb", "a\0b", &"x".repeat(1025)] {
            assert_eq!(checked(path), Err(FileError::BadPath), "{path:?}");
        }
    }

    #[test]
    fn what_the_scripts_print_is_read() {
        let read = entries(b"81a4 5 1700000000\0a b\x004 x\0").unwrap_err();
        assert!(matches!(read, FileError::Failed(_)));
        let read = entries(b"81a4 5 1700000000\0a\nb\0a1ff 3 1\0link\0").unwrap();
        assert_eq!(
            (read[0].name.as_str(), read[0].kind, read[0].mode, read[0].size),
            ("a\nb", EntryKind::File, 0o644, 5)
        );
        assert_eq!((read[1].kind, read[1].modified_at), (EntryKind::Link, 1));
        assert_eq!(entries(b""), Ok(Vec::new()));
    }
}
