//! Whether a Redis keeps what it is told: marks of used tokens, preview keys and revocations stand in it.

use std::time::Duration;

use redis::{Client, ErrorKind, RedisError, RedisResult, ServerErrorKind};
use runwarden_actors::ports::CoordinationError;
use tokio::time::timeout;

use super::redis::{REDIS_CALL_TIMEOUT_MS, RedisCoordination};

/// What a Redis says of its own memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RedisMemory {
    /// It may not be asked: `CONFIG` is switched off, renamed, or not allowed to this user.
    Unknown,
    /// Its settings.
    Known {
        /// Whether every write goes to a log (`appendonly yes`).
        append_only: bool,
        /// Whether snapshots are taken (`save` is not empty).
        snapshots: bool,
        /// What it does when it is full (`maxmemory-policy`).
        policy: String,
    },
}

impl RedisMemory {
    /// What may be lost, and what would be right; empty where nothing is.
    pub fn warnings(&self) -> Vec<String> {
        let Self::Known { append_only, snapshots, policy } = self else {
            return vec![
                "CONFIG is not permitted, so nobody can say here whether it forgets at a restart or evicts: \
                 `appendonly yes` and `maxmemory-policy noeviction` are needed"
                    .to_owned(),
            ];
        };
        let mut warnings = Vec::new();
        if !append_only && !snapshots {
            warnings.push(
                "a restart forgets preview keys and which tokens were used (neither `appendonly` nor `save`): set \
                 `appendonly yes`"
                    .to_owned(),
            );
        } else if !append_only {
            warnings.push(
                "a restart forgets what came after the last snapshot, used tokens among it: set `appendonly yes`"
                    .to_owned(),
            );
        }
        if policy != "noeviction" {
            warnings.push(format!(
                "when it is full it may drop preview keys and used tokens (`maxmemory-policy {policy}`): set \
                 `maxmemory-policy noeviction`"
            ));
        }
        warnings
    }
}

impl RedisCoordination {
    /// Asks for the settings that decide what is forgotten, within [`REDIS_CALL_TIMEOUT_MS`].
    pub async fn memory(&self) -> Result<RedisMemory, CoordinationError> {
        match timeout(Duration::from_millis(REDIS_CALL_TIMEOUT_MS), ask(&self.client)).await {
            Err(_) => Err(CoordinationError(format!("Redis did not answer within {REDIS_CALL_TIMEOUT_MS} ms"))),
            Ok(Err(error)) if is_forbidden(&error) => Ok(RedisMemory::Unknown),
            Ok(answer) => answer.map_err(|error| CoordinationError(format!("Redis: {error}"))),
        }
    }
}

async fn ask(client: &Client) -> RedisResult<RedisMemory> {
    let mut connection = client.get_multiplexed_async_connection().await?;
    let mut values = Vec::new();
    for name in ["appendonly", "save", "maxmemory-policy"] {
        let pair: Vec<String> = redis::cmd("CONFIG").arg("GET").arg(name).query_async(&mut connection).await?;
        // Some services answer that there is no such setting rather than refuse.
        let Some(value) = pair.into_iter().nth(1) else { return Ok(RedisMemory::Unknown) };
        values.push(value);
    }
    let [append_only, save, policy] = values.as_slice() else { return Ok(RedisMemory::Unknown) };
    Ok(RedisMemory::Known {
        append_only: append_only == "yes",
        snapshots: !save.trim().is_empty(),
        policy: policy.clone(),
    })
}

/// Whether the command is not there, or not for this user.
fn is_forbidden(error: &RedisError) -> bool {
    match error.kind() {
        ErrorKind::Server(ServerErrorKind::NoPerm) => true,
        _ => error.code() == Some("NOPERM") || error.to_string().to_ascii_lowercase().contains("unknown command"),
    }
}
