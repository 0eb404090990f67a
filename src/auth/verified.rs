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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_remembered_is_bounded_and_the_expired_go_first() {
        let key = Arc::new(LoadedKey::test());
        let remembered = Verified::<u64>::default();
        let token = |number: u64, good_until: i64| VerifiedToken {
            key: Arc::clone(&key),
            good_from: Timestamp::default(),
            good_until: Timestamp::from_millis(good_until),
            claims: Arc::new(number),
        };
        let insert = |number: u64, good_until, now| {
            let hash = Verified::<u64>::hash(&number.to_string());
            remembered.insert(hash, token(number, good_until), Timestamp::from_millis(now));
        };
        for number in 0..REMEMBERED_MAX as u64 {
            insert(number, if number < 10 { 1000 } else { 100 }, 0);
        }
        assert_eq!(remembered.len(), REMEMBERED_MAX);
        insert(REMEMBERED_MAX as u64, 1000, 500);
        assert_eq!(remembered.len(), 11);
        assert_eq!(remembered.get(&Verified::<u64>::hash("3")).map(|token| *token.claims), Some(3));
        for number in 0..REMEMBERED_MAX as u64 {
            insert(number, 10_000, 500);
        }
        // Nothing has expired: all go rather than none.
        insert(u64::MAX, 10_000, 500);
        assert!(remembered.len() < REMEMBERED_MAX);
    }
}
