//! The preview keys in Redis: `…:{namespace}:active_kid`, `…:prev_kid` with its end, and `…:{kid}` with the secret.

use async_trait::async_trait;
use redis::{Script, ScriptInvocation, Value};
use runwarden_actors::contract::names::KEY_PREVIEW_KEYS;
use runwarden_actors::contract::{KeyNamespace, Timestamp};
use runwarden_actors::ports::{CoordinationError, KeyRing, PreviewKey, PreviewKeys};
use serde::{Deserialize, Serialize};

use super::bounds::{check_key, check_span, is_kid};
use super::redis::RedisCoordination;

/// The value of `…:{kid}`.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct StoredKey {
    /// Hexadecimal.
    secret: String,
    created_at: Timestamp,
}

fn to_json(key: &PreviewKey) -> Result<String, CoordinationError> {
    let stored = StoredKey { secret: hex::encode(key.secret), created_at: key.created_at };
    serde_json::to_string(&stored).map_err(|_| CoordinationError("a preview key could not be written".to_owned()))
}

/// Never repeats what it read.
fn from_json(kid: String, json: &[u8]) -> Result<PreviewKey, CoordinationError> {
    let damaged = || CoordinationError(format!("the preview key `{}` in Redis is damaged", kid.escape_debug()));
    let stored: StoredKey = serde_json::from_slice(json).map_err(|_| damaged())?;
    let mut secret = [0; 32];
    hex::decode_to_slice(&stored.secret, &mut secret).map_err(|_| damaged())?;
    Ok(PreviewKey { kid, secret, created_at: stored.created_at })
}

fn lost() -> CoordinationError {
    CoordinationError(
        "the active preview key has lost its secret in Redis; `runwarden keys rotate` makes a new one".into(),
    )
}

/// The client's own conversion would repeat a value that it cannot read in its error.
fn ring(answer: Value) -> Result<KeyRing, CoordinationError> {
    let Value::Array(parts) = answer else { return Err(lost()) };
    let mut parts = parts.into_iter();
    let mut key = || match (parts.next(), parts.next()) {
        (Some(Value::BulkString(kid)), Some(Value::BulkString(json))) => {
            let kid = String::from_utf8(kid).map_err(|_| lost())?;
            from_json(kid, &json).map(Some)
        }
        _ => Ok(None),
    };
    let active = key()?.ok_or_else(lost)?;
    let previous = key()?;
    let previous = match (previous, parts.next()) {
        (Some(key), Some(Value::Int(until))) => Some((key, Timestamp::from_millis(until))),
        _ => None,
    };
    Ok(KeyRing { active, previous })
}

/// A script with the keys, the prefix and `key`, as all of them begin.
fn about<'a>(
    script: &'a Script,
    namespace: KeyNamespace,
    key: &PreviewKey,
) -> Result<ScriptInvocation<'a>, CoordinationError> {
    check_key(key)?;
    let prefix = format!("{KEY_PREVIEW_KEYS}:{namespace}:");
    let mut script = script.key(format!("{prefix}active_kid"));
    script.key(format!("{prefix}prev_kid")).arg(prefix).arg(&key.kid).arg(to_json(key)?);
    Ok(script)
}

#[async_trait]
impl PreviewKeys for RedisCoordination {
    async fn key_ring(&self, namespace: KeyNamespace, candidate: &PreviewKey) -> Result<KeyRing, CoordinationError> {
        ring(self.0.call(&about(&self.0.previews.key_ring, namespace, candidate)?).await?)
    }

    async fn rotate_key(
        &self,
        namespace: KeyNamespace,
        fresh: &PreviewKey,
        grace_ms: u64,
    ) -> Result<KeyRing, CoordinationError> {
        let grace = check_span("a key's grace", grace_ms)?;
        ring(self.0.call(about(&self.0.previews.rotate, namespace, fresh)?.arg(grace)).await?)
    }

    async fn revoke_key(
        &self,
        namespace: KeyNamespace,
        kid: &str,
        fresh: &PreviewKey,
    ) -> Result<Option<KeyRing>, CoordinationError> {
        if !is_kid(kid) {
            return Ok(None);
        }
        match self.0.call(about(&self.0.previews.revoke, namespace, fresh)?.arg(kid)).await? {
            Value::Nil => Ok(None),
            answer => ring(answer).map(Some),
        }
    }
}
