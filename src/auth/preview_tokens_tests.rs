//! Preview tokens and key rings under attack, and by the clock.

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

#[tokio::test(start_paused = true)]
async fn every_kind_says_what_it_was_made_for() {
    let house = house().await;
    let ends = house.in_seconds(1800);
    let cookie = house.tokens.verify_cookie(&house.cookie().await).await.unwrap();
    assert_eq!((&cookie.binding, cookie.revocation_version), (&binding(), 7));
    let first = house.tokens.mint_exchange(&binding(), ends).await.unwrap();
    let first = house.tokens.verify_exchange(&first).await.unwrap();
    let second = house.tokens.mint_exchange(&binding(), ends).await.unwrap();
    let second = house.tokens.verify_exchange(&second).await.unwrap();
    assert_eq!(first.binding, binding());
    assert!(first.jti != second.jti && first.nonce != second.nonce && first.nonce.len() == 32);
    let marks = first.marks();
    assert_eq!(marks[0], format!("terragon:v1:preview:exchange:jti:{}", first.jti));
    assert_eq!(marks[1], format!("terragon:v1:preview:exchange:nonce:{}", first.nonce));
    assert_eq!((single_use_ms(Exchange), single_use_ms(KeyNamespace::Broadcast)), (420_000, 180_000));
    let broadcast = house.tokens.mint_broadcast(&binding(), ends).await.unwrap();
    let broadcast = house.tokens.verify_broadcast(&broadcast).await.unwrap();
    assert_eq!((broadcast.schema_version, broadcast.channel_type.as_str()), (1, "preview"));
    let signed = house.tokens.sign_origin(&origin(), ends).await.unwrap();
    assert_eq!(*house.tokens.verify_origin(&signed).await.unwrap(), origin());
    assert!(!format!("{:?}{:?}", house.tokens, house.keys).contains('['));
}

#[tokio::test(start_paused = true)]
async fn a_forged_token_is_refused() {
    let house = house().await;
    let token = house.cookie().await;
    let parts: Vec<&str> = token.split('.').collect();
    let (none, hs512) = ("eyJhbGciOiJub25lIiwia2lkIjoiazEifQ", "eyJhbGciOiJIUzUxMiIsImtpZCI6ImsxIn0");
    for forged in [
        format!("{none}.{}.", parts[1]),
        format!("{none}.{}.{}", parts[1], parts[2]),
        format!("{hs512}.{}.{}", parts[1], parts[2]),
        format!("{}.{}.{}", parts[0], parts[1], parts[2].chars().rev().collect::<String>()),
        format!("{}.{}.", parts[0], parts[1]),
        format!("{}.{}", parts[0], parts[1]),
        token[..token.len() - 1].to_owned(),
        format!("{token}A"),
        format!("{token}{}", "A".repeat(10_000)),
        "x".repeat(10_000),
        String::new(),
        "..".to_owned(),
    ] {
        house.refuses(&forged).await;
    }
    // The payload as it should be, so that each of the next fails for its own reason.
    let good = house.payload();
    assert!(house.tokens.verify_cookie(&sign(Some("k1"), 1, &good)).await.is_ok());
    house.refuses(&sign(None, 1, &good)).await;
    house.refuses(&sign(Some("k9"), 1, &good)).await;
    house.refuses(&sign(Some("k1"), 9, &good)).await;
    // With the keys of another namespace, by their own name and by this one's.
    house.refuses(&sign(Some("k2"), 2, &good)).await;
    house.refuses(&sign(Some("k1"), 2, &good)).await;
    for (name, value) in [
        ("iss", json!("runwarden")),
        ("aud", json!("preview-session-exchange")),
        ("aud", json!(["preview-session-cookie", "preview-session-exchange"])),
        ("exp", json!("soon")),
        ("iat", json!(1.5)),
        ("nbf", Value::Null),
        ("revocationVersion", json!("7")),
        ("userId", json!("")),
        ("sandboxProvider", json!("vm")),
    ] {
        let mut bent = good.clone();
        bent[name] = value;
        house.refuses(&sign(Some("k1"), 1, &bent)).await;
        bent.as_object_mut().unwrap().remove(name);
        house.refuses(&sign(Some("k1"), 1, &bent)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn no_kind_passes_for_another() {
    let house = house().await;
    let ends = house.in_seconds(60);
    let cookie = house.cookie().await;
    let exchange = house.tokens.mint_exchange(&binding(), ends).await.unwrap();
    let broadcast = house.tokens.mint_broadcast(&binding(), ends).await.unwrap();
    let origin = house.tokens.sign_origin(&origin(), ends).await.unwrap();
    for token in [&cookie, &broadcast, &origin] {
        assert_eq!(house.tokens.verify_exchange(token).await, Err(SignatureMismatch));
    }
    for token in [&cookie, &exchange, &origin] {
        assert_eq!(house.tokens.verify_broadcast(token).await, Err(SignatureMismatch));
    }
    for token in [&cookie, &exchange, &broadcast] {
        assert_eq!(house.tokens.verify_origin(token).await, Err(SignatureMismatch));
    }
    for token in [&exchange, &broadcast, &origin] {
        house.refuses(token).await;
    }
    // Broadcast of a future schema or of another channel.
    house.store.inner.revoke_key(KeyNamespace::Broadcast, "none", &key(4)).await.unwrap();
    let ring = house.store.inner.rotate_key(KeyNamespace::Broadcast, &key(5), 1000).await.unwrap();
    assert_eq!(ring.active.kid, "k5");
    house.pass(5).await;
    let mut payload = house.payload();
    let now = house.clock.now().as_millis() / 1000;
    payload["aud"] = json!("preview-session-broadcast");
    payload["exp"] = json!(now + 60);
    payload["iat"] = json!(now);
    for (version, channel, good) in [(1, "preview", true), (2, "preview", false), (1, "runs", false)] {
        payload["jti"] = json!("j");
        payload["schemaVersion"] = json!(version);
        payload["channelType"] = json!(channel);
        assert_eq!(house.tokens.verify_broadcast(&sign(Some("k5"), 5, &payload)).await.is_ok(), good);
    }
}

#[tokio::test(start_paused = true)]
async fn a_token_of_another_session_user_or_run_is_not_this_ones() {
    let house = house().await;
    let claims = house.tokens.verify_cookie(&house.cookie().await).await.unwrap();
    assert_eq!(claims.check_binding(&binding()), Ok(()));
    let other = "01935d3e-7c00-7000-8000-000000000009";
    let changed: [fn(&mut PreviewBinding, &str); 7] = [
        |b, other| b.preview_session_id = PreviewSessionId::parse(other).unwrap(),
        |b, other| b.thread_id = ThreadId::parse(other).unwrap(),
        |b, other| b.thread_chat_id = ThreadChatId::parse(other).unwrap(),
        |b, other| b.run_id = RunId::parse(other).unwrap(),
        |b, other| b.user_id = UserId::parse(other).unwrap(),
        |b, other| b.codesandbox_id = CodesandboxId::parse(other).unwrap(),
        |b, _| b.sandbox_provider = SandboxProvider::Process,
    ];
    for change in changed {
        let mut session = binding();
        change(&mut session, other);
        assert_eq!(claims.check_binding(&session), Err(BindingMismatch), "{session:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_life_ends_at_its_end_and_the_skew_remembered_or_not() {
    let house = house().await;
    let now = house.clock.now().as_millis() / 1000;
    let mut payload = house.payload();
    payload["exp"] = json!(now + 100);
    let remembered = sign(Some("k1"), 1, &payload);
    house.tokens.verify_cookie(&remembered).await.unwrap();
    house.clock.advance_ms(159_999);
    house.tokens.verify_cookie(&remembered).await.unwrap();
    let mut fresh = payload.clone();
    fresh["revocationVersion"] = json!(8);
    house.tokens.verify_cookie(&sign(Some("k1"), 1, &fresh)).await.unwrap();
    house.clock.advance_ms(1);
    assert_eq!(house.tokens.verify_cookie(&remembered).await, Err(Expired));
    fresh["revocationVersion"] = json!(9);
    assert_eq!(house.tokens.verify_cookie(&sign(Some("k1"), 1, &fresh)).await, Err(Expired));

    // Not yet valid: from the skew before its begin on.
    let mut early = house.payload();
    let now = house.clock.now().as_millis();
    for name in ["nbf", "iat"] {
        early[name] = json!(now.div_euclid(1000) + 61);
    }
    early["exp"] = json!(now.div_euclid(1000) + 100);
    let early = sign(Some("k1"), 1, &early);
    house.refuses(&early).await;
    let until_then = (now.div_euclid(1000) + 1) * 1000 - now;
    house.clock.advance_ms(until_then - 1);
    house.refuses(&early).await;
    house.clock.advance_ms(1);
    house.tokens.verify_cookie(&early).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn no_token_lives_longer_than_its_kind() {
    let house = house().await;
    let now = house.clock.now().as_millis() / 1000;
    for (exp, good) in [(now + 1800, true), (now + 1801, false), (i64::MAX, false), (now, false), (now - 1, false)] {
        let mut payload = house.payload();
        payload["exp"] = json!(exp);
        assert_eq!(house.tokens.verify_cookie(&sign(Some("k1"), 1, &payload)).await.is_ok(), good, "{exp}");
    }
    // A begin in the far past makes it a long life too.
    let mut payload = house.payload();
    payload["iat"] = json!(i64::MIN);
    house.refuses(&sign(Some("k1"), 1, &payload)).await;
    // Minted: at most the kind's life, and not longer than the session.
    let life = |token: String| {
        let claims = jsonwebtoken::dangerous::insecure_decode::<Value>(token).unwrap().claims;
        claims["exp"].as_i64().unwrap() - claims["iat"].as_i64().unwrap()
    };
    let far = house.in_seconds(1_000_000);
    let near = house.in_seconds(20);
    assert_eq!(life(house.tokens.mint_exchange(&binding(), far).await.unwrap()), 300);
    assert_eq!(life(house.tokens.mint_broadcast(&binding(), far).await.unwrap()), 60);
    assert_eq!(life(house.tokens.mint_cookie(&binding(), 1, far).await.unwrap()), 1800);
    assert_eq!(life(house.tokens.mint_exchange(&binding(), near).await.unwrap()), 20);
    assert_eq!(house.tokens.mint_cookie(&binding(), 1, house.clock.now()).await, Err(Expired));
}

#[tokio::test(start_paused = true)]
async fn the_previous_key_is_good_in_its_grace_and_its_namespace_only() {
    let house = house().await;
    let token = house.cookie().await;
    house.tokens.verify_cookie(&token).await.unwrap();
    let unseen = sign(Some("k1"), 1, &{
        let mut payload = house.payload();
        payload["revocationVersion"] = json!(8);
        payload
    });
    house.store.inner.rotate_key(Cookie, &key(6), 900_000).await.unwrap();
    house.pass(899).await;
    house.tokens.verify_cookie(&token).await.unwrap();
    // The new key signs.
    assert!(house.cookie().await != token);
    house.tokens.verify_cookie(&sign(Some("k6"), 6, &house.payload())).await.unwrap();
    // At the end of the grace, also while the ring in memory is fresh.
    house.clock.advance_ms(1000);
    house.refuses(&token).await;
    house.refuses(&unseen).await;
    // A key that is previous in one namespace is nothing in another.
    let mut exchange = house.payload();
    exchange["aud"] = json!("preview-session-exchange");
    exchange["exp"] = json!(house.clock.now().as_millis() / 1000 + 60);
    exchange["jti"] = json!("j");
    exchange["nonce"] = json!("n");
    assert!(house.tokens.verify_exchange(&sign(Some("k2"), 2, &exchange)).await.is_ok());
    house.store.inner.rotate_key(Cookie, &key(7), 900_000).await.unwrap();
    assert_eq!(house.tokens.verify_exchange(&sign(Some("k6"), 6, &exchange)).await, Err(SignatureMismatch));
}

#[tokio::test(start_paused = true)]
async fn a_revoked_key_ends_what_it_signed_within_a_refresh() {
    let house = house().await;
    let token = house.cookie().await;
    house.tokens.verify_cookie(&token).await.unwrap();
    house.store.inner.revoke_key(Cookie, "k1", &key(6)).await.unwrap();
    house.pass(KEY_RING_REFRESH.as_secs()).await;
    house.refuses(&token).await;
}

#[tokio::test(start_paused = true)]
async fn an_unknown_key_is_looked_up_at_once_but_not_more_than_once_a_second() {
    let house = house().await;
    house.keys.prepare().await.unwrap();
    let reads = || house.store.reads.swap(0, Ordering::SeqCst);
    assert_eq!(reads(), 4);
    house.pass(1).await;
    // Another server rotated a moment ago.
    house.store.inner.rotate_key(Cookie, &key(6), 900_000).await.unwrap();
    house.tokens.verify_cookie(&sign(Some("k6"), 6, &house.payload())).await.unwrap();
    assert_eq!(reads(), 1);
    // A stranger guesses.
    for guess in 0..50 {
        let token = sign(Some(&format!("guess-{guess}\n")), 1, &house.payload());
        assert_eq!(house.tokens.verify_cookie(&token).await, Err(SignatureMismatch));
    }
    assert_eq!(reads(), 0);
    house.pass(1).await;
    house.refuses(&sign(Some("guess"), 1, &house.payload())).await;
    assert_eq!(reads(), 1);
}

#[tokio::test(start_paused = true)]
async fn keys_are_used_for_a_while_without_the_store_and_then_not() {
    let house = house().await;
    let token = house.cookie().await;
    house.tokens.verify_cookie(&token).await.unwrap();
    house.store.away.store(true, Ordering::SeqCst);
    house.pass(KEY_RING_STALE.as_secs() - 1).await;
    house.tokens.verify_cookie(&token).await.unwrap();
    house.store.reads.store(0, Ordering::SeqCst);
    for _ in 0..50 {
        house.tokens.verify_cookie(&token).await.unwrap();
    }
    assert_eq!(house.store.reads.load(Ordering::SeqCst), 0, "a store that is away is not asked by every request");
    house.pass(1).await;
    assert!(matches!(house.tokens.verify_cookie(&token).await, Err(Unavailable(_))));
    assert!(matches!(house.tokens.mint_cookie(&binding(), 1, house.in_seconds(60)).await, Err(Unavailable(_))));
    house.store.away.store(false, Ordering::SeqCst);
    house.pass(1).await;
    house.tokens.verify_cookie(&token).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn without_the_store_there_is_no_key_at_all() {
    let house = house().await;
    house.store.away.store(true, Ordering::SeqCst);
    assert!(house.keys.prepare().await.is_err());
    assert!(matches!(house.tokens.mint_cookie(&binding(), 1, house.in_seconds(60)).await, Err(Unavailable(_))));
    assert!(matches!(house.tokens.verify_cookie(&sign(Some("k1"), 1, &house.payload())).await, Err(Unavailable(_))));
}

#[tokio::test(start_paused = true)]
async fn clocks_that_are_apart_mint_nothing_and_still_verify() {
    let house = house().await;
    let token = house.cookie().await;
    for (drift_ms, mints) in [(60_000, true), (60_001, false), (-60_001, false), (-60_000, true)] {
        house.store.drift_ms.store(drift_ms, Ordering::SeqCst);
        assert_eq!(house.keys.compare_clocks().await, Ok(drift_ms));
        let minted = house.tokens.mint_cookie(&binding(), 1, house.in_seconds(1800)).await;
        assert_eq!(minted.is_ok(), mints, "{drift_ms}");
        if let Err(error) = minted {
            assert!(error.to_string().contains(&format!("{drift_ms} ms apart")), "{error}");
            assert!(house.tokens.sign_origin(&origin(), house.in_seconds(60)).await.is_err());
        }
        house.tokens.verify_cookie(&token).await.unwrap();
    }
    // Before the first comparison nothing is minted without one.
    let ids = Arc::new(TestIds::default());
    let keys = PreviewKeyRings::new(house.store.clone(), house.clock.clone(), ids.clone());
    house.store.drift_ms.store(60_001, Ordering::SeqCst);
    let tokens = PreviewTokens::new(keys, house.clock.clone(), ids);
    assert!(tokens.mint_cookie(&binding(), 1, house.in_seconds(60)).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn the_clocks_are_compared_every_minute_until_the_end() {
    let house = house().await;
    let (shutdown, down) = tokio::sync::watch::channel(false);
    let keys = house.keys.clone();
    let watching = tokio::spawn(async move { keys.watch_clock(down).await });
    tokio::time::sleep(Duration::from_millis(1)).await;
    house.cookie().await;
    house.store.drift_ms.store(90_000, Ordering::SeqCst);
    tokio::time::sleep(Duration::from_secs(61)).await;
    assert!(house.tokens.mint_cookie(&binding(), 1, house.in_seconds(60)).await.is_err());
    shutdown.send_replace(true);
    watching.await.unwrap();
}
