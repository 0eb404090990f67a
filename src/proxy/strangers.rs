//! Requests to sessions that are not open here, from clients that show no cookie of theirs. Only the database can say
//! whether there is such a session, and no limit of the session's or the user's counts them: so few of them are let
//! through to it. Held in memory: it guards this server's database calls, and needs no store for it.

use std::hash::{BuildHasher as _, RandomState};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use actix_web::HttpRequest;
use runwarden_actors::contract::limits::{LIMIT_BURST_WINDOW_MS, STRANGER_LOOKUPS_MAX};
use runwarden_actors::contract::{Limiter, PreviewSessionId};
use runwarden_actors::preview::counted_as;
use tokio::time::Instant;

use super::route::shown_tokens;
use super::services::PreviewServices;
use crate::auth::cookies::CookieScope;
use crate::auth::{Bound as _, client_ip};
use crate::http::ApiError;

/// Counters. Addresses share them by chance, as nobody outside can foretell.
const COUNTERS: usize = 4096;

/// Counts look-ups by address. Its size never changes.
pub(super) struct Strangers {
    since: Instant,
    spread: RandomState,
    /// The window's number in the upper half, the look-ups in it in the lower one.
    counters: Box<[AtomicU64]>,
}

impl Default for Strangers {
    fn default() -> Self {
        let counters = (0..COUNTERS).map(|_| AtomicU64::new(0)).collect();
        Self { since: Instant::now(), spread: RandomState::new(), counters }
    }
}

impl Strangers {
    /// Counts one, or says how many milliseconds this address has to wait.
    pub(super) fn count(&self, address: IpAddr) -> Result<(), u64> {
        self.count_at(address, self.since.elapsed())
    }

    fn count_at(&self, address: IpAddr, elapsed: Duration) -> Result<(), u64> {
        let millis = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
        let window = (millis / LIMIT_BURST_WINDOW_MS) & 0xffff_ffff;
        let at = self.spread.hash_one(counted_as(address)) % self.counters.len() as u64;
        let Some(counter) = usize::try_from(at).ok().and_then(|at| self.counters.get(at)) else { return Ok(()) };
        let admitted = counter.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |before| {
            let used = if before >> 32 == window { before & 0xffff_ffff } else { 0 };
            (used < u64::from(STRANGER_LOOKUPS_MAX)).then_some((window << 32) | (used + 1))
        });
        admitted.map(drop).map_err(|_| LIMIT_BURST_WINDOW_MS - millis % LIMIT_BURST_WINDOW_MS)
    }
}

/// Before a session is looked up that is not open here: refuses whoever has asked for too many of them already. Not
/// counted is whoever has a cookie that was signed for this very one: it proves that there is, or was, such a session.
pub(super) async fn let_through(
    services: &PreviewServices,
    request: &HttpRequest,
    session: PreviewSessionId,
    scope: CookieScope,
) -> Result<(), ApiError> {
    for token in shown_tokens(request, scope) {
        if let Ok(claims) = services.tokens.verify_cookie(token).await
            && claims.binding().preview_session_id == session
        {
            return Ok(());
        }
    }
    let ip = client_ip(request, &services.settings.trusted_proxies)
        .ok_or_else(|| ApiError::invalid("the connection has no address"))?;
    services.strangers.count(ip.address).map_err(|wait_ms| {
        tracing::info!(preview_session_id = %session, limiter = %Limiter::Ip, client_ip_source = ip.source, "rate limited");
        ApiError::rate_limited(Limiter::Ip, wait_ms, services.deps.run.clock.now())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn an_address_has_so_many_and_the_next_window_as_many_again() {
        let strangers = Strangers::default();
        let count = |text, millis| strangers.count_at(address(text), Duration::from_millis(millis));
        for _ in 0..STRANGER_LOOKUPS_MAX {
            assert_eq!(count("192.0.2.1", 1_000), Ok(()));
        }
        assert_eq!(count("192.0.2.1", 1_000), Err(9_000));
        assert_eq!(count("::ffff:192.0.2.1", 9_999), Err(1));
        assert_eq!(count("192.0.2.1", 10_000), Ok(()));
    }

    #[test]
    fn a_network_of_version_6_is_one_client() {
        let strangers = Strangers::default();
        for last in 0..STRANGER_LOOKUPS_MAX {
            assert_eq!(strangers.count_at(address(&format!("2001:db8::{last:x}")), Duration::ZERO), Ok(()));
        }
        assert_eq!(strangers.count_at(address("2001:db8::ffff:1"), Duration::ZERO), Err(10_000));
    }
}
