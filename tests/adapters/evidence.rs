//! `EvidenceStore` in a folder and in a bucket of a real S3 server.

use std::os::unix::fs::PermissionsExt as _;

use bytes::Bytes;
use runwarden::evidence::{AwsSettings, EVIDENCE_OBJECT_MAX_BYTES, ObjectEvidence};
use runwarden_actors::ports::{EvidenceError, EvidenceStore};

use crate::s3_server::{ACCESS_KEY, S3Server, SECRET_KEY};

fn settings(endpoint: &str) -> AwsSettings {
    AwsSettings {
        access_key_id: Some(ACCESS_KEY.to_owned()),
        secret_access_key: Some(SECRET_KEY.to_owned()),
        endpoint_url: Some(endpoint.to_owned()),
        ..AwsSettings::default()
    }
}

fn bucket(server: &S3Server, url: &str) -> ObjectEvidence {
    install_tls();
    ObjectEvidence::s3(url, &settings(&server.endpoint())).unwrap()
}

fn install_tls() {
    // Another test of this process may have been first.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

async fn objects_come_back_as_they_were(store: &dyn EvidenceStore) {
    store.ping().await.unwrap();
    assert_eq!(store.get("preview/t-1/none").await.unwrap(), None);

    let large = Bytes::from((0..6_000_000_u32).map(|n| n.to_le_bytes()[n as usize % 4]).collect::<Vec<_>>());
    for (key, bytes) in [
        ("preview/t-1/r-1/1/stdout.gz", Bytes::from_static(b"\x00\xff bytes\r\n")),
        ("empty", Bytes::new()),
        ("spaces and % and été/x+y=z", Bytes::from_static(b"names")),
        ("large", large),
    ] {
        store.put(key, bytes.clone()).await.unwrap();
        assert_eq!(store.get(key).await.unwrap(), Some(bytes.clone()), "{key}");
        store.put(key, bytes.clone()).await.unwrap();
        assert_eq!(store.get(key).await.unwrap(), Some(bytes), "{key}");
    }
    // A folder is no object.
    assert!(!matches!(store.get("preview/t-1").await, Ok(Some(_))));

    for wrong in ["", "/a", "../a", "a/../../b", "a\nb"] {
        assert!(matches!(store.put(wrong, Bytes::new()).await, Err(EvidenceError::InvalidKey(_))), "{wrong:?}");
        assert!(matches!(store.get(wrong).await, Err(EvidenceError::InvalidKey(_))), "{wrong:?}");
    }
    let too_large = Bytes::from(vec![0; EVIDENCE_OBJECT_MAX_BYTES + 1]);
    assert!(matches!(store.put("too-large", too_large).await, Err(EvidenceError::Unavailable(_))));
    store.put("gone/soon.json", Bytes::from_static(b"x")).await.unwrap();
    for _ in 0..2 {
        store.delete("gone/soon.json").await.unwrap();
        assert_eq!(store.get("gone/soon.json").await.unwrap(), None);
    }
    assert!(matches!(store.delete("../gone").await, Err(EvidenceError::InvalidKey(_))));
}

#[tokio::test]
async fn a_folder_keeps_objects() {
    let data = tempfile::tempdir().unwrap();
    let store = ObjectEvidence::folder(&data.path().join("deep/objects")).unwrap();
    objects_come_back_as_they_were(&store).await;
}

#[tokio::test]
async fn a_bucket_keeps_objects() {
    let server = S3Server::spawn(&["evidence"]);
    objects_come_back_as_they_were(&bucket(&server, "s3://evidence/runs/here/")).await;
    assert!(server.bucket("evidence").join("runs/here/preview/t-1/r-1/1/stdout.gz").is_file());
    objects_come_back_as_they_were(&bucket(&server, "s3://evidence")).await;
}

#[tokio::test]
async fn a_folder_is_private_and_outlives_the_store() {
    let data = tempfile::tempdir().unwrap();
    let root = data.path().join("objects");
    ObjectEvidence::folder(&root).unwrap().put("a/b", Bytes::from_static(b"kept")).await.unwrap();
    let mode = |path: &std::path::Path| path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&root), mode(&root.join("a/b"))), (0o700, 0o600));

    let again = ObjectEvidence::folder(&root).unwrap();
    assert_eq!(again.get("a/b").await.unwrap(), Some(Bytes::from_static(b"kept")));
}

#[tokio::test]
async fn a_folder_that_went_away_is_unavailable() {
    let data = tempfile::tempdir().unwrap();
    let root = data.path().join("objects");
    let store = ObjectEvidence::folder(&root).unwrap();
    std::fs::remove_dir(&root).unwrap();
    std::fs::write(&root, "no folder").unwrap();
    assert!(matches!(store.ping().await, Err(EvidenceError::Unavailable(_))));
    assert!(matches!(store.put("a", Bytes::new()).await, Err(EvidenceError::Unavailable(_))));

    std::fs::remove_file(&root).unwrap();
    assert!(matches!(store.ping().await, Err(EvidenceError::Unavailable(_))));
    std::fs::create_dir(&root).unwrap();
    store.ping().await.unwrap();
    store.put("a", Bytes::new()).await.unwrap();

    assert!(ObjectEvidence::folder(std::path::Path::new("/proc/self/no-such/objects")).is_err());
}

#[tokio::test]
async fn a_bucket_whose_server_went_away_is_unavailable_until_it_is_back() {
    let mut server = S3Server::spawn(&["evidence"]);
    let store = bucket(&server, "s3://evidence/x");
    store.put("a", Bytes::from_static(b"1")).await.unwrap();

    server.stop();
    assert!(matches!(store.put("b", Bytes::from_static(b"2")).await, Err(EvidenceError::Unavailable(_))));
    // Out of reach is not the same as not there.
    assert!(matches!(store.get("a").await, Err(EvidenceError::Unavailable(_))));
    assert!(matches!(store.ping().await, Err(EvidenceError::Unavailable(_))));

    server.start();
    store.ping().await.unwrap();
    assert_eq!(store.get("a").await.unwrap(), Some(Bytes::from_static(b"1")));
    store.put("b", Bytes::from_static(b"2")).await.unwrap();
}

#[tokio::test]
async fn a_missing_bucket_and_a_wrong_secret_are_unavailable() {
    let server = S3Server::spawn(&["evidence"]);
    let missing = bucket(&server, "s3://no-such-bucket");
    assert!(matches!(missing.ping().await, Err(EvidenceError::Unavailable(_))));

    let wrong = AwsSettings { secret_access_key: Some("open-sesame".to_owned()), ..settings(&server.endpoint()) };
    let store = ObjectEvidence::s3("s3://evidence", &wrong).unwrap();
    for error in [store.ping().await.unwrap_err(), store.put("a", Bytes::new()).await.unwrap_err()] {
        let text = error.to_string();
        assert!(matches!(error, EvidenceError::Unavailable(_)), "{text}");
        assert!(!text.contains("sesame") && !text.contains('\n'), "{text}");
    }
}

#[test]
fn wrong_settings_are_named_and_secrets_are_not() {
    let right = settings("http://127.0.0.1:1");
    for (url, aws, setting) in [
        ("http://bucket", right.clone(), "OBJECT_STORE_URL"),
        ("s3://", right.clone(), "OBJECT_STORE_URL"),
        ("s3://bu cket/x", right.clone(), "OBJECT_STORE_URL"),
        ("s3://bucket/../x", right.clone(), "OBJECT_STORE_URL"),
        ("s3://bucket", AwsSettings { access_key_id: None, ..right.clone() }, "AWS_ACCESS_KEY_ID"),
        (
            "s3://bucket",
            AwsSettings { secret_access_key: Some(String::new()), ..right.clone() },
            "AWS_SECRET_ACCESS_KEY",
        ),
        (
            "s3://bucket",
            AwsSettings { endpoint_url: Some("127.0.0.1:1".to_owned()), ..right.clone() },
            "AWS_ENDPOINT_URL",
        ),
        (
            "s3://bucket",
            AwsSettings { endpoint_url: Some("http://me:open-sesame@127.0.0.1".to_owned()), ..right.clone() },
            "AWS_ENDPOINT_URL",
        ),
    ] {
        assert_eq!(ObjectEvidence::s3(url, &aws).unwrap_err().setting, setting, "{url}");
    }
    let printed = format!("{right:?}");
    assert!(!printed.contains(SECRET_KEY) && !printed.contains(ACCESS_KEY), "{printed}");
}
