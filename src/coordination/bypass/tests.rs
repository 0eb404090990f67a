//! What the bypass does with a store that a test can take away.

use std::sync::Arc;

use runwarden_actors::contract::{KeyNamespace, PreviewSessionId, UserId};
use runwarden_actors::ports::{
    Bypass as _, BypassUse, Clock, Coordination, PreviewKey, RememberedAccess, SingleUse as _,
};
use runwarden_actors::testing::{TestClock, TestCoordination};
use uuid::Uuid;

use super::RedisBypass;
use crate::config::BypassConfig;
use crate::coordination::{EmbeddedCoordination, RedisCoordination};

const WINDOW_MS: i64 = 60_000;

fn user(id: &str) -> UserId {
    UserId::parse(id).unwrap()
}

/// For `u-1`, before this store.
fn bypass(primary: Arc<dyn Coordination>) -> (RedisBypass, Arc<TestClock>) {
    let clock = Arc::new(TestClock::default());
    let theirs: Arc<dyn Clock> = clock.clone();
    let settings = BypassConfig { until: clock.now().plus_millis(WINDOW_MS), users: vec![user("u-1")] };
    (RedisBypass::new(primary, theirs, settings), clock)
}

fn of(user: &UserId) -> BypassUse<'_> {
    BypassUse { user, session: None, route: Some("test"), proxy_req_id: None }
}

fn marks(name: &str) -> Vec<String> {
    vec![name.to_owned()]
}

/// Nobody listens there.
fn gone() -> Arc<dyn Coordination> {
    Arc::new(RedisCoordination::new("redis://127.0.0.1:1/").unwrap())
}

#[tokio::test]
async fn a_store_that_answers_is_not_bypassed_whatever_it_answers() {
    // It knows the time, and refuses everything else.
    let (bypass, _) = bypass(Arc::new(TestCoordination::default()));
    let named = bypass.for_user(of(&user("u-1"))).unwrap();
    assert!(named.use_once(&marks("a"), 1_000).await.is_err());
    assert!(named.remembered_access("key").await.is_err());
    assert!(!bypass.is_away() && !bypass.covers(&user("u-1")));
}

#[tokio::test]
async fn only_named_users_and_only_before_the_instant() {
    let (bypass, clock) = bypass(gone());
    assert!(bypass.for_user(of(&user("u-2"))).is_none());
    let (closed, stranger) = (bypass.closed(), bypass.before_user());
    let one = user("u-1");
    let named = bypass.for_user(of(&one)).unwrap();
    assert!(closed.use_once(&marks("a"), 1_000).await.is_err());
    assert!(bypass.is_away() && bypass.covers(&one) && !bypass.covers(&user("u-2")));
    assert!(named.use_once(&marks("a"), 1_000).await.unwrap());
    assert!(!named.use_once(&marks("a"), 1_000).await.unwrap());
    // Before a user is known limits are counted, and nothing is granted.
    assert!(stranger.count_all(&[]).await.is_ok() && closed.count_all(&[]).await.is_err());
    assert!(stranger.use_once(&marks("b"), 1_000).await.is_err());
    assert!(stranger.remembered_access("key").await.is_err());
    for store in [&closed, &stranger, &named] {
        assert!(store.now().await.is_err(), "a server's own clock cannot say whether it is right");
        assert!(store.acquire_lease("lease", "holder", 1_000).await.is_err());
        assert!(store.count("offloads", 1, 1_000).await.is_err());
    }
    clock.advance_ms(WINDOW_MS);
    assert!(!bypass.covers(&one));
    assert!(named.use_once(&marks("c"), 1_000).await.is_err());
    assert!(stranger.count_all(&[]).await.is_err());
}

#[tokio::test]
async fn no_key_is_made_past_the_store() {
    let (bypass, clock) = bypass(gone());
    let key = PreviewKey { kid: "kid".into(), secret: [7; 32], created_at: clock.now() };
    let stranger = bypass.before_user();
    for _ in 0..2 {
        assert!(stranger.key_ring(KeyNamespace::Exchange, &key).await.is_err());
        assert!(stranger.rotate_key(KeyNamespace::Exchange, &key, 1_000).await.is_err());
    }
    // What the store gave before is given again, for as long as the bypass lasts.
    let store: Arc<dyn Coordination> = Arc::new(EmbeddedCoordination::new(clock.clone()));
    let (bypass, clock) = self::bypass(store);
    let stranger = bypass.before_user();
    let ring = stranger.key_ring(KeyNamespace::Exchange, &key).await.unwrap();
    bypass.0.away.store(true, std::sync::atomic::Ordering::Release);
    let other = PreviewKey { kid: "other".into(), ..key };
    assert_eq!(stranger.key_ring(KeyNamespace::Exchange, &other).await.unwrap(), ring);
    assert!(stranger.key_ring(KeyNamespace::Cookie, &other).await.is_err());
    clock.advance_ms(WINDOW_MS);
    assert!(stranger.key_ring(KeyNamespace::Exchange, &other).await.is_err());
}

#[tokio::test]
async fn what_was_used_is_owed_to_the_store_and_the_rest_of_an_outage_is_forgotten() {
    let clock = Arc::new(TestClock::default());
    let store = Arc::new(EmbeddedCoordination::new(clock));
    let (bypass, _) = bypass(store.clone());
    let one = user("u-1");
    let named = bypass.for_user(of(&one)).unwrap();
    assert!(named.use_once(&marks("before"), 10_000).await.unwrap());
    let session = PreviewSessionId::from_uuid(Uuid::from_u128(1));
    bypass.0.away.store(true, std::sync::atomic::Ordering::Release);
    assert!(!named.use_once(&marks("before"), 10_000).await.unwrap(), "used in the store");
    assert!(named.use_once(&marks("meanwhile"), 10_000).await.unwrap());
    named.announce_revocation(session, 3, 10_000).await.unwrap();
    let RememberedAccess::Unknown { generation } = named.remembered_access("key").await.unwrap() else { panic!() };
    named.remember_access("key", true, generation, 10_000).await.unwrap();
    assert_eq!(named.remembered_access("key").await.unwrap(), RememberedAccess::Known(true));
    // Lost access is heard at once, from whoever says so, and they learn that the store has not heard it.
    assert!(bypass.closed().forget_access("key").await.is_err());
    assert_ne!(named.remembered_access("key").await.unwrap(), RememberedAccess::Known(true));
    assert!(!bypass.0.come_back(), "the store would not know of what was used");
    assert!(bypass.0.hand_over().await && bypass.0.come_back());
    assert!(!bypass.is_away());
    assert!(!store.use_once(&marks("meanwhile"), 10_000).await.unwrap());
    assert!(!named.use_once(&marks("meanwhile"), 10_000).await.unwrap());
    bypass.0.away.store(true, std::sync::atomic::Ordering::Release);
    assert_eq!(named.revocations(&[session]).await.unwrap(), [None]);
}
