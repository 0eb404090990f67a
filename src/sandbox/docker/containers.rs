//! The containers of sessions (section 8), as a typed client: who they are and where they can be reached. What can be
//! done with them stands in `lifecycle`, `command` and `workspace`.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bollard::errors::Error as DockerError;
use bollard::models::{ContainerInspectResponse, EndpointSettings};
use runwarden_actors::contract::ContainerSessionId;
use runwarden_actors::contract::limits::{CONTAINER_QUESTION_TIMEOUT_MS, CONTAINER_QUESTIONS_MAX};
use thiserror::Error;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::engine::{DockerHostError, Engine};

/// The network whose address is preferred where a container is in several.
const DEFAULT_NETWORK: &str = "bridge";
/// Longest complaint of an engine that is handed on.
const COMPLAINT_MAX_CHARS: usize = 300;

/// Why something could not be done with a session's container.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ContainerError {
    /// There is none.
    #[error("there is no container `{0}`")]
    NotFound(String),
    /// The engine refused what it was asked, because of how it was asked (`true`) or for reasons of its own.
    #[error("the Docker engine refused: {0}")]
    Refused(String, bool),
    /// It is there already, or not in the state that this needs.
    #[error("{0}")]
    Conflict(String),
    /// The engine is out of reach. The reason goes to the log.
    #[error("the Docker engine does not answer")]
    Unavailable,
    /// The engine took too long.
    #[error("the Docker engine did not answer within {0} ms")]
    Timeout(u64),
}

/// A container at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerView {
    /// Which life of which container it is.
    pub life: ContainerLife,
    /// `created`, `running`, `paused`, `restarting`, `removing`, `exited` or `dead`.
    pub state: String,
    /// Whether its processes run: not paused either.
    pub running: bool,
    /// Image, as it was named when the container was created.
    pub image: String,
    /// Where it can be reached.
    pub endpoint: Option<Endpoint>,
    /// Whether it was created here.
    pub ours: bool,
}

/// A container from one start to its end. A restart is another life, and so is another container of the same name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerLife {
    /// The engine's id of the container.
    pub id: String,
    /// When it was started, as the engine writes it.
    pub started_at: String,
}

/// A container's place in a network. It gets another id each time that it joins one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// The engine's id of it.
    pub id: String,
    /// The container's own address there.
    pub address: IpAddr,
}

/// The containers of sessions on one engine. Cheap to clone.
#[derive(Clone)]
pub struct DockerContainers {
    pub(super) engine: Arc<Engine>,
    questions: Arc<Semaphore>,
}

impl std::fmt::Debug for DockerContainers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DockerContainers").finish_non_exhaustive()
    }
}

impl DockerContainers {
    /// Checks `DOCKER_HOST`; the first question connects.
    pub fn new(docker_host: &str) -> Result<Self, DockerHostError> {
        let engine = Arc::new(Engine::new(docker_host)?);
        Ok(Self { engine, questions: Arc::new(Semaphore::new(CONTAINER_QUESTIONS_MAX)) })
    }

    /// The session's container as the engine knows it now. Nothing of it is remembered.
    pub async fn inspect(&self, session: &ContainerSessionId) -> Result<ContainerView, ContainerError> {
        let name = session.container_name();
        let late = || ContainerError::Timeout(CONTAINER_QUESTION_TIMEOUT_MS);
        let limit = Duration::from_millis(CONTAINER_QUESTION_TIMEOUT_MS);
        let turn = timeout(limit, self.questions.acquire()).await.map_err(|_| late())?;
        let asked = async { self.engine.client().await?.inspect_container(&name, None).await };
        let answer = timeout(limit, asked).await;
        drop(turn);
        match answer {
            Ok(Ok(found)) => Ok(view(&found)),
            Ok(Err(error)) => Err(self.explain(&name, error).await),
            Err(_) => Err(late()),
        }
    }

    /// What an engine's error means for this container.
    pub(super) async fn explain(&self, name: &str, error: DockerError) -> ContainerError {
        match error {
            DockerError::DockerResponseServerError { status_code: 404, .. } => {
                ContainerError::NotFound(name.to_owned())
            }
            DockerError::DockerResponseServerError { status_code: 409, message } => {
                ContainerError::Conflict(complaint(&message))
            }
            DockerError::DockerResponseServerError { status_code, message } => {
                ContainerError::Refused(complaint(&message), status_code == 400)
            }
            DockerError::RequestTimeoutError => ContainerError::Timeout(CONTAINER_QUESTION_TIMEOUT_MS),
            error => {
                tracing::warn!(%error, "the Docker engine could not be asked");
                self.engine.forget().await;
                ContainerError::Unavailable
            }
        }
    }
}

/// Printable, and not too long: it reaches the caller.
pub(super) fn complaint(message: &str) -> String {
    message.chars().filter(|letter| !letter.is_control()).take(COMPLAINT_MAX_CHARS).collect()
}

fn view(found: &ContainerInspectResponse) -> ContainerView {
    let state = found.state.as_ref();
    let text = |text: Option<&String>| text.cloned().unwrap_or_default();
    let config = found.config.as_ref();
    ContainerView {
        life: ContainerLife {
            id: text(found.id.as_ref()),
            started_at: text(state.and_then(|state| state.started_at.as_ref())),
        },
        state: state.and_then(|state| state.status).map(|status| status.to_string()).unwrap_or_default(),
        running: super::runs(found),
        image: text(config.and_then(|config| config.image.as_ref())),
        endpoint: endpoint(found),
        ours: config
            .and_then(|config| config.labels.as_ref())
            .is_some_and(|labels| labels.contains_key(super::SESSION_LABEL)),
    }
}

/// Its place in the default bridge, or else in the first of its networks by name, so that it stays the same. IPv4
/// before IPv6. An address that could be this server's own, or nobody's, is none.
fn endpoint(found: &ContainerInspectResponse) -> Option<Endpoint> {
    let mut networks: Vec<_> = found.network_settings.as_ref()?.networks.as_ref()?.iter().collect();
    networks.sort_by_key(|(name, _)| (*name != DEFAULT_NETWORK, *name));
    let of = |family: fn(&EndpointSettings) -> Option<&String>| {
        networks.iter().find_map(|(_, place)| {
            let address: IpAddr = family(place)?.parse().ok()?;
            let own = !address.is_loopback() && !address.is_unspecified() && !address.is_multicast();
            own.then(|| Endpoint { id: place.endpoint_id.clone().unwrap_or_default(), address })
        })
    };
    of(|place| place.ip_address.as_ref()).or_else(|| of(|place| place.global_ipv6_address.as_ref()))
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use bollard::models::NetworkSettings;

    use super::*;

    fn found(networks: &[(&str, &str, &str)]) -> Option<String> {
        let place = |v4: &str, v6: &str| EndpointSettings {
            ip_address: Some(v4.to_owned()),
            global_ipv6_address: Some(v6.to_owned()),
            ..EndpointSettings::default()
        };
        let networks: HashMap<_, _> =
            networks.iter().map(|(name, v4, v6)| ((*name).to_owned(), place(v4, v6))).collect();
        let settings = NetworkSettings { networks: Some(networks), ..NetworkSettings::default() };
        let container = ContainerInspectResponse { network_settings: Some(settings), ..Default::default() };
        endpoint(&container).map(|endpoint| endpoint.address.to_string())
    }

    #[test]
    fn the_default_bridge_comes_first_and_the_rest_by_name() {
        let is = |address: &str| Some(address.to_owned());
        assert_eq!(
            found(&[("a", "10.0.0.2", ""), ("bridge", "172.17.0.2", ""), ("z", "10.1.0.2", "")]),
            is("172.17.0.2")
        );
        assert_eq!(found(&[("b", "10.0.0.2", ""), ("a", "10.1.0.2", "")]), is("10.1.0.2"));
        assert_eq!(found(&[("bridge", "", ""), ("a", "10.1.0.2", "")]), is("10.1.0.2"));
        assert_eq!(found(&[("bridge", "", "fd00::2"), ("b", "10.0.0.2", "")]), is("10.0.0.2"));
        assert_eq!(found(&[("bridge", "", "fd00::2")]), is("fd00::2"));
        assert_eq!(found(&[("host", "", "")]), None);
        assert_eq!(found(&[]), None);
    }

    #[test]
    fn an_address_that_is_not_a_containers_is_none() {
        for address in ["127.0.0.1", "0.0.0.0", "224.0.0.1", "nonsense"] {
            assert_eq!(found(&[("bridge", address, "::1")]), None, "{address}");
        }
    }
}
