//! How the database fails.

use thiserror::Error;

/// The database failed. Whether the write happened is unknown unless the variant says so.
#[derive(Debug, Clone, Error)]
pub enum StoreError {
    /// Out of reach, out of space, or too slow; nothing is known about the write.
    #[error("the database is out of reach: {0}")]
    Unavailable(String),
    /// The database refused: a constraint or a type. Nothing was written.
    #[error("the database refused: {0}")]
    Rejected(String),
    /// A row does not hold what the contract says.
    #[error("a row does not hold what it should: {0}")]
    Corrupt(String),
}
