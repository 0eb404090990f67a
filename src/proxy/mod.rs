//! The preview proxy (section 5): the phases that a request walks through, and the bytes behind them.
//!
//! - [`proxy`]: the phases, in order; `relay` is the last one
//! - [`path`]: which paths are forwarded
//! - [`headers`], [`returned`]: which headers cross, and how they are rewritten; `location` for redirects
//! - [`forward`]: connections to upstreams, each session's own
//! - [`upload`], [`body`]: a body on its way there and back; `ahead` sees at once that it is broken, `watched` ends what
//!   lasts too long
//! - [`websocket`]: a tunnel once both sides have agreed
//! - [`slot`]: a session's few places; `strangers` for those who show no cookie
//! - [`stopping`]: how what is under way ends with the server
//! - [`probe`]: the health look at a preview that is coming up
//! - [`parts`]: by what previews reach the world

mod ahead;
pub mod body;
pub mod forward;
pub mod headers;
mod location;
mod parts;
pub mod path;
mod probe;
mod relay;
pub mod returned;
mod route;
mod services;
mod slot;
pub mod stopping;
mod strangers;
pub mod upload;
mod watched;
pub mod websocket;
mod websocket_frames;

pub use headers::Routing;
pub use parts::{PreviewParts, ProxyTimeouts};
pub use probe::HealthProbe;
pub(crate) use relay::AnswerHead;
pub(crate) use route::Refusal;
pub use route::{Asked, check_cookie, proxy};
pub use services::PreviewServices;
pub use slot::Slot;
pub use stopping::Stopping;
pub use watched::{BodyEnded, Limit};
pub(crate) use websocket_frames::Frames;
