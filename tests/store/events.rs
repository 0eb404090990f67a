//! Reading stored events.

use runwarden_actors::contract::EventId;
use runwarden_actors::ports::store::{NewEvent, Seen};

use crate::harness::Database;
use crate::sample::{applied, commit, event, run, seq};

on_both!(
    what_is_stored_is_seen_in_the_order_asked,
    pages_follow_each_other_without_gap_or_repeat,
    a_page_is_bounded_by_bytes_but_has_at_least_one_event,
    a_large_payload_comes_back_whole,
);

async fn what_is_stored_is_seen_in_the_order_asked(database: Database) {
    let (one, other) = (run(&*database.store).await, run(&*database.store).await);
    applied(&*database.store, commit(&one, vec![event(0, "e-0"), event(4, "e'\"4")])).await;
    applied(&*database.store, commit(&other, vec![event(1, "theirs")])).await;
    let id = |text: &str| Some(EventId::parse(text).unwrap());
    let asked = [
        (id("e'\"4"), Some(seq(1))),
        (id("theirs"), Some(seq(4))),
        (None, Some(seq(0))),
        (id("e-0"), None),
        (None, None),
        (id("e-0"), Some(seq(0))),
    ];
    let seen = database.store.seen(one.run_id, &asked).await.unwrap();
    let expected = [(true, false), (false, true), (false, true), (true, false), (false, false), (true, true)];
    assert_eq!(seen, expected.map(|(event_id, seq)| Seen { event_id, seq }));
    assert!(database.store.seen(one.run_id, &[]).await.unwrap().is_empty());
}

async fn pages_follow_each_other_without_gap_or_repeat(database: Database) {
    let run = run(&*database.store).await;
    let events: Vec<NewEvent> = (0..25).map(|index| event(index * 2, &format!("e-{index}"))).collect();
    applied(&*database.store, commit(&run, events)).await;
    let (mut after, mut found) = (None, Vec::new());
    loop {
        let page = database.store.events_after(run.run_id, after, 10, 1 << 20).await.unwrap();
        let Some(last) = page.last() else { break };
        assert!(page.len() <= 10);
        after = Some(last.seq);
        found.extend(page.iter().map(|event| event.seq.get()));
    }
    assert_eq!(found, (0..25).map(|index| index * 2).collect::<Vec<_>>());
}

async fn a_page_is_bounded_by_bytes_but_has_at_least_one_event(database: Database) {
    let run = run(&*database.store).await;
    let sized =
        |at: i64, bytes: usize| NewEvent { payload: "ü".repeat(bytes / 2).into(), ..event(at, &format!("e-{at}")) };
    let events = vec![sized(0, 400), sized(1, 400), sized(2, 400), sized(3, 10_000), sized(4, 20)];
    applied(&*database.store, commit(&run, events)).await;
    let page = async |after: Option<i64>, bytes| {
        let events = database.store.events_after(run.run_id, after.map(seq), 10, bytes).await.unwrap();
        events.iter().map(|event| event.seq.get()).collect::<Vec<_>>()
    };
    assert_eq!(page(None, 800).await, [0, 1]);
    assert_eq!(page(None, 799).await, [0]);
    assert_eq!(page(None, 0).await, [0]);
    assert_eq!(page(Some(1), 1000).await, [2]);
    // One that is larger than a page is a page of its own.
    assert_eq!(page(Some(2), 1000).await, [3]);
    assert_eq!(page(Some(3), 1000).await, [4]);
    assert_eq!(page(Some(4), 1000).await, [0; 0]);
}

async fn a_large_payload_comes_back_whole(database: Database) {
    let run = run(&*database.store).await;
    let body: String = (0_u32..200_000).flat_map(|index| ['ü', char::from_digit(index % 10, 10).unwrap()]).collect();
    let large = NewEvent { payload: format!("\"{body}\"").into(), ..event(0, "large") };
    applied(&*database.store, commit(&run, vec![large.clone()])).await;
    let stored = database.store.events_after(run.run_id, None, 1, 1).await.unwrap();
    assert_eq!(stored[0].payload, large.payload);
}
