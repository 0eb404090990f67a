//! `runwarden keys`, as the real program: on the embedded file, beside a server that has it open, and on Redis.

use std::process::Command;
use std::sync::Arc;

use runwarden::coordination::{COORDINATION_FILE, EmbeddedCoordination};
use runwarden_actors::contract::{KeyNamespace, Timestamp};
use runwarden_actors::ports::{PreviewKey, PreviewKeys as _};
use runwarden_actors::testing::TestClock;

use crate::redis_server::RedisServer;

/// Exit code, standard output, standard error.
fn keys(arguments: &[&str], settings: &[(&str, &str)]) -> (Option<i32>, String, String) {
    let folder = tempfile::tempdir().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_runwarden"))
        .arg("keys")
        .args(arguments)
        .env("DATA_DIR", folder.path())
        .envs(settings.iter().copied())
        .current_dir(folder.path())
        .output()
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

/// Namespace, kid and role of each line of `list`.
fn listed(settings: &[(&str, &str)]) -> Vec<(String, String, String)> {
    let (code, out, err) = keys(&["list"], settings);
    assert_eq!(code, Some(0), "{err}");
    let words = |line: &str| {
        let mut words = line.split_whitespace().map(str::to_owned);
        (words.next().unwrap(), words.next().unwrap(), words.next().unwrap())
    };
    out.lines().skip(1).map(words).collect()
}

fn signing(settings: &[(&str, &str)], namespace: &str) -> String {
    listed(settings).into_iter().find(|(of, _, role)| of == namespace && role == "signs").unwrap().1
}

/// Lists, rotates, revokes; the same on every store.
fn walk(settings: &[(&str, &str)]) {
    let first = listed(settings);
    let namespaces: Vec<&str> = first.iter().map(|(namespace, ..)| namespace.as_str()).collect();
    assert_eq!(namespaces, ["exchange", "broadcast", "cookie", "origin"]);
    assert!(first.iter().all(|(_, _, role)| role == "signs"));
    assert_eq!(listed(settings), first, "looking changes nothing");

    let old = signing(settings, "cookie");
    let (code, out, err) = keys(&["rotate", "cookie"], settings);
    assert_eq!(code, Some(0), "{err}");
    let new = signing(settings, "cookie");
    assert!(new != old && out.contains(&new) && out.contains(&format!("{old} verifies until")), "{out}");
    assert_eq!(listed(settings).len(), 5);

    let (code, out, err) = keys(&["revoke", "cookie", &old], settings);
    assert_eq!((code, out.contains("is forgotten")), (Some(0), true), "{err}");
    assert_eq!((listed(settings).len(), signing(settings, "cookie")), (4, new.clone()));
    // The one that signs: another takes its place.
    assert_eq!(keys(&["revoke", "cookie", &new], settings).0, Some(0));
    assert_ne!(signing(settings, "cookie"), new);
    // Twice, and of another namespace.
    let origin = signing(settings, "origin");
    for (namespace, kid) in [("cookie", &new), ("cookie", &origin)] {
        let (code, _, err) = keys(&["revoke", namespace, kid], settings);
        assert_eq!((code, err.contains("has no key")), (Some(1), true), "{err}");
    }
    assert_eq!(signing(settings, "origin"), origin);
}

#[test]
fn keys_are_listed_rotated_and_revoked_on_the_embedded_file() {
    let folder = tempfile::tempdir().unwrap();
    walk(&[("DATA_DIR", folder.path().to_str().unwrap())]);
    assert!(folder.path().join(COORDINATION_FILE).exists());
}

#[test]
fn keys_are_listed_rotated_and_revoked_on_redis() {
    let server = RedisServer::spawn(None);
    walk(&[("REDIS_URL", &server.url())]);
}

#[test]
fn a_running_server_sees_what_the_command_did_and_no_secret_is_printed() {
    let folder = tempfile::tempdir().unwrap();
    let settings = [("DATA_DIR", folder.path().to_str().unwrap())];
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let server = runtime.block_on(EmbeddedCoordination::open(Arc::new(TestClock::default()), folder.path())).unwrap();
    let key = PreviewKey { kid: "the-first".into(), secret: [0xab; 32], created_at: Timestamp::default() };
    runtime.block_on(server.key_ring(KeyNamespace::Origin, &key)).unwrap();
    let (_, list, _) = keys(&["list"], &settings);
    let (code, rotated, err) = keys(&["rotate", "origin"], &settings);
    assert_eq!(code, Some(0), "{err}");
    let ring = runtime.block_on(server.key_ring(KeyNamespace::Origin, &key)).unwrap();
    assert!(rotated.contains(&ring.active.kid));
    assert_eq!(ring.previous.as_ref().map(|(previous, _)| previous), Some(&key));
    let (_, revoked, _) = keys(&["revoke", "origin", "the-first"], &settings);
    let ring = runtime.block_on(server.key_ring(KeyNamespace::Origin, &key)).unwrap();
    assert_eq!(ring.previous, None);
    let printed = format!("{list}{rotated}{revoked}{err}");
    assert!(list.contains("the-first"), "{list}");
    assert!(!printed.contains("abababab") && !printed.contains(&hex::encode(ring.active.secret)));
}

#[test]
fn mistakes_are_answered_with_what_would_be_right() {
    let (code, _, err) = keys(&["rotate", "cokie"], &[]);
    assert_eq!(code, Some(2));
    assert!(err.contains("exchange, broadcast, cookie, origin"), "{err}");
    let (code, help, _) = keys(&["--help"], &[]);
    assert_eq!(code, Some(0));
    for taught in ["Grace:", "15 minutes", "no grace", "coordination.sqlite3", "REDIS_URL"] {
        assert!(help.contains(taught), "{taught} is not in\n{help}");
    }
    let (code, _, err) = keys(&["list"], &[("REDIS_URL", "redis://:sesame@127.0.0.1:1/")]);
    assert_eq!(code, Some(1), "{err}");
    assert!(!err.contains("sesame"), "{err}");
}
