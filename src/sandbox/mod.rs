//! What is asked of sandboxes: the port `Sandbox`, by provider (section 1).
//!
//! - [`DockerSandbox`]: `git` inside a container of a Docker engine
//! - [`ProcessSandbox`]: `git` on this host, for development; trusts nothing that it finds in the repository

mod docker;
mod git;
mod host_git;
mod process;
mod repository;
mod router;

pub use self::docker::{DOCKER_REPO_DIR, DockerHostError, DockerSandbox};
pub use self::git::{GIT_OUTPUT_MAX_BYTES, GIT_TIMEOUT_MS};
pub use self::process::{ProcessRootError, ProcessSandbox};
pub use self::router::Sandboxes;
