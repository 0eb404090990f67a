//! The preview keys as this process holds them (section 5, tokens): read from the coordination store, looked at again
//! every few seconds, and never used when nobody can say whether they are still good.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use jsonwebtoken::{DecodingKey, EncodingKey};
use metrics::counter;
use runwarden_actors::contract::limits::PREVIEW_CLOCK_SKEW_SECONDS;
use runwarden_actors::contract::{KeyNamespace, Timestamp};
use runwarden_actors::ports::{Clock, Coordination, CoordinationError, IdSource, KeyRing, PreviewKey};
use thiserror::Error;
use tokio::sync::{Mutex, watch};
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::random_secret;

/// Age from which a ring is read again: a rotation or revocation made elsewhere is seen within it.
pub const KEY_RING_REFRESH: Duration = Duration::from_secs(5);
/// Age from which a ring that cannot be read again is not used any more.
pub const KEY_RING_STALE: Duration = Duration::from_secs(30);
/// Pause between two reads that unknown kids or failures ask for.
const READ_PAUSE: Duration = Duration::from_secs(1);
/// How often the clocks are compared.
const CLOCK_INTERVAL: Duration = Duration::from_mins(1);
/// [`Rings::drift_ms`] before the clocks were compared for the first time.
const DRIFT_UNKNOWN: i64 = i64::MIN;
/// Characters of an unknown kid that are logged.
const AUDITED_KID_CHARS: usize = 64;

/// Why there is no key to work with. Callers fail closed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum KeyError {
    /// The coordination store.
    #[error("the preview keys cannot be read: {0}")]
    Unavailable(String),
    /// Tokens that are made now would be refused, or good for too long.
    #[error(
        "this server's clock and the coordination store's are {drift_ms} ms apart; no preview token is made until they \
         agree within {PREVIEW_CLOCK_SKEW_SECONDS} s"
    )]
    ClockDrift {
        /// The store's clock minus this server's, in milliseconds.
        drift_ms: i64,
    },
}

impl From<CoordinationError> for KeyError {
    fn from(error: CoordinationError) -> Self {
        Self::Unavailable(error.0)
    }
}

/// A key that is ready to sign and to verify. The same key is the same `Arc` as long as it is in its ring.
pub(super) struct LoadedKey {
    key: PreviewKey,
    pub(super) encoding: EncodingKey,
    pub(super) decoding: DecodingKey,
}

impl LoadedKey {
    fn new(key: PreviewKey) -> Self {
        let (encoding, decoding) = (EncodingKey::from_secret(&key.secret), DecodingKey::from_secret(&key.secret));
        Self { key, encoding, decoding }
    }

    pub(super) fn kid(&self) -> &str {
        &self.key.kid
    }

    #[cfg(test)]
    pub(super) fn test() -> Self {
        Self::new(PreviewKey { kid: "test".into(), secret: [1; 32], created_at: Timestamp::default() })
    }
}

/// A ring as it was read.
pub(super) struct LoadedRing {
    pub(super) active: Arc<LoadedKey>,
    /// With the instant, by the store's clock, from which it is not good any more.
    previous: Option<(Arc<LoadedKey>, Timestamp)>,
    read_at: Instant,
}

impl LoadedRing {
    /// Keys that stay keep their `Arc`.
    fn new(ring: KeyRing, before: Option<&Self>, read_at: Instant) -> Self {
        let load = |key: PreviewKey| {
            let known = before.into_iter().flat_map(|ring| {
                [Some(&ring.active), ring.previous.as_ref().map(|(previous, _)| previous)].into_iter().flatten()
            });
            known.into_iter().find(|known| known.key == key).map_or_else(|| Arc::new(LoadedKey::new(key)), Arc::clone)
        };
        Self { active: load(ring.active), previous: ring.previous.map(|(key, until)| (load(key), until)), read_at }
    }

    fn keys(&self, store_now: Timestamp) -> impl Iterator<Item = &Arc<LoadedKey>> {
        let previous = self.previous.as_ref().filter(|(_, until)| *until > store_now).map(|(key, _)| key);
        std::iter::once(&self.active).chain(previous)
    }
}

/// One namespace of this process.
#[derive(Default)]
struct Cached {
    ring: RwLock<Option<Arc<LoadedRing>>>,
    /// Whoever has it reads the store for all; the last attempt, and its error where it failed.
    reading: Mutex<Option<(Instant, Option<KeyError>)>>,
}

struct Rings {
    coordination: Arc<dyn Coordination>,
    clock: Arc<dyn Clock>,
    ids: Arc<dyn IdSource>,
    cached: [Cached; 4],
    /// The store's clock minus this server's.
    drift_ms: AtomicI64,
}

/// The preview keys of all namespaces. Cheap to clone.
#[derive(Clone)]
pub struct PreviewKeyRings(Arc<Rings>);

impl std::fmt::Debug for PreviewKeyRings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PreviewKeyRings").finish_non_exhaustive()
    }
}

impl PreviewKeyRings {
    /// Nothing is read yet; see [`Self::prepare`].
    pub fn new(coordination: Arc<dyn Coordination>, clock: Arc<dyn Clock>, ids: Arc<dyn IdSource>) -> Self {
        let drift_ms = AtomicI64::new(DRIFT_UNKNOWN);
        Self(Arc::new(Rings { coordination, clock, ids, cached: std::array::from_fn(|_| Cached::default()), drift_ms }))
    }

    /// At start: reads every namespace, makes the missing keys, and compares the clocks. An error leaves nothing
    /// behind: the first use tries again.
    pub async fn prepare(&self) -> Result<(), KeyError> {
        for namespace in KeyNamespace::ALL {
            self.ring(*namespace).await?;
        }
        self.compare_clocks().await.map(|_| ())
    }

    /// Compares the clocks every minute until `shutdown` turns true.
    pub async fn watch_clock(&self, mut shutdown: watch::Receiver<bool>) {
        let mut ticks = interval(CLOCK_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                _ = shutdown.wait_for(|down| *down) => return,
            }
            if let Err(error) = self.compare_clocks().await {
                tracing::warn!(%error, "the clocks could not be compared");
            }
        }
    }

    /// The store's clock minus this server's in milliseconds, without what the question itself took. Beyond the skew
    /// it is logged as an error, and nothing is signed until it is less.
    pub async fn compare_clocks(&self) -> Result<i64, KeyError> {
        let before = self.0.clock.now();
        let theirs = self.0.coordination.now().await?;
        let after = self.0.clock.now();
        let drift_ms = match theirs {
            theirs if theirs < before => theirs.millis_since(before),
            theirs if theirs > after => theirs.millis_since(after),
            _ => 0,
        };
        self.0.drift_ms.store(drift_ms, Ordering::Relaxed);
        if is_beyond_skew(drift_ms) {
            tracing::error!(
                drift_ms,
                "this server's clock and the coordination store's are too far apart; no preview token is made"
            );
        }
        Ok(drift_ms)
    }

    /// The key that signs now; always asked anew, so that nothing is signed with a key that the store has lost.
    pub(super) async fn signing_key(&self, namespace: KeyNamespace) -> Result<Arc<LoadedKey>, KeyError> {
        let drift_ms = match self.0.drift_ms.load(Ordering::Relaxed) {
            DRIFT_UNKNOWN => self.compare_clocks().await?,
            known => known,
        };
        if is_beyond_skew(drift_ms) {
            return Err(KeyError::ClockDrift { drift_ms });
        }
        Ok(Arc::clone(&self.anew(namespace).await?.active))
    }

    /// The key of that name, where it is good. An unknown name is looked up once more, and audited.
    pub(super) async fn verifying_key(
        &self,
        namespace: KeyNamespace,
        kid: &str,
    ) -> Result<Option<Arc<LoadedKey>>, KeyError> {
        let ring = self.ring(namespace).await?;
        if let Some(key) = self.find(&ring, kid) {
            return Ok(Some(key));
        }
        let ring = self.read(namespace, |ring| self.find(ring, kid).is_some()).await?;
        let found = self.find(&ring, kid);
        if found.is_none() {
            counter!("runwarden.preview_unknown_kid", "namespace" => namespace.as_str()).increment(1);
            tracing::warn!(%namespace, kid = clean(kid), "a preview token names a key that is not known; refused");
        }
        Ok(found)
    }

    /// Whether the key is still in its ring. Costs no call as long as the ring is fresh.
    pub(super) async fn is_good(&self, namespace: KeyNamespace, key: &Arc<LoadedKey>) -> Result<bool, KeyError> {
        let ring = self.ring(namespace).await?;
        Ok(ring.keys(self.store_now()).any(|good| Arc::ptr_eq(good, key)))
    }

    /// Whether the store itself still has the key of that name and lets it verify; always asked anew.
    pub(super) async fn is_kept(&self, namespace: KeyNamespace, kid: &str) -> Result<bool, KeyError> {
        let ring = self.anew(namespace).await?;
        Ok(self.find(&ring, kid).is_some())
    }

    async fn anew(&self, namespace: KeyNamespace) -> Result<Arc<LoadedRing>, KeyError> {
        let cached = self.cached(namespace);
        let mut attempt = cached.reading.lock().await;
        self.ask(namespace, cached, &mut attempt).await
    }

    fn find(&self, ring: &LoadedRing, kid: &str) -> Option<Arc<LoadedKey>> {
        ring.keys(self.store_now()).find(|key| key.kid() == kid).cloned()
    }

    /// The store's clock, as far as is known here.
    fn store_now(&self) -> Timestamp {
        let now = self.0.clock.now();
        match self.0.drift_ms.load(Ordering::Relaxed) {
            DRIFT_UNKNOWN => now,
            drift_ms => now.plus_millis(drift_ms),
        }
    }

    /// The ring, read again where it is not fresh any more.
    pub(super) async fn ring(&self, namespace: KeyNamespace) -> Result<Arc<LoadedRing>, KeyError> {
        let cached = self.cached(namespace);
        let Some(ring) = known(cached) else { return self.read(namespace, |_| true).await };
        let age = ring.read_at.elapsed();
        if age < KEY_RING_REFRESH {
            return Ok(ring);
        }
        // One reads; the others go on with what there is while it is not stale.
        if age < KEY_RING_STALE && cached.reading.try_lock().is_err() {
            return Ok(ring);
        }
        match self.read(namespace, |ring| ring.read_at.elapsed() < KEY_RING_REFRESH).await {
            // The known keys are used for a while; the failure is logged where it was met.
            Err(_) if ring.read_at.elapsed() < KEY_RING_STALE => Ok(ring),
            outcome => outcome,
        }
    }

    /// Reads the store, at most once in [`READ_PAUSE`], unless `enough` is there by the time that it is this caller's
    /// turn.
    async fn read(
        &self,
        namespace: KeyNamespace,
        enough: impl Fn(&LoadedRing) -> bool,
    ) -> Result<Arc<LoadedRing>, KeyError> {
        let cached = self.cached(namespace);
        let mut attempt = cached.reading.lock().await;
        let before = known(cached);
        if let Some(ring) = before.as_ref().filter(|ring| enough(ring)) {
            return Ok(Arc::clone(ring));
        }
        if let Some((at, outcome)) = &*attempt
            && at.elapsed() < READ_PAUSE
        {
            match (outcome, before) {
                (Some(error), _) => return Err(error.clone()),
                (None, Some(ring)) => return Ok(ring),
                (None, None) => {}
            }
            return Err(KeyError::Unavailable("they were not there a moment ago".to_owned()));
        }
        self.ask(namespace, cached, &mut attempt).await
    }

    /// Reads the store; for whoever has the right to.
    async fn ask(
        &self,
        namespace: KeyNamespace,
        cached: &Cached,
        attempt: &mut Option<(Instant, Option<KeyError>)>,
    ) -> Result<Arc<LoadedRing>, KeyError> {
        let candidate = PreviewKey {
            kid: self.0.ids.uuid_v7().to_string(),
            secret: random_secret(),
            created_at: self.0.clock.now(),
        };
        let started = Instant::now();
        let read = self.0.coordination.key_ring(namespace, &candidate).await.map_err(KeyError::from);
        if let Err(error) = &read {
            tracing::warn!(%namespace, %error, "the preview keys could not be read");
        }
        *attempt = Some((Instant::now(), read.as_ref().err().cloned()));
        let fresh = Arc::new(LoadedRing::new(read?, known(cached).as_deref(), started));
        *cached.ring.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&fresh));
        Ok(fresh)
    }

    fn cached(&self, namespace: KeyNamespace) -> &Cached {
        let [exchange, broadcast, cookie, origin] = &self.0.cached;
        match namespace {
            KeyNamespace::Exchange => exchange,
            KeyNamespace::Broadcast => broadcast,
            KeyNamespace::Cookie => cookie,
            KeyNamespace::Origin => origin,
        }
    }
}

fn known(cached: &Cached) -> Option<Arc<LoadedRing>> {
    cached.ring.read().unwrap_or_else(PoisonError::into_inner).clone()
}

const fn is_beyond_skew(drift_ms: i64) -> bool {
    drift_ms.unsigned_abs() > PREVIEW_CLOCK_SKEW_SECONDS * 1000
}

/// What a stranger wrote, fit for a log line.
fn clean(kid: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '?' };
    kid.chars().take(AUDITED_KID_CHARS).map(plain).collect()
}
