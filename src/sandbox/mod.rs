//! What is asked of sandboxes: the ports `Sandbox` and `PreviewHost`, by provider (sections 1 and 5).
//!
//! - [`DockerSandbox`]: commands inside a container of a Docker engine
//! - [`DockerContainers`]: the containers of sessions (section 8)
//! - [`DaytonaSandbox`]: the same commands through Daytona's API
//! - [`ProcessSandbox`]: a folder of this host, for development; trusts nothing that it finds in the repository
//! - [`E2bSandbox`]: not there yet; says so

mod daytona;
mod docker;
mod e2b;
mod git;
mod host_git;
mod inside;
mod process;
mod repository;
mod router;

pub use self::daytona::{DaytonaSandbox, DaytonaSettings};
pub use self::docker::{
    Command, ContainerError, ContainerLife, ContainerSpec, ContainerView, DOCKER_REPO_DIR, DockerContainers,
    DockerHostError, DockerSandbox, Endpoint, Entry, EntryKind, FileError, Listing, Outcome, Surroundings, Workspace,
    is_docker_host,
};
pub use self::e2b::E2bSandbox;
pub use self::git::{GIT_OUTPUT_MAX_BYTES, GIT_TIMEOUT_MS};
pub use self::process::{ProcessRootError, ProcessSandbox};
pub use self::router::Sandboxes;
