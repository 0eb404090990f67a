//! Who may speak: signing, the daemon's token, the shared keys of host applications, and previews' keys, tokens and
//! cookies.

mod client_ip;
pub mod cookies;
mod crypto;
mod daemon_token;
mod keys;
#[cfg(test)]
mod preview_tests;
mod preview_tokens;
mod secrets;
mod verified;

pub use client_ip::{AddressHeader, ClientIp, TrustedProxies, client_ip, over_tls};
pub use crypto::install_crypto;
pub use daemon_token::{DaemonClaims, DaemonTokens, TokenError};
pub use keys::{KEY_RING_REFRESH, KEY_RING_STALE, KeyError, PreviewKeyRings};
pub use preview_tokens::{
    Bound, BroadcastClaims, CookieClaims, ExchangeClaims, PreviewTokenError, PreviewTokens, single_use_ms,
};
pub use secrets::{SharedSecret, random_secret};
