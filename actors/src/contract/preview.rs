//! Previews: key namespaces, claim tuples, configuration, and the closed sets around them (sections 5 and 6).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::enums::names;
use super::limits::{
    PREVIEW_BROADCAST_TOKEN_SECONDS, PREVIEW_COMMAND_MAX_BYTES, PREVIEW_EXCHANGE_TOKEN_SECONDS, PREVIEW_PATH_MAX_BYTES,
    PREVIEW_SESSION_SECONDS,
};
use super::{CodesandboxId, OpenMode, PreviewSessionId, RunId, SandboxProvider, ThreadChatId, ThreadId, UserId};

names! {
    /// Whose keys: one namespace for each audience, never shared (section 5).
    KeyNamespace {
        /// Tokens that are exchanged for a cookie.
        Exchange = "exchange",
        /// Tokens of subscriptions.
        Broadcast = "broadcast",
        /// Cookies of sessions.
        Cookie = "cookie",
        /// Signed upstream origins.
        Origin = "origin",
    }
}

impl KeyNamespace {
    /// The audience of the namespace's tokens.
    pub const fn audience(self) -> &'static str {
        match self {
            Self::Exchange => "preview-session-exchange",
            Self::Broadcast => "preview-session-broadcast",
            Self::Cookie => "preview-session-cookie",
            Self::Origin => "preview-upstream-origin",
        }
    }

    /// Longest life of the namespace's tokens, in seconds.
    pub const fn life_seconds(self) -> u64 {
        match self {
            Self::Exchange => PREVIEW_EXCHANGE_TOKEN_SECONDS,
            Self::Broadcast => PREVIEW_BROADCAST_TOKEN_SECONDS,
            Self::Cookie | Self::Origin => PREVIEW_SESSION_SECONDS,
        }
    }
}

names! {
    /// How an upstream's name is held to the addresses that it had (section 5).
    PinningMode {
        /// Answers must stay inside the pinned set.
        StrictIp = "strict_ip",
        /// A trusted provider suffix and its CNAME anchors.
        TlsSniHost = "tls_sni_host",
        /// By the provider's network; named, and refused as deferred.
        ProviderAsn = "provider_asn",
    }
}

names! {
    /// Why a preview did not come up (section 5).
    PreviewErrorCode {
        /// The preview command ended.
        CommandExited = "command_exited",
        /// `healthPath` did not answer in time.
        HealthCheckTimeout = "health_check_timeout",
        /// The provider gave no usable address.
        TunnelFailed = "tunnel_failed",
        /// The sandbox does not run.
        SandboxNotRunning = "sandbox_not_running",
        /// A new run or sandbox took its place meanwhile.
        Superseded = "superseded",
    }
}

names! {
    /// Which dimension of a limit said no (section 5, limits).
    Limiter {
        /// Of the user.
        User = "user",
        /// Of the client's address.
        Ip = "ip",
        /// Of the preview session.
        Session = "session",
    }
}

names! {
    /// Why what is remembered of a user's access to a repository was forgotten (section 6).
    AccessInvalidation {
        /// A pull request was made ready.
        ReadyAction = "ready_action",
        /// A thread was shared, or its visibility changed.
        ThreadVisibility = "thread_visibility",
        /// A token was minted again, or the run was bound to another sandbox.
        Rebind = "rebind",
        /// A team's members changed.
        TeamMembership = "team_membership",
        /// A repository's visibility changed.
        RepositoryVisibility = "repository_visibility",
        /// A preview session was revoked.
        Revocation = "revocation",
        /// The chat has a new active run.
        NewActiveRun = "new_active_run",
    }
}

/// What every preview token is bound to; compared with the session's row (section 5, tokens).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PreviewBinding {
    /// Session.
    pub preview_session_id: PreviewSessionId,
    /// Thread.
    pub thread_id: ThreadId,
    /// Chat.
    pub thread_chat_id: ThreadChatId,
    /// Run.
    pub run_id: RunId,
    /// User.
    pub user_id: UserId,
    /// Sandbox.
    pub codesandbox_id: CodesandboxId,
    /// Its provider.
    pub sandbox_provider: SandboxProvider,
}

/// Where a repository keeps its preview configuration.
pub const PREVIEW_CONFIG_FILE: &str = ".terragon/preview.json";

/// How the app in a sandbox is started and reached (section 5). Unknown fields are refused: a misspelt one would
/// silently be a default.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PreviewConfig {
    /// 1.
    pub schema_version: u8,
    /// Shell command that serves the app, in the repository's folder; 1 to 4096 bytes.
    pub command: String,
    /// TCP port that the app listens on inside the sandbox, 1 to 65535.
    pub port: u16,
    /// Path that answers below 500 once the app is up; starts with `/`, at most 2048 bytes.
    pub health_path: String,
    /// Whether the app is of no use without WebSocket.
    pub requires_websocket: bool,
    /// How it is opened where the caller does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub open_mode: Option<OpenMode>,
}

/// A preview configuration that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("the preview configuration cannot be used: {0}")]
pub struct InvalidPreviewConfig(pub String);

impl PreviewConfig {
    /// Reads and checks the JSON object.
    pub fn parse(json: &[u8]) -> Result<Self, InvalidPreviewConfig> {
        let wrong = |why: &str| InvalidPreviewConfig(why.to_owned());
        let config: Self = serde_json::from_slice(json).map_err(|error| InvalidPreviewConfig(error.to_string()))?;
        if config.schema_version != 1 {
            return Err(wrong("schemaVersion must be 1"));
        }
        if config.command.trim().is_empty() || config.command.len() > PREVIEW_COMMAND_MAX_BYTES {
            return Err(wrong("command must have 1 to 4096 bytes"));
        }
        if config.command.contains('\0') {
            return Err(wrong("command must not contain NUL"));
        }
        if config.port == 0 {
            return Err(wrong("port must be 1 to 65535"));
        }
        let path = &config.health_path;
        // It is sent to the sandbox as a request target, so it must be one as it stands.
        let clean = path.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\' && byte != b'#');
        if !path.starts_with('/') || path.starts_with("//") || path.len() > PREVIEW_PATH_MAX_BYTES || !clean {
            return Err(wrong("healthPath must be a path of printable ASCII that starts with one `/`"));
        }
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn parse(change: &[(&str, serde_json::Value)]) -> Result<PreviewConfig, InvalidPreviewConfig> {
        let mut json = json!({"schemaVersion": 1, "command": "npm run dev", "port": 5173, "healthPath": "/", "requiresWebsocket": true});
        for (name, value) in change {
            json[name] = value.clone();
        }
        PreviewConfig::parse(json.to_string().as_bytes())
    }

    #[test]
    fn a_configuration_is_explicit_and_checked() {
        assert_eq!(parse(&[]).unwrap().open_mode, None);
        assert_eq!(parse(&[("openMode", json!("iframe"))]).unwrap().open_mode, Some(OpenMode::Iframe));
        for (name, value) in [
            ("schemaVersion", json!(2)),
            ("command", json!("")),
            ("command", json!("x".repeat(4097))),
            ("command", json!("a\0b")),
            ("port", json!(0)),
            ("port", json!(65536)),
            ("port", json!("80")),
            ("healthPath", json!("health")),
            ("healthPath", json!("//evil.example")),
            ("healthPath", json!("/a b")),
            ("healthPath", json!("/a\r\nHost: x")),
            ("requiresWebsocket", json!("yes")),
            ("openMode", json!("window")),
            ("requiresWebSocket", json!(false)),
        ] {
            assert!(parse(&[(name, value.clone())]).is_err(), "{name}: {value}");
        }
        assert!(PreviewConfig::parse(b"[]").is_err());
    }

    #[test]
    fn every_namespace_has_an_audience_of_its_own() {
        let mut audiences: Vec<_> = KeyNamespace::ALL.iter().map(|namespace| namespace.audience()).collect();
        audiences.sort_unstable();
        audiences.dedup();
        assert_eq!(audiences.len(), KeyNamespace::ALL.len());
    }
}
