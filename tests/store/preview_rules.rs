//! What the database itself refuses of a preview session, whoever asks.

use runwarden_actors::contract::{PreviewSessionState, RunId};
use runwarden_actors::preview::is_listed;

use crate::harness::Database;
use crate::preview_sample::{bound, session_in};
use crate::sample::uuid;

on_both!(
    identity_and_life_never_change,
    configuration_and_upstream_are_written_once,
    addresses_are_refreshed_once_and_versions_only_rise,
    only_listed_transitions_pass,
    a_row_is_whole_and_its_reason_fits_its_state,
);

async fn refused(database: &Database, set: &str, why: &str) {
    let error = database.raw(&format!("update preview_session set {set}")).await.unwrap_err();
    assert!(error.contains(why), "{set}: {error}");
}

async fn identity_and_life_never_change(database: Database) {
    let run = bound(&*database.store, "t", "c").await;
    let before = session_in(&*database.store, &run, PreviewSessionState::Ready).await;
    let other = RunId::from_uuid(uuid());
    for set in [
        format!("preview_session_id = {}", database.id(other)),
        format!("run_id = {}", database.id(other)),
        format!("expires_at = {}", database.instant(1 << 42)),
        format!("created_at = {}", database.instant(0)),
        "thread_id = 'x'".to_owned(),
        "thread_chat_id = 'x'".to_owned(),
        "user_id = 'x'".to_owned(),
        "codesandbox_id = 'x'".to_owned(),
        "sandbox_provider = 'e2b'".to_owned(),
        "repo_full_name = 'x/y'".to_owned(),
    ] {
        refused(&database, &set, "never change").await;
    }
    assert_eq!(database.store.load_preview(before.id).await.unwrap(), Some(before));
    assert_eq!(database.raw("update preview_session set user_id = user_id, state = state").await, Ok(1));
}

async fn configuration_and_upstream_are_written_once(database: Database) {
    let run = bound(&*database.store, "t", "c").await;
    session_in(&*database.store, &run, PreviewSessionState::Ready).await;
    let first = "update preview_session set config_command = 'a', config_port = 1, config_health_path = '/'";
    assert_eq!(database.raw(first).await, Ok(1));
    for set in [
        "config_command = 'b'",
        "config_port = 2",
        "config_health_path = '/b'",
        "requires_websocket = true",
        "config_open_mode = 'iframe'",
        "config_command = null, config_port = null, config_health_path = null",
        "upstream_origin = 'http://10.0.0.1'",
        "upstream_origin_token = 'x'",
        "upstream_auth_headers = '[]'",
    ] {
        refused(&database, set, "written once").await;
    }
}

async fn addresses_are_refreshed_once_and_versions_only_rise(database: Database) {
    let run = bound(&*database.store, "t", "c").await;
    session_in(&*database.store, &run, PreviewSessionState::Ready).await;
    refused(&database, "pinned_upstream_ips = '{}'", "refreshed once").await;
    let once = "update preview_session set pinned_upstream_ips = '{}', dns_refreshed_once = true";
    assert_eq!(database.raw(once).await, Ok(1));
    refused(&database, "pinned_upstream_ips = '[]', dns_refreshed_once = true", "refreshed once").await;
    refused(&database, "dns_refreshed_once = false", "refreshed once").await;
    assert_eq!(database.raw("update preview_session set revocation_version = 3").await, Ok(1));
    refused(&database, "revocation_version = 2", "only rises").await;
}

async fn only_listed_transitions_pass(database: Database) {
    use PreviewSessionState as S;
    let run = bound(&*database.store, "t", "c").await;
    for from in S::ALL {
        for to in S::ALL.iter().filter(|to| *to != from) {
            session_in(&*database.store, &run, *from).await;
            // The columns that belong to the state come with it, so that only the transition can be at fault.
            let reason = if *to == S::Unsupported { "'ws_required'" } else { "null" };
            let code = if *to == S::Error { "'superseded'" } else { "null" };
            let revoked = if *to == S::Revoked { database.instant(1) } else { "null".to_owned() };
            let set = format!(
                "update preview_session set state = '{to}', unsupported_reason = {reason}, error_code = {code}, \
                 revoked_at = {revoked} where state = '{from}'"
            );
            let closing = (*from, *to) == (S::Pending, S::Error);
            match database.raw(&set).await {
                Ok(rows) => assert!(rows == 1 && (closing || is_listed(*from, *to)), "{from} -> {to}: {rows}"),
                Err(error) => {
                    assert!(!closing && !is_listed(*from, *to), "{from} -> {to}: {error}");
                    assert!(error.contains("not listed"), "{error}");
                }
            }
            database.raw("delete from preview_session").await.unwrap();
        }
    }
}

async fn a_row_is_whole_and_its_reason_fits_its_state(database: Database) {
    let run = bound(&*database.store, "t", "c").await;
    session_in(&*database.store, &run, PreviewSessionState::Initializing).await;
    for set in [
        "config_command = 'a'",
        "config_port = 1",
        "upstream_origin = 'http://box'",
        "upstream_auth_headers = '[]'",
        "error_code = 'superseded'",
        "unsupported_reason = 'ws_required'",
        "state = 'error'",
        "state = 'error', error_code = 'boredom'",
        "state = 'unsupported'",
        "revoked_at = created_at",
    ] {
        refused(&database, set, "preview_session_").await;
    }
}
