//! Leases and rate limits: two adapters of the port `Coordination` (section 13, `REDIS_URL`).
//!
//! - [`EmbeddedCoordination`]: inside this process, for one server; a restart forgets everything
//! - [`RedisCoordination`]: shared by all servers of one installation

mod bounds;
mod embedded;
mod embedded_previews;
mod redis;
mod redis_previews;

pub use self::bounds::{COORDINATION_KEY_MAX_BYTES, COORDINATION_SPAN_MAX_MS};
pub use self::embedded::{EMBEDDED_KEYS_MAX, EmbeddedCoordination};
pub use self::redis::{REDIS_CALL_TIMEOUT_MS, RedisCoordination, RedisUrlError};
