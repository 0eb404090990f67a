//! The permission that a collaborator has on GitHub.

use async_trait::async_trait;
use reqwest::header::{ACCEPT, AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};
use reqwest::{StatusCode, Url};
use runwarden_actors::contract::{RepoFullName, UserId};
use runwarden_actors::ports::{AccessQuestion, AccessSourceError, RepoAccess};
use secrecy::SecretString;
use serde::Deserialize;

use super::AccessSetupError;
use super::client::{SourceClient, base_url, secret_header};

/// The API's version that the answers are read by.
const API_VERSION: &str = "2022-11-28";
/// Longest login that is asked about; GitHub's own are shorter.
const LOGIN_MAX_BYTES: usize = 100;

/// `ACCESS_SOURCE=github`: whoever can read the repository may see. User ids are GitHub logins.
#[derive(Debug)]
pub struct GitHubAccess {
    client: SourceClient,
    api: Url,
}

#[derive(Deserialize)]
struct Permission {
    permission: String,
}

impl GitHubAccess {
    /// Asks the API at `api_url` with this token; it needs to read the repositories' metadata and collaborators.
    pub fn new(api_url: &str, token: &SecretString) -> Result<Self, AccessSetupError> {
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, secret_header("Bearer ", token)?);
        headers.insert(ACCEPT, HeaderValue::from_static("application/vnd.github+json"));
        headers.insert(HeaderName::from_static("x-github-api-version"), HeaderValue::from_static(API_VERSION));
        let api = base_url("GITHUB_API_URL", api_url)?;
        if api.query().is_some() {
            return Err(AccessSetupError("GITHUB_API_URL must have no query".to_owned()));
        }
        Ok(Self { client: SourceClient::new(headers)?, api })
    }

    fn question(&self, repo: &RepoFullName, login: &UserId) -> Result<Url, AccessSourceError> {
        let (owner, name) =
            repo.as_str().split_once('/').ok_or_else(|| AccessSourceError("no repository name".to_owned()))?;
        let mut url = self.api.clone();
        url.path_segments_mut()
            .map_err(|()| AccessSourceError("GITHUB_API_URL takes no path".to_owned()))?
            .pop_if_empty()
            .extend(["repos", owner, name, "collaborators", login.as_str(), "permission"]);
        Ok(url)
    }
}

/// Whether GitHub could know a user by this name. Nothing else becomes part of a path.
fn is_login(user: &str) -> bool {
    user.len() <= LOGIN_MAX_BYTES
        && user.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
}

#[async_trait]
impl RepoAccess for GitHubAccess {
    async fn may_see(&self, question: AccessQuestion<'_>) -> Result<bool, AccessSourceError> {
        if !is_login(question.user_id.as_str()) {
            return Ok(false);
        }
        let (status, body) = self.client.get(self.question(question.repo_full_name, question.user_id)?).await?;
        match status {
            // Neither the user nor, for this token, the repository has to exist.
            StatusCode::NOT_FOUND => Ok(false),
            StatusCode::OK => {
                let answer: Permission = serde_json::from_slice(&body)
                    .map_err(|_| AccessSourceError("GitHub's answer is not of the shape".to_owned()))?;
                match answer.permission.as_str() {
                    "read" | "triage" | "write" | "maintain" | "admin" => Ok(true),
                    "none" => Ok(false),
                    _ => Err(AccessSourceError("GitHub named a permission that is not known".to_owned())),
                }
            }
            status => Err(AccessSourceError(format!("GitHub answered with status {}", status.as_u16()))),
        }
    }
}
