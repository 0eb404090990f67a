//! Preview sessions to write, and ways to bring one into a state.

use runwarden_actors::contract::{
    OpenMode, PinningMode, PreviewConfig, PreviewErrorCode, PreviewSessionId, PreviewSessionState, UnsupportedReason,
    UserId,
};
use runwarden_actors::ports::store::{
    BeginPreview, BindOutcome, NewPreviewSession, PinnedAddresses, PreviewMove, PreviewMoved, PreviewSession,
    PreviewUpstream, RunRecord,
};
use runwarden_actors::ports::{AuthHeader, Scheme, Store};

use crate::sample::{NOW, binding, created, new_run, uuid};

pub const LIFE_MS: i64 = 1_800_000;

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

pub async fn begun(store: &dyn Store, new: &NewPreviewSession) -> PreviewSession {
    match store.begin_preview(new).await.unwrap() {
        BeginPreview::Begun(session) => *session,
        BeginPreview::NotActive => panic!("not begun"),
    }
}

pub fn upstream() -> PreviewUpstream {
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

pub fn config() -> PreviewConfig {
    PreviewConfig {
        schema_version: 1,
        command: "npm run dev -- --host".to_owned(),
        port: 65_535,
        health_path: "/health?x=1".to_owned(),
        requires_websocket: true,
        open_mode: Some(OpenMode::Iframe),
    }
}

pub fn moves() -> Vec<PreviewMove> {
    vec![
        PreviewMove::Initializing,
        PreviewMove::Ready { upstream: Box::new(upstream()) },
        PreviewMove::Unsupported { reason: UnsupportedReason::FrameBust },
        PreviewMove::Error { code: PreviewErrorCode::CommandExited, output: Some("bye \0 ü".to_owned()) },
        PreviewMove::Expired,
        PreviewMove::Revoked,
    ]
}

pub async fn moved(store: &dyn Store, id: PreviewSessionId, change: &PreviewMove) -> PreviewSession {
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

pub async fn loaded(store: &dyn Store, id: PreviewSessionId) -> PreviewSession {
    store.load_preview(id).await.unwrap().unwrap()
}
