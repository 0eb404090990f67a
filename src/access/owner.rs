//! Only the user that the run belongs to.

use async_trait::async_trait;
use runwarden_actors::ports::{AccessQuestion, AccessSourceError, RepoAccess};

/// `ACCESS_SOURCE=owner`: whoever started the run may see its previews, and nobody else.
#[derive(Debug, Clone, Copy)]
pub struct OwnerAccess;

#[async_trait]
impl RepoAccess for OwnerAccess {
    async fn may_see(&self, question: AccessQuestion<'_>) -> Result<bool, AccessSourceError> {
        Ok(question.user_id == question.owner)
    }
}
