//! Who may speak: signing, the daemon's token, the shared keys of host applications.

mod client_ip;
mod crypto;
mod daemon_token;
mod secrets;

pub use client_ip::{ClientIp, client_ip};
pub use crypto::install_crypto;
pub use daemon_token::{DaemonClaims, DaemonTokens, TokenError};
pub use secrets::{SharedSecret, random_secret};
