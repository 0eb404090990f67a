//! Where large payloads and, later, validation artifacts are kept.

use async_trait::async_trait;
use bytes::Bytes;
use thiserror::Error;

/// The object store failed.
#[derive(Debug, Error)]
pub enum EvidenceError {
    /// Out of reach, or out of space.
    #[error("the object store is out of reach: {0}")]
    Unavailable(String),
    /// The key cannot be an object key.
    #[error("`{0}` is not an object key")]
    InvalidKey(String),
}

/// A private bucket of immutable objects.
#[async_trait]
pub trait EvidenceStore: Send + Sync {
    /// Writes the object durably; the same key with the same bytes again is no error.
    async fn put(&self, key: &str, bytes: Bytes) -> Result<(), EvidenceError>;

    /// Reads the object; `None` where there is none.
    async fn get(&self, key: &str) -> Result<Option<Bytes>, EvidenceError>;

    /// Removes the object; one that is not there is no error.
    async fn delete(&self, key: &str) -> Result<(), EvidenceError>;

    /// Whether the store answers.
    async fn ping(&self) -> Result<(), EvidenceError>;
}
