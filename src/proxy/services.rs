//! What preview routes work with.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use runwarden_actors::contract::{ErrorCode, FeatureFlag, PreviewSessionId, RepoFullName, UserId};
use runwarden_actors::ports::store::PreviewSession;
use runwarden_actors::preview::{OpenError, OpenSession, PreviewDeps, Previews};
use runwarden_actors::run::flag;
use tokio::time::Instant;

use super::headers::Routing;
use super::parts::ProxyTimeouts;
use super::stopping::Stopping;
use super::strangers::Strangers;
use crate::auth::PreviewTokens;
use crate::config::PreviewsConfig;
use crate::http::ApiError;

/// How long a live flag is believed: a switch takes effect within it.
const FLAG_FOR: Duration = Duration::from_secs(2);
/// Flags that are remembered; past it all are asked again.
const FLAGS_MAX: usize = 10_000;

/// Shared by all workers. Cheap to clone.
#[derive(Clone)]
pub struct PreviewServices {
    /// Ports.
    pub deps: PreviewDeps,
    /// Sessions that are open.
    pub open: Previews,
    /// Tokens.
    pub tokens: PreviewTokens,
    /// Settings.
    pub settings: Arc<PreviewsConfig>,
    /// How long the proxy waits.
    pub timeouts: ProxyTimeouts,
    /// Ends what is under way when the server goes down.
    pub stopping: Stopping,
    pub(super) strangers: Arc<Strangers>,
    flags: Arc<Mutex<Flags>>,
}

/// Live flags, and when they were read.
type Flags = HashMap<(UserId, RepoFullName), (bool, Instant)>;

impl PreviewServices {
    /// With these.
    pub fn new(
        deps: PreviewDeps,
        open: Previews,
        tokens: PreviewTokens,
        settings: Arc<PreviewsConfig>,
        timeouts: ProxyTimeouts,
    ) -> Self {
        let (stopping, strangers, flags) = (Stopping::default(), Arc::default(), Arc::default());
        Self { deps, open, tokens, settings, timeouts, stopping, strangers, flags }
    }

    /// The session, if it is open by the clock of this request too: its own timer may be late, or asleep with the machine.
    pub async fn open(&self, id: PreviewSessionId) -> Result<Arc<OpenSession>, OpenError> {
        let open = self.open.open(id).await?;
        self.while_it_lives(open)
    }

    /// The same, if this server has it open already: then it costs no look-up.
    pub fn open_here(&self, id: PreviewSessionId) -> Option<Result<Arc<OpenSession>, OpenError>> {
        self.open.open_here(id).map(|open| self.while_it_lives(open))
    }

    fn while_it_lives(&self, open: Arc<OpenSession>) -> Result<Arc<OpenSession>, OpenError> {
        if open.record.expires_at.millis_since(self.deps.run.clock.now()) > 0 {
            Ok(open)
        } else {
            Err(OpenError::Expired)
        }
    }

    /// Previews' live flag for this user and repository; switched off is 404 (section 5).
    pub async fn require_live(&self, user: &UserId, repo: &RepoFullName) -> Result<(), ApiError> {
        let key = (user.clone(), repo.clone());
        let known = self.flags.lock().unwrap_or_else(PoisonError::into_inner).get(&key).copied();
        let on = if let Some((on, _)) = known.filter(|(_, since)| since.elapsed() < FLAG_FOR) {
            on
        } else {
            let on = flag(&self.deps.run, FeatureFlag::SandboxPreview, user, repo).await?;
            let mut flags = self.flags.lock().unwrap_or_else(PoisonError::into_inner);
            if flags.len() >= FLAGS_MAX {
                flags.clear();
            }
            flags.insert(key, (on, Instant::now()));
            on
        };
        if on { Ok(()) } else { Err(ApiError::new(ErrorCode::NotFound, "previews are switched off")) }
    }

    /// The same for a session that was looked for. One that is over is looked up once more: what is switched off says
    /// nothing of it, its end neither.
    pub async fn require_live_session(
        &self,
        id: PreviewSessionId,
        opened: &Result<Arc<OpenSession>, OpenError>,
    ) -> Result<(), ApiError> {
        match opened {
            Ok(open) => self.require_live(&open.record.user_id, &open.record.repo_full_name).await,
            Err(OpenError::Expired | OpenError::Revoked | OpenError::NotReady(_)) => {
                match self.deps.run.store.load_preview(id).await? {
                    Some(session) => self.require_live(&session.user_id, &session.repo_full_name).await,
                    None => Ok(()),
                }
            }
            Err(OpenError::NotFound | OpenError::Store(_) | OpenError::Stopped) => Ok(()),
        }
    }

    /// Whether WebSocket is proxied on this routing.
    pub fn websocket_on(&self, routing: Routing) -> bool {
        match routing {
            Routing::Path { .. } => self.settings.websocket_on_paths,
            Routing::Host => self.settings.websocket_on_hosts,
        }
    }

    /// To whom the session's run belongs.
    pub async fn run_owner(&self, session: &PreviewSession) -> Result<UserId, ApiError> {
        let run = self.deps.run.store.load_run(session.run_id).await?;
        run.map(|run| run.user_id).ok_or_else(|| ApiError::not_found("run"))
    }
}
