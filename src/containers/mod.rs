//! Container previews (section 8): ports of containers named `sandbox-session-{sessionId}`, registered in memory and
//! shown over HTTP.
//!
//! - [`registry`]: who has registered which port
//! - [`error`]: the locked rows of the error table
//! - [`relay`]: one request to a container, and its answer; the transport is that of [`crate::proxy`]
//! - [`headers`]: what crosses, and what does not
//!
//! Later phases, each off unless a setting asks for it:
//!
//! - [`events`]: a container that ends loses its registration
//! - [`health`]: why a preview does not answer
//! - [`idle`]: containers that nobody uses are stopped

pub mod error;
pub mod events;
pub mod headers;
pub mod health;
pub mod idle;
pub mod registry;
pub mod relay;

use std::sync::Arc;

use runwarden_actors::contract::limits::CONTAINER_COMMANDS_MAX;
use runwarden_actors::contract::{ContainerSessionId, ErrorCode, PortName};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use self::error::PreviewError;
use self::idle::{Activity, InUse};
use self::registry::{Registered, Registry};
use crate::config::ContainersConfig;
use crate::http::ApiError;
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
    activity: Activity,
    /// Commands that are under way.
    commands: Arc<Semaphore>,
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
        Self(Arc::new(Inner {
            engine,
            registry: Registry::default(),
            activity: Activity::default(),
            settings,
            timeouts,
            commands: Arc::new(Semaphore::new(CONTAINER_COMMANDS_MAX)),
            stopping,
        }))
    }

    /// What the settings say.
    pub fn settings(&self) -> &ContainersConfig {
        &self.0.settings
    }

    /// The containers themselves.
    pub fn engine(&self) -> &DockerContainers {
        &self.0.engine
    }

    /// A turn to run a command in the session's container; at most [`CONTAINER_COMMANDS_MAX`] at once.
    pub fn turn(&self, session: &ContainerSessionId) -> Result<Turn, ApiError> {
        let permit = Arc::clone(&self.0.commands).try_acquire_owned().map_err(|_| {
            let message = format!("{CONTAINER_COMMANDS_MAX} commands in containers are under way");
            ApiError::new(ErrorCode::ConcurrencyLimited, message)
        })?;
        Ok(Turn { _permit: permit, _in_use: self.in_use(session) })
    }

    /// The session's container is in use until this is dropped. Nobody counts where idle containers may stay.
    pub fn in_use(&self, session: &ContainerSessionId) -> Option<InUse> {
        self.0.settings.idle_stop.map(|_| self.0.activity.begin(session))
    }

    /// The session's registered port.
    pub fn port(&self, session: &ContainerSessionId) -> Option<u16> {
        self.0.registry.get(session, None).map(|registered| registered.port)
    }

    /// Whether a port is registered under these texts.
    pub fn has_registered(&self, session: &str, name: Option<&str>) -> bool {
        let Ok(session) = ContainerSessionId::parse(session) else { return false };
        let Ok(name) = name.map(PortName::parse).transpose() else { return false };
        self.0.registry.get(&session, name.as_ref()).is_some()
    }

    /// Registers a port of the session once its container was seen to run. The last one wins.
    pub async fn register(
        &self,
        session: &ContainerSessionId,
        name: Option<&PortName>,
        port: u16,
    ) -> Result<(), PreviewError> {
        let _in_use = self.in_use(session);
        let seen = self.running(session).await?;
        let registered = Registered { port, life: seen.life };
        if !self.0.registry.put(session, name, registered) {
            return Err(PreviewError::RegistryFull);
        }
        if self.0.settings.events {
            // It may have ended between the look and the registration, and the engine has told so already.
            self.settle(session).await;
            if self.0.registry.get(session, name).is_none() {
                return Err(PreviewError::NotRunning(session.to_string()));
            }
        }
        tracing::info!(session_id = %session, name = name.map(tracing::field::display), port, "preview port registered");
        Ok(())
    }

    /// Removes a registration; whether there was one.
    pub fn unregister(&self, session: &ContainerSessionId, name: Option<&PortName>) -> bool {
        let removed = self.0.registry.remove(session, name);
        if removed {
            tracing::info!(session_id = %session, name = name.map(tracing::field::display), "preview port removed");
        }
        removed
    }

    /// The session's container, where it runs.
    async fn running(&self, session: &ContainerSessionId) -> Result<ContainerView, PreviewError> {
        let id = || session.to_string();
        match self.0.engine.inspect(session).await {
            Ok(view) if view.running => Ok(view),
            Ok(_) => Err(PreviewError::NotRunning(id())),
            Err(error) => {
                if !matches!(error, ContainerError::NotFound(_)) {
                    tracing::warn!(session_id = %session, %error, "a container could not be looked at");
                }
                Err(PreviewError::Unverified { id: id(), why: error.for_everybody() })
            }
        }
    }
}

/// A command's turn.
#[derive(Debug)]
pub struct Turn {
    _permit: OwnedSemaphorePermit,
    _in_use: Option<InUse>,
}

/// As the locked table says it of a name that no container can have.
pub fn no_such_container(id: &str) -> PreviewError {
    let why = ContainerError::NotFound(format!("sandbox-session-{id}"));
    PreviewError::Unverified { id: id.to_owned(), why: why.for_everybody() }
}
