//! The spool itself: open, append, acknowledge, set aside, compact. Everything here blocks.

use std::collections::VecDeque;
use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use runwarden_actors::contract::{EventId, RunId, ThreadChatId, ThreadId};
use serde::{Deserialize, Serialize};

use super::error::SpoolError;
use super::record::{Kind, encode};
use super::recover::{recover, write_entry};

/// Whose envelopes a spool holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Identity {
    /// The thread.
    pub thread_id: ThreadId,
    /// The chat.
    pub thread_chat_id: ThreadChatId,
    /// The run.
    pub run_id: RunId,
}

/// The agent that a daemon has started for this run. It is never started twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AgentMark {
    /// Its process id, which is its process group too; null while it was being started.
    pub pid: Option<i32>,
    /// When the kernel started it, in clock ticks since boot, so that a process id used again is not taken for it.
    pub started_ticks: Option<u64>,
}

/// The first record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Header {
    pub(super) version: u32,
    #[serde(flatten)]
    pub(super) identity: Identity,
    /// The `seq` of the first envelope that follows, where none does: of the next one.
    pub(super) next_seq: i64,
    /// Set once an agent is being started.
    pub(super) agent: Option<AgentMark>,
    /// Set once the terminal envelope is dealt with: the agent's exit code.
    pub(super) closed: Option<i32>,
}

impl Header {
    pub(super) const VERSION: u32 = 1;
}

/// One envelope.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its `seq`.
    pub seq: i64,
    /// Its `eventId`.
    pub event_id: EventId,
    /// Where it is the terminal one: the agent's exit code.
    pub exit_code: Option<i32>,
    /// The exact bytes to send.
    pub body: Bytes,
}

/// What was found at opening.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Opened {
    /// Bytes of a torn tail that were cut and kept in `<spool>.torn`.
    pub torn_bytes: usize,
}

/// A spool file, locked for as long as this lives.
#[derive(Debug)]
pub struct Spool {
    path: PathBuf,
    lock: File,
    file: File,
    /// Bytes of whole records; a failed write may have left more.
    good_bytes: u64,
    /// Whether bytes may follow the whole records.
    dirty: bool,
    header: Header,
    live: VecDeque<Entry>,
    live_bytes: u64,
    next_seq: i64,
    compact_above: u64,
}

/// Acknowledged bytes that stay in the file before it is written anew.
const COMPACT_ABOVE_BYTES: u64 = 256 * 1024;

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

fn failed(path: &Path, action: &'static str) -> impl FnOnce(io::Error) -> SpoolError {
    let path = path.to_owned();
    move |source| SpoolError::Io { path, action, source }
}

fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.mode(0o600);
    options
}

impl Spool {
    /// Opens or creates the spool of one run and locks it. A torn tail is cut and kept aside.
    pub fn open(path: &Path, identity: &Identity) -> Result<(Self, Opened), SpoolError> {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(failed(folder, "created"))?;
        let lock = lock(path)?;

        let bytes = match std::fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(failed(path, "read")(error)),
        };
        if bytes.is_empty() {
            return Self::create(path, lock, identity.clone());
        }
        let found = recover(&bytes).map_err(|problem| SpoolError::NotASpool { path: path.to_owned(), problem })?;
        if found.header.identity != *identity {
            let other = &found.header.identity;
            let found = format!("run {} of chat {} in thread {}", other.run_id, other.thread_chat_id, other.thread_id);
            return Err(SpoolError::OtherRun { path: path.to_owned(), found });
        }
        let torn = bytes.get(found.good_bytes..).unwrap_or_default();
        if !torn.is_empty() {
            let aside = beside(path, ".torn");
            append_durably(&aside, torn).map_err(failed(&aside, "written"))?;
        }
        let file = private().read(true).write(true).open(path).map_err(failed(path, "opened"))?;
        let mut spool = Self {
            path: path.to_owned(),
            lock,
            file,
            good_bytes: found.good_bytes as u64,
            dirty: !torn.is_empty(),
            header: found.header,
            live_bytes: found.live.iter().map(|entry| entry.body.len() as u64).sum(),
            live: found.live,
            next_seq: found.next_seq,
            compact_above: COMPACT_ABOVE_BYTES,
        };
        spool.cut()?;
        Ok((spool, Opened { torn_bytes: torn.len() }))
    }

    fn create(path: &Path, lock: File, identity: Identity) -> Result<(Self, Opened), SpoolError> {
        let header = Header { version: Header::VERSION, identity, next_seq: 0, agent: None, closed: None };
        // A header-only file is written aside and renamed like every later one, so that no torn header exists.
        let file = private()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(failed(path, "created"))?;
        let mut spool = Self {
            path: path.to_owned(),
            lock,
            file,
            good_bytes: 0,
            dirty: false,
            header,
            live: VecDeque::new(),
            live_bytes: 0,
            next_seq: 0,
            compact_above: COMPACT_ABOVE_BYTES,
        };
        spool.rewrite()?;
        Ok((spool, Opened { torn_bytes: 0 }))
    }

    /// Where the file is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What is not acknowledged, oldest first.
    pub fn live(&self) -> impl ExactSizeIterator<Item = &Entry> {
        self.live.iter()
    }

    /// Bytes of envelopes that are not acknowledged.
    pub const fn live_bytes(&self) -> u64 {
        self.live_bytes
    }

    /// Bytes of the file.
    pub const fn file_bytes(&self) -> u64 {
        self.good_bytes
    }

    /// The `seq` of the next envelope.
    pub const fn next_seq(&self) -> i64 {
        self.next_seq
    }

    /// The agent that was started for this run.
    pub const fn agent(&self) -> Option<AgentMark> {
        self.header.agent
    }

    /// The agent's exit code, where the run is closed and everything was dealt with.
    pub const fn closed(&self) -> Option<i32> {
        self.header.closed
    }

    /// Sets the first `seq`; to be called before an agent is started, and with that before the first append.
    pub fn start_at(&mut self, seq: i64) -> Result<(), SpoolError> {
        self.next_seq = seq;
        self.rewrite()
    }

    /// Remembers the agent, durably.
    pub fn mark_agent(&mut self, mark: AgentMark) -> Result<(), SpoolError> {
        self.header.agent = Some(mark);
        self.rewrite()
    }

    /// Adds an envelope; durable when this returns. After an error the spool is as before and it may be tried again.
    pub fn append(&mut self, entry: Entry) -> Result<(), SpoolError> {
        if entry.seq != self.next_seq {
            return Err(SpoolError::OutOfOrder { given: entry.seq, expected: self.next_seq });
        }
        let mut record = Vec::with_capacity(entry.body.len() + 512);
        write_entry(&entry)
            .and_then(|payload| encode(Kind::Envelope, &payload, &mut record))
            .ok_or_else(|| too_large(&self.path))?;
        self.write_record(&record)?;
        if let Err(error) = self.file.sync_data() {
            self.good_bytes -= record.len() as u64;
            self.dirty = true;
            return Err(failed(&self.path, "made durable")(error));
        }
        self.next_seq += 1;
        self.live_bytes += entry.body.len() as u64;
        self.live.push_back(entry);
        Ok(())
    }

    /// Remembers that everything up to `up_to` is dealt with. Not made durable at once: where it is forgotten, the
    /// server answers `duplicate_event`. Only the end of the run is durable when this returns.
    pub fn acknowledge(&mut self, up_to: i64) -> Result<(), SpoolError> {
        let before = self.live.len();
        while let Some(entry) = self.live.pop_front_if(|entry| entry.seq <= up_to) {
            self.live_bytes -= entry.body.len() as u64;
            self.header.closed = self.header.closed.or(entry.exit_code);
        }
        if self.live.len() == before {
            return Ok(());
        }
        if self.header.closed.is_some() {
            return self.rewrite();
        }
        let mut record = Vec::new();
        encode(Kind::Acknowledged, &up_to.to_le_bytes(), &mut record).ok_or_else(|| too_large(&self.path))?;
        self.write_record(&record)?;
        let garbage = self.good_bytes.saturating_sub(self.live_bytes);
        if garbage > self.compact_above.max(self.live_bytes / 2) { self.rewrite() } else { Ok(()) }
    }

    /// Moves the oldest envelope to `<spool>.rejected`, one JSON line each, with what the server said of it.
    pub fn set_aside(&mut self, seq: i64, status: u16, code: &str) -> Result<(), SpoolError> {
        let Some(entry) = self.live.front().filter(|entry| entry.seq == seq) else { return Ok(()) };
        let mut line = serde_json::json!({ "status": status, "code": code }).to_string().into_bytes();
        line.pop();
        line.extend_from_slice(b",\"envelope\":");
        line.extend_from_slice(&entry.body);
        line.extend_from_slice(b"}\n");
        let aside = beside(&self.path, ".rejected");
        append_durably(&aside, &line).map_err(failed(&aside, "written"))?;
        self.acknowledge(seq)
    }

    fn write_record(&mut self, record: &[u8]) -> Result<(), SpoolError> {
        self.cut()?;
        if let Err(error) = self.file.write_all_at(record, self.good_bytes) {
            self.dirty = true;
            return Err(failed(&self.path, "written")(error));
        }
        self.good_bytes += record.len() as u64;
        Ok(())
    }

    /// Takes away what a failed write or a killed daemon left behind the last whole record.
    fn cut(&mut self) -> Result<(), SpoolError> {
        if self.dirty {
            self.file.set_len(self.good_bytes).map_err(failed(&self.path, "cut"))?;
            self.dirty = false;
        }
        Ok(())
    }

    /// Writes header and live envelopes to a new file and puts it in the old one's place.
    fn rewrite(&mut self) -> Result<(), SpoolError> {
        self.header.next_seq = self.live.front().map_or(self.next_seq, |entry| entry.seq);
        let header = serde_json::to_vec(&self.header).map_err(|error| failed(&self.path, "written")(error.into()))?;
        let mut bytes = Vec::with_capacity(usize::try_from(self.live_bytes).unwrap_or_default() + 1024);
        encode(Kind::Header, &header, &mut bytes).ok_or_else(|| too_large(&self.path))?;
        for entry in &self.live {
            write_entry(entry)
                .and_then(|payload| encode(Kind::Envelope, &payload, &mut bytes))
                .ok_or_else(|| too_large(&self.path))?;
        }
        let aside = beside(&self.path, ".new");
        let write = || -> io::Result<File> {
            let mut file = private().read(true).write(true).create(true).truncate(true).open(&aside)?;
            file.write_all(&bytes)?;
            file.sync_all()?;
            std::fs::rename(&aside, &self.path)?;
            Ok(file)
        };
        // From the rename on the new file is the spool, whatever becomes of the folder's own entry.
        self.file = write().map_err(failed(&self.path, "written anew"))?;
        self.good_bytes = bytes.len() as u64;
        self.dirty = false;
        sync_folder(&self.path).map_err(failed(&self.path, "made durable"))
    }

    #[cfg(test)]
    pub(super) fn compact_above(&mut self, bytes: u64) {
        self.compact_above = bytes;
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        // Closing it is not enough: a process that is just being started has a copy for a moment.
        let _ = self.lock.unlock();
    }
}

fn too_large(path: &Path) -> SpoolError {
    failed(path, "written")(io::Error::new(io::ErrorKind::InvalidInput, "the envelope is too large for a record"))
}

fn lock(path: &Path) -> Result<File, SpoolError> {
    let lock_path = beside(path, ".lock");
    let lock =
        private().write(true).create(true).truncate(false).open(&lock_path).map_err(failed(&lock_path, "opened"))?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(SpoolError::Locked { path: path.to_owned() }),
        Err(TryLockError::Error(error)) => Err(failed(&lock_path, "locked")(error)),
    }
}

fn append_durably(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = private().append(true).create(true).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    sync_folder(path)
}

fn sync_folder(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder)?.sync_all()
}
