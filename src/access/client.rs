//! One bounded question over HTTP, for the sources that are asked.

use std::time::Duration;

use reqwest::header::{HeaderMap, HeaderValue};
use reqwest::redirect::Policy;
use reqwest::{Client, StatusCode, Url};
use runwarden_actors::ports::AccessSourceError;
use secrecy::{ExposeSecret, SecretString};
use tokio::time::timeout;

use super::AccessSetupError;
use crate::auth::install_crypto;

/// Time for the whole exchange.
const WITHIN: Duration = Duration::from_secs(5);
/// Largest answer.
const ANSWER_MAX_BYTES: usize = 64 * 1024;
/// Kept connections to the source.
const IDLE_CONNECTIONS_MAX: usize = 8;

/// A client of one source. Its Debug form shows no header.
pub(super) struct SourceClient {
    client: Client,
    within: Duration,
}

impl std::fmt::Debug for SourceClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SourceClient").finish_non_exhaustive()
    }
}

impl SourceClient {
    /// Sends these headers with every question.
    pub(super) fn new(headers: HeaderMap) -> Result<Self, AccessSetupError> {
        // The client takes the process's provider and panics where there is none.
        install_crypto();
        let client = Client::builder()
            .default_headers(headers)
            .user_agent(concat!("runwarden/", env!("CARGO_PKG_VERSION")))
            // A redirect could carry the secret to another host.
            .redirect(Policy::none())
            // Nor does a variable of the environment that is no setting lead it elsewhere.
            .no_proxy()
            .http1_only()
            .pool_max_idle_per_host(IDLE_CONNECTIONS_MAX)
            .build()
            .map_err(|error| AccessSetupError(format!("ACCESS_SOURCE: no HTTP client: {}", error.without_url())))?;
        Ok(Self { client, within: WITHIN })
    }

    /// One `GET`: the status, and the body where it is small enough.
    pub(super) async fn get(&self, url: Url) -> Result<(StatusCode, Vec<u8>), AccessSourceError> {
        let failed = |error: reqwest::Error| AccessSourceError(cause(&error.without_url()));
        let exchange = async {
            let mut response = self.client.get(url).send().await.map_err(failed)?;
            let mut body = Vec::new();
            while let Some(chunk) = response.chunk().await.map_err(failed)? {
                if body.len() + chunk.len() > ANSWER_MAX_BYTES {
                    return Err(AccessSourceError(format!("an answer of more than {ANSWER_MAX_BYTES} bytes")));
                }
                body.extend_from_slice(&chunk);
            }
            Ok((response.status(), body))
        };
        let late = || AccessSourceError(format!("no answer within {} ms", self.within.as_millis()));
        timeout(self.within, exchange).await.unwrap_or_else(|_| Err(late()))
    }
}

/// The innermost cause says what happened; the outer ones only that something did.
fn cause(error: &dyn std::error::Error) -> String {
    let mut at = error;
    while let Some(source) = at.source() {
        at = source;
    }
    at.to_string()
}

/// A header's value that no log shows.
pub(super) fn secret_header(prefix: &str, secret: &SecretString) -> Result<HeaderValue, AccessSetupError> {
    let mut value = HeaderValue::from_str(&format!("{prefix}{}", secret.expose_secret()))
        .map_err(|_| AccessSetupError("ACCESS_SOURCE: its secret cannot stand in a header".to_owned()))?;
    value.set_sensitive(true);
    Ok(value)
}

/// A base that questions are built on.
pub(super) fn base_url(name: &str, url: &str) -> Result<Url, AccessSetupError> {
    let url = Url::parse(url).map_err(|error| AccessSetupError(format!("{name}: {error}")))?;
    // Without a host nothing can be asked; user and password would end up in logs.
    let usable = matches!(url.scheme(), "http" | "https") && url.host().is_some();
    if !usable || !url.username().is_empty() || url.password().is_some() || url.fragment().is_some() {
        return Err(AccessSetupError(format!(
            "{name} must be an http or https URL without user, password and fragment"
        )));
    }
    Ok(url)
}
