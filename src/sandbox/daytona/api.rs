//! Daytona's HTTP API, as far as it is used here.

use std::time::Duration;

use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use reqwest::{Method, Url};
use runwarden_actors::ports::{SandboxError, SandboxTarget};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::json;

use crate::outbound::{OutboundAnswer, OutboundCall, OutboundClient, OutboundError};
use crate::sandbox::inside::ExecCall;

/// Room for what JSON and base64 add to a command's output.
const EXECUTE_OVERHEAD_BYTES: usize = 64 * 1024;
/// How much longer than the command the call about it may take.
const EXECUTE_OVERHEAD: Duration = Duration::from_secs(5);

/// The API of one account.
pub(super) struct Api {
    client: OutboundClient,
    url: Url,
    key: Option<SecretString>,
    organization: Option<String>,
}

/// What is told of a sandbox.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct SandboxInfo {
    #[serde(default)]
    state: String,
    toolbox_proxy_url: Option<String>,
}

/// Where a port is reached.
#[derive(Deserialize)]
pub(super) struct PreviewUrl {
    pub(super) url: String,
    /// Secret.
    pub(super) token: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Executed {
    /// Older toolboxes say `code`.
    #[serde(alias = "code")]
    exit_code: Option<i64>,
    #[serde(default)]
    result: String,
}

impl Api {
    pub(super) fn new(
        client: OutboundClient,
        url: Url,
        key: Option<SecretString>,
        organization: Option<String>,
    ) -> Self {
        Self { client, url, key, organization }
    }

    /// The sandbox, which must run.
    pub(super) async fn running(&self, target: &SandboxTarget) -> Result<SandboxInfo, SandboxError> {
        let id = sandbox_id(target)?;
        let answer = self.get(self.at(&["sandbox", id])?).await?;
        let found: SandboxInfo = read(id, &answer)?;
        if found.state == "started" {
            return Ok(found);
        }
        let state: String = found.state.chars().filter(char::is_ascii_alphanumeric).take(40).collect();
        Err(SandboxError::NotRunning(format!("the sandbox `{id}` is `{state}`")))
    }

    /// Where a port of the sandbox is reached.
    pub(super) async fn preview_url(&self, target: &SandboxTarget, port: u16) -> Result<PreviewUrl, SandboxError> {
        let id = sandbox_id(target)?;
        let url = self.at(&["sandbox", id, "ports", &port.to_string(), "preview-url"])?;
        read(id, &self.get(url).await?)
    }

    /// The toolbox of a sandbox: at the address that the API names, or where it was before there was one.
    pub(super) fn toolbox(&self, target: &SandboxTarget, info: &SandboxInfo) -> Result<Url, SandboxError> {
        let id = sandbox_id(target)?;
        match &info.toolbox_proxy_url {
            None => self.at(&["toolbox", id, "toolbox"]),
            Some(text) => {
                let mut url = Url::parse(text).map_err(|_| unusable("toolboxProxyUrl"))?;
                // It is sent the key, so never over a weaker connection than the API itself.
                if url.scheme() != "https" && url.scheme() != self.url.scheme() {
                    return Err(unusable("toolboxProxyUrl"));
                }
                extend(&mut url, &[id])?;
                Ok(url)
            }
        }
    }

    /// Runs a line in the sandbox and returns what it printed.
    pub(super) async fn execute(
        &self,
        target: &SandboxTarget,
        toolbox: &Url,
        line: &str,
        call: &ExecCall<'_>,
    ) -> Result<String, SandboxError> {
        let id = sandbox_id(target)?;
        let mut url = toolbox.clone();
        extend(&mut url, &["process", "execute"])?;
        let json = json!({"command": line, "timeout": call.limits.time.as_secs().max(1)}).to_string();
        // Base64 writes three bytes as four.
        let body_max = (call.limits.stdout_bytes + call.limits.stderr_bytes).div_ceil(3) * 4 + EXECUTE_OVERHEAD_BYTES;
        let mut outbound = self.prepare(Method::POST, url)?;
        outbound.json = Some(json);
        outbound.within = call.limits.time + EXECUTE_OVERHEAD;
        outbound.body_max = body_max;
        let answer = match self.client.send(&outbound).await {
            Err(OutboundError::TooLarge(_)) => return Err(call.too_large()),
            Err(OutboundError::Timeout(_)) => return Err(call.timed_out()),
            Err(error) => return Err(away(error)),
            Ok(answer) if answer.status == 408 => return Err(call.timed_out()),
            Ok(answer) => answer,
        };
        let executed: Executed = read(id, &answer)?;
        match executed.exit_code {
            Some(0) => Ok(executed.result),
            code => Err(SandboxError::CommandFailed(format!(
                "`{}` could not be run: Daytona's toolbox ended with {}",
                call.what,
                code.map_or_else(|| "nothing".to_owned(), |code| code.to_string())
            ))),
        }
    }

    async fn get(&self, url: Url) -> Result<OutboundAnswer, SandboxError> {
        self.client.send(&self.prepare(Method::GET, url)?).await.map_err(away)
    }

    fn prepare(&self, method: Method, url: Url) -> Result<OutboundCall, SandboxError> {
        let unset = || SandboxError::ProviderUnavailable("DAYTONA_API_KEY is not set".to_owned());
        let key = self.key.as_ref().ok_or_else(unset)?;
        let mut headers = HeaderMap::new();
        let mut value = HeaderValue::try_from(format!("Bearer {}", key.expose_secret()))
            .map_err(|_| unusable("DAYTONA_API_KEY"))?;
        value.set_sensitive(true);
        headers.insert(AUTHORIZATION, value);
        if let Some(organization) = &self.organization {
            let value = HeaderValue::try_from(organization).map_err(|_| unusable("DAYTONA_ORGANIZATION_ID"))?;
            headers.insert("x-daytona-organization-id", value);
        }
        Ok(OutboundCall::new(method, url, headers))
    }

    fn at(&self, path: &[&str]) -> Result<Url, SandboxError> {
        let mut url = self.url.clone();
        extend(&mut url, path)?;
        Ok(url)
    }
}

fn extend(url: &mut Url, path: &[&str]) -> Result<(), SandboxError> {
    url.path_segments_mut().map_err(|()| unusable("DAYTONA_API_URL"))?.pop_if_empty().extend(path);
    Ok(())
}

/// The id goes into the path of a request.
fn sandbox_id(target: &SandboxTarget) -> Result<&str, SandboxError> {
    let id = target.codesandbox_id.as_str();
    let letters = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
    if id.starts_with(|c: char| c.is_ascii_alphanumeric()) && id.bytes().all(letters) {
        Ok(id)
    } else {
        Err(SandboxError::NotRunning("codesandboxId is not the id of a sandbox".to_owned()))
    }
}

/// What an answer means. Its body is not repeated: nobody knows what stands in it.
fn read<T: serde::de::DeserializeOwned>(id: &str, answer: &OutboundAnswer) -> Result<T, SandboxError> {
    let unavailable = |why: String| Err(SandboxError::ProviderUnavailable(why));
    match answer.status {
        200..=299 => serde_json::from_slice(&answer.body).map_err(|_| unusable("what it answered")),
        401 | 403 => unavailable(format!("Daytona refused DAYTONA_API_KEY with status {}", answer.status)),
        404 => Err(SandboxError::NotRunning(format!("there is no sandbox `{id}`"))),
        429 => unavailable("Daytona's rate limit is reached".to_owned()),
        status @ 400..=499 => Err(SandboxError::CommandFailed(format!("Daytona refused with status {status}"))),
        status => unavailable(format!("Daytona answered with status {status}")),
    }
}

fn away(error: OutboundError) -> SandboxError {
    match error {
        OutboundError::Timeout(_) => SandboxError::Timeout(format!("Daytona: {error}")),
        OutboundError::Unreachable | OutboundError::TooLarge(_) => {
            SandboxError::ProviderUnavailable(format!("Daytona: {error}"))
        }
    }
}

fn unusable(what: &str) -> SandboxError {
    SandboxError::ProviderUnavailable(format!("Daytona: {what} cannot be used"))
}
