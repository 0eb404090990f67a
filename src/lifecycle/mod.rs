//! Start and stop. `build` opens everything and binds the port; `run` serves until a signal, a stop, or the death
//! of a background task.

mod background;
mod open;

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use actix_web::dev::{Server, ServerHandle};
use actix_web::{App, HttpServer, web};
use runwarden_actors::contract::Timestamp;
use runwarden_actors::ports::store::SigningKey;
use runwarden_actors::ports::{Clock, IdSource};
use runwarden_actors::preview::Previews;
use runwarden_actors::registry::{RegistryOptions, Runs};
use runwarden_actors::run::{Deps, SweepOptions};
use thiserror::Error;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, watch};
use tokio::time::{sleep, timeout};

use crate::auth::{DaemonTokens, PreviewKeyRings, SharedSecret, install_crypto, random_secret};
use crate::clock::{SystemClock, SystemIds};
use crate::config::{BypassConfig, Config};
use crate::containers::Containers;
use crate::coordination::RedisBypass;
use crate::http::{AppState, configure, end_in_order, watch_connection};
use crate::proxy::PreviewParts;
use crate::sandbox::DockerContainers;
use crate::telemetry::{TelemetryObserver, install_metrics};

pub use open::{
    StartError, open_and_migrate, open_coordination, open_docker, open_objects, open_sandboxes, open_store,
};

/// Connections waiting to be accepted.
const BACKLOG: i32 = 2048;
/// Idle time of a kept connection: longer than a proxy's in front, so that the proxy closes first.
const KEEP_ALIVE: Duration = Duration::from_secs(75);
/// Time for a request's head to arrive.
const HEAD_WITHIN: Duration = Duration::from_secs(10);

/// Time for closing connections in order that would otherwise be cut; a quarter of a short shutdown.
const LAST_MOMENTS: Duration = Duration::from_secs(2);

/// Why a running server ended by itself.
#[derive(Debug, Error)]
pub enum ServeError {
    /// A background task is gone; without it the server would look well and not be.
    #[error("the background task `{0}` ended; the server stops so that it is started anew")]
    BackgroundTask(&'static str),
    /// The HTTP server failed.
    #[error("the HTTP server ended: {0}")]
    Http(std::io::Error),
    /// Signals cannot be listened for.
    #[error("signals: {0}")]
    Signals(std::io::Error),
}

/// A server that is bound and ready to run.
pub struct Application {
    addr: SocketAddr,
    server: Server,
    state: AppState,
    keys: PreviewKeyRings,
    stopping: Arc<Stopping>,
    sweep: SweepOptions,
    shutdown_timeout: Duration,
}

struct Stopping {
    requested: Notify,
    shutdown: watch::Sender<bool>,
    /// Turns true when no request is under way any more: until then somebody has to look for revocations.
    served: watch::Sender<bool>,
}

/// Asks a running application to stop, as SIGTERM does.
#[derive(Clone)]
pub struct StopHandle(Arc<Stopping>);

impl StopHandle {
    /// Returns at once.
    pub fn stop(&self) {
        self.0.requested.notify_one();
    }
}

impl Application {
    /// Opens everything and binds the port. Must be called within an actix system.
    pub async fn build(config: Config) -> Result<Self, StartError> {
        let deps = Self::open(&config).await?;
        Self::with_deps(&config, deps).await
    }

    /// Opens what the settings name.
    pub async fn open(config: &Config) -> Result<Deps, StartError> {
        install_crypto();
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let ids: Arc<dyn IdSource> = Arc::new(SystemIds);
        let store = open_store(config).await?;
        let coordination = open_coordination(config, &clock).await?;
        let evidence = open_objects(config)?;
        Ok(Deps::new(
            store,
            coordination,
            evidence,
            Arc::new(open_sandboxes(config)?),
            Arc::clone(&clock),
            ids,
            Arc::new(TelemetryObserver::new(clock)),
        ))
    }

    /// Binds the port for ports that are open already; tests put their own among them.
    pub async fn with_deps(config: &Config, deps: Deps) -> Result<Self, StartError> {
        let parts = PreviewParts::open(config).map_err(StartError::Setting)?;
        Self::with_parts(config, deps, parts).await
    }

    /// The same, with what previews reach the world by.
    pub async fn with_parts(config: &Config, mut deps: Deps, parts: PreviewParts) -> Result<Self, StartError> {
        install_crypto();
        if let Some(settings) = &config.bypass {
            bypass(&mut deps, settings)?;
        }
        // A taken port is found before anything is started.
        let listener = listen(config)?;
        let tokens = daemon_tokens(&deps).await?;
        let options = RegistryOptions { threads: config.runs.threads, idle_after: config.runs.actor_idle };
        // Actors first: the workers of the HTTP server get finished handles.
        let runs = Runs::start(deps.clone(), options);
        let keys = PreviewKeyRings::new(deps.before_user(), Arc::clone(&deps.clock), Arc::clone(&deps.ids));
        // Without keys, or with clocks too far apart, the server starts: runs go on, previews are refused with a reason.
        if let Err(error) = keys.prepare().await {
            tracing::warn!(%error, "preview keys are not ready; previews are refused until they are");
        }
        let engine = DockerContainers::new(&config.sandbox.docker_host)
            .map_err(|error| StartError::Setting(error.to_string()))?;
        let timeouts = parts.timeouts;
        let previews = parts.into_services(config, &deps, runs.previews(), keys.clone());
        let containers = Containers::new(engine, config.containers.clone(), timeouts, previews.stopping.clone());
        let (shutdown, shutting_down) = watch::channel(false);
        let state = AppState {
            deps,
            runs,
            tokens,
            internal_key: Arc::new(SharedSecret::new(&config.secrets.internal_service_key)),
            process_allowed: config.sandbox.process_root.is_some(),
            rollout_phase: config.runs.rollout_phase,
            metrics: install_metrics(),
            previews,
            containers,
            shutdown: shutting_down,
        };
        let (addr, server) = serve(config, &state, listener)?;
        Ok(Self {
            addr,
            server,
            state,
            keys,
            stopping: Arc::new(Stopping { requested: Notify::new(), shutdown, served: watch::Sender::new(false) }),
            sweep: SweepOptions {
                every: config.runs.sweep_interval,
                missing_end_sha_after: config.runs.missing_end_sha_timeout,
                silent_after: config.runs.silence_timeout,
            },
            shutdown_timeout: config.server.shutdown_timeout,
        })
    }

    /// Where it listens; the port is the real one where 0 was asked for.
    pub const fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// A way to stop it.
    pub fn stop_handle(&self) -> StopHandle {
        StopHandle(Arc::clone(&self.stopping))
    }

    /// Serves until SIGTERM, SIGINT or a stop; a second signal ends it at once.
    pub async fn run(self) -> Result<(), ServeError> {
        let mut terminate = signal(SignalKind::terminate()).map_err(ServeError::Signals)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(ServeError::Signals)?;
        let deps = self.state.deps.clone();
        let mut background = self.start_background();
        let handle = self.server.handle();
        let mut server = actix_web::rt::spawn(self.server);
        let requested = Arc::clone(&self.stopping);
        let ended = tokio::select! {
            _ = terminate.recv() => { tracing::info!("SIGTERM: shutting down"); Ok(()) }
            _ = interrupt.recv() => { tracing::info!("SIGINT: shutting down"); Ok(()) }
            () = requested.requested.notified() => Ok(()),
            ended = background.join_next() => {
                let name = ended.and_then(Result::ok).unwrap_or("panicked");
                tracing::error!(task = name, "a background task ended");
                Err(ServeError::BackgroundTask(name))
            }
            ended = &mut server => {
                let error = ended.map_or_else(|_| std::io::Error::other("its task died"), |result| {
                    result.err().unwrap_or_else(|| std::io::Error::other("it stopped"))
                });
                Err(ServeError::Http(error))
            }
        };
        // Soft: streams end with a reason, requests in flight are answered. Hard: whatever is left is cut.
        self.stopping.shutdown.send_replace(true);
        self.state.previews.stopping.end_streams();
        let soft = async {
            tokio::select! {
                () = stop_server(&handle, true) => {}
                () = let_go_before(&self.state.previews.open, self.shutdown_timeout) => {}
            }
            self.stopping.served.send_replace(true);
            while background.join_next().await.is_some() {}
        };
        tokio::select! {
            done = timeout(self.shutdown_timeout, soft) => {
                if done.is_err() {
                    tracing::warn!(timeout_seconds = self.shutdown_timeout.as_secs(), "not everything ended in time; cut");
                    stop_server(&handle, false).await;
                }
            }
            _ = terminate.recv() => stop_server(&handle, false).await,
            _ = interrupt.recv() => stop_server(&handle, false).await,
        }
        background.shutdown().await;
        if timeout(Duration::from_secs(5), deps.store.close()).await.is_err() {
            tracing::warn!("the database did not close in time");
        }
        tracing::info!("stopped");
        ended
    }
}

/// Puts the operator's bypass before the coordination store.
fn bypass(deps: &mut Deps, settings: &BypassConfig) -> Result<(), StartError> {
    settings.check(deps.clock.now()).map_err(|error| StartError::Setting(error.to_string()))?;
    let bypass = RedisBypass::new(Arc::clone(&deps.coordination), Arc::clone(&deps.clock), settings.clone());
    deps.coordination = bypass.closed();
    deps.bypass = Some(Arc::new(bypass));
    Ok(())
}

/// What is proxied and does not end by itself is cut a little earlier than everything else, so that the connections can
/// still be closed in order. Does not return.
async fn let_go_before(previews: &Previews, timeout: Duration) {
    sleep(timeout.saturating_sub(LAST_MOMENTS.min(timeout / 4))).await;
    previews.let_go();
    std::future::pending::<()>().await;
}

async fn stop_server(handle: &ServerHandle, graceful: bool) {
    handle.stop(graceful).await;
}

fn listen(config: &Config) -> Result<TcpListener, StartError> {
    let wanted = SocketAddr::new(config.server.host, config.server.port);
    TcpListener::bind(wanted).map_err(|error| StartError::Io {
        what: format!("cannot listen on {wanted}; set HOST and PORT to a free address"),
        error,
    })
}

fn serve(config: &Config, state: &AppState, listener: TcpListener) -> Result<(SocketAddr, Server), StartError> {
    let failed = |error| StartError::Io { what: "the HTTP server does not start".to_owned(), error };
    let addr = listener.local_addr().map_err(failed)?;
    let data = web::Data::new(state.clone());
    let server = HttpServer::new(move || App::new().app_data(data.clone()).configure(configure).wrap_fn(end_in_order))
        .on_connect(watch_connection)
        .workers(config.server.workers)
        .max_connections(config.server.max_connections)
        .backlog(u32::try_from(BACKLOG).unwrap_or(2048))
        .keep_alive(KEEP_ALIVE)
        .client_request_timeout(HEAD_WITHIN)
        // A client that is gone while its stream is silent is noticed by nothing else.
        .h1_allow_half_closed(false)
        .shutdown_timeout(config.server.shutdown_timeout.as_secs())
        .disable_signals()
        .listen(listener)
        .map_err(failed)?
        .run();
    Ok((addr, server))
}

async fn daemon_tokens(deps: &Deps) -> Result<DaemonTokens, StartError> {
    let candidate = SigningKey {
        kid: deps.ids.uuid_v7().to_string(),
        secret: random_secret(),
        created_at: Timestamp::from_millis(deps.clock.now().as_millis()),
    };
    let keys = deps
        .store
        .daemon_signing_keys(&candidate)
        .await
        .map_err(|error| StartError::Database { kind: "its signing keys", error })?;
    DaemonTokens::new(&keys).ok_or(StartError::Keys)
}
