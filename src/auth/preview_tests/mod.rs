//! Preview tokens and key rings, with a store that a test can unplug.

mod rings;
mod tokens;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use runwarden_actors::contract::KeyNamespace::{self, Cookie, Exchange, Origin};
use runwarden_actors::contract::{
    CodesandboxId, PinningMode, PreviewBinding, PreviewSessionId, RunId, SandboxProvider, ThreadChatId, ThreadId,
    Timestamp, UserId,
};
use runwarden_actors::ports::{
    AccessCache, Admission, Admitted, Clock, CoordinationError, KeyRing, Lease, Leases, LimitDecision, LimitWindow,
    PreviewGate, PreviewKey, PreviewKeys, RateDecision, RememberedAccess, SingleUse,
};
use runwarden_actors::preview::{OriginClaims, OriginSigner as _};
use runwarden_actors::testing::{TestClock, TestIds};
use serde_json::{Value, json};
use tokio::time::advance;
use uuid::Uuid;

use super::PreviewTokenError::{BindingMismatch, Expired, SignatureMismatch, Unavailable};
use super::{
    Bound as _, KEY_RING_REFRESH, KEY_RING_STALE, PreviewKeyRings, PreviewTokens, install_crypto, single_use_ms,
};
use crate::coordination::EmbeddedCoordination;

/// The embedded store with a plug that a test can pull.
struct Store {
    inner: EmbeddedCoordination,
    away: AtomicBool,
    reads: AtomicUsize,
    drift_ms: AtomicI64,
}

impl Store {
    fn plugged(&self) -> Result<(), CoordinationError> {
        if self.away.load(Ordering::SeqCst) { Err(CoordinationError("unplugged".into())) } else { Ok(()) }
    }
}

fn unused<T>() -> Result<T, CoordinationError> {
    Err(CoordinationError("tokens do not need this".into()))
}

#[async_trait]
impl PreviewKeys for Store {
    async fn key_ring(&self, namespace: KeyNamespace, candidate: &PreviewKey) -> Result<KeyRing, CoordinationError> {
        self.reads.fetch_add(1, Ordering::SeqCst);
        self.plugged()?;
        self.inner.key_ring(namespace, candidate).await
    }
    async fn rotate_key(&self, of: KeyNamespace, fresh: &PreviewKey, ms: u64) -> Result<KeyRing, CoordinationError> {
        self.inner.rotate_key(of, fresh, ms).await
    }
    async fn revoke_key(
        &self,
        of: KeyNamespace,
        kid: &str,
        fresh: &PreviewKey,
    ) -> Result<Option<KeyRing>, CoordinationError> {
        self.inner.revoke_key(of, kid, fresh).await
    }
}

#[async_trait]
impl Leases for Store {
    async fn acquire_lease(&self, _: &str, _: &str, _: u64) -> Result<Option<Lease>, CoordinationError> {
        unused()
    }
    async fn release_lease(&self, _: &Lease) -> Result<(), CoordinationError> {
        unused()
    }
    async fn count(&self, _: &str, _: u32, _: u64) -> Result<RateDecision, CoordinationError> {
        unused()
    }
    async fn uncount(&self, _: &str) -> Result<(), CoordinationError> {
        unused()
    }
    async fn now(&self) -> Result<Timestamp, CoordinationError> {
        self.plugged()?;
        Ok(self.inner.now().await?.plus_millis(self.drift_ms.load(Ordering::SeqCst)))
    }
}

#[async_trait]
impl SingleUse for Store {
    async fn use_once(&self, _: &[String], _: u64) -> Result<bool, CoordinationError> {
        unused()
    }
}

#[async_trait]
impl AccessCache for Store {
    async fn remembered_access(&self, _: &str) -> Result<RememberedAccess, CoordinationError> {
        unused()
    }
    async fn remember_access(&self, _: &str, _: bool, _: u64, _: u64) -> Result<(), CoordinationError> {
        unused()
    }
    async fn forget_access(&self, _: &str) -> Result<(), CoordinationError> {
        unused()
    }
}

#[async_trait]
impl PreviewGate for Store {
    async fn admit(&self, _: &Admission<'_>) -> Result<Admitted, CoordinationError> {
        unused()
    }
    async fn extend_slot(&self, _: PreviewSessionId, _: Uuid, _: u64) -> Result<bool, CoordinationError> {
        unused()
    }
    async fn release_slot(&self, _: PreviewSessionId, _: Uuid) -> Result<(), CoordinationError> {
        unused()
    }
    async fn count_all(&self, _: &[LimitWindow]) -> Result<LimitDecision, CoordinationError> {
        unused()
    }
    async fn announce_revocation(&self, _: PreviewSessionId, _: i64, _: u64) -> Result<(), CoordinationError> {
        unused()
    }
    async fn revocations(&self, _: &[PreviewSessionId]) -> Result<Vec<Option<i64>>, CoordinationError> {
        unused()
    }
}

struct House {
    clock: Arc<TestClock>,
    store: Arc<Store>,
    keys: PreviewKeyRings,
    tokens: PreviewTokens,
}

fn key(byte: u8) -> PreviewKey {
    PreviewKey { kid: format!("k{byte}"), secret: [byte; 32], created_at: Timestamp::default() }
}

/// Keys: `cookie` k1, `exchange` k2, `origin` k3, each with its number for every byte.
async fn house() -> House {
    install_crypto();
    let clock = Arc::new(TestClock::default());
    let store = Arc::new(Store {
        inner: EmbeddedCoordination::new(clock.clone()),
        away: AtomicBool::default(),
        reads: AtomicUsize::default(),
        drift_ms: AtomicI64::default(),
    });
    for (namespace, byte) in [(Cookie, 1), (Exchange, 2), (Origin, 3)] {
        store.inner.key_ring(namespace, &key(byte)).await.unwrap();
    }
    let ids = Arc::new(TestIds::default());
    let keys = PreviewKeyRings::new(store.clone(), clock.clone(), ids.clone());
    let tokens = PreviewTokens::new(keys.clone(), clock.clone(), ids);
    House { clock, store, keys, tokens }
}

impl House {
    /// Both clocks: that of the tokens and that of the caches.
    async fn pass(&self, seconds: u64) {
        self.clock.advance_ms(i64::try_from(seconds * 1000).unwrap());
        advance(Duration::from_secs(seconds)).await;
    }

    fn in_seconds(&self, seconds: i64) -> Timestamp {
        self.clock.now().plus_millis(seconds * 1000)
    }

    async fn cookie(&self) -> String {
        self.tokens.mint_cookie(&binding(), 7, self.in_seconds(1800)).await.unwrap()
    }

    /// A cookie's payload, to be bent.
    fn payload(&self) -> Value {
        let now = self.clock.now().as_millis() / 1000;
        let mut payload = serde_json::to_value(binding()).unwrap();
        let rest = json!({"iss": "terragon-preview", "aud": "preview-session-cookie", "iat": now, "nbf": now,
            "exp": now + 1800, "revocationVersion": 7});
        payload.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
        payload
    }

    async fn refuses(&self, token: &str) {
        // Twice: what was refused is not remembered as good.
        for _ in 0..2 {
            assert_eq!(self.tokens.verify_cookie(token).await.unwrap_err(), SignatureMismatch, "{token}");
        }
    }
}

fn binding() -> PreviewBinding {
    PreviewBinding {
        preview_session_id: PreviewSessionId::parse("01935d3e-7c00-7000-8000-000000000001").unwrap(),
        thread_id: ThreadId::parse("t").unwrap(),
        thread_chat_id: ThreadChatId::parse("c").unwrap(),
        run_id: RunId::parse("01935d3e-7c00-7000-8000-000000000002").unwrap(),
        user_id: UserId::parse("u").unwrap(),
        codesandbox_id: CodesandboxId::parse("sandbox").unwrap(),
        sandbox_provider: SandboxProvider::Docker,
    }
}

fn origin() -> OriginClaims {
    OriginClaims {
        scheme: "http".into(),
        host: "172.17.0.2".into(),
        port: 5173,
        pinning_mode: PinningMode::StrictIp,
        preview_session_id: binding().preview_session_id,
        revocation_version: 7,
    }
}

fn sign(kid: Option<&str>, byte: u8, payload: &Value) -> String {
    let mut header = Header::new(Algorithm::HS256);
    header.kid = kid.map(str::to_owned);
    jsonwebtoken::encode(&header, payload, &EncodingKey::from_secret(&[byte; 32])).unwrap()
}
