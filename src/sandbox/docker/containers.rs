//! The containers of sessions (section 8), as a typed client: who they are and where they can be reached. What can be
//! done with them stands in `lifecycle`, `command` and `workspace`.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bollard::errors::Error as DockerError;
use bollard::models::{ContainerInspectResponse, EndpointSettings};
use runwarden_actors::contract::ContainerSessionId;
use runwarden_actors::contract::limits::{
    CONTAINER_ENGINE_ANSWER_MAX_BYTES, CONTAINER_QUESTION_TIMEOUT_MS, CONTAINER_QUESTIONS_MAX,
};
use runwarden_actors::preview::pin::denied_address;
use thiserror::Error;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::engine::{DockerHostError, Engine};
use super::wire;

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
    /// Its answer is longer than any that is read.
    #[error("the Docker engine's answer has more than {CONTAINER_ENGINE_ANSWER_MAX_BYTES} bytes")]
    TooLarge,
    /// The engine took too long.
    #[error("the Docker engine did not answer within {0} ms")]
    Timeout(u64),
}

impl ContainerError {
    /// What those may know who were asked for no key: nothing that the engine itself has said.
    pub fn for_everybody(&self) -> String {
        match self {
            Self::Refused(..) | Self::Conflict(_) => "the Docker engine refused".to_owned(),
            Self::NotFound(_) | Self::Unavailable | Self::TooLarge | Self::Timeout(_) => self.to_string(),
        }
    }
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
                tracing::warn!(error = complaint(&error.to_string()), "the Docker engine could not be asked");
                self.engine.forget().await;
                if wire::is_too_large(&error) { ContainerError::TooLarge } else { ContainerError::Unavailable }
            }
        }
    }
}

/// Printable, and not too long: it reaches the caller, or the log.
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
/// before IPv6. An address that no container can have is none.
fn endpoint(found: &ContainerInspectResponse) -> Option<Endpoint> {
    let mut networks: Vec<_> = found.network_settings.as_ref()?.networks.as_ref()?.iter().collect();
    networks.sort_by_key(|(name, _)| (*name != DEFAULT_NETWORK, *name));
    let of = |family: fn(&EndpointSettings) -> Option<&String>| {
        networks.iter().find_map(|(_, place)| {
            let address = family(place)?.parse::<IpAddr>().ok()?.to_canonical();
            can_be_a_containers(address)
                .then(|| Endpoint { id: place.endpoint_id.clone().unwrap_or_default(), address })
        })
    };
    of(|place| place.ip_address.as_ref()).or_else(|| of(|place| place.global_ipv6_address.as_ref()))
}

/// Whether it could be anybody's but this server's own, a neighbour's on its link (where clouds keep their credentials)
/// or many at once. Networks of containers are private as a rule, and may be any others.
fn can_be_a_containers(address: IpAddr) -> bool {
    let broadcast = matches!(address, IpAddr::V4(v4) if v4.is_broadcast());
    !broadcast && !matches!(denied_address(address), Some("loopback" | "unspecified" | "link-local" | "multicast"))
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
        for address in [
            "127.0.0.1",
            "127.8.0.1",
            "0.0.0.0",
            "0.1.2.3",
            "224.0.0.1",
            "169.254.169.254",
            "255.255.255.255",
            "nonsense",
        ] {
            assert_eq!(found(&[("bridge", address, "::1")]), None, "{address}");
            assert_eq!(found(&[("bridge", "", &format!("::ffff:{address}"))]), None, "{address}");
        }
        for address in ["::", "fe80::1", "ff02::1", "64:ff9b::7f00:1", "2002:7f00:1::", "::ffff:a9fe:a9fe"] {
            assert_eq!(found(&[("bridge", "", address)]), None, "{address}");
        }
    }

    #[test]
    fn whatever_network_an_operator_chose_is_fine() {
        for address in ["10.0.0.2", "172.17.0.2", "192.168.3.4", "100.64.0.9", "198.18.0.2", "203.0.113.7", "8.8.8.8"] {
            assert_eq!(found(&[("bridge", address, "")]).as_deref(), Some(address));
            assert_eq!(found(&[("bridge", "", &format!("::ffff:{address}"))]).as_deref(), Some(address));
        }
        for address in ["fd00::2", "2001:db8::2", "2606:4700::1"] {
            assert_eq!(found(&[("bridge", "", address)]).as_deref(), Some(address));
        }
    }
}
