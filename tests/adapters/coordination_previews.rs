//! The previews' part of `Coordination`: one suite for both adapters (access, limits, gate), and what only one shows.

use std::sync::Arc;

use runwarden::coordination::{EmbeddedCoordination, RedisCoordination};
use runwarden_actors::contract::{Limiter, PreviewSessionId};
use runwarden_actors::ports::{
    Admission, Admitted, Coordination, LimitDecision, LimitWindow, RateDecision, RememberedAccess,
};
use runwarden_actors::testing::TestClock;
use uuid::Uuid;

use crate::coordination::{suite, until};
use crate::redis_server::RedisServer;

suite! {
    a_session_that_nobody_announced_is_not_admitted,
    the_gate_checks_in_the_order_of_the_contract,
    nothing_is_counted_when_a_window_is_full,
    nothing_is_counted_when_all_slots_are_taken,
    many_who_ask_at_once_share_the_slots,
    the_same_slot_is_taken_once,
    slots_end_by_themselves_are_extended_and_released,
    the_fullest_window_decides_how_long_to_wait,
    a_use_is_counted_in_all_windows_or_in_none,
    gate_and_plain_counters_share_their_windows,
    a_revocation_version_never_goes_down,
    versions_are_told_in_the_order_asked,
    access_is_remembered_until_its_end,
    an_answer_from_before_a_forgetting_is_not_remembered,
    previews_arguments_out_of_bounds_are_refused,
}

/// A session and keys that no other test has.
struct Place {
    session: PreviewSessionId,
    access: String,
    windows: Vec<LimitWindow>,
}

impl Place {
    fn new() -> Self {
        let id = Uuid::from_bytes(rand::random());
        let session = PreviewSessionId::parse(&id.to_string()).unwrap();
        let windows = vec![
            window(&format!("{id}:session"), Limiter::Session, 3, 60_000),
            window(&format!("{id}:ip"), Limiter::Ip, 5, 60_000),
        ];
        Self { session, access: format!("access:{id}"), windows }
    }

    /// Announced with version 1, and allowed.
    async fn open(store: &Arc<dyn Coordination>) -> Self {
        let place = Self::new();
        store.announce_revocation(place.session, 1, 60_000).await.unwrap();
        remember(store, &place.access, true, 60_000).await;
        place
    }

    fn ask(&self, version: i64, slot: Uuid) -> Admission<'_> {
        Admission {
            session: self.session,
            revocation_version: version,
            access_key: &self.access,
            windows: &self.windows,
            slot,
            slots_max: 16,
            slot_ms: 60_000,
        }
    }

    /// How many uses the window has, found out by filling it with a limit of its own.
    async fn used(&self, store: &Arc<dyn Coordination>, which: usize) -> u32 {
        let window = &self.windows[which];
        for more in 0..=window.limit {
            if store.count(&window.key, window.limit, window.window_ms).await.unwrap() != RateDecision::Allowed {
                return window.limit - more;
            }
        }
        panic!("the window never fills")
    }
}

fn window(key: &str, limiter: Limiter, limit: u32, window_ms: u64) -> LimitWindow {
    LimitWindow { key: format!("limit:{key}"), limiter, limit, window_ms }
}

fn slot() -> Uuid {
    Uuid::from_bytes(rand::random())
}

async fn remember(store: &Arc<dyn Coordination>, key: &str, allowed: bool, ttl_ms: u64) {
    let RememberedAccess::Unknown { generation } = store.remembered_access(key).await.unwrap() else {
        panic!("it is remembered already")
    };
    store.remember_access(key, allowed, generation, ttl_ms).await.unwrap();
}

async fn a_session_that_nobody_announced_is_not_admitted(store: Arc<dyn Coordination>) {
    let place = Place::new();
    assert_eq!(store.admit(&place.ask(1, slot())).await.unwrap(), Admitted::Unannounced);
    // A lower version than the cookie's is a memory from before the cookie: ask the database again.
    store.announce_revocation(place.session, 1, 60_000).await.unwrap();
    assert_eq!(store.admit(&place.ask(2, slot())).await.unwrap(), Admitted::Unannounced);
    // An announcement ends by itself.
    let place = Place::new();
    store.announce_revocation(place.session, 1, 1).await.unwrap();
    until(async || store.admit(&place.ask(1, slot())).await.unwrap() == Admitted::Unannounced).await;
}

async fn the_gate_checks_in_the_order_of_the_contract(store: Arc<dyn Coordination>) {
    let mut place = Place::new();
    place.windows[0].limit = 1;
    store.announce_revocation(place.session, 2, 60_000).await.unwrap();
    // Revoked comes before access.
    assert_eq!(store.admit(&place.ask(1, slot())).await.unwrap(), Admitted::Revoked);
    // Access unknown, then denied, before limits.
    let Admitted::AccessUnknown { generation } = store.admit(&place.ask(2, slot())).await.unwrap() else {
        panic!("access is known to nobody")
    };
    store.remember_access(&place.access, false, generation, 60_000).await.unwrap();
    assert_eq!(store.admit(&place.ask(2, slot())).await.unwrap(), Admitted::AccessDenied);
    store.forget_access(&place.access).await.unwrap();
    remember(&store, &place.access, true, 60_000).await;
    let only = Admission { slots_max: 1, ..place.ask(2, slot()) };
    assert_eq!(store.admit(&only).await.unwrap(), Admitted::Yes);
    // Limits come before slots, and revocation before both.
    let next = Admission { slots_max: 1, ..place.ask(2, slot()) };
    assert!(matches!(store.admit(&next).await.unwrap(), Admitted::Limited { limiter: Limiter::Session, .. }));
    let no_limits = Admission { windows: &[], ..next };
    assert_eq!(store.admit(&no_limits).await.unwrap(), Admitted::Busy);
    store.announce_revocation(place.session, 3, 60_000).await.unwrap();
    assert_eq!(store.admit(&no_limits).await.unwrap(), Admitted::Revoked);
}

async fn nothing_is_counted_when_a_window_is_full(store: Arc<dyn Coordination>) {
    let place = Place::open(&store).await;
    for _ in 0..3 {
        assert_eq!(store.admit(&place.ask(1, slot())).await.unwrap(), Admitted::Yes);
    }
    for _ in 0..4 {
        let Admitted::Limited { limiter, retry_after_ms } = store.admit(&place.ask(1, slot())).await.unwrap() else {
            panic!("the fourth of three was admitted")
        };
        assert_eq!(limiter, Limiter::Session);
        assert!((1..=60_000).contains(&retry_after_ms), "{retry_after_ms}");
    }
    assert_eq!(place.used(&store, 1).await, 3);
    // No slot either: 13 of 16 are left.
    let free = Admission { windows: &[], ..place.ask(1, slot()) };
    for _ in 0..13 {
        assert_eq!(store.admit(&Admission { slot: slot(), ..free.clone() }).await.unwrap(), Admitted::Yes);
    }
    assert_eq!(store.admit(&free).await.unwrap(), Admitted::Busy);
}

async fn nothing_is_counted_when_all_slots_are_taken(store: Arc<dyn Coordination>) {
    let place = Place::open(&store).await;
    let ask = || Admission { slots_max: 1, ..place.ask(1, slot()) };
    assert_eq!(store.admit(&ask()).await.unwrap(), Admitted::Yes);
    for _ in 0..5 {
        assert_eq!(store.admit(&ask()).await.unwrap(), Admitted::Busy);
    }
    assert_eq!((place.used(&store, 0).await, place.used(&store, 1).await), (1, 1));
}

async fn many_who_ask_at_once_share_the_slots(store: Arc<dyn Coordination>) {
    let place = Arc::new(Place::open(&store).await);
    let asked: Vec<_> = (0..64)
        .map(|_| {
            let (store, place) = (store.clone(), place.clone());
            tokio::spawn(async move {
                store.admit(&Admission { windows: &[], slots_max: 7, ..place.ask(1, slot()) }).await.unwrap()
            })
        })
        .collect();
    let mut admitted = 0;
    for asked in asked {
        admitted += usize::from(asked.await.unwrap() == Admitted::Yes);
    }
    assert_eq!(admitted, 7);
}

async fn the_same_slot_is_taken_once(store: Arc<dyn Coordination>) {
    let place = Place::open(&store).await;
    let ask = Admission { slots_max: 2, ..place.ask(1, slot()) };
    for _ in 0..2 {
        assert_eq!(store.admit(&ask).await.unwrap(), Admitted::Yes);
    }
    let other = Admission { slot: slot(), ..ask.clone() };
    assert_eq!(store.admit(&other).await.unwrap(), Admitted::Yes);
    let free = Admission { windows: &[], ..ask.clone() };
    // Full, and the one who has a slot keeps it.
    assert_eq!(store.admit(&Admission { slot: slot(), ..free.clone() }).await.unwrap(), Admitted::Busy);
    assert_eq!(store.admit(&free).await.unwrap(), Admitted::Yes);
}

async fn slots_end_by_themselves_are_extended_and_released(store: Arc<dyn Coordination>) {
    let place = Place::open(&store).await;
    let ask = |slot_ms| Admission { windows: &[], slots_max: 1, slot_ms, ..place.ask(1, slot()) };
    // Released: at once free. Somebody else's slot is not touched.
    let first = ask(60_000);
    assert_eq!(store.admit(&first).await.unwrap(), Admitted::Yes);
    store.release_slot(place.session, slot()).await.unwrap();
    assert_eq!(store.admit(&ask(60_000)).await.unwrap(), Admitted::Busy);
    store.release_slot(place.session, first.slot).await.unwrap();
    // Not extended: it ends, and cannot be had back.
    let short = ask(1);
    assert_eq!(store.admit(&short).await.unwrap(), Admitted::Yes);
    tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    assert!(!store.extend_slot(place.session, short.slot, 60_000).await.unwrap());
    // Extended: it is there after its first end.
    let held = ask(400);
    assert_eq!(store.admit(&held).await.unwrap(), Admitted::Yes);
    assert!(store.extend_slot(place.session, held.slot, 60_000).await.unwrap());
    tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    assert_eq!(store.admit(&ask(1)).await.unwrap(), Admitted::Busy);
    // Extending does not wait for the first end: the last word counts.
    assert!(store.extend_slot(place.session, held.slot, 1).await.unwrap());
    until(async || store.admit(&ask(60_000)).await.unwrap() == Admitted::Yes).await;
    // Nobody's slot.
    assert!(!store.extend_slot(place.session, slot(), 60_000).await.unwrap());
    assert!(!store.extend_slot(Place::new().session, held.slot, 60_000).await.unwrap());
}

async fn the_fullest_window_decides_how_long_to_wait(store: Arc<dyn Coordination>) {
    let id = slot();
    let windows = [
        window(&format!("{id}:a"), Limiter::Session, 1, 5_000),
        window(&format!("{id}:b"), Limiter::Ip, 1, 60_000),
        window(&format!("{id}:c"), Limiter::User, 9, 90_000),
    ];
    assert_eq!(store.count_all(&windows).await.unwrap(), LimitDecision::Allowed);
    let LimitDecision::Limited { limiter, retry_after_ms } = store.count_all(&windows).await.unwrap() else {
        panic!("the second of one was allowed")
    };
    assert_eq!(limiter, Limiter::Ip);
    assert!((5_001..=60_000).contains(&retry_after_ms), "{retry_after_ms}");
}

async fn a_use_is_counted_in_all_windows_or_in_none(store: Arc<dyn Coordination>) {
    let place = Place::new();
    for _ in 0..3 {
        assert_eq!(store.count_all(&place.windows).await.unwrap(), LimitDecision::Allowed);
    }
    for _ in 0..4 {
        assert!(matches!(
            store.count_all(&place.windows).await.unwrap(),
            LimitDecision::Limited { limiter: Limiter::Session, .. }
        ));
    }
    assert_eq!(place.used(&store, 1).await, 3);
    assert_eq!(store.count_all(&[]).await.unwrap(), LimitDecision::Allowed);
    // A limit of nothing waits for a whole window.
    let nothing = [window(&slot().to_string(), Limiter::User, 0, 700)];
    assert_eq!(
        store.count_all(&nothing).await.unwrap(),
        LimitDecision::Limited { limiter: Limiter::User, retry_after_ms: 700 }
    );
    // A window opens again.
    let short = [window(&slot().to_string(), Limiter::User, 1, 1)];
    store.count_all(&short).await.unwrap();
    until(async || store.count_all(&short).await.unwrap() == LimitDecision::Allowed).await;
}

async fn gate_and_plain_counters_share_their_windows(store: Arc<dyn Coordination>) {
    let place = Place::open(&store).await;
    assert_eq!(store.count_all(&place.windows).await.unwrap(), LimitDecision::Allowed);
    assert_eq!(store.admit(&place.ask(1, slot())).await.unwrap(), Admitted::Yes);
    assert_eq!(place.used(&store, 0).await, 2);
}

async fn a_revocation_version_never_goes_down(store: Arc<dyn Coordination>) {
    let place = Place::new();
    store.announce_revocation(place.session, 5, 60_000).await.unwrap();
    store.announce_revocation(place.session, 4, 60_000).await.unwrap();
    assert_eq!(store.revocations(&[place.session]).await.unwrap(), [Some(5)]);
    // Nor does its life: a shorter announcement of the same or a higher version does not end it early.
    store.announce_revocation(place.session, 5, 1).await.unwrap();
    store.announce_revocation(place.session, 6, 1).await.unwrap();
    tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    assert_eq!(store.revocations(&[place.session]).await.unwrap(), [Some(6)]);
    let announced = (0..20).map(|version| {
        let (store, session) = (store.clone(), place.session);
        tokio::spawn(async move { store.announce_revocation(session, 100 - version, 60_000).await.unwrap() })
    });
    for announced in announced.collect::<Vec<_>>() {
        announced.await.unwrap();
    }
    assert_eq!(store.revocations(&[place.session]).await.unwrap(), [Some(100)]);
    // The highest version there is, exactly.
    let highest = runwarden_actors::contract::limits::SEQ_MAX;
    store.announce_revocation(place.session, highest, 60_000).await.unwrap();
    store.announce_revocation(place.session, highest - 1, 60_000).await.unwrap();
    assert_eq!(store.revocations(&[place.session]).await.unwrap(), [Some(highest)]);
}

async fn versions_are_told_in_the_order_asked(store: Arc<dyn Coordination>) {
    let (first, second, unknown) = (Place::new().session, Place::new().session, Place::new().session);
    store.announce_revocation(first, 1, 60_000).await.unwrap();
    store.announce_revocation(second, 2, 60_000).await.unwrap();
    let asked = [second, unknown, first, second];
    assert_eq!(store.revocations(&asked).await.unwrap(), [Some(2), None, Some(1), Some(2)]);
    assert!(store.revocations(&[]).await.unwrap().is_empty());
    let many = vec![first; 1_000];
    assert_eq!(store.revocations(&many).await.unwrap(), vec![Some(1); 1_000]);
    assert!(store.revocations(&vec![first; 1_001]).await.is_err());
}

async fn access_is_remembered_until_its_end(store: Arc<dyn Coordination>) {
    let (yes, no, short) = (Place::new().access, Place::new().access, Place::new().access);
    remember(&store, &yes, true, 60_000).await;
    remember(&store, &no, false, 60_000).await;
    assert_eq!(store.remembered_access(&yes).await.unwrap(), RememberedAccess::Known(true));
    assert_eq!(store.remembered_access(&no).await.unwrap(), RememberedAccess::Known(false));
    remember(&store, &short, true, 1).await;
    until(async || matches!(store.remembered_access(&short).await.unwrap(), RememberedAccess::Unknown { .. })).await;
    // Remembered again, after its end.
    remember(&store, &short, false, 60_000).await;
    assert_eq!(store.remembered_access(&short).await.unwrap(), RememberedAccess::Known(false));
}

async fn an_answer_from_before_a_forgetting_is_not_remembered(store: Arc<dyn Coordination>) {
    let key = Place::new().access;
    let generation = async || match store.remembered_access(&key).await.unwrap() {
        RememberedAccess::Unknown { generation } => generation,
        known @ RememberedAccess::Known(_) => panic!("{known:?}"),
    };
    // Two servers ask; both may remember, under the same generation.
    let asked = generation().await;
    assert_eq!(generation().await, asked);
    // The user is removed while the source is being asked.
    store.forget_access(&key).await.unwrap();
    store.remember_access(&key, true, asked, 60_000).await.unwrap();
    let next = generation().await;
    assert_ne!(next, asked);
    store.remember_access(&key, true, asked, 60_000).await.unwrap();
    assert_eq!(generation().await, next);
    store.remember_access(&key, false, next, 60_000).await.unwrap();
    assert_eq!(store.remembered_access(&key).await.unwrap(), RememberedAccess::Known(false));
    // Forgetting twice moves it twice, however fast.
    let mut seen = vec![asked, next];
    for _ in 0..5 {
        store.forget_access(&key).await.unwrap();
        let generation = generation().await;
        assert!(!seen.contains(&generation), "{generation} again");
        seen.push(generation);
    }
    // Nobody was ever told this one.
    store.remember_access(&key, true, 0, 60_000).await.unwrap();
    generation().await;
}

async fn previews_arguments_out_of_bounds_are_refused(store: Arc<dyn Coordination>) {
    let place = Place::open(&store).await;
    let long = "k".repeat(1025);
    let many = vec![place.windows[0].clone(); 9];
    let ask = || place.ask(1, slot());
    for wrong in [
        Admission { access_key: "", ..ask() },
        Admission { access_key: &long, ..ask() },
        Admission { slot_ms: 0, ..ask() },
        Admission { slot_ms: u64::MAX, ..ask() },
        Admission { revocation_version: -1, ..ask() },
        Admission { revocation_version: i64::MAX, ..ask() },
        Admission { windows: &many, ..ask() },
        Admission { windows: &[window("", Limiter::Ip, 1, 0)], ..ask() },
    ] {
        assert!(store.admit(&wrong).await.is_err(), "{wrong:?}");
    }
    assert!(store.count_all(&many).await.is_err());
    assert!(store.announce_revocation(place.session, -1, 1).await.is_err());
    assert!(store.announce_revocation(place.session, 1, 0).await.is_err());
    assert!(store.remember_access("", true, 1, 1).await.is_err());
    assert!(store.remember_access("k", true, 1, 0).await.is_err());
    assert!(store.remembered_access(&long).await.is_err());
    assert!(store.forget_access("").await.is_err());
    assert!(store.extend_slot(place.session, slot(), 0).await.is_err());
}

#[tokio::test]
async fn embedded_counts_time_to_the_millisecond_at_the_gate() {
    let clock = Arc::new(TestClock::default());
    let store: Arc<dyn Coordination> = Arc::new(EmbeddedCoordination::new(clock.clone()));
    let place = Place::open(&store).await;
    let ask = Admission { slots_max: 1, slot_ms: 100, ..place.ask(1, slot()) };
    assert_eq!(store.admit(&ask).await.unwrap(), Admitted::Yes);
    clock.advance_ms(99);
    assert_eq!(store.admit(&Admission { slot: slot(), ..ask.clone() }).await.unwrap(), Admitted::Busy);
    clock.advance_ms(1);
    assert_eq!(store.admit(&Admission { slot: slot(), ..ask.clone() }).await.unwrap(), Admitted::Yes);
    // Two of three are used in the window that began 100 ms ago.
    assert_eq!(store.count_all(&place.windows).await.unwrap(), LimitDecision::Allowed);
    let limited = LimitDecision::Limited { limiter: Limiter::Session, retry_after_ms: 59_900 };
    assert_eq!(store.count_all(&place.windows).await.unwrap(), limited);
    clock.advance_ms(59_900);
    assert_eq!(store.admit(&ask).await.unwrap(), Admitted::Unannounced);
}

#[tokio::test]
async fn embedded_refuses_what_is_too_much_and_counts_none_of_it() {
    let clock = Arc::new(TestClock::default());
    let store: Arc<dyn Coordination> = Arc::new(EmbeddedCoordination::with_capacity(clock.clone(), 3));
    let windows =
        |name: &str| ["a", "b"].map(|letter| window(&format!("{name}:{letter}"), Limiter::User, 9, 60_000)).to_vec();
    store.count_all(&windows("first")).await.unwrap();
    assert!(store.count_all(&windows("second")).await.is_err());
    // Neither of the two was counted: there is room for exactly one more.
    assert!(store.count("third", 1, 60_000).await.is_ok());
    for session in 0..3 {
        let id = PreviewSessionId::parse(&format!("01935d3e-7c00-7000-8000-00000000000{session}")).unwrap();
        store.announce_revocation(id, 1, 60_000).await.unwrap();
    }
    assert!(store.announce_revocation(Place::new().session, 1, 60_000).await.is_err());
    clock.advance_ms(60_000);
    assert!(store.announce_revocation(Place::new().session, 1, 60_000).await.is_ok());
    assert!(store.count_all(&windows("second")).await.is_ok());
}

#[tokio::test]
async fn a_redis_that_is_away_admits_nobody_and_forgets_everything() {
    let mut server = RedisServer::spawn(None);
    let store: Arc<dyn Coordination> = Arc::new(RedisCoordination::new(&server.url()).unwrap());
    let place = Place::open(&store).await;
    let ask = place.ask(1, slot());
    assert_eq!(store.admit(&ask).await.unwrap(), Admitted::Yes);
    server.stop();
    assert!(store.admit(&ask).await.is_err());
    assert!(store.count_all(&place.windows).await.is_err());
    assert!(store.remembered_access(&place.access).await.is_err());
    assert!(store.revocations(&[place.session]).await.is_err());
    assert!(store.extend_slot(place.session, ask.slot, 1).await.is_err());
    assert!(store.forget_access(&place.access).await.is_err());
    server.start();
    assert_eq!(store.admit(&ask).await.unwrap(), Admitted::Unannounced);
}

#[tokio::test]
async fn what_redis_keeps_ends_by_itself_and_has_the_names_of_the_contract() {
    let server = RedisServer::spawn(None);
    let store: Arc<dyn Coordination> = Arc::new(RedisCoordination::new(&server.url()).unwrap());
    let place = Place::open(&store).await;
    store.admit(&place.ask(1, slot())).await.unwrap();
    store.use_once(&["once".to_owned()], 60_000).await.unwrap();
    let answer = server.tell("KEYS *").unwrap();
    let keys: Vec<&str> = answer.lines().filter(|line| !line.starts_with(['*', '$'])).collect();
    let mut expected: Vec<String> = vec![
        format!("terragon:v1:preview:revocation:{}", place.session),
        format!("terragon:v1:preview:slots:{}", place.session),
        place.access.clone(),
        format!("{}:generation", place.access),
        "once".to_owned(),
    ];
    expected.extend(place.windows.iter().map(|window| window.key.clone()));
    expected.sort();
    let mut found = keys.clone();
    found.sort_unstable();
    assert_eq!(found, expected);
    for key in keys {
        let left = server.tell(&format!("PTTL {key}")).unwrap();
        assert!(left.trim_start_matches(':').trim().parse::<i64>().unwrap() > 0, "{key} never ends");
    }
}
