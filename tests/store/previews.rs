//! Preview sessions: beginning, moving, closing.

use futures_util::future::{join, join_all};
use runwarden_actors::contract::{
    CodesandboxId, OpenMode, PinningMode, PreviewConfig, PreviewErrorCode, PreviewSessionId, PreviewSessionState,
    RepoFullName, RunId, Timestamp, UnsupportedReason, UserId,
};
use runwarden_actors::ports::store::{
    BeginPreview, BindOutcome, ClosedPreview, NewPreviewSession, PinnedAddresses, PreviewMove, PreviewMoved,
    PreviewSession, PreviewUpstream, RevocationScope, RunChange, RunRecord, SandboxBinding,
};
use runwarden_actors::ports::{AuthHeader, Scheme, Store, StoreError};
use runwarden_actors::preview::is_listed;
use runwarden_actors::run::effect::Effect;

use crate::harness::Database;
use crate::sample::{NOW, applied, binding, change, chat, created, new_run, thread, uuid};

on_both!(
    a_session_begins_for_the_chats_active_run_and_its_sandbox,
    nothing_begins_for_a_run_that_is_not_active_or_not_bound,
    only_listed_moves_are_made,
    every_field_comes_back_as_it_was_written,
    a_configuration_is_written_once_and_while_it_is_initializing,
    the_addresses_of_a_ready_session_are_refreshed_once,
    of_two_movers_one_wins,
    one_session_is_revoked,
    a_users_sessions_on_a_repository_are_revoked_in_bounded_steps,
    a_new_run_and_another_sandbox_promise_to_announce_what_they_close,
    sessions_whose_life_is_over_are_ended,
    beginning_moving_and_closing_never_wait_in_a_circle,
);

const LIFE_MS: i64 = 1_800_000;

pub async fn bound(store: &dyn Store, thread: &str, chat: &str) -> RunRecord {
    let run = created(store, &new_run(thread, chat, &uuid().to_string())).await;
    match store.bind_run_sandbox(run.run_id, &binding(), NOW).await.unwrap() {
        BindOutcome::Bound(run) => *run,
        other => panic!("{other:?}"),
    }
}

pub fn asked(run: &RunRecord) -> NewPreviewSession {
    NewPreviewSession {
        id: PreviewSessionId::from_uuid(uuid()),
        thread_id: run.thread_id.clone(),
        thread_chat_id: run.thread_chat_id.clone(),
        run_id: run.run_id,
        user_id: UserId::parse("viewer").unwrap(),
        open_mode: OpenMode::Iframe,
        expires_at: NOW.plus_millis(LIFE_MS),
        now: NOW,
    }
}

async fn begun(store: &dyn Store, new: &NewPreviewSession) -> PreviewSession {
    match store.begin_preview(new).await.unwrap() {
        BeginPreview::Begun(session) => *session,
        BeginPreview::NotActive => panic!("not begun"),
    }
}

fn upstream() -> PreviewUpstream {
    PreviewUpstream {
        scheme: Scheme::Https,
        host: "5173-box.preview.example".to_owned(),
        port: 8443,
        origin_token: "header.claims.mac".to_owned(),
        auth_headers: vec![AuthHeader { name: "x-preview-token".to_owned(), value: "s3cret \u{0} ü".to_owned() }],
        pinned: PinnedAddresses {
            addresses_v4: vec!["1.1.1.1".parse().unwrap(), "1.1.1.2".parse().unwrap()],
            addresses_v6: vec!["2606:4700::1111".parse().unwrap()],
            cname_chain: vec!["edge.preview.example".to_owned(), "host.preview.example".to_owned()],
            ttl_seconds: 60,
            resolved_at: NOW.plus_millis(3),
            pinning_mode: PinningMode::TlsSniHost,
        },
        last_dns_check_at: NOW.plus_millis(4),
        dns_refreshed_once: false,
    }
}

fn config() -> PreviewConfig {
    PreviewConfig {
        schema_version: 1,
        command: "npm run dev -- --host".to_owned(),
        port: 65_535,
        health_path: "/health?x=1".to_owned(),
        requires_websocket: true,
        open_mode: Some(OpenMode::Iframe),
    }
}

fn moves() -> Vec<PreviewMove> {
    vec![
        PreviewMove::Initializing,
        PreviewMove::Ready { upstream: Box::new(upstream()) },
        PreviewMove::Unsupported { reason: UnsupportedReason::FrameBust },
        PreviewMove::Error { code: PreviewErrorCode::CommandExited, output: Some("bye \0 ü".to_owned()) },
        PreviewMove::Expired,
        PreviewMove::Revoked,
    ]
}

async fn moved(store: &dyn Store, id: PreviewSessionId, change: &PreviewMove) -> PreviewSession {
    match store.move_preview(id, change, NOW.plus_millis(9)).await.unwrap() {
        PreviewMoved::Moved(session) => *session,
        other => panic!("{change:?}: {other:?}"),
    }
}

/// A session of the run that is in this state, brought there by listed moves only.
pub async fn session_in(store: &dyn Store, run: &RunRecord, state: PreviewSessionState) -> PreviewSession {
    use PreviewSessionState as S;
    let session = begun(store, &asked(run)).await;
    let path: &[S] = match state {
        S::Pending => &[],
        S::Initializing => &[S::Initializing],
        S::Ready | S::Unsupported | S::Error => &[S::Initializing, state],
        S::Expired | S::Revoked => &[S::Initializing, S::Ready, state],
    };
    let mut at = session;
    for step in path {
        let step = moves().into_iter().find(|change| change.target() == *step).unwrap();
        at = moved(store, at.id, &step).await;
    }
    at
}

async fn loaded(store: &dyn Store, id: PreviewSessionId) -> PreviewSession {
    store.load_preview(id).await.unwrap().unwrap()
}

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

async fn a_session_begins_for_the_chats_active_run_and_its_sandbox(database: Database) {
    let store = &*database.store;
    let run = bound(store, "t", "c").await;
    let new = asked(&run);
    let session = begun(store, &new).await;
    assert_eq!(loaded(store, new.id).await, session);
    assert_eq!((session.state, session.revocation_version), (PreviewSessionState::Pending, 0));
    assert_eq!((&session.user_id, session.open_mode), (&new.user_id, OpenMode::Iframe));
    assert_eq!(
        (Some(&session.codesandbox_id), Some(session.sandbox_provider)),
        (run.codesandbox_id.as_ref(), run.sandbox_provider)
    );
    assert_eq!(session.repo_full_name, run.repo_full_name);
    assert_eq!((session.expires_at, session.created_at, session.updated_at), (new.expires_at, NOW, NOW));
    assert!(session.config.is_none() && session.upstream.is_none() && session.revoked_at.is_none());
    // People look at the result after the run has ended.
    let over = RunChange {
        status: Some(runwarden_actors::contract::RunStatus::Finished),
        ended_at: Some(NOW),
        ..RunChange::default()
    };
    applied(store, change(&run, over)).await;
    begun(store, &asked(&run)).await;
    // The same id again is somebody's mistake, and overwrites nothing.
    assert!(matches!(store.begin_preview(&new).await, Err(StoreError::Rejected(_))));
    assert!(store.load_preview(PreviewSessionId::from_uuid(uuid())).await.unwrap().is_none());
}

async fn nothing_begins_for_a_run_that_is_not_active_or_not_bound(database: Database) {
    let store = &*database.store;
    let refused = async |new: &NewPreviewSession| {
        assert_eq!(store.begin_preview(new).await.unwrap(), BeginPreview::NotActive);
        assert!(store.load_preview(new.id).await.unwrap().is_none());
    };
    let former = bound(store, "t", "c").await;
    let elsewhere = bound(store, "t", "other chat").await;
    let unbound = created(store, &new_run("t", "c", "next")).await;
    refused(&asked(&former)).await;
    refused(&asked(&unbound)).await;
    refused(&NewPreviewSession { thread_chat_id: chat("c"), ..asked(&elsewhere) }).await;
    refused(&NewPreviewSession { thread_id: thread("other"), ..asked(&elsewhere) }).await;
    refused(&NewPreviewSession { run_id: RunId::from_uuid(uuid()), ..asked(&elsewhere) }).await;
    begun(store, &asked(&elsewhere)).await;
}

async fn only_listed_moves_are_made(database: Database) {
    let store = &*database.store;
    let run = bound(store, "t", "c").await;
    for from in PreviewSessionState::ALL {
        for change in moves() {
            let before = session_in(store, &run, *from).await;
            let outcome = store.move_preview(before.id, &change, NOW.plus_millis(20)).await.unwrap();
            let after = loaded(store, before.id).await;
            if is_listed(*from, change.target()) {
                assert_eq!((after.state, after.updated_at), (change.target(), NOW.plus_millis(20)));
                let revoked = change == PreviewMove::Revoked;
                assert_eq!(after.revocation_version, i64::from(revoked));
                assert_eq!(after.revoked_at, revoked.then(|| NOW.plus_millis(20)));
                assert_eq!(outcome, PreviewMoved::Moved(Box::new(after)), "{from} -> {change:?}");
            } else {
                assert_eq!(after, before, "{from} -> {change:?}");
                assert_eq!(outcome, PreviewMoved::NotListed(Box::new(before)), "{from} -> {change:?}");
            }
        }
    }
    let nobody = PreviewSessionId::from_uuid(uuid());
    assert_eq!(store.move_preview(nobody, &PreviewMove::Initializing, NOW).await.unwrap(), PreviewMoved::NotFound);
}

async fn every_field_comes_back_as_it_was_written(database: Database) {
    let store = &*database.store;
    let run = bound(store, "t", "c").await;
    let session = session_in(store, &run, PreviewSessionState::Initializing).await;
    assert!(store.set_preview_config(session.id, &config(), OpenMode::NewTab, NOW.plus_millis(2)).await.unwrap());
    let ready = moved(store, session.id, &PreviewMove::Ready { upstream: Box::new(upstream()) }).await;
    assert_eq!((ready.config, ready.open_mode), (Some(config()), OpenMode::NewTab));
    assert_eq!(ready.upstream.as_ref(), Some(&upstream()));
    assert!(!format!("{:?}", ready.upstream).contains("s3cret"));

    let reported = PreviewUpstream {
        scheme: Scheme::Http,
        host: "fd00::2".to_owned(),
        port: 80,
        auth_headers: Vec::new(),
        pinned: PinnedAddresses {
            addresses_v4: Vec::new(),
            addresses_v6: vec!["fd00::2".parse().unwrap()],
            cname_chain: Vec::new(),
            pinning_mode: PinningMode::StrictIp,
            ..upstream().pinned
        },
        ..upstream()
    };
    let other = session_in(store, &run, PreviewSessionState::Initializing).await;
    let plain = PreviewConfig { open_mode: None, requires_websocket: false, port: 1, ..config() };
    assert!(store.set_preview_config(other.id, &plain, OpenMode::Iframe, NOW).await.unwrap());
    let other = moved(store, other.id, &PreviewMove::Ready { upstream: Box::new(reported.clone()) }).await;
    assert_eq!((other.upstream, other.config), (Some(reported), Some(plain)));

    let unsupported = session_in(store, &run, PreviewSessionState::Unsupported).await;
    assert_eq!(unsupported.unsupported_reason, Some(UnsupportedReason::FrameBust));
    let failed = session_in(store, &run, PreviewSessionState::Error).await;
    assert_eq!(failed.error_code, Some(PreviewErrorCode::CommandExited));
    assert_eq!(failed.error_output.as_deref(), Some("bye \u{fffd} ü"));
}

async fn a_configuration_is_written_once_and_while_it_is_initializing(database: Database) {
    let store = &*database.store;
    let run = bound(store, "t", "c").await;
    let set = async |id| store.set_preview_config(id, &config(), OpenMode::NewTab, NOW).await.unwrap();
    for state in PreviewSessionState::ALL {
        let session = session_in(store, &run, *state).await;
        let written = set(session.id).await;
        assert_eq!(written, *state == PreviewSessionState::Initializing, "{state}");
        assert!(!set(session.id).await, "twice");
        assert_eq!(loaded(store, session.id).await.config.is_some(), written);
    }
}

async fn the_addresses_of_a_ready_session_are_refreshed_once(database: Database) {
    let store = &*database.store;
    let run = bound(store, "t", "c").await;
    let at = |second: i64| NOW.plus_millis(second * 1000);
    let pinned = |second| PinnedAddresses {
        addresses_v4: vec!["8.8.8.8".parse().unwrap()],
        resolved_at: at(second),
        ..upstream().pinned
    };
    let initializing = session_in(store, &run, PreviewSessionState::Initializing).await;
    assert!(!store.refresh_preview_pin(initializing.id, &pinned(1), at(1)).await.unwrap());
    let ready = session_in(store, &run, PreviewSessionState::Ready).await;
    let other = database.another_server().await;
    let (one, two) = (pinned(1), pinned(2));
    let (one, two) =
        join(store.refresh_preview_pin(ready.id, &one, at(1)), other.refresh_preview_pin(ready.id, &two, at(2))).await;
    let (one, two) = (one.unwrap(), two.unwrap());
    assert!(one != two, "refreshed {one} {two}");
    let second = if one { 1 } else { 2 };
    let after = loaded(store, ready.id).await.upstream.unwrap();
    assert_eq!((after.pinned, after.last_dns_check_at), (pinned(second), at(second)));
    assert!(after.dns_refreshed_once);
    assert!(!store.refresh_preview_pin(ready.id, &pinned(3), at(3)).await.unwrap());
}

async fn of_two_movers_one_wins(database: Database) {
    let store = &*database.store;
    let other = database.another_server().await;
    let run = bound(store, "t", "c").await;
    for _ in 0..10 {
        let id = session_in(store, &run, PreviewSessionState::Initializing).await.id;
        let ready = PreviewMove::Ready { upstream: Box::new(upstream()) };
        let failed = PreviewMove::Error { code: PreviewErrorCode::TunnelFailed, output: None };
        let both = join(store.move_preview(id, &ready, NOW), other.move_preview(id, &failed, NOW)).await;
        let (won, lost) = match (both.0.unwrap(), both.1.unwrap()) {
            (PreviewMoved::Moved(won), PreviewMoved::NotListed(lost))
            | (PreviewMoved::NotListed(lost), PreviewMoved::Moved(won)) => (won, lost),
            other => panic!("{other:?}"),
        };
        assert_eq!(won, lost);
        assert_eq!(*won, loaded(store, id).await);
        assert_eq!(won.upstream.is_some(), won.error_code.is_none());
    }
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
    assert_eq!(store.expire_previews(earlier, 10).await.unwrap(), []);
    let expected =
        [closed(&sessions[0], 0, S::Expired), closed(&sessions[1], 0, S::Error), closed(&sessions[2], 0, S::Error)];
    assert_eq!(store.expire_previews(at, 2).await.unwrap(), expected[..2]);
    assert_eq!(store.expire_previews(at, 2).await.unwrap(), expected[2..]);
    assert_eq!(store.expire_previews(at, 2).await.unwrap(), []);
    assert_eq!(loaded(store, sessions[1].id).await.error_code, Some(PreviewErrorCode::HealthCheckTimeout));
    assert_eq!(loaded(store, sessions[3].id).await, sessions[3]);
    assert_eq!(loaded(store, later.id).await, later);
    let effects = announced(store).await;
    assert_eq!(effects.iter().map(|(_, sessions)| sessions.len()).sum::<usize>(), 3);
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
            store.expire_previews(NOW.plus_millis(LIFE_MS), 5).await.unwrap();
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
