//! Containers of sessions (section 8): [`previews`] registers their ports, [`proxies`] shows them; below them lie
//! [`lifecycle`], [`exec`] and [`files`]. What later phases add, each off unless a setting asks for it, stands in [`later`].

mod escapes;
pub(super) mod exec;
pub(super) mod files;
pub(super) mod later;
pub(super) mod lifecycle;
pub(super) mod previews;
pub(super) mod proxies;

use std::collections::BTreeMap;

use runwarden_actors::contract::{ContainerSessionId, ErrorCode};

use super::ApiError;
use crate::sandbox::ContainerError;

/// Most variables of an environment that a caller gives.
const ENVIRONMENT_MAX: usize = 256;

/// What no container can be called by is no container.
fn session_id(text: &str) -> Result<ContainerSessionId, ApiError> {
    ContainerSessionId::parse(text).map_err(|_| ApiError::not_found("container"))
}

impl From<ContainerError> for ApiError {
    fn from(error: ContainerError) -> Self {
        let code = match error {
            ContainerError::NotFound(_) => ErrorCode::NotFound,
            ContainerError::Refused(_, true) => ErrorCode::InvalidRequest,
            ContainerError::Refused(_, false) | ContainerError::Unavailable | ContainerError::TooLarge => {
                ErrorCode::UpstreamUnreachable
            }
            ContainerError::Conflict(_) => ErrorCode::Conflict,
            ContainerError::Timeout(_) => ErrorCode::UpstreamTimeout,
        };
        Self::new(code, error.to_string())
    }
}

/// `NAME=value` for each variable. Values may be secrets: no error shows one.
fn environment(variables: BTreeMap<String, String>) -> Result<Vec<String>, ApiError> {
    let name = |name: &String| !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'=');
    let fine = variables.iter().all(|(key, value)| name(key) && !value.contains('\0'));
    if !fine || variables.len() > ENVIRONMENT_MAX {
        return Err(ApiError::invalid(format!(
            "env must be at most {ENVIRONMENT_MAX} variables with printable names, and values without NUL"
        )));
    }
    Ok(variables.into_iter().map(|(key, value)| format!("{key}={value}")).collect())
}
