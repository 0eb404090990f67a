//! What several servers agree on beside the database: leases, counters, single-use marks, preview keys, remembered
//! access, and the gate that every proxied request passes. Two adapters carry it out; one suite of tests runs against
//! both. Nothing here fails open: an error is [`CoordinationError`], and callers refuse.

use async_trait::async_trait;
use thiserror::Error;
use uuid::Uuid;

use crate::contract::{KeyNamespace, Limiter, PreviewSessionId, Timestamp};

/// The coordination store is out of reach or answered nonsense. Callers fail closed.
#[derive(Debug, Error)]
#[error("the coordination store is out of reach: {0}")]
pub struct CoordinationError(pub String);

/// A lease that this holder has until `expires_at`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// What is leased.
    pub key: String,
    /// Who has it: only the same holder extends or releases it.
    pub holder: String,
    /// When it ends by itself.
    pub expires_at: Timestamp,
}

/// The answer of a rate limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RateDecision {
    /// Go ahead.
    Allowed,
    /// Not before so many milliseconds from now.
    Limited {
        /// Milliseconds until the next one is allowed.
        retry_after_ms: u64,
    },
}

/// Leases and plain counters, shared by all servers of one installation. May be forgotten by a restart.
#[async_trait]
pub trait Leases: Send + Sync {
    /// Takes the lease `key` for `ttl_ms` if it is free or already this holder's (then it is extended);
    /// `None` where somebody else has it.
    async fn acquire_lease(&self, key: &str, holder: &str, ttl_ms: u64) -> Result<Option<Lease>, CoordinationError>;

    /// Gives the lease back; nothing happens where somebody else has it by now.
    async fn release_lease(&self, lease: &Lease) -> Result<(), CoordinationError>;

    /// Counts one use of `key` in a fixed window of `window_ms`; at most `limit` are allowed in it.
    async fn count(&self, key: &str, limit: u32, window_ms: u64) -> Result<RateDecision, CoordinationError>;

    /// Takes back one use that came to nothing, in the window that it was counted in; nothing happens after that.
    async fn uncount(&self, key: &str) -> Result<(), CoordinationError>;

    /// The store's own clock, to compare with the server's.
    async fn now(&self) -> Result<Timestamp, CoordinationError>;
}

/// Marks that can be set once (section 5, tokens). They survive a restart.
#[async_trait]
pub trait SingleUse: Send + Sync {
    /// Sets all of `marks` for `ttl_ms`, or none of them where one is set already; whether they were set. At least
    /// one mark, at most 8.
    async fn use_once(&self, marks: &[String], ttl_ms: u64) -> Result<bool, CoordinationError>;
}

/// One key of a namespace. Its Debug form shows the id only.
#[derive(Clone, PartialEq, Eq)]
pub struct PreviewKey {
    /// Names the key in a token's header.
    pub kid: String,
    /// 32 random bytes.
    pub secret: [u8; 32],
    /// When it was made.
    pub created_at: Timestamp,
}

impl std::fmt::Debug for PreviewKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PreviewKey").field("kid", &self.kid).finish_non_exhaustive()
    }
}

/// The keys of a namespace: one signs, the one before is still good until an instant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyRing {
    /// Signs and verifies.
    pub active: PreviewKey,
    /// Verifies until the instant, by the store's clock.
    pub previous: Option<(PreviewKey, Timestamp)>,
}

/// The preview keys (section 5, tokens). They survive a restart.
#[async_trait]
pub trait PreviewKeys: Send + Sync {
    /// The namespace's keys, expired ones left out. Where there is none, `candidate` becomes the active one first; of
    /// several servers that start at once one wins, and all get its key.
    async fn key_ring(&self, namespace: KeyNamespace, candidate: &PreviewKey) -> Result<KeyRing, CoordinationError>;

    /// Makes `fresh` the active key; the one that was active is the previous one for `grace_ms`.
    async fn rotate_key(
        &self,
        namespace: KeyNamespace,
        fresh: &PreviewKey,
        grace_ms: u64,
    ) -> Result<KeyRing, CoordinationError>;

    /// Forgets the key `kid` at once. Where it was the active one, `fresh` takes its place. `None`: no such key.
    async fn revoke_key(
        &self,
        namespace: KeyNamespace,
        kid: &str,
        fresh: &PreviewKey,
    ) -> Result<Option<KeyRing>, CoordinationError>;
}

/// What is remembered of a user's access to a repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RememberedAccess {
    /// May, or may not.
    Known(bool),
    /// Ask the source, and remember its answer under this generation.
    Unknown {
        /// Moves with every [`AccessCache::forget_access`], so that an answer from before it is not remembered.
        generation: u64,
    },
}

/// Remembered access (section 6). May be forgotten by a restart.
#[async_trait]
pub trait AccessCache: Send + Sync {
    /// What is remembered under `key`.
    async fn remembered_access(&self, key: &str) -> Result<RememberedAccess, CoordinationError>;

    /// Remembers for `ttl_ms`, unless the generation has moved.
    async fn remember_access(
        &self,
        key: &str,
        allowed: bool,
        generation: u64,
        ttl_ms: u64,
    ) -> Result<(), CoordinationError>;

    /// Forgets, and moves the generation. Only `invalidate_repo_access` calls this.
    async fn forget_access(&self, key: &str) -> Result<(), CoordinationError>;
}

/// One window of one limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LimitWindow {
    /// Counter.
    pub key: String,
    /// Its dimension, for the answer.
    pub limiter: Limiter,
    /// Uses allowed in the window.
    pub limit: u32,
    /// Length of the window.
    pub window_ms: u64,
}

/// A use that several windows count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LimitDecision {
    /// Counted in all of them.
    Allowed,
    /// One window is full; nothing was counted.
    Limited {
        /// Whose.
        limiter: Limiter,
        /// Milliseconds until it ends.
        retry_after_ms: u64,
    },
}

/// What a proxied request asks of the gate, in one round trip.
#[derive(Debug, Clone)]
pub struct Admission<'a> {
    /// Session.
    pub session: PreviewSessionId,
    /// Of the cookie.
    pub revocation_version: i64,
    /// Where the access of the session's user is remembered.
    pub access_key: &'a str,
    /// The limits.
    pub windows: &'a [LimitWindow],
    /// Names this request's slot.
    pub slot: Uuid,
    /// Slots of the session.
    pub slots_max: u32,
    /// Life of the slot unless it is extended.
    pub slot_ms: u64,
}

/// The gate's answer, in the order of its checks (section 5, proxy).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admitted {
    /// Go ahead; the slot is taken.
    Yes,
    /// No revocation version is known here: read the session's row, announce its version, ask again.
    Unannounced,
    /// The version has moved on.
    Revoked,
    /// The user's access is not remembered: ask the source, remember, ask again.
    AccessUnknown {
        /// For [`AccessCache::remember_access`].
        generation: u64,
    },
    /// The user may not see the repository.
    AccessDenied,
    /// A window is full; nothing was counted.
    Limited {
        /// Whose.
        limiter: Limiter,
        /// Milliseconds until it ends.
        retry_after_ms: u64,
    },
    /// All slots of the session are taken; nothing was counted.
    Busy,
}

/// The gate before proxied requests and the limits before other preview routes. May be forgotten by a restart: a
/// session that is not announced is looked up and announced again.
#[async_trait]
pub trait PreviewGate: Send + Sync {
    /// Checks revocation version, access, limits and slots, and takes a slot; one round trip.
    async fn admit(&self, admission: &Admission<'_>) -> Result<Admitted, CoordinationError>;

    /// Keeps the slot for another `slot_ms`; `false` where it had run out.
    async fn extend_slot(&self, session: PreviewSessionId, slot: Uuid, slot_ms: u64)
    -> Result<bool, CoordinationError>;

    /// Gives the slot back. The session's next admission by the same server finds it free; those of other servers may
    /// do so a few milliseconds later.
    async fn release_slot(&self, session: PreviewSessionId, slot: Uuid) -> Result<(), CoordinationError>;

    /// Counts one use in all windows, or in none.
    async fn count_all(&self, windows: &[LimitWindow]) -> Result<LimitDecision, CoordinationError>;

    /// Tells all servers the session's revocation version, for `ttl_ms`; a lower one than known changes nothing.
    async fn announce_revocation(
        &self,
        session: PreviewSessionId,
        version: i64,
        ttl_ms: u64,
    ) -> Result<(), CoordinationError>;

    /// The announced versions, in the order asked; at most 1,000 sessions for each call.
    async fn revocations(&self, sessions: &[PreviewSessionId]) -> Result<Vec<Option<i64>>, CoordinationError>;
}

/// The whole coordination store.
pub trait Coordination: Leases + SingleUse + PreviewKeys + AccessCache + PreviewGate {}

impl<T: Leases + SingleUse + PreviewKeys + AccessCache + PreviewGate> Coordination for T {}
