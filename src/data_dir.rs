//! `DATA_DIR`: made where it is not there, and held by one server at a time.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;

use crate::config::Config;
use crate::lifecycle::StartError;

/// Locked for as long as a server works on the folder. Nothing is written to it.
const LOCK_FILE: &str = "server.lock";

/// The folder's lock. It ends with the process, however that ends.
#[derive(Debug)]
pub struct DataDirLock {
    _file: File,
}

impl DataDirLock {
    /// Takes it, where something in the folder is one server's alone: the embedded database, or the embedded
    /// coordination store, of which each server would have another half in memory. Nothing else that is run beside a
    /// server takes it.
    ///
    /// # Errors
    /// The folder cannot be used, or another server holds it.
    pub fn take(config: &Config) -> Result<Option<Self>, StartError> {
        if !config.is_embedded() {
            return Ok(None);
        }
        let folder = &config.data_dir;
        make_folder(folder)?;
        // Without `O_CLOEXEC`, which is always set here, a sandbox's process would hold it after us.
        let opened = OpenOptions::new().create(true).append(true).mode(0o600).open(folder.join(LOCK_FILE));
        let file = opened.map_err(|error| unusable(folder, &error))?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Self { _file: file })),
            Err(TryLockError::WouldBlock) => Err(StartError::Setting(format!(
                "DATA_DIR is `{}`, in which another server works; stop that one, or name another folder. Several \
                 servers need DATABASE_URL and REDIS_URL",
                folder.display()
            ))),
            Err(TryLockError::Error(error)) => Err(unusable(folder, &error)),
        }
    }
}

/// Makes the folder for its owner alone, with those above it.
pub fn make_folder(folder: &Path) -> Result<(), StartError> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(|error| unusable(folder, &error))
}

fn unusable(folder: &Path, error: &std::io::Error) -> StartError {
    StartError::Setting(format!(
        "DATA_DIR is `{}`; it must be a folder that this user may make and write to: {error}",
        folder.display()
    ))
}
