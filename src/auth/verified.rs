//! Tokens whose signature was checked already, so that the next request does not pay for it again.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use runwarden_actors::contract::Timestamp;
use sha2::{Digest, Sha256};

use super::keys::LoadedKey;

/// Tokens of one kind that are remembered.
const REMEMBERED_MAX: usize = 16 * 1024;

/// A token that was found good. Whether its key and its life still are is to be checked each time.
pub(super) struct VerifiedToken<T> {
    pub(super) key: Arc<LoadedKey>,
    pub(super) good_from: Timestamp,
    pub(super) good_until: Timestamp,
    pub(super) claims: Arc<T>,
}

/// Remembered tokens of one kind, by their SHA-256.
pub(super) struct Verified<T>(RwLock<HashMap<[u8; 32], Arc<VerifiedToken<T>>>>);

impl<T> Default for Verified<T> {
    fn default() -> Self {
        Self(RwLock::default())
    }
}

impl<T> Verified<T> {
    pub(super) fn hash(token: &str) -> [u8; 32] {
        Sha256::digest(token).into()
    }

    pub(super) fn get(&self, hash: &[u8; 32]) -> Option<Arc<VerifiedToken<T>>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(hash).cloned()
    }

    pub(super) fn insert(&self, hash: [u8; 32], token: VerifiedToken<T>, now: Timestamp) {
        let mut tokens = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if tokens.len() >= REMEMBERED_MAX {
            tokens.retain(|_, token| token.good_until > now);
        }
        if tokens.len() >= REMEMBERED_MAX {
            tokens.clear();
        }
        tokens.insert(hash, Arc::new(token));
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.0.read().unwrap_or_else(PoisonError::into_inner).len()
    }
}
