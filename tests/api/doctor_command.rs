//! `runwarden doctor`, as the real program, beside a real Redis.

use std::process::Command;

use crate::redis_server::RedisServer;

/// Whether it is content, and what it says of Redis' memory.
fn doctor(redis_url: &str) -> (bool, Vec<String>) {
    let folder = tempfile::tempdir().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_runwarden"))
        .arg("doctor")
        .env("DATA_DIR", folder.path())
        .env("REDIS_URL", redis_url)
        .current_dir(folder.path())
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(!text.contains("sesame"), "{text}");
    let lines = text.lines().filter(|line| line.contains(" redis memory ")).map(str::to_owned).collect();
    (output.status.success(), lines)
}

#[test]
fn a_redis_that_may_forget_or_evict_is_warned_of() {
    let server = RedisServer::spawn(Some("sesame"));
    let (content, lines) = doctor(&server.url());
    assert!(content && lines.len() == 1, "{lines:?}");
    assert!(lines[0].starts_with("warn  ") && lines[0].contains("neither `appendonly` nor `save`"), "{lines:?}");

    assert!(server.tell("CONFIG SET maxmemory-policy volatile-lru").unwrap().starts_with("+OK"));
    assert!(server.tell("CONFIG SET save \"3600 1\"").unwrap().starts_with("+OK"));
    let (content, lines) = doctor(&server.url());
    assert!(content && lines.len() == 2, "{lines:?}");
    assert!(lines[0].starts_with("warn  ") && lines[0].contains("after the last snapshot"), "{lines:?}");
    assert!(lines[1].starts_with("warn  ") && lines[1].contains("`maxmemory-policy volatile-lru`"), "{lines:?}");

    assert!(server.tell("ACL SETUSER default -config").unwrap().starts_with("+OK"));
    let (content, lines) = doctor(&server.url());
    assert!(content && lines.len() == 1, "{lines:?}");
    assert!(lines[0].starts_with("warn  ") && lines[0].contains("CONFIG is not permitted"), "{lines:?}");
}

#[test]
fn a_redis_that_keeps_everything_is_good() {
    let folder = tempfile::tempdir().unwrap();
    let keeping = ["--appendonly", "yes", "--dir", folder.path().to_str().unwrap()];
    let server = RedisServer::spawn_with(None, &keeping);
    let (content, lines) = doctor(&server.url());
    assert!(content && lines.len() == 1, "{lines:?}");
    assert!(lines[0].starts_with("ok    ") && lines[0].contains("noeviction"), "{lines:?}");
    // Where the command is not there at all.
    let bare = RedisServer::spawn_with(None, &["--rename-command", "CONFIG", ""]);
    let (content, lines) = doctor(&bare.url());
    assert!(content && lines.len() == 1 && lines[0].contains("CONFIG is not permitted"), "{lines:?}");
}
