//! An operator's emergency bypass of the coordination store (section 5, tokens): off by default, scoped to users,
//! expiring, audited. Where there is none, everything that the store cannot vouch for is refused.

use std::sync::Arc;

use uuid::Uuid;

use super::coordination::Coordination;
use crate::contract::{PreviewSessionId, Timestamp, UserId};

/// For whom, and for what: what the audit says of a use.
#[derive(Debug, Clone, Copy)]
pub struct BypassUse<'a> {
    /// Whose request it is, by a token or by the host application's word that was checked before.
    pub user: &'a UserId,
    /// Its session, where there is one yet.
    pub session: Option<PreviewSessionId>,
    /// What is asked for. `None`: a look at what goes on already, which is no use of its own.
    pub route: Option<&'static str>,
    /// Names a proxied request.
    pub proxy_req_id: Option<Uuid>,
}

/// What stands in for the coordination store while it is away. Decides again with each call.
pub trait Bypass: Send + Sync {
    /// The coordination for a user's request; `None` where the user is not named. The store itself answers as long as
    /// it can.
    fn for_user(&self, of: BypassUse<'_>) -> Option<Arc<dyn Coordination>>;

    /// For what has to be asked before anybody can say who it is: keys that are known already, and limits of
    /// addresses. It marks no token as used and lets no request through.
    fn before_user(&self) -> Arc<dyn Coordination>;

    /// Whether the store is away.
    fn is_away(&self) -> bool;

    /// Whether the store is away and the user is let in nevertheless, now.
    fn covers(&self, user: &UserId) -> bool;

    /// When it ends, whatever happens.
    fn until(&self) -> Timestamp;
}
