//! Error codes for machines (section 7). Their HTTP statuses stand in one table, in the crate above.

use super::enums::names;

names! {
    /// The `code` of every error body.
    ErrorCode {
        /// The request is not of the shape.
        InvalidRequest = "invalid_request",
        /// A token or session is past its life.
        Expired = "expired",
        /// Taken back.
        Revoked = "revoked",
        /// A signature does not verify.
        SignatureMismatch = "signature_mismatch",
        /// Not allowed.
        PermissionDenied = "permission_denied",
        /// Signed for something else.
        BindingMismatch = "binding_mismatch",
        /// The address is not allowed.
        ProxySsrfBlocked = "proxy_ssrf_blocked",
        /// The path is not allowed.
        ProxyPathDenied = "proxy_path_denied",
        /// No such thing, or previews are switched off.
        NotFound = "not_found",
        /// A single-use token came again.
        TokenReplay = "token_replay",
        /// The run is not the chat's active one.
        RunNotActive = "run_not_active",
        /// Somebody else wrote first, five times in a row.
        Conflict = "conflict",
        /// The ready guard said no.
        ReadyBlocked = "ready_blocked",
        /// The body is over its cap.
        PayloadTooLarge = "payload_too_large",
        /// Too many requests.
        RateLimited = "rate_limited",
        /// Too many requests at once.
        ConcurrencyLimited = "concurrency_limited",
        /// WebSocket is needed and switched off.
        WsRequired = "ws_required",
        /// A session's container could not be looked at (section 8).
        ContainerUnavailable = "container_unavailable",
        /// A session's container does not run (section 8).
        ContainerNotRunning = "container_not_running",
        /// A session's container has no address (section 8).
        ContainerNoAddress = "container_no_address",
        /// The coordination store is out of reach.
        CacheUnavailable = "cache_unavailable",
        /// The database or the object store is out of reach.
        StoreUnavailable = "store_unavailable",
        /// The upstream cannot be reached.
        UpstreamUnreachable = "upstream_unreachable",
        /// The upstream did not answer in time.
        UpstreamTimeout = "upstream_timeout",
    }
}
