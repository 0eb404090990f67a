//! The token that a run's daemon shows (section 4): bound to thread, chat and run, signed with HS256.
//!
//! It has no expiry of its own: a daemon drops for good what it holds on a 401, and what a token allows ends
//! with its run anyway. Late events under it meet case 4 or 8.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use runwarden_actors::contract::names::{AUDIENCE_DAEMON, ISSUER_DAEMON};
use runwarden_actors::contract::{RunId, ThreadChatId, ThreadId, Timestamp};
use runwarden_actors::ports::store::SigningKey;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use thiserror::Error;

/// Longest token that is looked at.
const TOKEN_MAX_BYTES: usize = 2048;
/// Verified tokens that are remembered, so that the next event of a run does not pay for its signature again.
const REMEMBERED_MAX: usize = 16 * 1024;

/// Why a token is no credential. Says nothing about the token itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum TokenError {
    /// Not a token of ours, or signed with another key.
    #[error("the daemon token's signature does not verify")]
    Signature,
    /// It could not be made.
    #[error("the daemon token could not be signed")]
    Signing,
}

/// What a daemon token says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DaemonClaims {
    iss: String,
    aud: String,
    iat: i64,
    /// Thread.
    pub thread_id: ThreadId,
    /// Chat.
    pub thread_chat_id: ThreadChatId,
    /// Run.
    pub run_id: RunId,
}

/// Makes and checks daemon tokens. Cheap to clone.
#[derive(Clone)]
pub struct DaemonTokens(Arc<Keys>);

struct Keys {
    active_kid: String,
    encoding: EncodingKey,
    decoding: HashMap<String, DecodingKey>,
    validation: Validation,
    /// By the token's SHA-256. The keys of a process never change, so what was valid once stays so.
    verified: RwLock<HashMap<[u8; 32], Arc<DaemonClaims>>>,
}

impl DaemonTokens {
    /// From all keys of the installation, newest first; the newest signs. `None` where there is none.
    pub fn new(keys: &[SigningKey]) -> Option<Self> {
        let newest = keys.first()?;
        let mut validation = Validation::new(Algorithm::HS256);
        validation.set_audience(&[AUDIENCE_DAEMON]);
        validation.set_issuer(&[ISSUER_DAEMON]);
        validation.set_required_spec_claims(&["aud", "iss"]);
        validation.validate_exp = false;
        Some(Self(Arc::new(Keys {
            active_kid: newest.kid.clone(),
            encoding: EncodingKey::from_secret(&newest.secret),
            decoding: keys.iter().map(|key| (key.kid.clone(), DecodingKey::from_secret(&key.secret))).collect(),
            validation,
            verified: RwLock::default(),
        })))
    }

    /// The run's token. The same run gets the same token while the key is the same.
    pub fn mint(
        &self,
        thread_id: &ThreadId,
        thread_chat_id: &ThreadChatId,
        run_id: RunId,
        created_at: Timestamp,
    ) -> Result<String, TokenError> {
        let claims = DaemonClaims {
            iss: ISSUER_DAEMON.to_owned(),
            aud: AUDIENCE_DAEMON.to_owned(),
            iat: created_at.as_millis() / 1000,
            thread_id: thread_id.clone(),
            thread_chat_id: thread_chat_id.clone(),
            run_id,
        };
        let mut header = Header::new(Algorithm::HS256);
        header.kid = Some(self.0.active_kid.clone());
        jsonwebtoken::encode(&header, &claims, &self.0.encoding).map_err(|_| TokenError::Signing)
    }

    /// Checks a token.
    pub fn verify(&self, token: &str) -> Result<Arc<DaemonClaims>, TokenError> {
        if token.len() > TOKEN_MAX_BYTES {
            return Err(TokenError::Signature);
        }
        let hash: [u8; 32] = Sha256::digest(token).into();
        let known = self.0.verified.read().unwrap_or_else(PoisonError::into_inner).get(&hash).cloned();
        if let Some(claims) = known {
            return Ok(claims);
        }
        let claims = Arc::new(self.verify_signature(token)?);
        let mut verified = self.0.verified.write().unwrap_or_else(PoisonError::into_inner);
        if verified.len() >= REMEMBERED_MAX {
            verified.clear();
        }
        verified.insert(hash, Arc::clone(&claims));
        Ok(claims)
    }

    fn verify_signature(&self, token: &str) -> Result<DaemonClaims, TokenError> {
        let header = jsonwebtoken::decode_header(token).map_err(|_| TokenError::Signature)?;
        let key = header.kid.as_ref().and_then(|kid| self.0.decoding.get(kid)).ok_or(TokenError::Signature)?;
        let data =
            jsonwebtoken::decode::<DaemonClaims>(token, key, &self.0.validation).map_err(|_| TokenError::Signature)?;
        Ok(data.claims)
    }
}

impl std::fmt::Debug for DaemonTokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DaemonTokens").field("active_kid", &self.0.active_kid).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::install_crypto;

    fn key(kid: &str, byte: u8) -> SigningKey {
        SigningKey { kid: kid.into(), secret: [byte; 32], created_at: Timestamp::default() }
    }

    fn mint(tokens: &DaemonTokens) -> String {
        let run = RunId::parse("01935d3e-7c00-7000-8000-000000000001").unwrap();
        tokens
            .mint(&ThreadId::parse("t").unwrap(), &ThreadChatId::parse("c").unwrap(), run, Timestamp::default())
            .unwrap()
    }

    #[test]
    fn a_token_says_what_it_is_bound_to_and_is_the_same_each_time() {
        install_crypto();
        let tokens = DaemonTokens::new(&[key("k1", 1)]).unwrap();
        let token = mint(&tokens);
        assert_eq!(token, mint(&tokens));
        let claims = tokens.verify(&token).unwrap();
        assert_eq!((claims.thread_id.as_str(), claims.thread_chat_id.as_str()), ("t", "c"));
    }

    #[test]
    fn what_is_remembered_is_bounded_and_never_a_refused_token() {
        install_crypto();
        let tokens = DaemonTokens::new(&[key("k1", 1)]).unwrap();
        let forged = mint(&DaemonTokens::new(&[key("k1", 2)]).unwrap());
        for _ in 0..2 {
            assert_eq!(tokens.verify(&forged), Err(TokenError::Signature));
        }
        let token = mint(&tokens);
        assert_eq!(tokens.verify(&token), tokens.verify(&token));
        let remembered = || tokens.0.verified.read().unwrap().len();
        assert_eq!(remembered(), 1);
        let claims = tokens.verify(&token).unwrap();
        tokens.0.verified.write().unwrap().extend((0..REMEMBERED_MAX as u64).map(|number| {
            let mut hash = [0; 32];
            hash[..8].copy_from_slice(&number.to_be_bytes());
            (hash, Arc::clone(&claims))
        }));
        tokens.0.verified.write().unwrap().remove(&<[u8; 32]>::from(Sha256::digest(&token)));
        assert_eq!(tokens.verify(&token), Ok(claims));
        assert_eq!(remembered(), 1);
    }

    #[test]
    fn an_older_key_still_verifies_and_an_unknown_one_does_not() {
        install_crypto();
        let token = mint(&DaemonTokens::new(&[key("k1", 1)]).unwrap());
        assert!(DaemonTokens::new(&[key("k2", 2), key("k1", 1)]).unwrap().verify(&token).is_ok());
        assert_eq!(DaemonTokens::new(&[key("k2", 2)]).unwrap().verify(&token), Err(TokenError::Signature));
        // The same name with another secret.
        assert_eq!(DaemonTokens::new(&[key("k1", 2)]).unwrap().verify(&token), Err(TokenError::Signature));
    }

    #[test]
    fn tampering_other_algorithms_and_other_audiences_are_refused() {
        install_crypto();
        let tokens = DaemonTokens::new(&[key("k1", 1)]).unwrap();
        let token = mint(&tokens);
        let parts: Vec<&str> = token.split('.').collect();
        let none = "eyJhbGciOiJub25lIiwia2lkIjoiazEifQ";
        let hs512 = "eyJhbGciOiJIUzUxMiIsImtpZCI6ImsxIn0";
        for forged in [
            format!("{none}.{}.", parts[1]),
            format!("{none}.{}.{}", parts[1], parts[2]),
            format!("{hs512}.{}.{}", parts[1], parts[2]),
            format!("{}.{}.{}", parts[0], parts[1], parts[2].chars().rev().collect::<String>()),
            format!("{}.{}", parts[0], parts[1]),
            String::new(),
            "x".repeat(5000),
        ] {
            assert_eq!(tokens.verify(&forged), Err(TokenError::Signature), "{forged}");
        }
        let mut header = Header::new(Algorithm::HS256);
        header.kid = Some("k1".into());
        let mut claims = serde_json::to_value(tokens.verify(&token).unwrap().as_ref()).unwrap();
        claims["aud"] = "preview-session-cookie".into();
        let other = jsonwebtoken::encode(&header, &claims, &EncodingKey::from_secret(&[1; 32])).unwrap();
        assert_eq!(tokens.verify(&other), Err(TokenError::Signature));
    }
}
