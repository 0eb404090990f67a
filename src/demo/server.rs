//! The real server on its embedded default, in a thread with a runtime of its own.

use std::path::Path;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, anyhow};
use secrecy::SecretString;
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::config::{Config, RawSettings};
use crate::lifecycle::{Application, StopHandle};

const STOPS_WITHIN: Duration = Duration::from_secs(8);

/// A running server. Dropped it is asked to stop.
pub(super) struct Server {
    pub(super) url: String,
    pub(super) key: SecretString,
    stop: StopHandle,
    thread: Option<JoinHandle<anyhow::Result<()>>>,
}

impl Server {
    /// Everything that it keeps lies in `data`; its sandboxes must lie in `sandboxes`; pages of `origins` may embed.
    pub(super) async fn start(data: &Path, sandboxes: &Path, port: u16, origins: String) -> anyhow::Result<Self> {
        let text = |path: &Path| {
            path.to_str()
                .map(str::to_owned)
                .with_context(|| format!("{} is not UTF-8; let TMPDIR name another folder", path.display()))
        };
        let raw = RawSettings::from_pairs([
            ("HOST", "127.0.0.1".to_owned()),
            ("PORT", port.to_string()),
            ("DATA_DIR", text(data)?),
            ("PROCESS_SANDBOX_ROOT", text(sandboxes)?),
            // The app listens on loopback, and its preview has a host of its own, which browsers find there.
            ("ALLOWED_UPSTREAM_NETWORKS", "127.0.0.1/32".to_owned()),
            ("PREVIEW_HOST_SUFFIX", "preview.localhost".to_owned()),
            ("PREVIEW_FRAME_ANCESTORS", origins),
            ("WORKERS", "2".to_owned()),
            ("SHUTDOWN_TIMEOUT_SECONDS", "3".to_owned()),
        ])?;
        let config = Config::from_raw(&raw)?;
        let key = config.secrets.internal_service_key.clone();
        let (started, starting) = oneshot::channel();
        let serve = move || {
            actix_web::rt::System::new().block_on(async move {
                match Application::build(config).await {
                    Ok(application) => {
                        let _ = started.send(Ok((application.addr(), application.stop_handle())));
                        Ok(application.run().await?)
                    }
                    Err(error) => {
                        let _ = started.send(Err(error));
                        Ok(())
                    }
                }
            })
        };
        let thread = std::thread::Builder::new().name("demo-server".to_owned()).spawn(serve)?;
        let (addr, stop) = starting.await.map_err(|_| anyhow!("the server died at its start"))??;
        Ok(Self { url: format!("http://{addr}"), key, stop, thread: Some(thread) })
    }

    /// Whether it has ended by itself.
    pub(super) fn has_ended(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Stops it and waits for its end, which is bounded.
    pub(super) async fn end(mut self) -> anyhow::Result<()> {
        self.stop.stop();
        let Some(thread) = self.thread.take() else { return Ok(()) };
        let joined = timeout(STOPS_WITHIN, tokio::task::spawn_blocking(move || thread.join())).await;
        joined.context("the server does not stop")??.map_err(|_| anyhow!("the server panicked"))?
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.stop();
    }
}
