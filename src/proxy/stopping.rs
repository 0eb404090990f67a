//! How proxied requests end when the server goes down: streams at once, because nobody knows when they would end by
//! themselves; everything else is let finish until shortly before the server would cut it.

use tokio_util::sync::CancellationToken;

/// Shared by the server, which is told, and everything that is proxied. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Stopping {
    streams: CancellationToken,
    rest: CancellationToken,
}

impl Stopping {
    /// Ends streams: WebSockets with a close frame, event streams as broken ones, so that a page comes back.
    pub fn end_streams(&self) {
        self.streams.cancel();
    }

    /// Ends all that is left, before the server cuts its connections.
    pub fn end_rest(&self) {
        self.streams.cancel();
        self.rest.cancel();
    }

    /// Fires when streams are to end.
    pub(super) const fn streams(&self) -> &CancellationToken {
        &self.streams
    }

    /// Fires when everything is to end.
    pub(super) const fn rest(&self) -> &CancellationToken {
        &self.rest
    }
}
