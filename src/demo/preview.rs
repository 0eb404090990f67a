//! The preview of the app that the agent has changed, as a host application opens it and as a browser looks at it.

use std::net::{Ipv4Addr, TcpListener};

use anyhow::{Context, anyhow, bail};
use runwarden_actors::contract::{PreviewSessionId, PreviewSessionState};
use serde::Deserialize;
use serde_json::{Value, json};

use super::host::{Host, NewRun, THREAD, USER};
use super::strangers::CHAT;

const PAGE_MAX_BYTES: usize = 1024 * 1024;
/// What the app's page says, whatever the agent has added to it.
const HEADING: &str = "<h1>Tea timer</h1>";

/// The configuration that a repository would have in `.terragon/preview.json`: this program serves the folder, on a port
/// that is free now.
pub(super) fn preview_config() -> anyhow::Result<Value> {
    let program = std::env::current_exe().context("this program's own file")?;
    let program = program.to_str().context("this program's own path is not UTF-8")?.replace('\'', r"'\''");
    let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|listener| listener.local_addr())?.port();
    Ok(json!({
        "schemaVersion": 1,
        "command": format!("exec '{program}' demo --serve-folder ."),
        "port": port,
        "healthPath": "/",
        "requiresWebsocket": false,
    }))
}

/// A session as it was started.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Session {
    pub(super) preview_session_id: PreviewSessionId,
    pub(super) state: PreviewSessionState,
    error_code: Option<String>,
    unsupported_reason: Option<String>,
    pub(super) preview_host: Option<String>,
    proxy_base_path: String,
    exchange_token: Option<String>,
}

/// What a browser was given.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) status: u16,
    pub(super) bytes: usize,
    /// Whether it is the app's page.
    pub(super) is_the_app: bool,
}

impl Host {
    /// Starts a preview of the run; an error where it does not come up.
    pub(super) async fn start_preview(&self, run: &NewRun) -> anyhow::Result<Session> {
        let body = json!({"threadId": THREAD, "threadChatId": CHAT, "runId": run.run_id, "userId": USER});
        let session: Session = self.post("/api/internal/preview/session/start", &body).await?;
        if session.state != PreviewSessionState::Ready {
            let why = session.error_code.as_deref().or(session.unsupported_reason.as_deref()).unwrap_or("no reason");
            bail!("the preview is {}: {why}", session.state);
        }
        Ok(session)
    }

    /// How a session fares.
    pub(super) async fn preview(&self, session: PreviewSessionId) -> anyhow::Result<Session> {
        self.get(&format!("/api/internal/preview/session/{session}")).await
    }

    /// A token for one more browser.
    pub(super) async fn exchange_token(&self, session: PreviewSessionId) -> anyhow::Result<Value> {
        self.post(&format!("/api/internal/preview/session/{session}/exchange-token"), &json!({})).await
    }

    /// Opens the preview as a browser does, with the session's own token: the exchange, and the page with its cookie.
    pub(super) async fn visit(&self, session: &Session) -> anyhow::Result<Seen> {
        let token = session.exchange_token.as_deref().context("the session came without a token")?;
        let url = format!("{}/api/preview/session/{}/exchange", self.url, session.preview_session_id);
        let broken = |error: &dyn std::fmt::Display| anyhow!("the preview does not answer: {error}");
        let exchanged = self.client.post(url).send_json(&json!({ "token": token })).await;
        let exchanged = exchanged.map_err(|error| broken(&error))?;
        // The last one sets the session's cookie; the one before clears the other mode's.
        let cookie = exchanged.headers().get_all("set-cookie").last().and_then(|value| value.to_str().ok());
        let cookie = cookie.and_then(|cookie| cookie.split(';').next()).context("the exchange gave no cookie")?;
        let page = self.client.get(format!("{}{}/", self.url, session.proxy_base_path));
        let mut page = page.insert_header(("cookie", cookie)).send().await.map_err(|error| broken(&error))?;
        let body = page.body().limit(PAGE_MAX_BYTES).await.map_err(|error| broken(&error))?;
        let is_the_app = String::from_utf8_lossy(&body).contains(HEADING);
        Ok(Seen { status: page.status().as_u16(), bytes: body.len(), is_the_app })
    }
}
