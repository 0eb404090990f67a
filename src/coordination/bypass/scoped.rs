//! The port `Coordination` with its fallback, for those who may have it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError};

use async_trait::async_trait;
use runwarden_actors::contract::{KeyNamespace, PreviewSessionId, Timestamp, UserId};
use runwarden_actors::ports::{
    AccessCache, Admission, Admitted, BypassUse, CoordinationError, KeyRing, Lease, Leases, LimitDecision, LimitWindow,
    PreviewGate, PreviewKey, PreviewKeys, RateDecision, RememberedAccess, SingleUse,
};
use uuid::Uuid;

use super::{EmbeddedCoordination, Inner};

/// For whom a call is made.
pub(super) enum Scope {
    /// Nobody in particular: there is no fallback.
    Closed,
    /// Somebody who is not known yet: keys and limits only.
    BeforeUser,
    /// A user whom the operator has named.
    User(UserScope),
}

/// A request of a named user.
pub(super) struct UserScope {
    pub(super) user: UserId,
    pub(super) session: Option<PreviewSessionId>,
    route: Option<&'static str>,
    pub(super) proxy_req_id: Option<Uuid>,
    noted: AtomicBool,
}

impl UserScope {
    pub(super) fn new(of: BypassUse<'_>) -> Self {
        Self {
            user: of.user.clone(),
            session: of.session,
            route: of.route,
            proxy_req_id: of.proxy_req_id,
            noted: AtomicBool::new(false),
        }
    }
}

pub(super) struct Scoped {
    pub(super) inner: Arc<Inner>,
    pub(super) scope: Scope,
}

impl Scoped {
    /// The fallback, where this call may have it now. A request is noted with its first one.
    fn for_user(&self) -> Option<Arc<EmbeddedCoordination>> {
        let Scope::User(of) = &self.scope else { return None };
        if !self.inner.is_open() {
            return None;
        }
        if let Some(route) = of.route
            && !of.noted.swap(true, Ordering::Relaxed)
        {
            self.inner.note(of, route);
        }
        Some(self.inner.fallback())
    }

    /// The same for what is asked before a user is known.
    fn for_anybody(&self) -> Option<Arc<EmbeddedCoordination>> {
        match self.scope {
            Scope::Closed => None,
            Scope::BeforeUser => self.inner.is_open().then(|| self.inner.fallback()),
            Scope::User(_) => self.for_user(),
        }
    }

    /// What this outage's fallback must learn too, whoever says it.
    fn while_away(&self) -> Option<Arc<EmbeddedCoordination>> {
        self.inner.is_away().then(|| self.inner.fallback())
    }
}

/// Asks the primary first, and the fallback where it may answer; else with the primary's error.
macro_rules! or_fallback {
    ($self:ident . $allowed:ident, $store:ident => $call:expr) => {{
        let asked = {
            let $store = &$self.inner.primary;
            $self.inner.ask($call).await
        };
        match asked {
            Ok(answer) => Ok(answer),
            Err(error) => match $self.$allowed() {
                Some($store) => $call.await,
                None => Err(error),
            },
        }
    }};
}

#[async_trait]
impl Leases for Scoped {
    async fn acquire_lease(&self, key: &str, holder: &str, ttl_ms: u64) -> Result<Option<Lease>, CoordinationError> {
        self.inner.ask(self.inner.primary.acquire_lease(key, holder, ttl_ms)).await
    }

    async fn release_lease(&self, lease: &Lease) -> Result<(), CoordinationError> {
        self.inner.ask(self.inner.primary.release_lease(lease)).await
    }

    async fn count(&self, key: &str, limit: u32, window_ms: u64) -> Result<RateDecision, CoordinationError> {
        self.inner.ask(self.inner.primary.count(key, limit, window_ms)).await
    }

    async fn uncount(&self, key: &str) -> Result<(), CoordinationError> {
        self.inner.ask(self.inner.primary.uncount(key)).await
    }

    /// Never this server's own clock: it would agree with itself.
    async fn now(&self) -> Result<Timestamp, CoordinationError> {
        self.inner.ask(self.inner.primary.now()).await
    }
}

#[async_trait]
impl SingleUse for Scoped {
    /// For a named user, marks are set here as well as in the primary, and only who sets them here too has used the
    /// token: before an outage, in it and after it.
    async fn use_once(&self, marks: &[String], ttl_ms: u64) -> Result<bool, CoordinationError> {
        let asked = self.inner.ask(self.inner.primary.use_once(marks, ttl_ms)).await;
        if !matches!(self.scope, Scope::User(_)) {
            return asked;
        }
        match asked {
            Ok(false) => Ok(false),
            Ok(true) => self.inner.marks.use_once(marks, ttl_ms).await,
            Err(error) => {
                if self.for_user().is_none() {
                    return Err(error);
                }
                // Before it is used: what is not written down would be forgotten with the outage.
                let ttl = i64::try_from(ttl_ms).unwrap_or(i64::MAX);
                self.inner.owe(marks, self.inner.clock.now().plus_millis(ttl))?;
                self.inner.marks.use_once(marks, ttl_ms).await
            }
        }
    }
}

#[async_trait]
impl PreviewKeys for Scoped {
    /// No key is made past the primary: those that it gave before go on.
    async fn key_ring(&self, namespace: KeyNamespace, candidate: &PreviewKey) -> Result<KeyRing, CoordinationError> {
        let asked = self.inner.ask(self.inner.primary.key_ring(namespace, candidate)).await;
        let mut rings = self.inner.rings.lock().unwrap_or_else(PoisonError::into_inner);
        let known = rings.iter().position(|(of, _)| *of == namespace);
        match asked {
            Ok(ring) => {
                if let Some(at) = known {
                    rings.swap_remove(at);
                }
                rings.push((namespace, ring.clone()));
                Ok(ring)
            }
            Err(error) => match known.and_then(|at| rings.get(at)) {
                Some((_, ring)) if self.for_anybody().is_some() => Ok(ring.clone()),
                _ => Err(error),
            },
        }
    }

    async fn rotate_key(
        &self,
        namespace: KeyNamespace,
        fresh: &PreviewKey,
        grace_ms: u64,
    ) -> Result<KeyRing, CoordinationError> {
        self.inner.ask(self.inner.primary.rotate_key(namespace, fresh, grace_ms)).await
    }

    async fn revoke_key(
        &self,
        namespace: KeyNamespace,
        kid: &str,
        fresh: &PreviewKey,
    ) -> Result<Option<KeyRing>, CoordinationError> {
        self.inner.ask(self.inner.primary.revoke_key(namespace, kid, fresh)).await
    }
}

#[async_trait]
impl AccessCache for Scoped {
    async fn remembered_access(&self, key: &str) -> Result<RememberedAccess, CoordinationError> {
        or_fallback!(self.for_user, store => store.remembered_access(key))
    }

    async fn remember_access(
        &self,
        key: &str,
        allowed: bool,
        generation: u64,
        ttl_ms: u64,
    ) -> Result<(), CoordinationError> {
        or_fallback!(self.for_user, store => store.remember_access(key, allowed, generation, ttl_ms))
    }

    /// The fallback forgets at once; whoever asked is still told that the primary has not heard of it.
    async fn forget_access(&self, key: &str) -> Result<(), CoordinationError> {
        if let Some(fallback) = self.while_away() {
            fallback.forget_access(key).await?;
        }
        self.inner.ask(self.inner.primary.forget_access(key)).await
    }
}

#[async_trait]
impl PreviewGate for Scoped {
    async fn admit(&self, admission: &Admission<'_>) -> Result<Admitted, CoordinationError> {
        or_fallback!(self.for_user, store => store.admit(admission))
    }

    async fn extend_slot(
        &self,
        session: PreviewSessionId,
        slot: Uuid,
        slot_ms: u64,
    ) -> Result<bool, CoordinationError> {
        or_fallback!(self.for_user, store => store.extend_slot(session, slot, slot_ms))
    }

    async fn release_slot(&self, session: PreviewSessionId, slot: Uuid) -> Result<(), CoordinationError> {
        if let Some(fallback) = self.while_away() {
            // The primary's own, if it has one, runs out.
            return fallback.release_slot(session, slot).await;
        }
        self.inner.ask(self.inner.primary.release_slot(session, slot)).await
    }

    async fn count_all(&self, windows: &[LimitWindow]) -> Result<LimitDecision, CoordinationError> {
        or_fallback!(self.for_anybody, store => store.count_all(windows))
    }

    /// The fallback hears it from whoever says it.
    async fn announce_revocation(
        &self,
        session: PreviewSessionId,
        version: i64,
        ttl_ms: u64,
    ) -> Result<(), CoordinationError> {
        if let Some(fallback) = self.while_away() {
            fallback.announce_revocation(session, version, ttl_ms).await?;
        }
        or_fallback!(self.for_user, store => store.announce_revocation(session, version, ttl_ms))
    }

    async fn revocations(&self, sessions: &[PreviewSessionId]) -> Result<Vec<Option<i64>>, CoordinationError> {
        or_fallback!(self.for_user, store => store.revocations(sessions))
    }
}
