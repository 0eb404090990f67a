//! A session's container from its making to its end (section 8). Its name, labels and bounds are set here; a caller
//! chooses what runs in it.

use std::collections::HashMap;
use std::time::Duration;

use bollard::errors::Error as DockerError;
use bollard::models::{ContainerCreateBody, HostConfig, Mount, MountType};
use bollard::query_parameters::{
    CreateContainerOptionsBuilder, RemoveContainerOptionsBuilder, StopContainerOptionsBuilder,
};
use runwarden_actors::contract::ContainerSessionId;
use runwarden_actors::contract::limits::{CONTAINER_QUESTION_TIMEOUT_MS, CONTAINER_STOP_GRACE_MAX_SECONDS};
use tokio::time::timeout;

use super::containers::{ContainerError, DockerContainers};
use super::{ENVIRONMENT_LABEL, SESSION_LABEL};

/// What `/tmp` holds at the most; it is the only writable place beside the workspace where the root is read-only.
const TMP_OPTIONS: &str = "rw,nosuid,nodev,size=268435456";
/// What a container does that was not told what to do: it waits, and ends at once when it is asked to.
const WAIT: [&str; 3] = ["sh", "-c", "trap 'exit 0' TERM INT; while :; do sleep 3600 & wait $!; done"];

/// What a caller chooses, within the operator's bounds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerSpec {
    /// An image that the engine has; nothing is pulled.
    pub image: String,
    /// Program and arguments; it waits where there are none.
    pub command: Vec<String>,
    /// `NAME=value`.
    pub env: Vec<String>,
    /// User and group inside, unless the image's.
    pub user: Option<String>,
    /// Memory, without swap beside it.
    pub memory_bytes: u64,
    /// Thousandths of a CPU.
    pub cpu_millis: u64,
    /// Processes and threads.
    pub pids: u64,
    /// Whether only the workspace and `/tmp` can be written.
    pub read_only_root: bool,
}

/// What the operator chooses for all of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Surroundings {
    /// Network.
    pub network: String,
    /// Folder of the workspace: a volume that goes with its container.
    pub workspace: String,
    /// Names the installation, where several share an engine.
    pub environment: String,
}

impl DockerContainers {
    /// Makes the session's container; it does not run yet.
    pub async fn create(
        &self,
        session: &ContainerSessionId,
        spec: &ContainerSpec,
        around: &Surroundings,
    ) -> Result<(), ContainerError> {
        let name = session.container_name();
        let options = CreateContainerOptionsBuilder::default().name(&name).build();
        let body = body(session, spec, around);
        let asked = async { self.engine.client().await?.create_container(Some(options), body).await.map(|_| ()) };
        match self.within(asked).await? {
            Ok(()) => Ok(()),
            // There is no container yet that could be missing.
            Err(DockerError::DockerResponseServerError { status_code: 404, message }) => {
                Err(ContainerError::Refused(super::containers::complaint(&message), true))
            }
            Err(error) => Err(self.explain(&name, error).await),
        }
    }

    /// Starts it; nothing happens where it runs. A user that the image does not have is the caller's mistake.
    pub async fn start(&self, session: &ContainerSessionId) -> Result<(), ContainerError> {
        let name = session.container_name();
        let asked = async { self.engine.client().await?.start_container(&name, None).await };
        match self.settled(&name, self.within(asked).await?).await {
            // Only now does the engine look for the user that the container was made with, and calls it its own failure.
            Err(ContainerError::Refused(words, false)) if blames_the_user(&words) => {
                Err(ContainerError::Refused(words, true))
            }
            started => started,
        }
    }

    /// Stops it: TERM, and KILL after `grace_seconds` (at most [`CONTAINER_STOP_GRACE_MAX_SECONDS`]). Nothing happens
    /// where it does not run.
    pub async fn stop(&self, session: &ContainerSessionId, grace_seconds: u32) -> Result<(), ContainerError> {
        let name = session.container_name();
        let grace = grace_seconds.min(CONTAINER_STOP_GRACE_MAX_SECONDS);
        let options = StopContainerOptionsBuilder::default().t(i32::try_from(grace).unwrap_or_default()).build();
        let asked = async { self.engine.client().await?.stop_container(&name, Some(options)).await };
        let limit = Duration::from_millis(CONTAINER_QUESTION_TIMEOUT_MS) + Duration::from_secs(grace.into());
        let answer = timeout(limit, asked).await.map_err(|_| ContainerError::Timeout(CONTAINER_QUESTION_TIMEOUT_MS))?;
        self.settled(&name, answer).await
    }

    /// Removes it with its workspace, whether it runs or not.
    pub async fn remove(&self, session: &ContainerSessionId) -> Result<(), ContainerError> {
        let name = session.container_name();
        let options = RemoveContainerOptionsBuilder::default().force(true).v(true).build();
        let asked = async { self.engine.client().await?.remove_container(&name, Some(options)).await };
        self.settled(&name, self.within(asked).await?).await
    }

    pub(super) async fn within<T>(&self, asked: impl Future<Output = T>) -> Result<T, ContainerError> {
        let late = |_| ContainerError::Timeout(CONTAINER_QUESTION_TIMEOUT_MS);
        timeout(Duration::from_millis(CONTAINER_QUESTION_TIMEOUT_MS), asked).await.map_err(late)
    }

    /// 304 is the engine's way to say that it is so already.
    async fn settled(&self, name: &str, answer: Result<(), DockerError>) -> Result<(), ContainerError> {
        match answer {
            Ok(()) | Err(DockerError::DockerResponseServerError { status_code: 304, .. }) => Ok(()),
            Err(error) => Err(self.explain(name, error).await),
        }
    }
}

/// Whether the engine says that the image has no such user or group.
fn blames_the_user(words: &str) -> bool {
    words.starts_with("unable to find user") || words.starts_with("unable to find group")
}

fn body(session: &ContainerSessionId, spec: &ContainerSpec, around: &Surroundings) -> ContainerCreateBody {
    let number = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    let command = if spec.command.is_empty() { WAIT.map(str::to_owned).to_vec() } else { spec.command.clone() };
    let workspace = Mount { target: Some(around.workspace.clone()), typ: Some(MountType::VOLUME), ..Mount::default() };
    ContainerCreateBody {
        image: Some(spec.image.clone()),
        // The image's own would come before the command.
        entrypoint: Some(Vec::new()),
        cmd: Some(command),
        env: Some(spec.env.clone()),
        user: spec.user.clone(),
        working_dir: Some(around.workspace.clone()),
        labels: Some(HashMap::from([
            (SESSION_LABEL.to_owned(), session.to_string()),
            (ENVIRONMENT_LABEL.to_owned(), around.environment.clone()),
        ])),
        host_config: Some(HostConfig {
            network_mode: Some(around.network.clone()),
            memory: Some(number(spec.memory_bytes)),
            memory_swap: Some(number(spec.memory_bytes)),
            nano_cpus: Some(number(spec.cpu_millis.saturating_mul(1_000_000))),
            pids_limit: Some(number(spec.pids)),
            cap_drop: Some(vec!["ALL".to_owned()]),
            security_opt: Some(vec!["no-new-privileges:true".to_owned()]),
            privileged: Some(false),
            readonly_rootfs: Some(spec.read_only_root),
            tmpfs: Some(HashMap::from([("/tmp".to_owned(), TMP_OPTIONS.to_owned())])),
            mounts: Some(vec![workspace]),
            ..HostConfig::default()
        }),
        ..ContainerCreateBody::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_bounds_a_container_is_set_whatever_the_caller_wants() {
        let spec = ContainerSpec {
            image: "app".to_owned(),
            command: Vec::new(),
            env: Vec::new(),
            user: None,
            memory_bytes: 1 << 26,
            cpu_millis: 500,
            pids: 50,
            read_only_root: true,
        };
        let around = Surroundings {
            network: "bridge".to_owned(),
            workspace: "/workspace".to_owned(),
            environment: "e".to_owned(),
        };
        let body = body(&ContainerSessionId::parse("s-1").unwrap(), &spec, &around);
        let labels = body.labels.unwrap();
        assert_eq!((labels["runwarden.session"].as_str(), labels["runwarden.environment"].as_str()), ("s-1", "e"));
        let host = body.host_config.unwrap();
        assert_eq!((host.memory, host.memory_swap), (Some(1 << 26), Some(1 << 26)));
        assert_eq!((host.nano_cpus, host.pids_limit), (Some(500_000_000), Some(50)));
        assert_eq!((host.privileged, host.readonly_rootfs), (Some(false), Some(true)));
        assert_eq!(host.cap_drop.unwrap(), ["ALL"]);
        assert_eq!(host.security_opt.unwrap(), ["no-new-privileges:true"]);
        assert!(host.binds.is_none() && host.cap_add.is_none());
    }
}
