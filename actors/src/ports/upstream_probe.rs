//! A look at an upstream that is coming up.

use async_trait::async_trait;

use super::store::PreviewUpstream;

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProbeAnswer {
    /// It answered with this status.
    Status(u16),
    /// Nothing listens, or it hung up.
    Unreachable,
}

/// Asks an upstream for its health path, over the pinned address.
#[async_trait]
pub trait UpstreamProbe: Send + Sync {
    /// One `GET`; redirects are not followed, at most 5 s.
    async fn probe(&self, upstream: &PreviewUpstream, path: &str) -> ProbeAnswer;
}
