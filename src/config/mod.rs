//! Settings: one table of names, read from a TOML file and the environment (environment last), checked once at
//! start into typed sections (contract section 13).

mod access;
mod bypass;
mod containers;
mod daytona;
mod error;
mod previews;
mod secrets;
mod sections;
mod settings;

pub use access::AccessConfig;
pub use bypass::{BYPASS_AHEAD_MAX_MS, BypassConfig};
pub use containers::{ContainerBounds, ContainersConfig};
pub use error::ConfigError;
pub use previews::PreviewsConfig;
pub use sections::{
    Config, DatabaseConfig, LogConfig, ObjectsConfig, RunsConfig, SandboxConfig, SecretsConfig, ServerConfig,
};
pub use settings::{RawSettings, SETTINGS, Setting, help_text};
