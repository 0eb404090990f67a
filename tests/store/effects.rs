//! The outbox.

use futures_util::future::join_all;
use runwarden_actors::ports::store::{CommittedEffect, RunCommit, RunRecord};
use runwarden_actors::run::effect::Effect;

use crate::harness::Database;
use crate::sample::{NOW, applied, commit, run, sha, uuid};

on_both!(
    an_effect_is_held_while_it_is_carried_out_and_comes_back_if_nobody_says_more,
    a_finished_effect_is_gone,
    a_failed_effect_waits_for_its_next_attempt,
    an_effect_that_is_given_up_stays_for_a_person,
    an_effect_that_cannot_be_read_does_not_hold_up_the_others,
    two_servers_never_take_one_effect_together,
);

fn promise(run: &RunRecord, effects: Vec<Effect>) -> RunCommit {
    let effects =
        effects.into_iter().map(|effect| CommittedEffect { id: uuid(), run_id: run.run_id, effect }).collect();
    RunCommit { effects, now: NOW, ..commit(run, Vec::new()) }
}

async fn an_effect_is_held_while_it_is_carried_out_and_comes_back_if_nobody_says_more(database: Database) {
    let run = run(&*database.store).await;
    let decision = promise(&run, vec![Effect::CheckHead { end_sha: Some(sha('a')) }, Effect::DenyAccessIfPreviewed]);
    let promised = decision.effects.clone();
    applied(&*database.store, decision).await;
    let take = async |at: i64| database.store.take_due_effects(NOW.plus_millis(at), 1000, 10).await.unwrap();
    assert!(take(-1).await.is_empty());
    let due = take(0).await;
    assert_eq!(due.iter().map(|due| due.effect.clone()).collect::<Vec<_>>(), promised);
    assert!(due.iter().all(|due| due.attempts == 0));
    assert!(take(999).await.is_empty());
    let again = take(1000).await;
    assert_eq!(again.iter().map(|due| due.attempts).collect::<Vec<_>>(), [1, 1]);
}

async fn a_finished_effect_is_gone(database: Database) {
    let run = run(&*database.store).await;
    applied(&*database.store, promise(&run, vec![Effect::ClassifyLegacy, Effect::ClassifyLegacy])).await;
    let due = database.store.take_due_effects(NOW, 10, 1).await.unwrap();
    assert_eq!(due.len(), 1);
    database.store.effect_done(due[0].effect.id).await.unwrap();
    // Once more is no error.
    database.store.effect_done(due[0].effect.id).await.unwrap();
    assert_eq!(database.count("run_effect", "1 = 1").await, 1);
}

async fn a_failed_effect_waits_for_its_next_attempt(database: Database) {
    let run = run(&*database.store).await;
    applied(&*database.store, promise(&run, vec![Effect::ClassifyLegacy])).await;
    let due = database.store.take_due_effects(NOW, 10, 10).await.unwrap().remove(0);
    let error = format!("sandbox_not_running: \0 {}", "x".repeat(10_000));
    database.store.effect_failed(due.effect.id, &error, Some(NOW.plus_millis(500))).await.unwrap();
    assert!(database.store.take_due_effects(NOW.plus_millis(499), 10, 10).await.unwrap().is_empty());
    let again = database.store.take_due_effects(NOW.plus_millis(500), 10, 10).await.unwrap();
    assert_eq!((again[0].effect.id, again[0].attempts), (due.effect.id, 1));
    let kept = database.texts("select last_error from run_effect").await;
    assert!(kept[0].starts_with("sandbox_not_running") && kept[0].len() <= 2048);
}

async fn an_effect_that_is_given_up_stays_for_a_person(database: Database) {
    let run = run(&*database.store).await;
    applied(&*database.store, promise(&run, vec![Effect::ClassifyLegacy])).await;
    let due = database.store.take_due_effects(NOW, 10, 10).await.unwrap().remove(0);
    database.store.effect_failed(due.effect.id, "ten times", None).await.unwrap();
    assert!(database.store.take_due_effects(NOW.plus_millis(1 << 40), 10, 10).await.unwrap().is_empty());
    assert_eq!(database.count("run_effect", "last_error = 'ten times'").await, 1);
}

async fn an_effect_that_cannot_be_read_does_not_hold_up_the_others(database: Database) {
    let run = run(&*database.store).await;
    applied(&*database.store, promise(&run, vec![Effect::ClassifyLegacy, Effect::DenyAccessIfPreviewed])).await;
    let changed = database.raw("update run_effect set effect = '{}' where kind = 'classify_legacy'").await;
    assert_eq!(changed, Ok(1));
    let due = database.store.take_due_effects(NOW, 10, 10).await.unwrap();
    assert_eq!(due.iter().map(|due| &due.effect.effect).collect::<Vec<_>>(), [&Effect::DenyAccessIfPreviewed]);
    assert_eq!(database.count("run_effect", "next_attempt_at is null").await, 1);
}

async fn two_servers_never_take_one_effect_together(database: Database) {
    let other = database.another_server().await;
    let run = run(&*database.store).await;
    applied(&*database.store, promise(&run, vec![Effect::ClassifyLegacy; 40])).await;
    let taken = join_all((0..8).map(|index| {
        let store = if index % 2 == 0 { &database.store } else { &other };
        async move { store.take_due_effects(NOW, 60_000, 10).await.unwrap() }
    }))
    .await;
    let mut ids: Vec<_> = taken.iter().flatten().map(|due| due.effect.id).collect();
    let all = ids.len();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), all);
    assert!(all >= 10);
}
