//! Single-use marks and preview keys: one suite for both adapters, and what a restart must not forget.

use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;

use runwarden::coordination::{COORDINATION_FILE, EMBEDDED_MARKS_MAX, EmbeddedCoordination, RedisCoordination};
use runwarden_actors::contract::KeyNamespace::{Broadcast, Cookie, Exchange, Origin};
use runwarden_actors::contract::Timestamp;
use runwarden_actors::ports::{Clock as _, Coordination, KeyRing, PreviewKey, PreviewKeys as _, SingleUse as _};
use runwarden_actors::testing::TestClock;
use uuid::Uuid;

use crate::coordination::{WallClock, until};
use crate::redis_server::RedisServer;

/// Every test has keys of its own here: namespaces are few, and the shared server's are everybody's.
fn own_redis() -> (RedisServer, Arc<dyn Coordination>) {
    let server = RedisServer::spawn(None);
    let store = Arc::new(RedisCoordination::new(&server.url()).unwrap());
    (server, store)
}

async fn file(folder: &tempfile::TempDir) -> Arc<dyn Coordination> {
    Arc::new(EmbeddedCoordination::open(Arc::new(WallClock), folder.path()).await.unwrap())
}

macro_rules! keys_suite {
    ($($name:ident),+ $(,)?) => {
        mod keys_in_memory { $(#[tokio::test] async fn $name() {
            let store = std::sync::Arc::new(super::EmbeddedCoordination::new(std::sync::Arc::new(super::WallClock)));
            super::$name(store.clone(), store).await;
        })+ }
        mod keys_in_a_file { $(#[tokio::test] async fn $name() {
            let folder = tempfile::tempdir().unwrap();
            super::$name(super::file(&folder).await, super::file(&folder).await).await;
        })+ }
        mod keys_in_redis { $(#[tokio::test] async fn $name() {
            let (server, store) = super::own_redis();
            let other = std::sync::Arc::new(super::RedisCoordination::new(&server.url()).unwrap());
            super::$name(store, other).await;
        })+ }
    };
}

keys_suite! {
    marks_are_set_all_or_none,
    of_a_hundred_who_claim_at_once_exactly_one_wins,
    a_mark_ends_by_itself,
    impossible_marks_are_refused,
    the_first_candidate_becomes_the_key_of_its_namespace_only,
    of_servers_that_start_at_once_one_makes_the_key,
    rotation_keeps_the_one_before_for_its_grace,
    rotating_again_with_the_same_key_changes_nothing,
    a_revoked_key_is_gone_at_once,
    a_name_is_not_taken_twice,
    impossible_keys_are_refused,
}

fn marks(names: &[&str]) -> Vec<String> {
    names.iter().map(ToString::to_string).collect()
}

fn key() -> PreviewKey {
    PreviewKey {
        kid: Uuid::from_bytes(rand::random()).to_string(),
        secret: rand::random(),
        created_at: Timestamp::from_millis(1_763_707_674_007),
    }
}

fn active_only(key: &PreviewKey) -> KeyRing {
    KeyRing { active: key.clone(), previous: None }
}

type Store = Arc<dyn Coordination>;

async fn marks_are_set_all_or_none(store: Store, other: Store) {
    assert!(store.use_once(&marks(&["jti:1", "nonce:1"]), 60_000).await.unwrap());
    assert!(!other.use_once(&marks(&["jti:1", "nonce:1"]), 60_000).await.unwrap());
    // One of the two was used: the other stays free.
    assert!(!other.use_once(&marks(&["jti:2", "nonce:1"]), 60_000).await.unwrap());
    assert!(!store.use_once(&marks(&["jti:1", "nonce:2"]), 60_000).await.unwrap());
    assert!(store.use_once(&marks(&["jti:2", "nonce:2"]), 60_000).await.unwrap());
    // The same one twice in one call is one.
    assert!(store.use_once(&marks(&["twice", "twice"]), 60_000).await.unwrap());
    assert!(!store.use_once(&marks(&["twice"]), 60_000).await.unwrap());
}

async fn of_a_hundred_who_claim_at_once_exactly_one_wins(store: Store, other: Store) {
    let claims: Vec<_> = (0..100)
        .map(|n| {
            let store = if n % 2 == 0 { store.clone() } else { other.clone() };
            // Each with a nonce of its own: what they share is the jti.
            let marks = marks(&[&format!("nonce:{n}"), "jti:shared"]);
            tokio::spawn(async move { store.use_once(&marks, 60_000).await.unwrap() })
        })
        .collect();
    let mut won = Vec::new();
    for (n, claim) in claims.into_iter().enumerate() {
        if claim.await.unwrap() {
            won.push(n);
        }
    }
    assert_eq!(won.len(), 1);
    // The losers left nothing behind.
    let loser = (won[0] + 1) % 100;
    assert!(store.use_once(&marks(&[&format!("nonce:{loser}")]), 60_000).await.unwrap());
}

async fn a_mark_ends_by_itself(store: Store, other: Store) {
    assert!(store.use_once(&marks(&["short"]), 1).await.unwrap());
    until(async || other.use_once(&marks(&["short"]), 60_000).await.unwrap()).await;
}

async fn impossible_marks_are_refused(store: Store, _: Store) {
    let long = "m".repeat(1025);
    for wrong in [&[][..], &["m"; 9], &[""], &[long.as_str()]] {
        assert!(store.use_once(&marks(wrong), 1).await.is_err());
    }
    assert!(store.use_once(&marks(&["m"]), 0).await.is_err());
    assert!(store.use_once(&marks(&["m"]), u64::MAX).await.is_err());
}

async fn the_first_candidate_becomes_the_key_of_its_namespace_only(store: Store, other: Store) {
    let (first, second, origin) = (key(), key(), key());
    assert_eq!(store.key_ring(Cookie, &first).await.unwrap(), active_only(&first));
    assert_eq!(other.key_ring(Cookie, &second).await.unwrap(), active_only(&first));
    // The loser's key is nobody's: another namespace may have it.
    assert_eq!(other.key_ring(Exchange, &second).await.unwrap(), active_only(&second));
    assert_eq!(store.key_ring(Origin, &origin).await.unwrap(), active_only(&origin));
}

async fn of_servers_that_start_at_once_one_makes_the_key(store: Store, other: Store) {
    let rings: Vec<_> = (0..16)
        .map(|n| {
            let store = if n % 2 == 0 { store.clone() } else { other.clone() };
            tokio::spawn(async move { store.key_ring(Broadcast, &key()).await.unwrap() })
        })
        .collect();
    let mut seen = Vec::new();
    for ring in rings {
        seen.push(ring.await.unwrap());
    }
    assert!(seen.iter().all(|ring| *ring == seen[0] && ring.previous.is_none()));
}

async fn rotation_keeps_the_one_before_for_its_grace(store: Store, other: Store) {
    let keys = [key(), key(), key(), key()];
    store.key_ring(Cookie, &keys[0]).await.unwrap();
    store.key_ring(Origin, &keys[3]).await.unwrap();
    let now = store.now().await.unwrap();
    store.rotate_key(Cookie, &keys[1], 900_000).await.unwrap();
    let ring = other.key_ring(Cookie, &key()).await.unwrap();
    assert_eq!(ring.active, keys[1]);
    let (previous, until) = ring.previous.unwrap();
    assert_eq!(previous, keys[0]);
    let grace = until.millis_since(now);
    assert!((900_000..960_000).contains(&grace), "{grace}");
    // Other namespaces know nothing of it.
    assert_eq!(store.key_ring(Origin, &key()).await.unwrap(), active_only(&keys[3]));
    // The next rotation ends the one before the previous, and its grace ends by itself.
    store.rotate_key(Cookie, &keys[2], 1).await.unwrap();
    until_ring(&store, &active_only(&keys[2])).await;
    // Where there is no key yet there is none to keep.
    assert_eq!(store.rotate_key(Exchange, &keys[0], 1000).await.unwrap(), active_only(&keys[0]));
}

async fn until_ring(store: &Store, expected: &KeyRing) {
    until(async || store.key_ring(Cookie, &key()).await.unwrap() == *expected).await;
}

async fn rotating_again_with_the_same_key_changes_nothing(store: Store, other: Store) {
    let (first, second) = (key(), key());
    store.key_ring(Cookie, &first).await.unwrap();
    store.rotate_key(Cookie, &second, 900_000).await.unwrap();
    // As after a lost answer.
    let ring = other.rotate_key(Cookie, &second, 900_000).await.unwrap();
    assert_eq!((ring.active, ring.previous.unwrap().0), (second, first));
}

async fn a_revoked_key_is_gone_at_once(store: Store, other: Store) {
    let keys = [key(), key(), key(), key()];
    store.key_ring(Cookie, &keys[0]).await.unwrap();
    store.rotate_key(Cookie, &keys[1], 900_000).await.unwrap();
    // The previous one: the active one stays.
    let ring = store.revoke_key(Cookie, &keys[0].kid, &keys[2]).await.unwrap().unwrap();
    assert_eq!(ring, active_only(&keys[1]));
    assert_eq!(other.key_ring(Cookie, &key()).await.unwrap(), active_only(&keys[1]));
    // Again, and one that never was, and the names of the pointers.
    for kid in [&keys[0].kid, "no-such-key", "active_kid", "prev_kid", "", &"k".repeat(2000)] {
        assert_eq!(other.revoke_key(Cookie, kid, &keys[2]).await.unwrap(), None, "{kid}");
    }
    // In its own namespace only.
    store.key_ring(Origin, &keys[3]).await.unwrap();
    assert_eq!(other.revoke_key(Origin, &keys[1].kid, &keys[2]).await.unwrap(), None);
    // The active one: the fresh one takes its place, and the previous one keeps its grace.
    store.rotate_key(Cookie, &keys[2], 900_000).await.unwrap();
    let fresh = key();
    let ring = other.revoke_key(Cookie, &keys[2].kid, &fresh).await.unwrap().unwrap();
    assert_eq!((ring.active, ring.previous.unwrap().0), (fresh, keys[1].clone()));
}

async fn a_name_is_not_taken_twice(store: Store, _: Store) {
    let (first, second) = (key(), key());
    store.key_ring(Cookie, &first).await.unwrap();
    store.rotate_key(Cookie, &second, 900_000).await.unwrap();
    let same_name = PreviewKey { secret: [7; 32], ..first.clone() };
    assert!(store.rotate_key(Cookie, &same_name, 900_000).await.is_err());
    let ring = store.key_ring(Cookie, &key()).await.unwrap();
    assert_eq!((ring.active, ring.previous.unwrap().0), (second, first));
}

async fn impossible_keys_are_refused(store: Store, _: Store) {
    for kid in ["", "active_kid", "a:b", "ä", &"k".repeat(65)] {
        let wrong = PreviewKey { kid: kid.to_owned(), ..key() };
        assert!(store.key_ring(Cookie, &wrong).await.is_err(), "{kid}");
        assert!(store.rotate_key(Cookie, &wrong, 1).await.is_err(), "{kid}");
        assert!(store.revoke_key(Cookie, "k", &wrong).await.is_err(), "{kid}");
    }
    assert!(store.rotate_key(Cookie, &key(), 0).await.is_err());
}

#[tokio::test]
async fn a_restart_refuses_a_used_mark_and_has_the_same_keys() {
    let folder = tempfile::tempdir().unwrap();
    let (first, second) = (key(), key());
    {
        let store = file(&folder).await;
        assert!(store.use_once(&marks(&["jti", "nonce"]), 60_000).await.unwrap());
        store.key_ring(Cookie, &first).await.unwrap();
        store.rotate_key(Cookie, &second, 900_000).await.unwrap();
    }
    let store = file(&folder).await;
    assert!(!store.use_once(&marks(&["another", "nonce"]), 60_000).await.unwrap());
    let ring = store.key_ring(Cookie, &key()).await.unwrap();
    assert_eq!((ring.active, ring.previous.unwrap().0), (second, first));
}

#[tokio::test]
async fn the_file_is_its_owners_alone_and_what_ran_out_is_removed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(COORDINATION_FILE);
    std::fs::write(&path, b"").unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
    let clock = Arc::new(TestClock::default());
    let store = EmbeddedCoordination::open(clock.clone(), folder.path()).await.unwrap();
    let (first, second) = (key(), key());
    store.key_ring(Cookie, &first).await.unwrap();
    store.rotate_key(Cookie, &second, 1000).await.unwrap();
    for n in 0..50 {
        assert!(store.use_once(&marks(&[&format!("mark:{n}")]), 1000).await.unwrap());
    }
    for name in [COORDINATION_FILE, "coordination.sqlite3-wal", "coordination.sqlite3-shm"] {
        let mode = std::fs::metadata(folder.path().join(name)).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "{name}");
    }
    let until = clock.now().plus_millis(1000);
    assert_eq!(store.key_ring(Cookie, &key()).await.unwrap().previous, Some((first, until)));
    clock.advance_ms(999);
    assert!(!store.use_once(&marks(&["mark:0"]), 1000).await.unwrap());
    clock.advance_ms(1);
    assert!(store.use_once(&marks(&["mark:0"]), 1000).await.unwrap());
    assert_eq!(store.key_ring(Cookie, &key()).await.unwrap(), active_only(&second));
    drop(store);
    let mut looked = open(&path).await;
    let marks: i64 = sqlx::query_scalar("select count(*) from used_mark").fetch_one(&mut looked).await.unwrap();
    let keys: i64 = sqlx::query_scalar("select count(*) from preview_key").fetch_one(&mut looked).await.unwrap();
    assert_eq!((marks, keys), (1, 1));
}

async fn open(path: &std::path::Path) -> sqlx::sqlite::SqliteConnection {
    use sqlx::Connection as _;
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(path);
    sqlx::sqlite::SqliteConnection::connect_with(&options).await.unwrap()
}

#[tokio::test]
async fn a_full_or_newer_or_damaged_file_refuses() {
    let folder = tempfile::tempdir().unwrap();
    let store = file(&folder).await;
    let path = folder.path().join(COORDINATION_FILE);
    let mut other = open(&path).await;
    let fill = format!(
        "insert into used_mark with recursive n(value) as (select 1 union all select value + 1 from n where value < {}) \
         select 'mark:' || value, {} from n",
        EMBEDDED_MARKS_MAX - 1,
        i64::MAX,
    );
    sqlx::raw_sql(sqlx::AssertSqlSafe(fill)).execute(&mut other).await.unwrap();
    assert!(store.use_once(&marks(&["a", "b"]), 60_000).await.is_err());
    assert!(store.use_once(&marks(&["a"]), 60_000).await.unwrap());
    assert!(store.use_once(&marks(&["b"]), 60_000).await.is_err());

    sqlx::raw_sql("pragma user_version = 2").execute(&mut other).await.unwrap();
    assert!(EmbeddedCoordination::open(Arc::new(WallClock), folder.path()).await.is_err());

    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join(COORDINATION_FILE), b"this is no database, and long enough to be seen as none")
        .unwrap();
    assert!(EmbeddedCoordination::open(Arc::new(WallClock), folder.path()).await.is_err());
    let away = folder.path().join("no-such-folder");
    assert!(EmbeddedCoordination::open(Arc::new(WallClock), &away).await.is_err());
}

#[tokio::test]
async fn a_redis_that_is_away_claims_nothing_and_gives_no_key() {
    let (mut server, store) = own_redis();
    store.key_ring(Cookie, &key()).await.unwrap();
    server.stop();
    assert!(store.use_once(&marks(&["jti"]), 60_000).await.is_err());
    assert!(store.key_ring(Cookie, &key()).await.is_err());
    assert!(store.rotate_key(Cookie, &key(), 1000).await.is_err());
    assert!(store.revoke_key(Cookie, "k", &key()).await.is_err());
}

#[tokio::test]
async fn redis_keys_have_the_names_of_the_contract_and_lost_secrets_are_an_error() {
    let (server, store) = own_redis();
    let (first, second) = (key(), key());
    store.key_ring(Cookie, &first).await.unwrap();
    store.rotate_key(Cookie, &second, 900_000).await.unwrap();
    let prefix = "terragon:v1:preview:keys:cookie:";
    for (name, kid) in [("active_kid", &second.kid), ("prev_kid", &first.kid)] {
        assert!(server.tell(&format!("GET {prefix}{name}")).unwrap().contains(kid.as_str()), "{name}");
    }
    // The old secret goes with its grace; the active one stays.
    let left = |name: &str| -> i64 {
        let answer = server.tell(&format!("PTTL {prefix}{name}")).unwrap();
        answer.trim_start_matches(':').trim().parse().unwrap()
    };
    assert!((840_000..=900_000).contains(&left(&first.kid)));
    assert_eq!(left(&second.kid), -1);

    server.tell(&format!("DEL {prefix}{}", second.kid)).unwrap();
    assert!(store.key_ring(Cookie, &key()).await.is_err());
    for damaged in ["{}", "topsecret", r#"{"secret":"topsecret","createdAt":"2025-11-21T06:47:54.007Z"}"#] {
        server.tell(&format!("SET {prefix}{} '{damaged}'", second.kid)).unwrap();
        let error = store.key_ring(Cookie, &key()).await.unwrap_err().to_string();
        assert!(error.contains("damaged") && !error.contains("topsecret"), "{error}");
    }
    // A rotation mends it, and keeps nothing of what was lost.
    server.tell(&format!("DEL {prefix}{}", second.kid)).unwrap();
    let third = key();
    assert_eq!(store.rotate_key(Cookie, &third, 900_000).await.unwrap(), active_only(&third));
}
