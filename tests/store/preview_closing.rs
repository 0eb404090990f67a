//! Preview sessions that are taken back, superseded, or over, and what is promised of them.

use futures_util::future::join_all;
use runwarden_actors::contract::{
    CodesandboxId, PreviewErrorCode, PreviewSessionState, RepoFullName, RunId, Timestamp, UserId,
};
use runwarden_actors::ports::Store;
use runwarden_actors::ports::store::{
    ClosedPreview, NewPreviewSession, PreviewMove, PreviewSession, RevocationScope, SandboxBinding,
};
use runwarden_actors::run::effect::Effect;

use crate::harness::Database;
use crate::preview_sample::{LIFE_MS, asked, begun, bound, loaded, session_in};
use crate::sample::{NOW, binding, created, new_run};

on_both!(
    one_session_is_revoked,
    a_users_sessions_on_a_repository_are_revoked_in_bounded_steps,
    a_new_run_and_another_sandbox_promise_to_announce_what_they_close,
    sessions_whose_life_is_over_are_ended,
    starts_that_nobody_finishes_are_ended_in_bounded_steps,
    beginning_moving_and_closing_never_wait_in_a_circle,
);

/// What the outbox holds, with the run of each effect, by the first session.
async fn announced(store: &dyn Store) -> Vec<(RunId, Vec<ClosedPreview>)> {
    let due = store.take_due_effects(NOW.plus_millis(1 << 40), 1, 1000).await.unwrap();
    let mut effects: Vec<_> = due
        .into_iter()
        .map(|due| match due.effect.effect {
            Effect::AnnounceClosedPreviews { sessions } => (due.effect.run_id, sessions),
            other => panic!("{other:?}"),
        })
        .collect();
    effects.sort_by_key(|(_, sessions): &(RunId, Vec<ClosedPreview>)| sessions[0].preview_session_id);
    effects
}

fn closed(session: &PreviewSession, version: i64, now: PreviewSessionState) -> ClosedPreview {
    ClosedPreview { preview_session_id: session.id, revocation_version: version, was: session.state, now }
}

async fn one_session_is_revoked(database: Database) {
    let store = &*database.store;
    let run = bound(store, "t", "c").await;
    let ready = session_in(store, &run, PreviewSessionState::Ready).await;
    let beside = session_in(store, &run, PreviewSessionState::Ready).await;
    let pending = session_in(store, &run, PreviewSessionState::Pending).await;
    let at = NOW.plus_millis(50);
    let revoke = async |id| store.revoke_previews(&RevocationScope::Session(id), at, 10).await.unwrap();
    let revoked = closed(&ready, 1, PreviewSessionState::Revoked);
    assert_eq!(revoke(ready.id).await, [revoked]);
    assert_eq!(revoke(ready.id).await, []);
    let after = loaded(store, ready.id).await;
    assert_eq!((after.state, after.revocation_version), (PreviewSessionState::Revoked, 1));
    assert_eq!((after.revoked_at, after.updated_at), (Some(at), at));
    let failed = closed(&pending, 1, PreviewSessionState::Error);
    assert_eq!(revoke(pending.id).await, [failed]);
    assert_eq!(loaded(store, pending.id).await.error_code, Some(PreviewErrorCode::Superseded));
    assert_eq!(loaded(store, beside.id).await, beside);
    assert_eq!(announced(store).await, [(run.run_id, vec![revoked]), (run.run_id, vec![failed])]);
}

async fn a_users_sessions_on_a_repository_are_revoked_in_bounded_steps(database: Database) {
    let store = &*database.store;
    let (one, two) = (bound(store, "t", "c").await, bound(store, "t2", "c").await);
    let mut theirs = Vec::new();
    for run in [&one, &two, &one] {
        theirs.push(session_in(store, run, PreviewSessionState::Ready).await);
    }
    session_in(store, &one, PreviewSessionState::Expired).await;
    let somebody = begun(store, &NewPreviewSession { user_id: UserId::parse("u2").unwrap(), ..asked(&one) }).await;
    let scope = RevocationScope::Access {
        user_id: UserId::parse("viewer").unwrap(),
        repo_full_name: RepoFullName::parse("acme/web").unwrap(),
    };
    let elsewhere = RevocationScope::Access {
        user_id: UserId::parse("viewer").unwrap(),
        repo_full_name: RepoFullName::parse("acme/other").unwrap(),
    };
    assert_eq!(store.revoke_previews(&elsewhere, NOW, 10).await.unwrap(), []);
    let all: Vec<_> = theirs.iter().map(|session| closed(session, 1, PreviewSessionState::Revoked)).collect();
    assert_eq!(store.revoke_previews(&scope, NOW, 2).await.unwrap(), all[..2]);
    assert_eq!(store.revoke_previews(&scope, NOW, 2).await.unwrap(), all[2..]);
    assert_eq!(store.revoke_previews(&scope, NOW, 2).await.unwrap(), []);
    assert_eq!(loaded(store, somebody.id).await, somebody);
    let effects = announced(store).await;
    assert_eq!(effects, [(one.run_id, vec![all[0]]), (two.run_id, vec![all[1]]), (one.run_id, vec![all[2]])]);
}

async fn a_new_run_and_another_sandbox_promise_to_announce_what_they_close(database: Database) {
    use PreviewSessionState as S;
    let store = &*database.store;
    let run = bound(store, "t", "c").await;
    let beside = bound(store, "t", "other chat").await;
    assert_eq!(announced(store).await, [], "nothing was open");
    let other = bound(store, "t2", "c").await;
    let untouched = session_in(store, &other, S::Ready).await;
    let ready = session_in(store, &run, S::Ready).await;
    let coming = session_in(store, &run, S::Initializing).await;
    session_in(store, &run, S::Unsupported).await;

    let moved = SandboxBinding { codesandbox_id: CodesandboxId::parse("box-2").unwrap(), ..binding() };
    store.bind_run_sandbox(run.run_id, &moved, NOW.plus_millis(7)).await.unwrap();
    let sessions = vec![closed(&ready, 1, S::Revoked), closed(&coming, 1, S::Error)];
    assert_eq!(announced(store).await, [(run.run_id, sessions)]);
    database.raw("delete from run_effect").await.unwrap();

    // A session follows the run to its new sandbox, and a new run of any chat of the thread closes it.
    let ready = session_in(store, &run, S::Ready).await;
    assert_eq!(ready.codesandbox_id, moved.codesandbox_id);
    let next = created(store, &new_run("t", "other chat", "next")).await;
    assert_ne!(next.run_id, beside.run_id);
    assert_eq!(announced(store).await, [(run.run_id, vec![closed(&ready, 1, S::Revoked)])]);
    assert_eq!(loaded(store, untouched.id).await, untouched);
    // The very same start request again closes nothing.
    database.raw("delete from run_effect").await.unwrap();
    let ready = session_in(store, &run, S::Ready).await;
    store.create_run(&new_run("t", "other chat", "next")).await.unwrap();
    assert_eq!(loaded(store, ready.id).await, ready);
    assert_eq!(announced(store).await, []);
}

async fn sessions_whose_life_is_over_are_ended(database: Database) {
    use PreviewSessionState as S;
    let store = &*database.store;
    let run = bound(store, "t", "c").await;
    let mut sessions = Vec::new();
    for state in [S::Ready, S::Initializing, S::Pending, S::Unsupported] {
        sessions.push(session_in(store, &run, state).await);
    }
    let later = NewPreviewSession { expires_at: NOW.plus_millis(LIFE_MS + 1), ..asked(&run) };
    let later = begun(store, &later).await;
    let at = NOW.plus_millis(LIFE_MS);
    let earlier: Timestamp = at.plus_millis(-1);
    assert_eq!(store.expire_previews(NOW, earlier, 10).await.unwrap(), []);
    let expected =
        [closed(&sessions[0], 0, S::Expired), closed(&sessions[1], 0, S::Error), closed(&sessions[2], 0, S::Error)];
    assert_eq!(store.expire_previews(NOW, at, 2).await.unwrap(), expected[..2]);
    assert_eq!(store.expire_previews(NOW, at, 2).await.unwrap(), expected[2..]);
    assert_eq!(store.expire_previews(NOW, at, 2).await.unwrap(), []);
    assert_eq!(loaded(store, sessions[1].id).await.error_code, Some(PreviewErrorCode::HealthCheckTimeout));
    assert_eq!(loaded(store, sessions[3].id).await, sessions[3]);
    assert_eq!(loaded(store, later.id).await, later);
    let effects = announced(store).await;
    assert_eq!(effects.iter().map(|(_, sessions)| sessions.len()).sum::<usize>(), 3);
}

async fn starts_that_nobody_finishes_are_ended_in_bounded_steps(database: Database) {
    use PreviewSessionState as S;
    let store = &*database.store;
    let run = bound(store, "t", "c").await;
    let mut sessions = Vec::new();
    for state in [S::Pending, S::Initializing, S::Initializing, S::Ready, S::Unsupported, S::Error] {
        sessions.push(session_in(store, &run, state).await);
    }
    let now = NOW.plus_millis(1000);
    // Begun at that very instant is not before it.
    assert_eq!(store.expire_previews(NOW, now, 10).await.unwrap(), []);
    let expected: Vec<_> = sessions[..3].iter().map(|session| closed(session, 0, S::Error)).collect();
    let before = NOW.plus_millis(1);
    assert_eq!(store.expire_previews(before, now, 2).await.unwrap(), expected[..2]);
    assert_eq!(store.expire_previews(before, now, 2).await.unwrap(), expected[2..]);
    assert_eq!(store.expire_previews(before, now, 2).await.unwrap(), []);
    for session in &sessions[..3] {
        let after = loaded(store, session.id).await;
        assert_eq!((after.state, after.error_code), (S::Error, Some(PreviewErrorCode::HealthCheckTimeout)));
        assert!(after.error_output.is_some_and(|why| why.contains("not finished in time")));
    }
    for session in &sessions[3..] {
        assert_eq!(loaded(store, session.id).await, *session);
    }
    let promised = announced(store).await;
    assert_eq!(promised.iter().map(|(_, sessions)| sessions.len()).sum::<usize>(), 3);
}

async fn beginning_moving_and_closing_never_wait_in_a_circle(database: Database) {
    let other = database.another_server().await;
    let servers = [&*database.store, &*other];
    let work = async |name: &str, store: &dyn Store| {
        for index in 0..10 {
            let run = created(store, &new_run("t", name, &format!("{name}-{index}"))).await;
            store.bind_run_sandbox(run.run_id, &binding(), NOW).await.unwrap();
            for _ in 0..3 {
                let new = asked(&run);
                // Another chat's new run may close it at any time.
                store.begin_preview(&new).await.unwrap();
                store.move_preview(new.id, &PreviewMove::Initializing, NOW).await.unwrap();
            }
            let scope =
                RevocationScope::Access { user_id: asked(&run).user_id, repo_full_name: run.repo_full_name.clone() };
            store.revoke_previews(&scope, NOW, 5).await.unwrap();
            store.expire_previews(NOW, NOW.plus_millis(LIFE_MS), 5).await.unwrap();
        }
    };
    let names = ["a", "b", "c", "d"];
    join_all(names.iter().enumerate().map(|(index, name)| work(name, servers[index % 2]))).await;
    assert!(!database.had_deadlocks());
    // Every closed session was promised once.
    let mut promised: Vec<_> =
        announced(&*database.store).await.into_iter().flat_map(|(_, sessions)| sessions).collect();
    let all = promised.len();
    promised.sort_by_key(|session| session.preview_session_id);
    promised.dedup_by_key(|session| session.preview_session_id);
    assert_eq!(promised.len(), all);
    let ended = database.count("preview_session", "state not in ('pending', 'initializing')").await;
    assert_eq!(i64::try_from(all).unwrap(), ended);
}
