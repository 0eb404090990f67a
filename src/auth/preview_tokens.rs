//! Preview tokens (section 5): HS256 with a `kid`, one key namespace and one audience for each kind, bound to the
//! session's ids, and good for as long as their kind allows by the Clock port.

use std::sync::Arc;

use async_trait::async_trait;
use jsonwebtoken::{Algorithm, Header, Validation};
use runwarden_actors::contract::limits::PREVIEW_CLOCK_SKEW_SECONDS;
use runwarden_actors::contract::names::{
    BROADCAST_CHANNEL_TYPE, BROADCAST_SCHEMA_VERSION, ISSUER_PREVIEW, KEY_BROADCAST_JTI, KEY_EXCHANGE_JTI,
    KEY_EXCHANGE_NONCE,
};
use runwarden_actors::contract::{KeyNamespace, PreviewBinding, Timestamp};
use runwarden_actors::ports::{Clock, IdSource};
use runwarden_actors::preview::{OriginClaims, OriginSigner, SigningError};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::keys::{KeyError, LoadedKey, PreviewKeyRings};
use super::random_secret;
use super::verified::{Verified, VerifiedToken};

/// Longest token that is looked at.
const TOKEN_MAX_BYTES: usize = 4096;
/// How far clocks may be apart, in milliseconds.
const SKEW_MS: i64 = PREVIEW_CLOCK_SKEW_SECONDS.cast_signed() * 1000;

/// Why a token is refused, or could not be made. Says nothing about the token itself.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PreviewTokenError {
    /// Its life has ended.
    #[error("the preview token has expired")]
    Expired,
    /// Not one of ours, not yet valid, good for too long, of another kind, or signed with a key that is not known.
    #[error("the preview token's signature does not verify")]
    SignatureMismatch,
    /// Made for another session, user, run or sandbox.
    #[error("the preview token was made for something else")]
    BindingMismatch,
    /// Nobody can say. Callers refuse with `cache_unavailable`.
    #[error("preview tokens cannot be made or checked: {0}")]
    Unavailable(String),
}

impl From<KeyError> for PreviewTokenError {
    fn from(error: KeyError) -> Self {
        match error {
            KeyError::Unavailable(why) => Self::Unavailable(why),
            drift @ KeyError::ClockDrift { .. } => Self::Unavailable(drift.to_string()),
        }
    }
}

/// A token that is exchanged for a cookie, once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExchangeClaims {
    /// For whom and what.
    #[serde(flatten)]
    pub binding: PreviewBinding,
    /// Single use.
    pub jti: String,
    /// Single use too.
    pub nonce: String,
}

/// A token that opens a subscription, once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BroadcastClaims {
    /// For whom and what.
    #[serde(flatten)]
    pub binding: PreviewBinding,
    /// Single use.
    pub jti: String,
    /// [`BROADCAST_SCHEMA_VERSION`].
    pub schema_version: u32,
    /// [`BROADCAST_CHANNEL_TYPE`].
    pub channel_type: String,
}

/// What a session's cookie says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CookieClaims {
    /// For whom and what.
    #[serde(flatten)]
    pub binding: PreviewBinding,
    /// The session's version when it was made.
    pub revocation_version: i64,
}

impl ExchangeClaims {
    /// The marks that the exchange sets, for [`single_use_ms`].
    pub fn marks(&self) -> [String; 2] {
        [format!("{KEY_EXCHANGE_JTI}:{}", self.jti), format!("{KEY_EXCHANGE_NONCE}:{}", self.nonce)]
    }
}

impl BroadcastClaims {
    /// The mark that the subscription sets, for [`single_use_ms`].
    pub fn marks(&self) -> [String; 1] {
        [format!("{KEY_BROADCAST_JTI}:{}", self.jti)]
    }
}

/// How long a mark of the namespace has to last, in milliseconds: the life of its tokens, and the skew to either side.
pub const fn single_use_ms(namespace: KeyNamespace) -> u64 {
    (namespace.life_seconds() + 2 * PREVIEW_CLOCK_SKEW_SECONDS) * 1000
}

/// A kind of token.
trait Claims: Serialize + DeserializeOwned {
    const NAMESPACE: KeyNamespace;

    /// Whether what is fixed for the kind is as it should be.
    fn is_sound(&self) -> bool {
        true
    }
}

/// Claims that are bound to a session's ids.
pub trait Bound {
    /// The ids.
    fn binding(&self) -> &PreviewBinding;

    /// Compares them with the session's row.
    fn check_binding(&self, session: &PreviewBinding) -> Result<(), PreviewTokenError> {
        if self.binding() == session { Ok(()) } else { Err(PreviewTokenError::BindingMismatch) }
    }
}

macro_rules! bound {
    ($($claims:ident),+) => {
        $(impl Bound for $claims {
            fn binding(&self) -> &PreviewBinding {
                &self.binding
            }
        })+
    };
}
bound!(ExchangeClaims, BroadcastClaims, CookieClaims);

impl Claims for ExchangeClaims {
    const NAMESPACE: KeyNamespace = KeyNamespace::Exchange;
}

impl Claims for BroadcastClaims {
    const NAMESPACE: KeyNamespace = KeyNamespace::Broadcast;

    fn is_sound(&self) -> bool {
        self.schema_version == BROADCAST_SCHEMA_VERSION && self.channel_type == BROADCAST_CHANNEL_TYPE
    }
}

impl Claims for CookieClaims {
    const NAMESPACE: KeyNamespace = KeyNamespace::Cookie;
}

impl Claims for OriginClaims {
    const NAMESPACE: KeyNamespace = KeyNamespace::Origin;
}

/// The whole payload; times in seconds since the epoch.
#[derive(Serialize, Deserialize)]
struct Payload<T> {
    iss: String,
    aud: String,
    iat: i64,
    nbf: i64,
    exp: i64,
    #[serde(flatten)]
    claims: T,
}

struct Tokens {
    keys: PreviewKeyRings,
    clock: Arc<dyn Clock>,
    ids: Arc<dyn IdSource>,
    cookies: Verified<CookieClaims>,
    origins: Verified<OriginClaims>,
}

/// Makes and checks preview tokens. Cheap to clone.
#[derive(Clone)]
pub struct PreviewTokens(Arc<Tokens>);

impl std::fmt::Debug for PreviewTokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PreviewTokens").finish_non_exhaustive()
    }
}

impl PreviewTokens {
    /// With these keys.
    pub fn new(keys: PreviewKeyRings, clock: Arc<dyn Clock>, ids: Arc<dyn IdSource>) -> Self {
        Self(Arc::new(Tokens { keys, clock, ids, cookies: Verified::default(), origins: Verified::default() }))
    }

    /// A token for one exchange, good for at most 300 s and not longer than the session.
    pub async fn mint_exchange(
        &self,
        binding: &PreviewBinding,
        session_ends: Timestamp,
    ) -> Result<String, PreviewTokenError> {
        let claims =
            ExchangeClaims { binding: binding.clone(), jti: self.jti(), nonce: hex::encode(&random_secret()[..16]) };
        self.mint(&claims, session_ends).await
    }

    /// A token for one subscription, good for at most 60 s and not longer than the session.
    pub async fn mint_broadcast(
        &self,
        binding: &PreviewBinding,
        session_ends: Timestamp,
    ) -> Result<String, PreviewTokenError> {
        let claims = BroadcastClaims {
            binding: binding.clone(),
            jti: self.jti(),
            schema_version: BROADCAST_SCHEMA_VERSION,
            channel_type: BROADCAST_CHANNEL_TYPE.to_owned(),
        };
        self.mint(&claims, session_ends).await
    }

    /// A session's cookie. Its version must be committed before.
    pub async fn mint_cookie(
        &self,
        binding: &PreviewBinding,
        revocation_version: i64,
        session_ends: Timestamp,
    ) -> Result<String, PreviewTokenError> {
        self.mint(&CookieClaims { binding: binding.clone(), revocation_version }, session_ends).await
    }

    /// Checks an exchange token. Whether it was used already is for its [`ExchangeClaims::marks`] to say.
    pub async fn verify_exchange(&self, token: &str) -> Result<ExchangeClaims, PreviewTokenError> {
        Ok(self.verify(token).await?.claims)
    }

    /// Checks a subscription token. Whether it was used already is for its [`BroadcastClaims::marks`] to say.
    pub async fn verify_broadcast(&self, token: &str) -> Result<BroadcastClaims, PreviewTokenError> {
        Ok(self.verify(token).await?.claims)
    }

    /// After a token's marks were set for the first time: whether the store still has the key that signed it. A store that
    /// has lost what was used has lost its keys, too, while they are remembered here; the token may have been used then.
    ///
    /// # Errors
    /// [`PreviewTokenError::SignatureMismatch`] where the key is gone.
    pub async fn confirm_key(&self, namespace: KeyNamespace, token: &str) -> Result<(), PreviewTokenError> {
        let header = jsonwebtoken::decode_header(token).map_err(|_| PreviewTokenError::SignatureMismatch)?;
        let kid = header.kid.ok_or(PreviewTokenError::SignatureMismatch)?;
        if self.0.keys.is_kept(namespace, &kid).await? { Ok(()) } else { Err(PreviewTokenError::SignatureMismatch) }
    }

    /// Checks a cookie; a known one costs a hash and a look-up.
    pub async fn verify_cookie(&self, token: &str) -> Result<Arc<CookieClaims>, PreviewTokenError> {
        self.verify_remembered(token, &self.0.cookies).await
    }

    /// Checks a signed origin; a known one costs a hash and a look-up.
    pub async fn verify_origin(&self, token: &str) -> Result<Arc<OriginClaims>, PreviewTokenError> {
        self.verify_remembered(token, &self.0.origins).await
    }

    fn jti(&self) -> String {
        self.0.ids.uuid_v7().to_string()
    }

    async fn mint<T: Claims + Sync>(&self, claims: &T, ends: Timestamp) -> Result<String, PreviewTokenError> {
        let key = self.0.keys.signing_key(T::NAMESPACE).await?;
        let iat = self.0.clock.now().as_millis().div_euclid(1000);
        let life = i64::try_from(T::NAMESPACE.life_seconds()).unwrap_or(i64::MAX);
        let exp = iat.saturating_add(life).min(ends.as_millis().div_euclid(1000));
        if exp <= iat {
            return Err(PreviewTokenError::Expired);
        }
        let payload = Payload {
            iss: ISSUER_PREVIEW.to_owned(),
            aud: T::NAMESPACE.audience().to_owned(),
            iat,
            nbf: iat,
            exp,
            claims,
        };
        sign(&key, &payload)
    }

    async fn verify_remembered<T: Claims>(
        &self,
        token: &str,
        verified: &Verified<T>,
    ) -> Result<Arc<T>, PreviewTokenError> {
        if token.len() > TOKEN_MAX_BYTES {
            return Err(PreviewTokenError::SignatureMismatch);
        }
        let hash = Verified::<T>::hash(token);
        if let Some(known) = verified.get(&hash) {
            check_life(known.good_from, known.good_until, self.0.clock.now())?;
            if self.0.keys.is_good(T::NAMESPACE, &known.key).await? {
                return Ok(Arc::clone(&known.claims));
            }
            // Its key is gone. The long way says so, and audits it.
        }
        let fresh = self.verify::<T>(token).await?;
        let claims = Arc::new(fresh.claims);
        let known = VerifiedToken {
            key: fresh.key,
            good_from: fresh.good_from,
            good_until: fresh.good_until,
            claims: Arc::clone(&claims),
        };
        verified.insert(hash, known, self.0.clock.now());
        Ok(claims)
    }

    async fn verify<T: Claims>(&self, token: &str) -> Result<Fresh<T>, PreviewTokenError> {
        if token.len() > TOKEN_MAX_BYTES {
            return Err(PreviewTokenError::SignatureMismatch);
        }
        let mismatch = |_| PreviewTokenError::SignatureMismatch;
        let header = jsonwebtoken::decode_header(token).map_err(mismatch)?;
        if header.alg != Algorithm::HS256 {
            return Err(PreviewTokenError::SignatureMismatch);
        }
        let kid = header.kid.ok_or(PreviewTokenError::SignatureMismatch)?;
        let key = self.0.keys.verifying_key(T::NAMESPACE, &kid).await?;
        let key = key.ok_or(PreviewTokenError::SignatureMismatch)?;
        let payload = jsonwebtoken::decode::<Payload<T>>(token, &key.decoding, &validation(T::NAMESPACE))
            .map_err(mismatch)?
            .claims;
        let life = payload.exp.saturating_sub(payload.iat);
        let allowed = i64::try_from(T::NAMESPACE.life_seconds()).unwrap_or(i64::MAX);
        if !(1..=allowed).contains(&life) || !payload.claims.is_sound() {
            return Err(PreviewTokenError::SignatureMismatch);
        }
        let good_from = Timestamp::from_millis(payload.nbf.max(payload.iat).saturating_mul(1000));
        let good_until = Timestamp::from_millis(payload.exp.saturating_mul(1000));
        check_life(good_from, good_until, self.0.clock.now())?;
        Ok(Fresh { key, good_from, good_until, claims: payload.claims })
    }
}

/// What a token says, once it was checked.
struct Fresh<T> {
    key: Arc<LoadedKey>,
    good_from: Timestamp,
    good_until: Timestamp,
    claims: T,
}

/// From its begin minus the skew (included) to its end plus the skew (excluded).
fn check_life(from: Timestamp, until: Timestamp, now: Timestamp) -> Result<(), PreviewTokenError> {
    if now < from.plus_millis(-SKEW_MS) {
        return Err(PreviewTokenError::SignatureMismatch);
    }
    if now >= until.plus_millis(SKEW_MS) { Err(PreviewTokenError::Expired) } else { Ok(()) }
}

/// The library would ask the machine for the time; [`check_life`] does it by the Clock port.
fn validation(namespace: KeyNamespace) -> Validation {
    let mut validation = Validation::new(Algorithm::HS256);
    validation.set_audience(&[namespace.audience()]);
    validation.set_issuer(&[ISSUER_PREVIEW]);
    validation.set_required_spec_claims(&["aud", "iss"]);
    validation.validate_exp = false;
    validation.validate_nbf = false;
    validation
}

fn sign<T: Serialize>(key: &LoadedKey, payload: &T) -> Result<String, PreviewTokenError> {
    let mut header = Header::new(Algorithm::HS256);
    header.kid = Some(key.kid().to_owned());
    jsonwebtoken::encode(&header, payload, &key.encoding)
        .map_err(|_| PreviewTokenError::Unavailable("signing failed".to_owned()))
}

#[async_trait]
impl OriginSigner for PreviewTokens {
    async fn sign_origin(&self, claims: &OriginClaims, expires_at: Timestamp) -> Result<String, SigningError> {
        self.mint(claims, expires_at).await.map_err(|error| SigningError(error.to_string()))
    }
}
