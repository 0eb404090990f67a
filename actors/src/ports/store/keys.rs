//! Keys that servers share.

use crate::contract::Timestamp;

/// A key that signs daemon tokens. Its Debug form shows the id only.
#[derive(Clone, PartialEq, Eq)]
pub struct SigningKey {
    /// Names the key in a token's header.
    pub kid: String,
    /// 32 random bytes.
    pub secret: [u8; 32],
    /// When it was made.
    pub created_at: Timestamp,
}

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SigningKey").field("kid", &self.kid).finish_non_exhaustive()
    }
}
