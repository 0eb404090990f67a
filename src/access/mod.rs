//! Who may see a repository's previews (contract sections 5, 6 and 13, `ACCESS_SOURCE`): the adapters of the port
//! [`RepoAccess`](runwarden_actors::ports::RepoAccess). What they answer is remembered by their caller, not here.

mod client;
mod github;
mod host;
mod list;
mod owner;

use std::sync::Arc;

use runwarden_actors::ports::RepoAccess;
use secrecy::SecretString;
use thiserror::Error;

use crate::config::AccessConfig;

pub use github::GitHubAccess;
pub use host::HostAccess;
pub use list::ListAccess;
pub use owner::OwnerAccess;

/// A source that cannot be used. The text holds no secret.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0}")]
pub struct AccessSetupError(String);

/// The source that the settings name. `internal_service_key` is what the host application knows us by.
pub fn open_access(
    config: &AccessConfig,
    internal_service_key: &SecretString,
) -> Result<Arc<dyn RepoAccess>, AccessSetupError> {
    Ok(match config {
        AccessConfig::Owner => Arc::new(OwnerAccess),
        AccessConfig::GitHub { token, api_url } => Arc::new(GitHubAccess::new(api_url, token)?),
        AccessConfig::Host { url } => Arc::new(HostAccess::new(url, internal_service_key)?),
        AccessConfig::List { file } => Arc::new(ListAccess::read(file)?),
    })
}
