//! One suite for both adapters of `Coordination`, and what only one of them can show.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use runwarden::coordination::{EmbeddedCoordination, RedisCoordination, RedisUrlError};
use runwarden_actors::contract::Timestamp;
use runwarden_actors::ports::{Clock, Coordination, CoordinationError, Lease, Leases as _, RateDecision};
use rustix::process::{Signal, kill_process};

use crate::redis_server::RedisServer;

pub(crate) struct WallClock;

impl Clock for WallClock {
    #[allow(clippy::disallowed_methods, reason = "this is the clock")]
    fn now(&self) -> Timestamp {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        Timestamp::from_millis(i64::try_from(since.as_millis()).unwrap())
    }
}

#[derive(Default)]
struct SetClock(AtomicI64);

impl Clock for SetClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.0.load(Ordering::SeqCst))
    }
}

pub(crate) fn embedded() -> Arc<dyn Coordination> {
    Arc::new(EmbeddedCoordination::new(Arc::new(WallClock)))
}

/// All tests share one server, each with keys of its own.
pub(crate) fn redis() -> Arc<dyn Coordination> {
    static SERVER: OnceLock<RedisServer> = OnceLock::new();
    let server = SERVER.get_or_init(|| RedisServer::spawn(None));
    Arc::new(RedisCoordination::new(&server.url()).unwrap())
}

macro_rules! suite {
    ($($name:ident),+ $(,)?) => {
        mod on_embedded { $(#[tokio::test] async fn $name() { super::$name(crate::coordination::embedded()).await; })+ }
        mod on_redis { $(#[tokio::test] async fn $name() { super::$name(crate::coordination::redis()).await; })+ }
    };
}
pub(crate) use suite;

suite! {
    a_lease_has_one_holder,
    only_the_holder_releases,
    a_lease_ends_by_itself,
    of_many_who_ask_at_once_one_gets_the_lease,
    a_window_allows_its_limit_and_opens_again,
    a_use_that_came_to_nothing_is_taken_back,
    many_who_count_at_once_share_one_limit,
    a_limit_of_nothing_allows_nothing,
    arguments_out_of_bounds_are_refused,
    a_key_is_a_lease_or_a_counter,
    the_clock_is_a_clock,
}

async fn a_lease_has_one_holder(store: Arc<dyn Coordination>) {
    let lease = store.acquire_lease("one-holder", "a", 60_000).await.unwrap().unwrap();
    assert_eq!((lease.key.as_str(), lease.holder.as_str()), ("one-holder", "a"));
    assert_eq!(store.acquire_lease("one-holder", "b", 60_000).await.unwrap(), None);
    assert!(store.acquire_lease("another", "b", 60_000).await.unwrap().is_some());

    let extended = store.acquire_lease("one-holder", "a", 600_000).await.unwrap().unwrap();
    assert!(extended.expires_at.millis_since(lease.expires_at) >= 540_000);
    assert!(extended.expires_at.millis_since(store.now().await.unwrap()) <= 600_000);
}

async fn only_the_holder_releases(store: Arc<dyn Coordination>) {
    let lease = store.acquire_lease("release", "a", 60_000).await.unwrap().unwrap();
    let forged = Lease { holder: "b".to_owned(), ..lease.clone() };
    store.release_lease(&forged).await.unwrap();
    assert_eq!(store.acquire_lease("release", "b", 60_000).await.unwrap(), None);
    store.release_lease(&lease).await.unwrap();
    assert!(store.acquire_lease("release", "b", 60_000).await.unwrap().is_some());
    // Late, the lease is somebody else's by now.
    store.release_lease(&lease).await.unwrap();
    assert_eq!(store.acquire_lease("release", "a", 60_000).await.unwrap(), None);
}

async fn a_lease_ends_by_itself(store: Arc<dyn Coordination>) {
    store.acquire_lease("ends", "a", 1).await.unwrap().unwrap();
    until(async || store.acquire_lease("ends", "b", 60_000).await.unwrap().is_some()).await;
}

async fn of_many_who_ask_at_once_one_gets_the_lease(store: Arc<dyn Coordination>) {
    let asked = (0..32).map(|n| {
        let store = store.clone();
        tokio::spawn(async move { store.acquire_lease("race", &n.to_string(), 60_000).await.unwrap() })
    });
    let mut won = 0;
    for asked in asked.collect::<Vec<_>>() {
        won += usize::from(asked.await.unwrap().is_some());
    }
    assert_eq!(won, 1);
}

async fn a_use_that_came_to_nothing_is_taken_back(store: Arc<dyn Coordination>) {
    // Before the first use there is nothing to take back, and no credit to gain.
    store.uncount("given-back").await.unwrap();
    for _ in 0..5 {
        assert_eq!(store.count("given-back", 1, 60_000).await.unwrap(), RateDecision::Allowed);
        store.uncount("given-back").await.unwrap();
    }
    store.uncount("given-back").await.unwrap();
    assert_eq!(store.count("given-back", 1, 60_000).await.unwrap(), RateDecision::Allowed);
    assert!(matches!(store.count("given-back", 1, 60_000).await.unwrap(), RateDecision::Limited { .. }));
}

async fn a_window_allows_its_limit_and_opens_again(store: Arc<dyn Coordination>) {
    for _ in 0..3 {
        assert_eq!(store.count("window", 3, 60_000).await.unwrap(), RateDecision::Allowed);
    }
    let RateDecision::Limited { retry_after_ms } = store.count("window", 3, 60_000).await.unwrap() else {
        panic!("the fourth of three was allowed")
    };
    assert!((1..=60_000).contains(&retry_after_ms), "{retry_after_ms}");
    assert_eq!(store.count("another-window", 3, 60_000).await.unwrap(), RateDecision::Allowed);

    store.count("short-window", 1, 1).await.unwrap();
    until(async || store.count("short-window", 1, 1).await.unwrap() == RateDecision::Allowed).await;
}

async fn many_who_count_at_once_share_one_limit(store: Arc<dyn Coordination>) {
    let counted = (0..64).map(|_| {
        let store = store.clone();
        tokio::spawn(async move { store.count("shared-limit", 20, 60_000).await.unwrap() })
    });
    let mut allowed = 0;
    for counted in counted.collect::<Vec<_>>() {
        allowed += usize::from(counted.await.unwrap() == RateDecision::Allowed);
    }
    assert_eq!(allowed, 20);
}

async fn a_limit_of_nothing_allows_nothing(store: Arc<dyn Coordination>) {
    assert!(matches!(store.count("nothing", 0, 60_000).await.unwrap(), RateDecision::Limited { .. }));
}

async fn arguments_out_of_bounds_are_refused(store: Arc<dyn Coordination>) {
    let long = "k".repeat(1025);
    for (key, holder, ttl) in [("", "a", 1), ("k", "", 1), (&long, "a", 1), ("k", &long, 1), ("k", "a", 0)] {
        assert!(store.acquire_lease(key, holder, ttl).await.is_err());
    }
    assert!(store.acquire_lease("k", "a", u64::MAX).await.is_err());
    assert!(store.count("", 1, 1).await.is_err());
    assert!(store.count("k", 1, 0).await.is_err());
    assert!(store.count("k", 1, u64::MAX).await.is_err());
}

async fn a_key_is_a_lease_or_a_counter(store: Arc<dyn Coordination>) {
    store.acquire_lease("kind", "holder", 60_000).await.unwrap();
    assert!(store.count("kind", 1, 60_000).await.is_err());
}

async fn the_clock_is_a_clock(store: Arc<dyn Coordination>) {
    let here = WallClock.now();
    let there = store.now().await.unwrap();
    assert!(there.millis_since(here).abs() < 60_000, "{there} is far from {here}");
}

/// Asks again until the answer is yes; the time is far above what it should take, because it proves nothing.
pub(crate) async fn until(mut asked: impl AsyncFnMut() -> bool) {
    for _ in 0..500 {
        if asked().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("it never happened");
}

#[tokio::test]
async fn embedded_forgets_what_expired_and_refuses_what_is_too_much() {
    let clock = Arc::new(SetClock::default());
    let store = EmbeddedCoordination::with_capacity(clock.clone(), 2000);
    for n in 0..2000 {
        store.count(&format!("early-{n}"), 1, 1000).await.unwrap();
    }
    assert!(store.count("one-too-many", 1, 1000).await.is_err());
    assert!(store.acquire_lease("one-too-many", "a", 1000).await.is_err());
    // What is there goes on.
    assert!(matches!(store.count("early-0", 1, 1000).await.unwrap(), RateDecision::Limited { .. }));

    clock.0.store(1000, Ordering::SeqCst);
    store.count("later", 1, 1000).await.unwrap();
    assert_eq!(store.len(), 1);
}

#[tokio::test]
async fn embedded_reads_its_clock_to_the_millisecond() {
    let clock = Arc::new(SetClock::default());
    let store = EmbeddedCoordination::new(clock.clone());
    store.acquire_lease("lease", "a", 100).await.unwrap();
    store.count("window", 1, 100).await.unwrap();
    clock.0.store(99, Ordering::SeqCst);
    assert_eq!(store.acquire_lease("lease", "b", 100).await.unwrap(), None);
    assert_eq!(store.count("window", 1, 100).await.unwrap(), RateDecision::Limited { retry_after_ms: 1 });
    clock.0.store(100, Ordering::SeqCst);
    assert!(store.acquire_lease("lease", "b", 100).await.unwrap().is_some());
    assert_eq!(store.count("window", 1, 100).await.unwrap(), RateDecision::Allowed);
}

#[tokio::test]
async fn two_servers_share_one_redis() {
    let (first, second) = (redis(), redis());
    first.acquire_lease("two-servers", "first", 60_000).await.unwrap().unwrap();
    assert_eq!(second.acquire_lease("two-servers", "second", 60_000).await.unwrap(), None);
}

#[tokio::test]
async fn a_redis_that_went_away_comes_back() {
    let mut server = RedisServer::spawn(None);
    let store = RedisCoordination::new(&server.url()).unwrap();
    store.acquire_lease("k", "a", 60_000).await.unwrap().unwrap();

    server.stop();
    for _ in 0..3 {
        assert!(store.acquire_lease("k", "a", 60_000).await.is_err());
    }
    assert!(store.now().await.is_err());

    // The first call already: the new server knows none of the scripts, and the connection is gone.
    server.start();
    assert!(store.acquire_lease("k", "b", 60_000).await.unwrap().is_some());
    // Connections that the server closed do not cost a call either.
    server.tell("CLIENT KILL TYPE normal").unwrap();
    assert!(store.now().await.is_ok());
}

#[tokio::test]
async fn a_redis_that_hangs_is_not_waited_for() {
    let server = RedisServer::spawn(None);
    let store = RedisCoordination::new(&server.url()).unwrap();
    store.now().await.unwrap();
    let process = server.process();
    kill_process(process, Signal::STOP).unwrap();
    let answer = store.now().await;
    kill_process(process, Signal::CONT).unwrap();
    assert!(answer.is_err());
    store.now().await.unwrap();
}

#[tokio::test]
async fn a_refused_password_is_not_the_end_and_is_never_printed() {
    let server = RedisServer::spawn(Some("open-sesame-1"));
    let store = RedisCoordination::new(&server.url()).unwrap();
    server.tell("CONFIG SET requirepass another-one-2").unwrap();
    let CoordinationError(text) = store.now().await.unwrap_err();
    assert!(!text.contains("sesame"), "{text}");
    assert!(!format!("{store:?}").contains("sesame"));

    let changed = server.tell_as(Some("another-one-2"), "CONFIG SET requirepass open-sesame-1").unwrap();
    assert!(changed.starts_with("+OK"), "{changed}");
    store.now().await.unwrap();
}

#[test]
fn a_wrong_redis_url_is_refused_without_being_repeated() {
    for wrong in ["", "localhost:6379", "http://localhost", "redis://:sesame@ho st:1/x"] {
        assert_eq!(RedisCoordination::new(wrong).unwrap_err(), RedisUrlError, "{wrong}");
    }
    assert!(!RedisUrlError.to_string().contains("sesame"));
}
