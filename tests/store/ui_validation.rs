//! Chats' validation outcomes.

use runwarden_actors::contract::{ReadyDowngradeState, RunId, UiValidationOutcome};
use runwarden_actors::ports::store::{RunRecord, UiValidation};

use crate::harness::Database;
use crate::sample::{NOW, chat, created, new_run, thread};

on_both!(
    outcomes_of_two_chats_do_not_collide,
    an_older_run_never_overwrites_a_newer_ones_outcome,
    a_newer_run_starts_without_the_conversion_of_the_last,
);

async fn load(database: &Database, name: &str) -> UiValidation {
    database.store.load_ui_validation(&thread("t"), &chat(name)).await.unwrap().unwrap()
}

async fn outcomes_of_two_chats_do_not_collide(database: Database) {
    for (name, outcome) in [("a", UiValidationOutcome::Passed), ("b", UiValidationOutcome::Inconclusive)] {
        let run = created(&*database.store, &new_run("t", name, "r")).await;
        database.store.record_ui_outcome(&run, outcome, NOW).await.unwrap();
        let found = load(&database, name).await;
        assert_eq!((found.latest_run_id, found.outcome, found.updated_at), (run.run_id, outcome, NOW));
        assert_eq!(found.ready_downgrade_state, ReadyDowngradeState::NotAttempted);
    }
    assert_eq!(load(&database, "a").await.outcome, UiValidationOutcome::Passed);
}

async fn an_older_run_never_overwrites_a_newer_ones_outcome(database: Database) {
    let first = created(&*database.store, &new_run("t", "c", "first")).await;
    let second = created(&*database.store, &new_run("t", "c", "second")).await;
    let record = async |run: &RunRecord, outcome| {
        database.store.record_ui_outcome(run, outcome, NOW).await.unwrap();
        load(&database, "c").await
    };
    assert_eq!(record(&first, UiValidationOutcome::Pending).await.outcome, UiValidationOutcome::Pending);
    assert_eq!(record(&first, UiValidationOutcome::Failed).await.outcome, UiValidationOutcome::Failed);
    let newer = record(&second, UiValidationOutcome::NotRequired).await;
    assert_eq!((newer.latest_run_id, newer.outcome), (second.run_id, UiValidationOutcome::NotRequired));
    assert_eq!(record(&first, UiValidationOutcome::Passed).await, newer);
}

async fn a_newer_run_starts_without_the_conversion_of_the_last(database: Database) {
    let first = created(&*database.store, &new_run("t", "c", "first")).await;
    let second = created(&*database.store, &new_run("t", "c", "second")).await;
    database.store.record_ui_outcome(&first, UiValidationOutcome::Blocked, NOW).await.unwrap();
    let convert = |run: RunId| {
        format!(
            "update thread_ui_validation set ready_downgrade_state = 'converted_to_draft', \
             ready_downgrade_run_id = {}, blocking_reason = 'no evidence'",
            database.id(run)
        )
    };
    assert_eq!(database.raw(&convert(first.run_id)).await, Ok(1));
    database.store.record_ui_outcome(&first, UiValidationOutcome::Blocked, NOW).await.unwrap();
    let kept = load(&database, "c").await;
    assert_eq!(kept.ready_downgrade_state, ReadyDowngradeState::ConvertedToDraft);
    assert_eq!(kept.blocking_reason.as_deref(), Some("no evidence"));
    database.store.record_ui_outcome(&second, UiValidationOutcome::Passed, NOW).await.unwrap();
    let fresh = load(&database, "c").await;
    assert_eq!((fresh.ready_downgrade_state, fresh.blocking_reason), (ReadyDowngradeState::NotAttempted, None));
}
