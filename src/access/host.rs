//! The host application decides.

use async_trait::async_trait;
use reqwest::header::{HeaderMap, HeaderName};
use reqwest::{StatusCode, Url};
use runwarden_actors::contract::names::HEADER_INTERNAL_SERVICE_KEY;
use runwarden_actors::ports::{AccessQuestion, AccessSourceError, RepoAccess};
use secrecy::SecretString;
use serde::Deserialize;

use super::AccessSetupError;
use super::client::{SourceClient, base_url, secret_header};

/// `ACCESS_SOURCE=https://…`: `GET URL?userId=…&repoFullName=…` with `X-Internal-Service-Key`, answered by 200 and
/// `{"allowed": true}` or `{"allowed": false}`. Anything else is no answer.
#[derive(Debug)]
pub struct HostAccess {
    client: SourceClient,
    url: Url,
}

#[derive(Deserialize)]
struct Answer {
    allowed: bool,
}

impl HostAccess {
    /// Asks `url`; a query that it has already is kept.
    pub fn new(url: &str, internal_service_key: &SecretString) -> Result<Self, AccessSetupError> {
        let name = HeaderName::from_bytes(HEADER_INTERNAL_SERVICE_KEY.as_bytes())
            .map_err(|error| AccessSetupError(error.to_string()))?;
        let mut headers = HeaderMap::new();
        headers.insert(name, secret_header("", internal_service_key)?);
        Ok(Self { client: SourceClient::new(headers)?, url: base_url("ACCESS_SOURCE", url)? })
    }
}

#[async_trait]
impl RepoAccess for HostAccess {
    async fn may_see(&self, question: AccessQuestion<'_>) -> Result<bool, AccessSourceError> {
        let mut url = self.url.clone();
        url.query_pairs_mut()
            .append_pair("userId", question.user_id.as_str())
            .append_pair("repoFullName", question.repo_full_name.as_str());
        let (status, body) = self.client.get(url).await?;
        if status != StatusCode::OK {
            return Err(AccessSourceError(format!("the host application answered with status {}", status.as_u16())));
        }
        let answer: Answer = serde_json::from_slice(&body)
            .map_err(|_| AccessSourceError("the host application's answer is not of the shape".to_owned()))?;
        Ok(answer.allowed)
    }
}
