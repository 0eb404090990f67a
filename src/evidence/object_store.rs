//! Objects in a folder or in a bucket.

use std::fs::{DirBuilder, Permissions};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path as FilePath, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures_util::TryStreamExt as _;
use object_store::aws::{AmazonS3, AmazonS3Builder};
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{
    BackoffConfig, ClientOptions, Error as ObjectError, ObjectStore as _, ObjectStoreExt as _, PutPayload, RetryConfig,
};
use runwarden_actors::ports::{EvidenceError, EvidenceStore};
use thiserror::Error;
use tokio::time::timeout;

use super::key;

/// Longest wait for one call, retries included.
pub const EVIDENCE_CALL_TIMEOUT_MS: u64 = 10_000;
/// Largest object: above every cap of section 9.
pub const EVIDENCE_OBJECT_MAX_BYTES: usize = 64 * 1024 * 1024;
/// Longest wait for a connection to the bucket's server.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Longest wait for one request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(8);
/// Requests after a first one that failed in a way that may pass.
const RETRIES_MAX: usize = 2;
/// Listed by `ping`: nothing is ever put there, so the answer is short.
const PING_PREFIX: &str = ".runwarden-ping";

/// A setting of the object store that cannot be used. No secret is repeated.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{setting} {problem}")]
pub struct EvidenceSettingError {
    /// The setting's name.
    pub setting: &'static str,
    /// What is wrong with it and what would be right.
    pub problem: String,
}

/// The usual AWS variables, for S3 and what speaks its language (R2, MinIO).
#[derive(Clone, Default, PartialEq, Eq)]
pub struct AwsSettings {
    /// `AWS_ACCESS_KEY_ID`.
    pub access_key_id: Option<String>,
    /// `AWS_SECRET_ACCESS_KEY`.
    pub secret_access_key: Option<String>,
    /// `AWS_SESSION_TOKEN`.
    pub session_token: Option<String>,
    /// `AWS_REGION`; `us-east-1` where none is given. R2 wants `auto`.
    pub region: Option<String>,
    /// `AWS_ENDPOINT_URL`: another server than AWS itself, `https://` or `http://`.
    pub endpoint_url: Option<String>,
}

impl std::fmt::Debug for AwsSettings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let hide = |secret: &Option<String>| secret.as_ref().map(|_| "[redacted]");
        f.debug_struct("AwsSettings")
            .field("access_key_id", &hide(&self.access_key_id))
            .field("secret_access_key", &hide(&self.secret_access_key))
            .field("session_token", &hide(&self.session_token))
            .field("region", &self.region)
            .field("endpoint_url", &self.endpoint_url.as_ref().map(|_| "[set]"))
            .finish()
    }
}

/// Objects in a folder or in a bucket.
pub struct ObjectEvidence(Backend);

enum Backend {
    Folder { files: LocalFileSystem, root: PathBuf },
    Bucket { bucket: AmazonS3, prefix: Option<Path> },
}

impl std::fmt::Debug for ObjectEvidence {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self.0 {
            Backend::Folder { .. } => "ObjectEvidence(folder)",
            Backend::Bucket { .. } => "ObjectEvidence(bucket)",
        })
    }
}

impl ObjectEvidence {
    /// Files below `root`, which is created for this user alone where it does not exist. A write is on the disk
    /// (file and folder) and in its place, whole or not at all, before it is answered.
    pub fn folder(root: &FilePath) -> Result<Self, EvidenceSettingError> {
        let wrong = |error: &dyn std::fmt::Display| EvidenceSettingError {
            setting: "DATA_DIR",
            problem: format!("does not let objects be kept in `{}`: {error}", root.display()),
        };
        DirBuilder::new().recursive(true).mode(0o700).create(root).map_err(|error| wrong(&error))?;
        let root = root.canonicalize().map_err(|error| wrong(&error))?;
        let files = LocalFileSystem::new_with_prefix(&root).map_err(|error| wrong(&error))?.with_fsync(true);
        Ok(Self(Backend::Folder { files, root }))
    }

    /// Objects of the bucket that `url` (`s3://bucket/prefix`) names. Nothing is asked of it yet.
    pub fn s3(url: &str, aws: &AwsSettings) -> Result<Self, EvidenceSettingError> {
        let (bucket, prefix) = parse_s3_url(url)?;
        let needed = |setting, value: &Option<String>| {
            value.clone().filter(|value| !value.is_empty()).ok_or_else(|| EvidenceSettingError {
                setting,
                problem: "must be set where OBJECT_STORE_URL is an s3:// URL".to_owned(),
            })
        };
        let mut builder = AmazonS3Builder::new()
            .with_bucket_name(bucket)
            .with_access_key_id(needed("AWS_ACCESS_KEY_ID", &aws.access_key_id)?)
            .with_secret_access_key(needed("AWS_SECRET_ACCESS_KEY", &aws.secret_access_key)?)
            .with_region(aws.region.as_deref().filter(|region| !region.is_empty()).unwrap_or("us-east-1"))
            .with_retry(RetryConfig {
                backoff: BackoffConfig {
                    init_backoff: Duration::from_millis(100),
                    max_backoff: Duration::from_secs(1),
                    base: 2.0,
                },
                max_retries: RETRIES_MAX,
                retry_timeout: REQUEST_TIMEOUT,
            });
        if let Some(token) = &aws.session_token {
            builder = builder.with_token(token);
        }
        let mut client = ClientOptions::new().with_connect_timeout(CONNECT_TIMEOUT).with_timeout(REQUEST_TIMEOUT);
        if let Some(endpoint) = aws.endpoint_url.as_deref().filter(|endpoint| !endpoint.is_empty()) {
            // An error names the address that was asked, so the address must not hold a password.
            let scheme = endpoint.starts_with("https://") || endpoint.starts_with("http://");
            if !scheme || endpoint.contains('@') {
                return Err(EvidenceSettingError {
                    setting: "AWS_ENDPOINT_URL",
                    problem: "must start with https:// or http:// and hold no credentials".to_owned(),
                });
            }
            client = client.with_allow_http(endpoint.starts_with("http://"));
            builder = builder.with_endpoint(endpoint);
        }
        let bucket = builder.with_client_options(client).build().map_err(|error| EvidenceSettingError {
            setting: "OBJECT_STORE_URL",
            problem: format!("cannot be used: {error}"),
        })?;
        Ok(Self(Backend::Bucket { bucket, prefix }))
    }

    async fn read(&self, key: Path) -> Result<Option<Bytes>, EvidenceError> {
        let result = match &self.0 {
            Backend::Folder { files, .. } => files.get(&key).await,
            Backend::Bucket { bucket, prefix } => bucket.get(&below(prefix.as_ref(), &key)).await,
        };
        let object = match result {
            Ok(object) => object,
            Err(ObjectError::NotFound { source, .. }) if !names_missing_bucket(&*source) => return Ok(None),
            Err(error) => return Err(unavailable(&error)),
        };
        // The size that the store names is not trusted: what really comes is counted.
        let mut bytes = BytesMut::new();
        let mut stream = object.into_stream();
        while let Some(chunk) = stream.try_next().await.map_err(|error| unavailable(&error))? {
            if bytes.len() + chunk.len() > EVIDENCE_OBJECT_MAX_BYTES {
                return Err(too_large());
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(Some(bytes.freeze()))
    }

    async fn remove(&self, key: Path) -> Result<(), EvidenceError> {
        let result = match &self.0 {
            Backend::Folder { files, .. } => files.delete(&key).await,
            Backend::Bucket { bucket, prefix } => bucket.delete(&below(prefix.as_ref(), &key)).await,
        };
        match result {
            Ok(()) => Ok(()),
            Err(ObjectError::NotFound { source, .. }) if !names_missing_bucket(&*source) => Ok(()),
            Err(error) => Err(unavailable(&error)),
        }
    }

    async fn write(&self, key: Path, bytes: Bytes) -> Result<(), EvidenceError> {
        let payload = PutPayload::from_bytes(bytes);
        match &self.0 {
            Backend::Folder { files, .. } => {
                files.put(&key, payload).await.map_err(|error| unavailable(&error))?;
                let path = files.path_to_filesystem(&key).map_err(|error| unavailable(&error))?;
                tokio::fs::set_permissions(path, Permissions::from_mode(0o600))
                    .await
                    .map_err(|error| EvidenceError::Unavailable(error.to_string()))
            }
            Backend::Bucket { bucket, prefix } => bucket
                .put(&below(prefix.as_ref(), &key), payload)
                .await
                .map(|_| ())
                .map_err(|error| unavailable(&error)),
        }
    }
}

#[async_trait]
impl EvidenceStore for ObjectEvidence {
    async fn put(&self, key: &str, bytes: Bytes) -> Result<(), EvidenceError> {
        let key = key::parse(key)?;
        if bytes.len() > EVIDENCE_OBJECT_MAX_BYTES {
            return Err(too_large());
        }
        within_limit(self.write(key, bytes)).await
    }

    async fn get(&self, key: &str) -> Result<Option<Bytes>, EvidenceError> {
        let key = key::parse(key)?;
        within_limit(self.read(key)).await
    }

    async fn delete(&self, key: &str) -> Result<(), EvidenceError> {
        let key = key::parse(key)?;
        within_limit(self.remove(key)).await
    }

    async fn ping(&self) -> Result<(), EvidenceError> {
        match &self.0 {
            Backend::Folder { root, .. } => match tokio::fs::metadata(root).await {
                Ok(found) if found.is_dir() => Ok(()),
                Ok(_) => Err(EvidenceError::Unavailable("the folder of objects is not a folder".to_owned())),
                Err(error) => Err(EvidenceError::Unavailable(format!("the folder of objects: {error}"))),
            },
            Backend::Bucket { bucket, prefix } => {
                let place = below(prefix.as_ref(), &key::parse(PING_PREFIX)?);
                within_limit(async {
                    bucket.list(Some(&place)).try_next().await.map(|_| ()).map_err(|error| unavailable(&error))
                })
                .await
            }
        }
    }
}

async fn within_limit<T>(call: impl Future<Output = Result<T, EvidenceError>>) -> Result<T, EvidenceError> {
    timeout(Duration::from_millis(EVIDENCE_CALL_TIMEOUT_MS), call)
        .await
        .unwrap_or_else(|_| Err(EvidenceError::Unavailable(format!("no answer within {EVIDENCE_CALL_TIMEOUT_MS} ms"))))
}

fn below(prefix: Option<&Path>, key: &Path) -> Path {
    prefix.map_or_else(|| key.clone(), |prefix| prefix.parts().chain(key.parts()).collect())
}

fn parse_s3_url(url: &str) -> Result<(&str, Option<Path>), EvidenceSettingError> {
    let wrong = || EvidenceSettingError {
        setting: "OBJECT_STORE_URL",
        problem: "must be `s3://bucket` or `s3://bucket/prefix`".to_owned(),
    };
    let rest = url.strip_prefix("s3://").ok_or_else(wrong)?;
    let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    if bucket.is_empty() || !bucket.bytes().all(allowed) {
        return Err(wrong());
    }
    let prefix = match prefix.trim_end_matches('/') {
        "" => None,
        prefix => Some(key::parse(prefix).map_err(|_| wrong())?),
    };
    Ok((bucket, prefix))
}

/// A bucket that does not exist answers 404 like an object that does not.
fn names_missing_bucket(source: &(dyn std::error::Error + Send + Sync)) -> bool {
    source.to_string().contains("NoSuchBucket")
}

/// One line, and not longer than a log line should be: a server's error page may be anything.
fn unavailable(error: &ObjectError) -> EvidenceError {
    EvidenceError::Unavailable(error.to_string().chars().take(400).flat_map(char::escape_debug).collect())
}

fn too_large() -> EvidenceError {
    EvidenceError::Unavailable(format!("an object may have at most {EVIDENCE_OBJECT_MAX_BYTES} bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_bucket_is_told_from_a_missing_object() {
        let answer = |code: &str| std::io::Error::other(format!("404 Not Found: <Error><Code>{code}</Code></Error>"));
        assert!(names_missing_bucket(&answer("NoSuchBucket")));
        assert!(!names_missing_bucket(&answer("NoSuchKey")));
    }
}
