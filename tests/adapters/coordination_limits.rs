//! Limits, announced versions and remembered access: one suite for both adapters.

use std::sync::Arc;

use runwarden_actors::contract::Limiter;
use runwarden_actors::ports::{Admitted, Coordination, LimitDecision, RememberedAccess};

use crate::coordination::{suite, until};
use crate::coordination_previews::{Place, remember, slot, window};

suite! {
    the_fullest_window_decides_how_long_to_wait,
    a_use_is_counted_in_all_windows_or_in_none,
    gate_and_plain_counters_share_their_windows,
    a_revocation_version_never_goes_down,
    versions_are_told_in_the_order_asked,
    access_is_remembered_until_its_end,
    an_answer_from_before_a_forgetting_is_not_remembered,
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
