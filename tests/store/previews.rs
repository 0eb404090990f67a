//! Preview sessions: beginning, moving, loading.

use futures_util::future::join;
use runwarden_actors::contract::{
    OpenMode, PinningMode, PreviewConfig, PreviewErrorCode, PreviewSessionId, PreviewSessionState, RunId, RunStatus,
    UnsupportedReason,
};
use runwarden_actors::ports::store::{
    BeginPreview, NewPreviewSession, PinnedAddresses, PreviewMove, PreviewMoved, PreviewUpstream, RunChange,
};
use runwarden_actors::ports::{Scheme, StoreError};
use runwarden_actors::preview::is_listed;

use crate::harness::Database;
use crate::preview_sample::{asked, begun, bound, config, loaded, moved, moves, session_in, upstream};
use crate::sample::{NOW, applied, change, chat, created, new_run, thread, uuid};

on_both!(
    a_session_begins_for_the_chats_active_run_and_its_sandbox,
    nothing_begins_for_a_run_that_is_not_active_or_not_bound,
    only_listed_moves_are_made,
    every_field_comes_back_as_it_was_written,
    a_configuration_is_written_once_and_while_it_is_initializing,
    the_addresses_of_a_ready_session_are_refreshed_once,
    of_two_movers_one_wins,
);

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
    let over = RunChange { status: Some(RunStatus::Finished), ended_at: Some(NOW), ..RunChange::default() };
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
