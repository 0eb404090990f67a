//! The rows of the locked error table (section 8). Their words are exact: clients compare them.

use runwarden_actors::contract::ErrorCode;
use thiserror::Error;

use crate::http::ApiError;

/// Why a preview cannot be registered or shown.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PreviewError {
    /// 400.
    #[error("Port must be an integer between 1024 and 65535")]
    InvalidPort,
    /// 400.
    #[error("Request body field 'port' is required")]
    MissingPort,
    /// 403.
    #[error("Forbidden")]
    Forbidden,
    /// 404.
    #[error("No preview port registered for session {0}")]
    NotRegistered(String),
    /// 404, of a named port.
    #[error("No preview port `{name}` registered for session {id}")]
    NameNotRegistered {
        /// Session.
        id: String,
        /// Name.
        name: String,
    },
    /// 500: the container is not there, or the engine could not be asked.
    #[error("Failed to validate container for session {id}: {why}")]
    Unverified {
        /// Session.
        id: String,
        /// That there is none, or that the engine cannot say; none of the engine's own words.
        why: String,
    },
    /// 500.
    #[error("Container for session {0} is not running")]
    NotRunning(String),
    /// 500.
    #[error("Container for session {0} has no IP address")]
    NoAddress(String),
    /// 502; its second line is `Failed to connect to preview server`.
    #[error("Bad Gateway")]
    BadGateway,
    /// Not in the table: the map in memory has a bound.
    #[error("too many sessions have registered a preview port, or this one too many names")]
    RegistryFull,
}

impl From<PreviewError> for ApiError {
    fn from(error: PreviewError) -> Self {
        let (code, beside) = match &error {
            PreviewError::InvalidPort | PreviewError::MissingPort => (ErrorCode::InvalidRequest, "Bad Request"),
            PreviewError::Forbidden => (ErrorCode::PermissionDenied, "Forbidden"),
            PreviewError::NotRegistered(_) | PreviewError::NameNotRegistered { .. } => {
                (ErrorCode::NotFound, "Not Found")
            }
            PreviewError::Unverified { .. } => (ErrorCode::ContainerUnavailable, "Internal Server Error"),
            PreviewError::NotRunning(_) => (ErrorCode::ContainerNotRunning, "Internal Server Error"),
            PreviewError::NoAddress(_) => (ErrorCode::ContainerNoAddress, "Internal Server Error"),
            PreviewError::BadGateway => (ErrorCode::UpstreamUnreachable, "Failed to connect to preview server"),
            PreviewError::RegistryFull => (ErrorCode::Conflict, "Conflict"),
        };
        Self::locked(code, error.to_string(), beside)
    }
}
