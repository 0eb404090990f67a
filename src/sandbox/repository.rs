//! Finds a repository on this host without asking it, and borrows its objects without believing its configuration.

use std::fs;
use std::io::{ErrorKind, Read as _};
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};

use runwarden_actors::ports::SandboxError;
use tempfile::TempDir;

/// Longest `.git` or `commondir` file that is read.
const POINTER_MAX_BYTES: u64 = 4096;
/// Largest `info/exclude` that is read.
const EXCLUDE_MAX_BYTES: u64 = 1024 * 1024;
/// Largest index that is copied: about a million files.
const INDEX_MAX_BYTES: u64 = 256 * 1024 * 1024;

/// Where a repository lies; all canonical and inside the root.
#[derive(Debug)]
pub(super) struct Repository {
    pub(super) work_tree: PathBuf,
    pub(super) git_dir: PathBuf,
    common_dir: PathBuf,
    objects: PathBuf,
}

impl Repository {
    /// The repository whose working tree is `repo_dir`. Everything that belongs to it must lie inside `root`, also
    /// where a `.git` file or a link leads elsewhere.
    pub(super) fn open(root: &Path, repo_dir: &str) -> Result<Self, SandboxError> {
        let given = Path::new(repo_dir);
        if !given.is_absolute() {
            return Err(refused("repoDir must be an absolute path"));
        }
        let work_tree = inside(root, given, "repoDir")?;
        let dot_git = work_tree.join(".git");
        let git_dir = match fs::symlink_metadata(&dot_git) {
            Ok(found) if found.is_file() => {
                let text = read_pointer(&dot_git)?;
                let target = text.strip_prefix("gitdir: ").ok_or_else(|| refused("`.git` names no folder"))?;
                inside(root, &work_tree.join(target), "the repository's `.git` folder")?
            }
            Ok(_) => inside(root, &dot_git, "the repository's `.git` folder")?,
            Err(_) => return Err(refused("repoDir is not the top of a Git working tree")),
        };
        let pointer = git_dir.join("commondir");
        let common_dir = if pointer.is_file() {
            inside(root, &git_dir.join(read_pointer(&pointer)?), "the repository's common folder")?
        } else {
            git_dir.clone()
        };
        let objects = inside(root, &common_dir.join("objects"), "the repository's objects")?;
        Ok(Self { work_tree, git_dir, common_dir, objects })
    }

    /// A Git folder of our own over the same objects, with a copy of the index. `git diff` runs what a repository's
    /// configuration names (filters, hooks, a file-system monitor) and rewrites the index; with this folder it
    /// finds none of them and rewrites the copy. `settings` are lines of its configuration.
    pub(super) fn borrow(&self, sha256: bool, settings: &[(String, String)]) -> Result<Borrowed, SandboxError> {
        let folder = tempfile::Builder::new().prefix("runwarden-git-").tempdir().map_err(|error| broken(&error))?;
        let path = folder.path();
        let mut config = vec!["[core]".to_owned(), "bare = false".to_owned()];
        config.extend(settings.iter().map(|(name, value)| format!("{name} = {value}")));
        config.push(format!("repositoryformatversion = {}", u8::from(sha256)));
        if sha256 {
            config.push("[extensions]\nobjectFormat = sha256".to_owned());
        }
        let written = (|| {
            fs::create_dir(path.join("refs"))?;
            fs::create_dir(path.join("info"))?;
            fs::write(path.join("HEAD"), "ref: refs/heads/none\n")?;
            fs::write(path.join("config"), config.join("\n"))
        })();
        written.map_err(|error| broken(&error))?;
        copy(&self.common_dir.join("info/exclude"), &path.join("info/exclude"), EXCLUDE_MAX_BYTES)?;
        copy(&self.git_dir.join("index"), &path.join("index"), INDEX_MAX_BYTES)?;
        // A split index keeps its larger part in a second file beside it.
        for entry in fs::read_dir(&self.git_dir).map_err(|error| broken(&error))?.flatten() {
            let name = entry.file_name();
            if name.to_string_lossy().starts_with("sharedindex.") {
                copy(&entry.path(), &path.join(name), INDEX_MAX_BYTES)?;
            }
        }
        Ok(Borrowed { folder, objects: self.objects.clone() })
    }

    /// A file of the working tree by its relative path; `None` where there is none. What was opened is looked at,
    /// not its name: a link that is changed meanwhile leads nowhere else.
    pub(super) fn read_file(&self, path: &str, max_bytes: usize) -> Result<Option<Vec<u8>>, SandboxError> {
        if path.is_empty() || Path::new(path).is_absolute() {
            return Err(refused("a file of the repository is named by its relative path"));
        }
        let canonical = match self.work_tree.join(path).canonicalize() {
            Ok(canonical) => canonical,
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(None),
            Err(error) => return Err(broken(&error)),
        };
        let outside = || refused(&format!("`{path}` lies outside of the repository"));
        if !canonical.starts_with(&self.work_tree) {
            return Err(outside());
        }
        if !canonical.is_file() {
            return Err(refused(&format!("`{path}` is not a regular file")));
        }
        let file = fs::File::open(&canonical).map_err(|error| broken(&error))?;
        match fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())) {
            Ok(opened) if !opened.starts_with(&self.work_tree) => return Err(outside()),
            // Elsewhere than on Linux the name is all there is.
            Ok(_) | Err(_) => {}
        }
        let mut bytes = Vec::new();
        file.take(max_bytes as u64 + 1).read_to_end(&mut bytes).map_err(|error| broken(&error))?;
        if bytes.len() > max_bytes {
            return Err(refused(&format!("`{path}` has more than {max_bytes} bytes")));
        }
        Ok(Some(bytes))
    }
}

/// A Git folder of our own; removed when dropped.
#[derive(Debug)]
pub(super) struct Borrowed {
    folder: TempDir,
    pub(super) objects: PathBuf,
}

impl Borrowed {
    pub(super) fn git_dir(&self) -> &Path {
        self.folder.path()
    }
}

fn inside(root: &Path, path: &Path, what: &str) -> Result<PathBuf, SandboxError> {
    let canonical = path
        .canonicalize()
        .map_err(|error| SandboxError::NotRunning(format!("{what} cannot be opened: {}", error.kind())))?;
    if !canonical.starts_with(root) {
        return Err(refused(&format!("{what} lies outside PROCESS_SANDBOX_ROOT")));
    }
    if !canonical.is_dir() {
        return Err(refused(&format!("{what} is not a folder")));
    }
    Ok(canonical)
}

fn read_pointer(path: &Path) -> Result<String, SandboxError> {
    let mut text = String::new();
    fs::File::open(path)
        .and_then(|file| file.take(POINTER_MAX_BYTES).read_to_string(&mut text))
        .map_err(|error| broken(&error))?;
    text.truncate(text.trim_end_matches(['\n', '\r']).len());
    Ok(text)
}

/// Copies a regular file where there is one; a link, pipe or device in its place is no part of a repository.
fn copy(from: &Path, to: &Path, most: u64) -> Result<(), SandboxError> {
    let found = match fs::symlink_metadata(from) {
        Ok(found) => found,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(broken(&error)),
    };
    if !found.is_file() {
        return Err(refused("a file of the repository is not a regular file"));
    }
    if found.len() > most {
        return Err(refused(&format!("a file of the repository has more than {most} bytes")));
    }
    let copied = (|| {
        let mut source = fs::File::open(from)?.take(most);
        std::io::copy(&mut source, &mut fs::File::create(to)?)
    })();
    copied.map(|_| ()).map_err(|error| broken(&error))
}

fn refused(why: &str) -> SandboxError {
    SandboxError::CommandFailed(why.to_owned())
}

fn broken(error: &std::io::Error) -> SandboxError {
    SandboxError::CommandFailed(format!("the repository could not be read: {error}"))
}
