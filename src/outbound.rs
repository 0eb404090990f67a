//! Calls to other people's HTTP APIs: bounded in time and size, no redirects, and nothing secret in an error.

use std::time::Duration;

use reqwest::header::{HeaderMap, RETRY_AFTER};
use reqwest::{Client, Method, Url, redirect};
use rustls::{ClientConfig, RootCertStore};
use thiserror::Error;
use tokio::time::{sleep, timeout};

/// Longest call, with its answer, unless the caller says otherwise.
pub const OUTBOUND_TIMEOUT_MS: u64 = 10_000;
/// Largest answer, unless the caller says otherwise.
pub const OUTBOUND_BODY_MAX_BYTES: usize = 1024 * 1024;
/// Time to connect.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);
/// Further attempts after a 429, each after the pause that was asked for, if that is short.
const RETRIES: u32 = 2;
/// Longest pause that is waited for.
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// Why there is no answer. Holds neither the URL nor a header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum OutboundError {
    /// Nobody could be reached, or the connection broke.
    #[error("the server cannot be reached")]
    Unreachable,
    /// It took too long.
    #[error("no answer within {0} ms")]
    Timeout(u128),
    /// The answer is larger than the bound.
    #[error("the answer has more than {0} bytes")]
    TooLarge(usize),
}

/// A call.
#[derive(Clone)]
pub struct OutboundCall {
    /// Method.
    pub method: Method,
    /// Where to; never logged.
    pub url: Url,
    /// Header names and values; never logged.
    pub headers: HeaderMap,
    /// JSON body.
    pub json: Option<String>,
    /// Time for all of it.
    pub within: Duration,
    /// Largest answer, in bytes.
    pub body_max: usize,
}

impl std::fmt::Debug for OutboundCall {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OutboundCall").field("method", &self.method).finish_non_exhaustive()
    }
}

impl OutboundCall {
    /// With the default bounds.
    pub fn new(method: Method, url: Url, headers: HeaderMap) -> Self {
        let within = Duration::from_millis(OUTBOUND_TIMEOUT_MS);
        Self { method, url, headers, json: None, within, body_max: OUTBOUND_BODY_MAX_BYTES }
    }
}

/// An answer, whatever its status.
#[derive(Clone)]
pub struct OutboundAnswer {
    /// HTTP status.
    pub status: u16,
    /// Body, within the bound.
    pub body: Vec<u8>,
}

/// One client for all calls; it keeps connections open. Clones share them.
#[derive(Debug, Clone)]
pub struct OutboundClient(Client);

impl OutboundClient {
    /// TLS trusts Mozilla's roots. A proxy that the environment names is not used: the calls carry keys.
    pub fn new() -> Result<Self, String> {
        crate::auth::install_crypto();
        let roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.into() };
        let tls = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        Client::builder()
            .tls_backend_preconfigured(tls)
            .redirect(redirect::Policy::none())
            .connect_timeout(CONNECT_WITHIN)
            .no_proxy()
            .user_agent(concat!("runwarden/", env!("CARGO_PKG_VERSION")))
            .build()
            .map(Self)
            .map_err(|error| error.without_url().to_string())
    }

    /// Makes the call. A 429 is tried again twice, where the other side asks for no more than 2 s: it was not
    /// carried out.
    pub async fn send(&self, call: &OutboundCall) -> Result<OutboundAnswer, OutboundError> {
        let all = async {
            let mut retries = RETRIES;
            loop {
                let (answer, pause) = self.once(call).await?;
                match pause.filter(|pause| answer.status == 429 && retries > 0 && *pause <= PAUSE_MAX) {
                    Some(pause) => sleep(pause).await,
                    None => return Ok(answer),
                }
                retries -= 1;
            }
        };
        timeout(call.within, all).await.unwrap_or(Err(OutboundError::Timeout(call.within.as_millis())))
    }

    async fn once(&self, call: &OutboundCall) -> Result<(OutboundAnswer, Option<Duration>), OutboundError> {
        let mut request = self.0.request(call.method.clone(), call.url.clone()).headers(call.headers.clone());
        if let Some(json) = &call.json {
            request = request.header("content-type", "application/json").body(json.clone());
        }
        let unreachable = |error: reqwest::Error| {
            tracing::debug!(error = %error.without_url(), "an outbound call failed");
            OutboundError::Unreachable
        };
        let mut response = request.send().await.map_err(unreachable)?;
        let status = response.status().as_u16();
        let seconds = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(unreachable)? {
            if body.len() + chunk.len() > call.body_max {
                return Err(OutboundError::TooLarge(call.body_max));
            }
            body.extend_from_slice(&chunk);
        }
        Ok((OutboundAnswer { status, body }, seconds.map(Duration::from_secs)))
    }
}
