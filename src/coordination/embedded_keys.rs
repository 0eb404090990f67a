//! Single-use marks and preview keys of one server.

use async_trait::async_trait;
use runwarden_actors::contract::KeyNamespace;
use runwarden_actors::ports::{CoordinationError, KeyRing, PreviewKey, PreviewKeys, SingleUse};

use super::bounds::{check_key, check_marks, check_span, is_kid};
use super::embedded::EmbeddedCoordination;

#[async_trait]
impl SingleUse for EmbeddedCoordination {
    async fn use_once(&self, marks: &[String], ttl_ms: u64) -> Result<bool, CoordinationError> {
        check_marks(marks)?;
        let ttl = check_span("a mark", ttl_ms)?;
        self.durable.use_once(marks, ttl, self.time()).await
    }
}

#[async_trait]
impl PreviewKeys for EmbeddedCoordination {
    async fn key_ring(&self, namespace: KeyNamespace, candidate: &PreviewKey) -> Result<KeyRing, CoordinationError> {
        check_key(candidate)?;
        self.durable.ring(namespace, candidate, self.time()).await
    }

    async fn rotate_key(
        &self,
        namespace: KeyNamespace,
        fresh: &PreviewKey,
        grace_ms: u64,
    ) -> Result<KeyRing, CoordinationError> {
        check_key(fresh)?;
        let grace = check_span("a key's grace", grace_ms)?;
        self.durable.rotate(namespace, fresh, grace, self.time()).await
    }

    async fn revoke_key(
        &self,
        namespace: KeyNamespace,
        kid: &str,
        fresh: &PreviewKey,
    ) -> Result<Option<KeyRing>, CoordinationError> {
        check_key(fresh)?;
        if !is_kid(kid) {
            return Ok(None);
        }
        self.durable.revoke(namespace, kid, fresh, self.time()).await
    }
}
