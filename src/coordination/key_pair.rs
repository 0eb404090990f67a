//! What happens to a namespace's keys, without a place to keep them.

use runwarden_actors::contract::Timestamp;
use runwarden_actors::ports::{CoordinationError, KeyRing, PreviewKey};

/// The keys of a namespace, possibly none yet.
#[derive(Default)]
pub(super) struct KeyPair {
    pub(super) active: Option<PreviewKey>,
    pub(super) previous: Option<(PreviewKey, Timestamp)>,
}

impl KeyPair {
    /// Forgets a previous key whose time is over; whether there was one.
    pub(super) fn drop_expired(&mut self, now: Timestamp) -> bool {
        self.previous.take_if(|(_, until)| *until <= now).is_some()
    }

    /// Makes `candidate` the active key where there is none; whether it was.
    pub(super) fn ensure(&mut self, candidate: &PreviewKey) -> Result<bool, CoordinationError> {
        if self.active.is_some() {
            return Ok(false);
        }
        self.activate(candidate)?;
        Ok(true)
    }

    /// Makes `fresh` the active key, and the active one the previous until `until`. Again with the same key changes
    /// nothing.
    pub(super) fn rotate(&mut self, fresh: &PreviewKey, until: Timestamp) -> Result<(), CoordinationError> {
        if self.active.as_ref().is_some_and(|active| active.kid == fresh.kid) {
            return Ok(());
        }
        let was = self.active.clone();
        self.activate(fresh)?;
        if let Some(was) = was {
            self.previous = Some((was, until));
        }
        Ok(())
    }

    /// Forgets `kid`, with `fresh` in its place where it was the active one; whether there was such a key.
    pub(super) fn revoke(&mut self, kid: &str, fresh: &PreviewKey) -> Result<bool, CoordinationError> {
        if self.active.as_ref().is_some_and(|active| active.kid == kid) {
            self.activate(fresh)?;
            return Ok(true);
        }
        Ok(self.previous.take_if(|(previous, _)| previous.kid == kid).is_some())
    }

    fn activate(&mut self, fresh: &PreviewKey) -> Result<(), CoordinationError> {
        let previous = self.previous.as_ref().map(|(previous, _)| previous);
        if [self.active.as_ref(), previous].into_iter().flatten().any(|key| key.kid == fresh.kid) {
            return Err(CoordinationError("a key of that name is there already".to_owned()));
        }
        self.active = Some(fresh.clone());
        Ok(())
    }

    /// As the port says it.
    pub(super) fn into_ring(self) -> Result<KeyRing, CoordinationError> {
        let active = self.active.ok_or_else(|| CoordinationError("there is no active preview key".to_owned()))?;
        Ok(KeyRing { active, previous: self.previous })
    }
}
