//! Coordination through a Redis server that all servers of one installation share.

use std::time::Duration;

use async_trait::async_trait;
use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, Client, ErrorKind, FromRedisValue, RedisError, RedisResult, Script, ScriptInvocation,
    ServerErrorKind,
};
use runwarden_actors::contract::Timestamp;
use runwarden_actors::ports::{CoordinationError, Lease, Leases, RateDecision};
use thiserror::Error;
use tokio::sync::Mutex;
use tokio::time::timeout;

use super::bounds::{check_span, check_text};
use super::redis_scripts::PreviewScripts;

/// Longest wait for one call, connecting included.
pub const REDIS_CALL_TIMEOUT_MS: u64 = 2_000;

/// Each script is one atomic step, with the server's own clock: nodes may disagree about the time.
pub(super) const NOW: &str = r"
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
";
const ACQUIRE: &str = r"
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then return false end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return now + ARGV[2]
";
const RELEASE: &str = r"
if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end
return 0
";
// A counter that has run out is not brought back: it would never run out again.
const UNCOUNT: &str = r"
local used = tonumber(redis.call('GET', KEYS[1]) or '0')
if used > 0 then redis.call('DECR', KEYS[1]) end
return 0
";
const COUNT: &str = r"
local used = redis.call('INCR', KEYS[1])
local left = redis.call('PTTL', KEYS[1])
if left < 0 then
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
  left = tonumber(ARGV[2])
end
if used <= tonumber(ARGV[1]) then return 0 end
return math.max(left, 1)
";

/// `REDIS_URL` cannot be used. The value is not repeated: it may hold a password.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("REDIS_URL must be redis://, rediss:// or unix:// with a host or path")]
pub struct RedisUrlError;

/// Coordination in Redis.
///
/// A connection that failed or did not answer in time is thrown away and the next call makes a new one; a call
/// that met a stale connection tries once more within its own time limit. The crate's own connection manager is
/// not used: it keeps the error of a refused greeting (a full server, a password not yet set) for good.
pub struct RedisCoordination {
    pub(super) client: Client,
    slot: Mutex<Slot>,
    acquire: Script,
    release: Script,
    count: Script,
    uncount: Script,
    now: Script,
    pub(super) previews: PreviewScripts,
}

/// The open connection, numbered so that a late failure does not throw away its successor.
#[derive(Default)]
struct Slot {
    number: u64,
    open: Option<MultiplexedConnection>,
}

impl std::fmt::Debug for RedisCoordination {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RedisCoordination").finish_non_exhaustive()
    }
}

impl RedisCoordination {
    /// Reads the URL; the first call connects.
    pub fn new(url: &str) -> Result<Self, RedisUrlError> {
        Ok(Self {
            client: Client::open(url).map_err(|_| RedisUrlError)?,
            slot: Mutex::default(),
            acquire: Script::new(&format!("{NOW}{ACQUIRE}")),
            release: Script::new(RELEASE),
            count: Script::new(COUNT),
            uncount: Script::new(UNCOUNT),
            now: Script::new(&format!("{NOW}return now")),
            previews: PreviewScripts::new(),
        })
    }

    /// Runs a script within [`REDIS_CALL_TIMEOUT_MS`].
    pub(super) async fn call<T: FromRedisValue>(&self, script: &ScriptInvocation<'_>) -> Result<T, CoordinationError> {
        let Ok(answer) = timeout(Duration::from_millis(REDIS_CALL_TIMEOUT_MS), self.attempts(script)).await else {
            // A server that hangs holds the connection open; a new one may reach its successor.
            if let Ok(mut slot) = self.slot.try_lock() {
                slot.open = None;
            }
            return Err(CoordinationError(format!("Redis did not answer within {REDIS_CALL_TIMEOUT_MS} ms")));
        };
        answer.map_err(|error| CoordinationError(format!("Redis: {error}")))
    }

    async fn attempts<T: FromRedisValue>(&self, script: &ScriptInvocation<'_>) -> RedisResult<T> {
        let (number, mut open, reused) = self.connection().await?;
        match script.invoke_async(&mut open).await {
            Err(error) if breaks_connection(&error) => {
                self.discard(number).await;
                if !reused {
                    return Err(error);
                }
                // The server may have closed an idle connection. Again: extending, releasing, rotating or taking the
                // same slot twice is the same; a use counted twice, or a mark that was set already, errs on the safe
                // side.
                let (number, mut open, _) = self.connection().await?;
                let answer = script.invoke_async(&mut open).await;
                if answer.as_ref().is_err_and(breaks_connection) {
                    self.discard(number).await;
                }
                answer
            }
            answer => answer,
        }
    }

    /// The connection's number, the connection, and whether it was open before.
    async fn connection(&self) -> RedisResult<(u64, MultiplexedConnection, bool)> {
        let mut slot = self.slot.lock().await;
        if let Some(open) = &slot.open {
            return Ok((slot.number, open.clone(), true));
        }
        let limit = Some(Duration::from_millis(REDIS_CALL_TIMEOUT_MS));
        let settings = AsyncConnectionConfig::new().set_connection_timeout(limit).set_response_timeout(limit);
        let fresh = self.client.get_multiplexed_async_connection_with_config(&settings).await?;
        slot.number = slot.number.wrapping_add(1);
        slot.open = Some(fresh.clone());
        Ok((slot.number, fresh, false))
    }

    async fn discard(&self, number: u64) {
        let mut slot = self.slot.lock().await;
        if slot.number == number {
            slot.open = None;
        }
    }
}

/// Whether another connection could fare better: everything but an answer about the script itself. A server that
/// became a replica says so over a healthy connection, and the name may lead to the new primary by now.
fn breaks_connection(error: &RedisError) -> bool {
    error.is_unrecoverable_error()
        || error.is_timeout()
        || matches!(error.kind(), ErrorKind::Server(ServerErrorKind::ReadOnly | ServerErrorKind::MasterDown))
}

#[async_trait]
impl Leases for RedisCoordination {
    async fn acquire_lease(&self, key: &str, holder: &str, ttl_ms: u64) -> Result<Option<Lease>, CoordinationError> {
        check_text("a lease's key", key)?;
        check_text("a lease's holder", holder)?;
        let ttl = check_span("a lease", ttl_ms)?;
        let expires_at: Option<i64> = self.call(self.acquire.key(key).arg(holder).arg(ttl)).await?;
        Ok(expires_at.map(|millis| Lease {
            key: key.to_owned(),
            holder: holder.to_owned(),
            expires_at: Timestamp::from_millis(millis),
        }))
    }

    async fn release_lease(&self, lease: &Lease) -> Result<(), CoordinationError> {
        check_text("a lease's key", &lease.key)?;
        check_text("a lease's holder", &lease.holder)?;
        self.call::<i64>(self.release.key(&lease.key).arg(&lease.holder)).await.map(|_| ())
    }

    async fn count(&self, key: &str, limit: u32, window_ms: u64) -> Result<RateDecision, CoordinationError> {
        check_text("a counter's key", key)?;
        let window = check_span("a window", window_ms)?;
        let wait: u64 = self.call(self.count.key(key).arg(limit).arg(window)).await?;
        Ok(match wait {
            0 => RateDecision::Allowed,
            retry_after_ms => RateDecision::Limited { retry_after_ms },
        })
    }

    async fn uncount(&self, key: &str) -> Result<(), CoordinationError> {
        check_text("a counter's key", key)?;
        self.call::<i64>(&self.uncount.key(key)).await.map(|_| ())
    }

    async fn now(&self) -> Result<Timestamp, CoordinationError> {
        self.call(&self.now.prepare_invoke()).await.map(Timestamp::from_millis)
    }
}
