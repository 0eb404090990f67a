//! The server's API as a host application uses it.

use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use awc::{Client, ClientRequest};
use runwarden_actors::contract::names::{HEADER_DAEMON_TOKEN, HEADER_INTERNAL_SERVICE_KEY};
use runwarden_actors::contract::{
    Ack, CommitSha, DiffSource, QuarantineReason, RunId, RunStatus, SandboxProvider, TerminalKind, TriggerSource,
};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::check::RecordedEvent;

const ANSWER_MAX_BYTES: usize = 16 * 1024 * 1024;
const PAGES_MAX: usize = 1000;
const REQUEST_TIMEOUT: Duration = Duration::from_secs(15);

/// The thread of the demonstration's chats.
pub(super) const THREAD: &str = "demo";
/// Whose runs they are.
pub(super) const USER: &str = "demo-user";

/// A run as it was created.
#[derive(Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct NewRun {
    pub(super) run_id: RunId,
    pub(super) daemon_token: String,
}

/// What of a run's row the demonstration looks at.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct RunRow {
    pub(super) status: RunStatus,
    pub(super) terminal_kind: Option<TerminalKind>,
    pub(super) run_end_sha: Option<CommitSha>,
    pub(super) diff_source: Option<DiffSource>,
    pub(super) counters: Counters,
    pub(super) ended_at: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Counters {
    pub(super) duplicate: i64,
    pub(super) out_of_order: i64,
}

/// A row of quarantine.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct SetAside {
    pub(super) reason: QuarantineReason,
    payload_prefix_2k: String,
}

impl SetAside {
    /// The `eventId` of the payload, which is short where the demonstration has sent it.
    pub(super) fn event_id(&self) -> Option<String> {
        let payload: Value = serde_json::from_str(&self.payload_prefix_2k).ok()?;
        Some(payload.get("eventId")?.as_str()?.to_owned())
    }
}

#[derive(Deserialize)]
struct EventPage {
    events: Vec<RecordedEvent>,
}

#[derive(Deserialize)]
struct QuarantinePage {
    items: Vec<SetAside>,
    next: Option<String>,
}

/// A client with the key.
#[derive(Clone)]
pub(super) struct Host {
    pub(super) client: Client,
    pub(super) url: String,
    key: SecretString,
}

impl Host {
    pub(super) fn new(url: &str, key: &SecretString) -> Self {
        let client = Client::builder().disable_redirects().timeout(REQUEST_TIMEOUT).finish();
        Self { client, url: url.to_owned(), key: key.clone() }
    }

    pub(super) async fn create_run(&self, chat: &str, start_request_id: &str) -> anyhow::Result<NewRun> {
        self.create_run_with(chat, start_request_id, Value::Null).await
    }

    /// With a preview configuration, where there is one.
    pub(super) async fn create_run_with(
        &self,
        chat: &str,
        start_request_id: &str,
        preview_config: Value,
    ) -> anyhow::Result<NewRun> {
        let mut body = json!({
            "threadId": THREAD,
            "threadChatId": chat,
            "startRequestId": start_request_id,
            "triggerSource": TriggerSource::Ui,
            "userId": USER,
            "repoFullName": "demo/tea-timer",
        });
        if !preview_config.is_null() {
            body["previewConfig"] = preview_config;
        }
        self.post("/api/internal/runs", &body).await
    }

    pub(super) async fn bind(&self, run_id: RunId, start_sha: &CommitSha, repo_dir: &str) -> anyhow::Result<()> {
        let body = json!({
            "codesandboxId": "demo-sandbox",
            "sandboxProvider": SandboxProvider::Process,
            "runStartSha": start_sha,
            "repoDir": repo_dir,
        });
        self.post::<Value>(&format!("/api/internal/runs/{run_id}/bind"), &body).await.map(drop)
    }

    pub(super) async fn run(&self, run_id: RunId) -> anyhow::Result<RunRow> {
        self.get(&format!("/api/internal/runs/{run_id}")).await
    }

    /// All events of a run, page by page.
    pub(super) async fn events(&self, run_id: RunId) -> anyhow::Result<Vec<RecordedEvent>> {
        let mut all: Vec<RecordedEvent> = Vec::new();
        for _ in 0..PAGES_MAX {
            let after = all.last().map_or(-1, |event| event.seq);
            let page: EventPage = self.get(&format!("/api/internal/runs/{run_id}/events?after={after}")).await?;
            if page.events.is_empty() {
                return Ok(all);
            }
            all.extend(page.events);
        }
        bail!("the run's events do not come to an end")
    }

    /// Everything that was set aside in the demonstration's thread.
    pub(super) async fn quarantine(&self) -> anyhow::Result<Vec<SetAside>> {
        let mut all = Vec::new();
        let mut before = String::new();
        for _ in 0..PAGES_MAX {
            let page: QuarantinePage = self.get(&format!("/api/internal/quarantine?threadId={THREAD}{before}")).await?;
            all.extend(page.items);
            match page.next {
                Some(next) => before = format!("&before={next}"),
                None => return Ok(all),
            }
        }
        bail!("quarantine does not come to an end")
    }

    /// Hands one envelope to the server as a daemon does over HTTP.
    pub(super) async fn send_envelope(&self, daemon_token: &str, envelope: &Value) -> anyhow::Result<Ack> {
        let request = self.client.post(format!("{}/api/daemon-event", self.url));
        read(request.insert_header((HEADER_DAEMON_TOKEN, daemon_token)), Some(envelope)).await
    }

    /// A request for the live stream of a run's events.
    pub(super) fn follow(&self, run_id: RunId, after: Option<i64>) -> ClientRequest {
        let request = self.client.get(format!("{}/api/internal/runs/{run_id}/events", self.url));
        let request = self.with_key(request).insert_header(("Accept", "text/event-stream"));
        // The limit of a request is one of its body as well. The follower comes back where it was.
        let request = request.timeout(Duration::from_mins(10));
        match after {
            Some(seq) => request.insert_header(("Last-Event-ID", seq.to_string())),
            None => request,
        }
    }

    pub(super) async fn get<T: DeserializeOwned>(&self, path: &str) -> anyhow::Result<T> {
        read(self.with_key(self.client.get(format!("{}{path}", self.url))), None).await.with_context(|| path.to_owned())
    }

    pub(super) async fn post<T: DeserializeOwned>(&self, path: &str, body: &Value) -> anyhow::Result<T> {
        let request = self.with_key(self.client.post(format!("{}{path}", self.url)));
        read(request, Some(body)).await.with_context(|| path.to_owned())
    }

    fn with_key(&self, request: ClientRequest) -> ClientRequest {
        request.insert_header((HEADER_INTERNAL_SERVICE_KEY, self.key.expose_secret()))
    }
}

async fn read<T: DeserializeOwned>(request: ClientRequest, body: Option<&Value>) -> anyhow::Result<T> {
    let sent = match body {
        Some(body) => request.send_json(body).await,
        None => request.send().await,
    };
    let mut answer = sent.map_err(|error| anyhow!("the server does not answer: {error}"))?;
    let body = answer.body().limit(ANSWER_MAX_BYTES).await.map_err(|error| anyhow!("an answer broke off: {error}"))?;
    if !answer.status().is_success() {
        bail!("the server answered {}: {}", answer.status(), String::from_utf8_lossy(&body));
    }
    serde_json::from_slice(&body).context("an answer of another shape")
}
