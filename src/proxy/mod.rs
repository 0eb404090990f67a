//! The preview proxy (section 5): the phases that a request walks through, and the bytes behind them.
//!
//! - [`proxy`]: the phases, in order
//! - [`path`]: which paths are forwarded
//! - [`headers`]: which headers cross, and how they are rewritten
//! - [`forward`]: connections to upstreams, each session's own
//! - [`body`]: a body on its way back, and what ends it
//! - [`websocket`]: a tunnel once both sides have agreed
//! - [`slot`]: a session's few places
//! - [`probe`]: the health look at a preview that is coming up

pub mod body;
pub mod forward;
pub mod headers;
pub mod path;
mod probe;
mod route;
mod services;
mod slot;
pub mod websocket;

pub use headers::Routing;
pub use probe::HealthProbe;
pub use route::{Asked, check_cookie, proxy};
pub use services::PreviewServices;
pub use slot::Slot;
