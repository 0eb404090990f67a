//! A client of a server that may not answer.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};

use crate::app::{INTERNAL_KEY, TestRun, start_body};

/// Longest wait for one answer: above every limit of the server.
const ANSWER_WITHIN: Duration = Duration::from_secs(25);

/// An answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub retry_after: Option<String>,
    pub body: Value,
}

impl Answer {
    /// The refusal of a server whose store is away: nothing in it may be taken for an acknowledgement.
    pub fn assert_store_unavailable(&self) {
        assert_eq!((self.status, &self.body["code"]), (503, &json!("store_unavailable")), "{self:?}");
        assert!(self.retry_after.as_ref().is_some_and(|seconds| seconds.parse::<u32>().is_ok()), "{self:?}");
        assert!(self.body.get("acknowledgedEventId").is_none() && self.body.get("success").is_none(), "{self:?}");
    }
}

/// A server's address.
#[derive(Clone)]
pub struct Remote {
    pub url: String,
    http: reqwest::Client,
}

impl Remote {
    pub fn new(url: &str) -> Self {
        runwarden::auth::install_crypto();
        let http = reqwest::Client::builder().timeout(ANSWER_WITHIN).build().unwrap();
        Self { url: url.to_owned(), http }
    }

    /// `None` where there was no whole answer: then nobody knows what the server did.
    pub async fn event(&self, run: &TestRun, body: &Value) -> Option<Answer> {
        let request = self.http.post(format!("{}/api/daemon-event", self.url)).header("X-Daemon-Token", &run.token);
        answer(request.body(body.to_string())).await
    }

    pub async fn internal(&self, method: Method, path: &str, body: Option<Value>) -> Option<Answer> {
        let mut request = self.http.request(method, format!("{}{path}", self.url));
        request = request.header("X-Internal-Service-Key", INTERNAL_KEY);
        if let Some(body) = body {
            request = request.header("content-type", "application/json").body(body.to_string());
        }
        answer(request).await
    }

    /// The body of a 200; tries again, for half a minute, where there is another answer or none.
    pub async fn get(&self, path: &str) -> Value {
        let mut last = None;
        for _ in 0..300 {
            match self.internal(Method::GET, path, None).await {
                Some(answer) if answer.status == 200 => return answer.body,
                other => last = other,
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("{path}: {last:?}")
    }

    pub async fn run(&self, thread: &str, chat: &str, start_request: &str) -> TestRun {
        let body = start_body(thread, chat, start_request);
        let made = self.internal(Method::POST, "/api/internal/runs", Some(body)).await.expect("an answer");
        assert_eq!(made.status, 201, "{made:?}");
        TestRun {
            id: made.body["runId"].as_str().unwrap().to_owned(),
            thread: thread.to_owned(),
            chat: chat.to_owned(),
            token: made.body["daemonToken"].as_str().unwrap().to_owned(),
        }
    }

    pub async fn row(&self, run: &TestRun) -> Value {
        self.get(&format!("/api/internal/runs/{}", run.id)).await
    }

    /// All stored events, page by page.
    pub async fn events(&self, run: &TestRun) -> Vec<Value> {
        let mut events = Vec::new();
        let mut after = -1;
        loop {
            let page = self.get(&format!("/api/internal/runs/{}/events?after={after}", run.id)).await;
            let found = page["events"].as_array().unwrap();
            if found.is_empty() {
                return events;
            }
            events.extend(found.iter().cloned());
            after = page["nextAfter"].as_i64().unwrap();
        }
    }

    /// All quarantined events of a thread, newest first.
    pub async fn quarantine(&self, thread: &str) -> Vec<Value> {
        let mut items = Vec::new();
        let mut before = String::new();
        loop {
            let page = self.get(&format!("/api/internal/quarantine?threadId={thread}{before}")).await;
            items.extend(page["items"].as_array().unwrap().iter().cloned());
            match page["next"].as_str() {
                Some(next) => before = format!("&before={next}"),
                None => return items,
            }
        }
    }

    /// `/readyz`.
    pub async fn ready(&self) -> Option<Answer> {
        self.internal(Method::GET, "/readyz", None).await
    }

    /// Waits, at the most a minute, until `/readyz` says so.
    pub async fn until_ready(&self) {
        self.until("ready", |answer| answer.status == 200).await;
    }

    /// Waits, at the most a minute, until `/readyz` names this part, and only it, as missing.
    pub async fn until_missing(&self, part: &str) {
        self.until(part, |answer| {
            let missing: Vec<_> = ["database", "coordination", "objects"]
                .into_iter()
                .filter(|part| answer.body[*part]["ok"] == false)
                .collect();
            answer.status == 503 && missing == [part]
        })
        .await;
    }

    async fn until(&self, what: &str, so: impl Fn(&Answer) -> bool) {
        let mut last = None;
        for _ in 0..1200 {
            last = self.ready().await;
            if last.as_ref().is_some_and(&so) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("never: {what}: {last:?}")
    }
}

async fn answer(request: reqwest::RequestBuilder) -> Option<Answer> {
    let response = request.send().await.ok()?;
    let status = response.status().as_u16();
    let retry_after = response.headers().get("retry-after").map(|value| value.to_str().unwrap().to_owned());
    let text = response.text().await.ok()?;
    let body = serde_json::from_str(&text).unwrap_or(Value::String(text));
    Some(Answer { status, retry_after, body })
}
