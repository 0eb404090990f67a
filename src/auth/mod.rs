//! Who may speak: signing, the daemon's token, the shared keys of host applications.

mod crypto;
mod daemon_token;
mod secrets;

pub use crypto::install_crypto;
pub use daemon_token::{DaemonClaims, DaemonTokens, TokenError};
pub use secrets::{SharedSecret, random_secret};
