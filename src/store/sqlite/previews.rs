//! Preview sessions.

use async_trait::async_trait;
use runwarden_actors::contract::{OpenMode, PreviewConfig, PreviewSessionId, Timestamp};
use runwarden_actors::ports::StoreError;
use runwarden_actors::ports::store::{
    BeginPreview, ClosedPreview, NewPreviewSession, PinnedAddresses, PreviewMove, PreviewMoved, PreviewSession,
    PreviewStore, RevocationScope,
};

use super::connection::SqliteStore;

fn later<T>() -> Result<T, StoreError> {
    Err(StoreError::Unavailable("not built yet".to_owned()))
}

#[async_trait]
impl PreviewStore for SqliteStore {
    async fn begin_preview(&self, _: &NewPreviewSession) -> Result<BeginPreview, StoreError> {
        later()
    }

    async fn load_preview(&self, _: PreviewSessionId) -> Result<Option<PreviewSession>, StoreError> {
        later()
    }

    async fn set_preview_config(
        &self,
        _: PreviewSessionId,
        _: &PreviewConfig,
        _: OpenMode,
        _: Timestamp,
    ) -> Result<bool, StoreError> {
        later()
    }

    async fn move_preview(
        &self,
        _: PreviewSessionId,
        _: &PreviewMove,
        _: Timestamp,
    ) -> Result<PreviewMoved, StoreError> {
        later()
    }

    async fn refresh_preview_pin(
        &self,
        _: PreviewSessionId,
        _: &PinnedAddresses,
        _: Timestamp,
    ) -> Result<bool, StoreError> {
        later()
    }

    async fn revoke_previews(
        &self,
        _: &RevocationScope,
        _: Timestamp,
        _: u32,
    ) -> Result<Vec<ClosedPreview>, StoreError> {
        later()
    }

    async fn expire_previews(&self, _: Timestamp, _: u32) -> Result<Vec<ClosedPreview>, StoreError> {
        later()
    }
}
