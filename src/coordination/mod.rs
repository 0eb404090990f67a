//! What servers agree on beside the database: two adapters of the port `Coordination` (section 13, `REDIS_URL`).
//!
//! - [`EmbeddedCoordination`]: inside this process, for one server; single-use marks and preview keys in a file, the
//!   rest is forgotten by a restart
//! - [`RedisCoordination`]: shared by all servers of one installation
//! - [`RedisBypass`]: before it where an operator asks for it, for an emergency

mod bounds;
mod bypass;
mod durable;
mod embedded;
mod embedded_keys;
mod embedded_previews;
mod expiring;
mod key_pair;
mod redis;
mod redis_connections;
mod redis_gate;
mod redis_keys;
mod redis_memory;
mod redis_previews;
mod redis_released;
mod redis_scripts;

pub use self::bounds::{COORDINATION_KEY_MAX_BYTES, COORDINATION_SPAN_MAX_MS};
pub use self::bypass::RedisBypass;
pub use self::durable::{COORDINATION_FILE, EMBEDDED_MARKS_MAX};
pub use self::embedded::{EMBEDDED_KEYS_MAX, EmbeddedCoordination};
pub use self::redis::{REDIS_CALL_TIMEOUT_MS, RedisCoordination, RedisUrlError};
pub use self::redis_memory::RedisMemory;
