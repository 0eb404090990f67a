//! The gate before proxied requests: one suite for both adapters, and what only one of them can show.

use std::collections::HashMap;
use std::sync::Arc;

use futures_util::future::join_all;
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
    many_who_ask_at_once_are_each_answered_for_themselves,
    the_same_slot_is_taken_once,
    slots_end_by_themselves_are_extended_and_released,
    previews_arguments_out_of_bounds_are_refused,
}

/// A session and keys that no other test has.
pub(crate) struct Place {
    pub(crate) session: PreviewSessionId,
    pub(crate) access: String,
    pub(crate) windows: Vec<LimitWindow>,
}

impl Place {
    pub(crate) fn new() -> Self {
        let id = Uuid::from_bytes(rand::random());
        let session = PreviewSessionId::parse(&id.to_string()).unwrap();
        let windows = vec![
            window(&format!("{id}:session"), Limiter::Session, 3, 60_000),
            window(&format!("{id}:ip"), Limiter::Ip, 5, 60_000),
        ];
        Self { session, access: format!("access:{id}"), windows }
    }

    /// Announced with version 1, and allowed.
    pub(crate) async fn open(store: &Arc<dyn Coordination>) -> Self {
        let place = Self::new();
        store.announce_revocation(place.session, 1, 60_000).await.unwrap();
        remember(store, &place.access, true, 60_000).await;
        place
    }

    pub(crate) fn ask(&self, version: i64, slot: Uuid) -> Admission<'_> {
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
    pub(crate) async fn used(&self, store: &Arc<dyn Coordination>, which: usize) -> u32 {
        let window = &self.windows[which];
        for more in 0..=window.limit {
            if store.count(&window.key, window.limit, window.window_ms).await.unwrap() != RateDecision::Allowed {
                return window.limit - more;
            }
        }
        panic!("the window never fills")
    }
}

pub(crate) fn window(key: &str, limiter: Limiter, limit: u32, window_ms: u64) -> LimitWindow {
    LimitWindow { key: format!("limit:{key}"), limiter, limit, window_ms }
}

pub(crate) fn slot() -> Uuid {
    Uuid::from_bytes(rand::random())
}

pub(crate) async fn remember(store: &Arc<dyn Coordination>, key: &str, allowed: bool, ttl_ms: u64) {
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

/// They may go to the store together; each is answered for itself.
async fn many_who_ask_at_once_are_each_answered_for_themselves(store: Arc<dyn Coordination>) {
    let limited = Place::open(&store).await;
    let narrow = Place::open(&store).await;
    let revoked = Place::open(&store).await;
    store.announce_revocation(revoked.session, 2, 60_000).await.unwrap();
    let unknown = Place::new();
    let withdrawn = Place::open(&store).await;
    store.forget_access(&withdrawn.access).await.unwrap();
    remember(&store, &withdrawn.access, false, 60_000).await;
    let mut asked = Vec::new();
    for _ in 0..8 {
        asked.push((&limited, limited.ask(1, slot())));
        asked.push((&narrow, Admission { windows: &[], slots_max: 2, ..narrow.ask(1, slot()) }));
        for place in [&revoked, &unknown, &withdrawn] {
            asked.push((place, place.ask(1, slot())));
        }
    }
    let answers = join_all(asked.iter().map(|(_, ask)| store.admit(ask))).await;
    let mut counts: HashMap<(PreviewSessionId, String), u32> = HashMap::new();
    for ((place, _), answer) in asked.iter().zip(answers) {
        let answer = match answer.unwrap() {
            Admitted::Limited { limiter, retry_after_ms } => {
                assert!((1..=60_000).contains(&retry_after_ms), "{retry_after_ms}");
                format!("limited by {limiter}")
            }
            answer => format!("{answer:?}"),
        };
        *counts.entry((place.session, answer)).or_default() += 1;
    }
    let expected = [
        (&limited, "Yes", 3),
        (&limited, "limited by session", 5),
        (&narrow, "Yes", 2),
        (&narrow, "Busy", 6),
        (&revoked, "Revoked", 8),
        (&unknown, "Unannounced", 8),
        (&withdrawn, "AccessDenied", 8),
    ];
    let expected: HashMap<_, _> =
        expected.map(|(place, answer, times)| ((place.session, answer.to_owned()), times)).into_iter().collect();
    assert_eq!(counts, expected);
    assert_eq!((limited.used(&store, 0).await, limited.used(&store, 1).await), (3, 3));
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
