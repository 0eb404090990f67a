//! By what previews reach the world, beside the ports of runs. Tests put their own among them.

use std::sync::Arc;
use std::time::Duration;

use runwarden_actors::contract::limits::{PROXY_CONNECT_TIMEOUT_MS, PROXY_HTTP_TIMEOUT_MS, PROXY_STREAM_IDLE_MS};
use runwarden_actors::ports::{Names, RepoAccess, UpstreamProbe};
use runwarden_actors::preview::{PreviewDeps, PreviewOptions, Previews};
use runwarden_actors::run::Deps;

use super::probe::HealthProbe;
use super::services::PreviewServices;
use crate::access::open_access;
use crate::auth::{PreviewKeyRings, PreviewTokens};
use crate::config::Config;
use crate::names::DnsNames;

/// How long the proxy waits; the defaults are the contract's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProxyTimeouts {
    /// For a whole request that is no stream.
    pub http: Duration,
    /// For a connection to an upstream.
    pub connect: Duration,
    /// Between two parts of a stream.
    pub stream_idle: Duration,
}

impl Default for ProxyTimeouts {
    fn default() -> Self {
        Self {
            http: Duration::from_millis(PROXY_HTTP_TIMEOUT_MS),
            connect: Duration::from_millis(PROXY_CONNECT_TIMEOUT_MS),
            stream_idle: Duration::from_millis(PROXY_STREAM_IDLE_MS),
        }
    }
}

/// The parts.
#[derive(Clone)]
pub struct PreviewParts {
    /// Who may see.
    pub access: Arc<dyn RepoAccess>,
    /// Names of upstreams.
    pub names: Arc<dyn Names>,
    /// Health of upstreams.
    pub probe: Arc<dyn UpstreamProbe>,
    /// How long the proxy waits.
    pub timeouts: ProxyTimeouts,
}

impl PreviewParts {
    /// What the settings name; in words, what is wrong with them.
    pub fn open(config: &Config) -> Result<Self, String> {
        let access = open_access(&config.access, &config.secrets.internal_service_key);
        Ok(Self {
            access: access.map_err(|error| error.to_string())?,
            names: Arc::new(DnsNames::from_system().map_err(|error| error.to_string())?),
            probe: Arc::new(HealthProbe),
            timeouts: ProxyTimeouts::default(),
        })
    }

    /// Puts them together with the ports of runs.
    pub fn into_services(self, config: &Config, run: &Deps, open: Previews, keys: PreviewKeyRings) -> PreviewServices {
        let tokens = PreviewTokens::new(keys, Arc::clone(&run.clock), Arc::clone(&run.ids));
        let deps = PreviewDeps {
            run: run.clone(),
            access: self.access,
            names: self.names,
            probe: self.probe,
            signer: Arc::new(tokens.clone()),
            options: Arc::new(PreviewOptions {
                environment: config.previews.environment.clone(),
                websocket: config.previews.websocket(),
                allowed_networks: config.previews.allowed_networks.clone(),
                limits: config.previews.limits,
            }),
        };
        PreviewServices::new(deps, open, tokens, Arc::new(config.previews.clone()), self.timeouts)
    }
}
