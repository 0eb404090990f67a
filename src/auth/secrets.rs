//! Shared secrets: compared in constant time, never printed.

use rand::RngCore;
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

/// A secret that a caller has to know. Only its digest is kept, so that the comparison has one length.
#[derive(Clone)]
pub struct SharedSecret([u8; 32]);

impl SharedSecret {
    /// From the configured text.
    pub fn new(secret: &SecretString) -> Self {
        Self(Sha256::digest(secret.expose_secret().as_bytes()).into())
    }

    /// Whether `given` is the secret, in time that does not depend on where they differ.
    pub fn matches(&self, given: &[u8]) -> bool {
        let given: [u8; 32] = Sha256::digest(given).into();
        self.0.ct_eq(&given).into()
    }
}

impl std::fmt::Debug for SharedSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SharedSecret(..)")
    }
}

/// 32 bytes from the operating system.
pub fn random_secret() -> [u8; 32] {
    let mut bytes = [0; 32];
    rand::rng().fill_bytes(&mut bytes);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_secret_matches_and_nothing_prints_it() {
        let secret = SharedSecret::new(&SecretString::from("hunter22"));
        assert!(secret.matches(b"hunter22"));
        for wrong in [&b""[..], b"hunter2", b"hunter222", b"HUNTER22"] {
            assert!(!secret.matches(wrong));
        }
        assert_eq!(format!("{secret:?}"), "SharedSecret(..)");
        assert_ne!(random_secret(), random_secret());
    }
}
