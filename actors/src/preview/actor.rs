//! One open session: loaded from the store, held open until its life ends, it is taken back, or nobody uses it.
//! Requests read what it grants from its cell; no request and no byte passes through the mailbox.

use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use actix::fut::wrap_future;
use actix::prelude::*;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::contract::{PreviewBinding, PreviewSessionId, PreviewSessionState, Timestamp};
use crate::ports::LimitWindow;
use crate::ports::store::{PinnedAddresses, PreviewSession};
use crate::run::{Deps, bounded};

use super::admission::Admissions;
use super::deps::PreviewOptions;
use super::handle::OpenError;
use super::pin::is_due;
use super::revocation::sweep_previews;

/// An open session, as requests see it.
#[derive(Debug)]
pub struct OpenSession {
    /// The row. Its addresses may have moved on; see [`OpenSession::pinned`].
    pub record: PreviewSession,
    binding: PreviewBinding,
    origin: String,
    admissions: Admissions,
    cancel: CancellationToken,
    in_flight: AtomicUsize,
    pin: RwLock<Pin>,
    /// One look-up at a time; whoever waited finds it done.
    pub(super) looking_up: tokio::sync::Mutex<()>,
}

#[derive(Debug, Clone)]
struct Pin {
    addresses: PinnedAddresses,
    checked_at: Timestamp,
    refreshed_once: bool,
}

impl OpenSession {
    fn new(record: PreviewSession) -> Option<Self> {
        let upstream = record.upstream.as_ref()?;
        let pin = Pin {
            addresses: upstream.pinned.clone(),
            checked_at: upstream.last_dns_check_at,
            refreshed_once: upstream.dns_refreshed_once,
        };
        Some(Self {
            pin: RwLock::new(pin),
            binding: record.binding(),
            origin: upstream.origin(),
            admissions: Admissions::default(),
            record,
            cancel: CancellationToken::new(),
            in_flight: AtomicUsize::new(0),
            looking_up: tokio::sync::Mutex::new(()),
        })
    }

    /// Fires when the session ends: everything that it granted ends with it.
    pub const fn cancelled(&self) -> &CancellationToken {
        &self.cancel
    }

    /// What its tokens must say.
    pub const fn binding(&self) -> &PreviewBinding {
        &self.binding
    }

    /// The upstream's origin, as browsers write it.
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// Where its user's access to the repository is remembered.
    pub fn access_key(&self, options: &PreviewOptions) -> &str {
        self.admissions.access_key(&options.environment, &self.record)
    }

    /// The windows that a request from this address is counted in.
    pub fn windows(&self, options: &PreviewOptions, ip: IpAddr) -> Arc<[LimitWindow]> {
        self.admissions.windows(&options.limits, &self.record, ip)
    }

    /// Counts a request or stream for as long as the guard lives.
    pub fn enter(self: &Arc<Self>) -> InFlight {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        InFlight(Arc::clone(self))
    }

    /// Requests and streams of this process.
    pub fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// The addresses that connections may go to, when they were last looked up, and whether the refresh was had.
    pub fn pinned(&self) -> (PinnedAddresses, Timestamp, bool) {
        let pin = self.pin.read().unwrap_or_else(PoisonError::into_inner);
        (pin.addresses.clone(), pin.checked_at, pin.refreshed_once)
    }

    /// The first pinned address, while it is believed.
    pub fn address(&self, now: Timestamp) -> Option<IpAddr> {
        let pin = self.pin.read().unwrap_or_else(PoisonError::into_inner);
        if is_due(pin.checked_at, &pin.addresses, now) { None } else { pin.addresses.addresses().next() }
    }

    /// The look-up was inside of what is pinned, or of the same anchors (then with its addresses).
    pub fn set_checked(&self, addresses: Option<PinnedAddresses>, at: Timestamp) {
        let mut pin = self.pin.write().unwrap_or_else(PoisonError::into_inner);
        pin.checked_at = at;
        if let Some(addresses) = addresses {
            pin.addresses = addresses;
        }
    }

    /// The one refresh is written.
    pub fn set_refreshed(&self, addresses: PinnedAddresses, at: Timestamp) {
        *self.pin.write().unwrap_or_else(PoisonError::into_inner) =
            Pin { addresses, checked_at: at, refreshed_once: true };
    }
}

/// Counts one request or stream.
#[derive(Debug)]
pub struct InFlight(Arc<OpenSession>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What an actor shows to requests: the session while it is open.
pub(super) type Cell = Arc<RwLock<Option<Arc<OpenSession>>>>;

/// Asks for the session.
#[derive(Message)]
#[rtype(result = "Result<Arc<OpenSession>, OpenError>")]
pub(super) struct Open;

/// The session was taken back: its version is this now.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct Close(pub(super) i64);

/// Nobody can say whether the session was taken back.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct GoneBlind;

enum Slot {
    Loading,
    Open(Arc<OpenSession>),
    Closed(OpenError),
}

/// Owns one preview session of this process.
pub(crate) struct PreviewActor {
    id: PreviewSessionId,
    deps: Deps,
    cell: Cell,
    slot: Slot,
    idle_after: Duration,
    last_used: Instant,
}

impl PreviewActor {
    pub(crate) fn new(id: PreviewSessionId, deps: Deps, idle_after: Duration, cell: Cell) -> Self {
        Self { id, deps, cell, slot: Slot::Loading, idle_after, last_used: Instant::now() }
    }

    fn show(&self, session: Option<Arc<OpenSession>>) {
        *self.cell.write().unwrap_or_else(PoisonError::into_inner) = session;
    }

    /// Ends everything that was granted, and the actor once everybody who waits has an answer.
    fn close(&mut self, why: OpenError, ctx: &mut Context<Self>) {
        self.show(None);
        if let Slot::Open(session) = &self.slot {
            tracing::info!(preview_session_id = %self.id, in_flight = session.in_flight(), %why, "preview session cut");
            session.cancel.cancel();
        }
        self.slot = Slot::Closed(why);
        ctx.spawn(wrap_future::<_, Self>(async {}).map(|(), _, ctx| ctx.stop()));
    }

    fn opened(&mut self, loaded: Result<Option<PreviewSession>, crate::ports::StoreError>, ctx: &mut Context<Self>) {
        let now = self.deps.clock.now();
        let session = match loaded {
            Err(error) => return self.close(OpenError::Store(error), ctx),
            Ok(None) => return self.close(OpenError::NotFound, ctx),
            Ok(Some(session)) => session,
        };
        let left = session.expires_at.millis_since(now);
        let why = match session.state {
            PreviewSessionState::Ready if left > 0 => None,
            PreviewSessionState::Ready | PreviewSessionState::Expired => Some(OpenError::Expired),
            PreviewSessionState::Revoked => Some(OpenError::Revoked),
            state => Some(OpenError::NotReady(state)),
        };
        if let Some(why) = why {
            return self.close(why, ctx);
        }
        let Some(open) = OpenSession::new(session) else {
            return self.close(OpenError::NotReady(PreviewSessionState::Ready), ctx);
        };
        let open = Arc::new(open);
        self.show(Some(Arc::clone(&open)));
        self.slot = Slot::Open(open);
        ctx.run_later(Duration::from_millis(u64::try_from(left).unwrap_or(0)), |actor, ctx| {
            let deps = actor.deps.clone();
            // Also for sessions that nobody has open here: whoever comes first writes it down.
            actix_rt::spawn(async move {
                if let Err(error) = bounded(sweep_previews(&deps)).await {
                    tracing::warn!(%error, "ended preview sessions could not be written; the sweep will");
                }
            });
            actor.close(OpenError::Expired, ctx);
        });
    }
}

impl Actor for PreviewActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(64);
        let (store, id) = (Arc::clone(&self.deps.store), self.id);
        let load = async move { bounded(store.load_preview(id)).await };
        ctx.wait(load.into_actor(self).map(|loaded, actor, ctx| actor.opened(loaded, ctx)));
        ctx.run_interval((self.idle_after / 4).max(Duration::from_millis(10)), |actor, ctx| {
            match &actor.slot {
                // A request holds the session by its reference, the cell and this slot hold it too.
                Slot::Open(session) if session.in_flight() > 0 || Arc::strong_count(session) > 2 => {
                    actor.last_used = Instant::now();
                }
                _ if actor.last_used.elapsed() >= actor.idle_after => {
                    actor.show(None);
                    ctx.stop();
                }
                _ => {}
            }
        });
    }

    fn stopped(&mut self, _: &mut Self::Context) {
        self.show(None);
    }
}

impl Drop for PreviewActor {
    /// After a panic too: what was granted must not outlive the one who can take it back.
    fn drop(&mut self) {
        self.show(None);
        if let Slot::Open(session) = &self.slot
            && session.in_flight() > 0
        {
            session.cancel.cancel();
        }
    }
}

impl Handler<Open> for PreviewActor {
    type Result = Result<Arc<OpenSession>, OpenError>;

    fn handle(&mut self, _: Open, _: &mut Self::Context) -> Self::Result {
        self.last_used = Instant::now();
        match &self.slot {
            Slot::Open(session) => Ok(Arc::clone(session)),
            Slot::Closed(why) => Err(why.clone()),
            Slot::Loading => Err(OpenError::Stopped),
        }
    }
}

impl Handler<Close> for PreviewActor {
    type Result = ();

    fn handle(&mut self, Close(version): Close, ctx: &mut Self::Context) {
        if let Slot::Open(session) = &self.slot
            && version > session.record.revocation_version
        {
            self.close(OpenError::Revoked, ctx);
        }
    }
}

impl Handler<GoneBlind> for PreviewActor {
    type Result = ();

    fn handle(&mut self, _: GoneBlind, ctx: &mut Self::Context) {
        self.close(OpenError::Stopped, ctx);
    }
}
