//! Previews' part of the coordination store.

use async_trait::async_trait;
use runwarden_actors::contract::{KeyNamespace, PreviewSessionId};
use runwarden_actors::ports::{
    AccessCache, Admission, Admitted, CoordinationError, KeyRing, LimitDecision, LimitWindow, PreviewGate, PreviewKey,
    PreviewKeys, RememberedAccess, SingleUse,
};
use uuid::Uuid;

use super::embedded::EmbeddedCoordination;

fn not_built<T>() -> Result<T, CoordinationError> {
    Err(CoordinationError("not built yet".into()))
}

#[async_trait]
impl SingleUse for EmbeddedCoordination {
    async fn use_once(&self, _: &[String], _: u64) -> Result<bool, CoordinationError> {
        not_built()
    }
}

#[async_trait]
impl PreviewKeys for EmbeddedCoordination {
    async fn key_ring(&self, _: KeyNamespace, _: &PreviewKey) -> Result<KeyRing, CoordinationError> {
        not_built()
    }

    async fn rotate_key(&self, _: KeyNamespace, _: &PreviewKey, _: u64) -> Result<KeyRing, CoordinationError> {
        not_built()
    }

    async fn revoke_key(&self, _: KeyNamespace, _: &str, _: &PreviewKey) -> Result<Option<KeyRing>, CoordinationError> {
        not_built()
    }
}

#[async_trait]
impl AccessCache for EmbeddedCoordination {
    async fn remembered_access(&self, _: &str) -> Result<RememberedAccess, CoordinationError> {
        not_built()
    }

    async fn remember_access(&self, _: &str, _: bool, _: u64, _: u64) -> Result<(), CoordinationError> {
        not_built()
    }

    async fn forget_access(&self, _: &str) -> Result<(), CoordinationError> {
        not_built()
    }
}

#[async_trait]
impl PreviewGate for EmbeddedCoordination {
    async fn admit(&self, _: &Admission<'_>) -> Result<Admitted, CoordinationError> {
        not_built()
    }

    async fn extend_slot(&self, _: PreviewSessionId, _: Uuid, _: u64) -> Result<bool, CoordinationError> {
        not_built()
    }

    async fn release_slot(&self, _: PreviewSessionId, _: Uuid) -> Result<(), CoordinationError> {
        not_built()
    }

    async fn count_all(&self, _: &[LimitWindow]) -> Result<LimitDecision, CoordinationError> {
        not_built()
    }

    async fn announce_revocation(&self, _: PreviewSessionId, _: i64, _: u64) -> Result<(), CoordinationError> {
        not_built()
    }

    async fn revocations(&self, _: &[PreviewSessionId]) -> Result<Vec<Option<i64>>, CoordinationError> {
        not_built()
    }
}
