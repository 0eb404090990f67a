//! What every request of an open session is admitted with: made for the first of them, and the same for the others.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use crate::ports::LimitWindow;
use crate::ports::store::PreviewSession;

use super::access::access_key;
use super::limits::{PreviewLimits, counted_as};

/// Clients' addresses that are remembered for a session; past it all are forgotten. Most sessions have one.
const ADDRESSES_MAX: usize = 16;

/// Keys of the gate.
#[derive(Debug, Default)]
pub(super) struct Admissions {
    access_key: OnceLock<String>,
    windows: Mutex<Vec<(IpAddr, Arc<[LimitWindow]>)>>,
}

impl Admissions {
    /// [`access_key`] of the session's user. `environment` is the installation's, always the same one.
    pub(super) fn access_key(&self, environment: &str, session: &PreviewSession) -> &str {
        self.access_key.get_or_init(|| access_key(environment, &session.user_id, &session.repo_full_name))
    }

    /// [`PreviewLimits::proxy`] for a client's address. `limits` are the installation's, always the same ones.
    pub(super) fn windows(&self, limits: &PreviewLimits, session: &PreviewSession, ip: IpAddr) -> Arc<[LimitWindow]> {
        let ip = counted_as(ip);
        let mut known = self.windows.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, windows)) = known.iter().find(|(address, _)| *address == ip) {
            return Arc::clone(windows);
        }
        if known.len() >= ADDRESSES_MAX {
            known.clear();
        }
        let windows: Arc<[LimitWindow]> = limits.proxy(session.id, &ip).into();
        known.push((ip, Arc::clone(&windows)));
        windows
    }
}
