//! A deliberately bad connection between a daemon and a server, for the demonstration and for tests.
//!
//! It relays the three routes of a daemon (section 4) and makes mistakes by a seed: cuts, also in the middle of a
//! frame, duplicates, late replays, delays, lost acknowledgements. It never does what TCP rules out: on a stream
//! nothing is lost or overtaken without the connection breaking, and what comes late again is something that the
//! server had already acknowledged.

mod http;
mod plan;
mod stream;

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use actix_web::dev::ServerHandle;
use actix_web::{App, HttpServer, web};
use awc::Client;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

pub use plan::{FAULT_PROBABILITY_MAX, Fault, FaultPlan, LinkStats};
use stream::History;

use runwarden_actors::contract::limits::ENVELOPE_MAX_BYTES;

/// Largest frame or body that is relayed: one that is too large for the server must reach it to be refused.
const RELAY_MAX_BYTES: usize = ENVELOPE_MAX_BYTES + 1024 * 1024;

/// Starts links.
#[derive(Debug, Clone, Copy)]
pub struct FaultyLink;

/// A running link. Dropped it stops.
#[derive(Debug)]
pub struct Link {
    url: String,
    shared: Arc<Shared>,
    handle: ServerHandle,
}

/// What the connections of one link share.
#[derive(Debug)]
struct Shared {
    upstream: String,
    plan: Mutex<FaultPlan>,
    random: Mutex<StdRng>,
    stats: Arc<LinkStats>,
    history: Mutex<History>,
    late_posts: http::LatePosts,
}

impl FaultyLink {
    /// Listens on a free loopback port and relays to `upstream_url` (`http://host:port[/prefix]`). To be called
    /// inside a Tokio runtime.
    pub fn start(upstream_url: &str, plan: FaultPlan) -> io::Result<Link> {
        let shared = Arc::new(Shared {
            upstream: upstream_url.trim_end_matches('/').to_owned(),
            random: Mutex::new(StdRng::seed_from_u64(plan.seed)),
            plan: Mutex::new(plan),
            stats: Arc::default(),
            history: Mutex::default(),
            late_posts: http::LatePosts::default(),
        });
        let state = web::Data::from(Arc::clone(&shared));
        let server = HttpServer::new(move || {
            App::new()
                .app_data(state.clone())
                .app_data(web::Data::new(client()))
                .app_data(web::PayloadConfig::new(RELAY_MAX_BYTES))
                .route("/api/daemon/stream", web::get().to(stream::relay))
                .route("/api/daemon-event", web::post().to(http::event))
                .route("/api/daemon/position", web::get().to(http::position))
        })
        .workers(1)
        // A cut is to be seen at once; otherwise a closed connection lingers for a second.
        .client_disconnect_timeout(Duration::ZERO)
        .disable_signals()
        .bind(("127.0.0.1", 0))?;
        let address = server.addrs().first().copied().ok_or_else(|| io::Error::other("no address was bound"))?;
        let server = server.run();
        let handle = server.handle();
        tokio::spawn(server);
        Ok(Link { url: format!("http://{address}"), shared, handle })
    }
}

fn client() -> Client {
    // Taken already where the program has chosen its provider at start.
    let _ = rustls::crypto::ring::default_provider().install_default();
    Client::builder().disable_redirects().no_default_headers().timeout(Duration::from_mins(1)).finish()
}

impl Link {
    /// The base URL for a daemon's `--server`.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// What was relayed, and every fault made so far.
    pub fn stats(&self) -> Arc<LinkStats> {
        Arc::clone(&self.shared.stats)
    }

    /// Makes other mistakes from now on; the seed of the new plan is not used.
    pub fn change_plan(&self, plan: FaultPlan) {
        *lock(&self.shared.plan) = plan;
    }

    /// Cuts everything and stops listening.
    pub async fn stop(self) {
        self.handle.stop(false).await;
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        drop(self.handle.stop(false));
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    /// Whether to make this mistake now. It is counted where the answer is yes.
    fn makes(&self, fault: Fault) -> bool {
        let probability = lock(&self.plan).probability(fault);
        let made = probability > 0.0 && lock(&self.random).random_bool(probability);
        if made {
            self.stats.count(fault);
        }
        made
    }

    /// Some part of the longest delay.
    fn some_delay(&self) -> Duration {
        let longest = lock(&self.plan).delay_max;
        longest.mul_f64(lock(&self.random).random_range(0.0..=1.0))
    }

    fn random_below(&self, bound: usize) -> usize {
        if bound == 0 { 0 } else { lock(&self.random).random_range(0..bound) }
    }

    fn refuses_streams(&self) -> Option<u16> {
        lock(&self.plan).refuse_stream
    }
}
