//! How proxied requests end when the server goes down: streams at once, because nobody knows when they would end by
//! themselves. What else is under way is let finish; shortly before the server would cut it, its sessions are closed.

use tokio_util::sync::CancellationToken;

/// Shared by the server, which is told, and the streams that are proxied. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Stopping(CancellationToken);

impl Stopping {
    /// Ends streams: WebSockets with a close frame, event streams as broken ones, so that a page comes back.
    pub fn end_streams(&self) {
        self.0.cancel();
    }

    /// Whether the server is going down.
    pub(super) fn has_begun(&self) -> bool {
        self.0.is_cancelled()
    }

    /// Waits until streams are to end.
    pub(super) async fn begun(&self) {
        self.0.cancelled().await;
    }
}
