//! Container previews (section 8): ports of containers named `sandbox-session-{sessionId}`, registered in memory and
//! shown over HTTP.
//!
//! - [`registry`]: who has registered which port
//! - [`error`]: the locked rows of the error table
//! - [`relay`]: one request to a container, and its answer; the transport is that of [`crate::proxy`]
//! - [`headers`]: what crosses, and what does not

pub mod error;
pub mod headers;
pub mod registry;
pub mod relay;

use std::sync::Arc;

use runwarden_actors::contract::ContainerSessionId;

use self::error::PreviewError;
use self::registry::{Registered, Registry};
use crate::config::ContainersConfig;
use crate::proxy::{ProxyTimeouts, Stopping};
use crate::sandbox::{ContainerError, ContainerView, DockerContainers};

/// Container previews of one server. Cheap to clone.
#[derive(Clone)]
pub struct Containers(Arc<Inner>);

struct Inner {
    engine: DockerContainers,
    registry: Registry,
    settings: ContainersConfig,
    timeouts: ProxyTimeouts,
    /// Ends streams when the server goes down.
    stopping: Stopping,
}

impl Containers {
    /// With nothing registered.
    pub fn new(
        engine: DockerContainers,
        settings: ContainersConfig,
        timeouts: ProxyTimeouts,
        stopping: Stopping,
    ) -> Self {
        Self(Arc::new(Inner { engine, registry: Registry::default(), settings, timeouts, stopping }))
    }

    /// What the settings say.
    pub fn settings(&self) -> &ContainersConfig {
        &self.0.settings
    }

    /// Whether a port is registered under this text.
    pub fn has_registered(&self, session: &str) -> bool {
        ContainerSessionId::parse(session).is_ok_and(|session| self.0.registry.get(&session).is_some())
    }

    /// Registers the session's port once its container was seen to run. The last one wins.
    pub async fn register(&self, session: &ContainerSessionId, port: u16) -> Result<(), PreviewError> {
        let seen = self.running(session).await?;
        let registered = Registered { port, life: seen.life };
        if !self.0.registry.put(session.clone(), registered) {
            return Err(PreviewError::RegistryFull);
        }
        tracing::info!(session_id = %session, port, "preview port registered");
        Ok(())
    }

    /// The session's container, where it runs.
    async fn running(&self, session: &ContainerSessionId) -> Result<ContainerView, PreviewError> {
        let id = || session.to_string();
        match self.0.engine.inspect(session).await {
            Ok(view) if view.running => Ok(view),
            Ok(_) => Err(PreviewError::NotRunning(id())),
            Err(why) => Err(PreviewError::Unverified { id: id(), why: why.to_string() }),
        }
    }
}

/// As the locked table says it of a name that no container can have.
pub fn no_such_container(id: &str) -> PreviewError {
    let why = ContainerError::NotFound(format!("sandbox-session-{id}"));
    PreviewError::Unverified { id: id.to_owned(), why: why.to_string() }
}
