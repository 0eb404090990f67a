//! What is wrong with a setting: its name, its value (never a secret's), and what would be right.

use std::path::PathBuf;

use thiserror::Error;

/// Why the server does not start.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// A value that cannot be used.
    #[error("{name} is {given}; it must be {expected}")]
    Invalid {
        /// The setting.
        name: &'static str,
        /// Its value as shown: quoted, or `(a secret)`.
        given: String,
        /// What would be right.
        expected: String,
    },
    /// A value that has to be given.
    #[error("{name} is not set; {expected}")]
    Missing {
        /// The setting.
        name: &'static str,
        /// What would be right.
        expected: String,
    },
    /// A word in the file that is no setting.
    #[error("{}: `{key}` is not a setting; see `runwarden serve --help` for the list", file.display())]
    UnknownKey {
        /// The file.
        file: PathBuf,
        /// The word.
        key: String,
    },
    /// The file cannot be read.
    #[error("{}: {message}", file.display())]
    File {
        /// The file.
        file: PathBuf,
        /// Why.
        message: String,
    },
}
