//! Header, key, event and metric names (sections 3 to 13).

/// Carries the shared key of host applications on every `/api/internal/*` route.
pub const HEADER_INTERNAL_SERVICE_KEY: &str = "X-Internal-Service-Key";
/// Carries the daemon's token.
pub const HEADER_DAEMON_TOKEN: &str = "X-Daemon-Token";
/// Carries the daemon's own version, for the log.
pub const HEADER_DAEMON_VERSION: &str = "X-Daemon-Version";
/// Carries a comma-separated list of what the daemon can do.
pub const HEADER_DAEMON_CAPABILITIES: &str = "X-Daemon-Capabilities";
/// The capability of a daemon that speaks envelopes of version 2.
pub const CAPABILITY_ENVELOPE_V2: &str = "daemon_event_envelope_v2";

/// Audience of a daemon token.
pub const AUDIENCE_DAEMON: &str = "runwarden-daemon";
/// Issuer of a daemon token.
pub const ISSUER_DAEMON: &str = "runwarden";

/// Every container of section 8 is called by this and its session's id.
pub const CONTAINER_NAME_PREFIX: &str = "sandbox-session-";

/// Lease of the backstop sweep.
pub const KEY_SWEEP_LEASE: &str = "terragon:v1:run:sweep:lease";
/// Prefix of the counter of quarantine offloads; the repository follows.
pub const KEY_QUARANTINE_OFFLOAD: &str = "terragon:v1:run:quarantine-offload";

/// Issuer of every preview token (section 5).
pub const ISSUER_PREVIEW: &str = "terragon-preview";
/// Prefix of the preview keys; namespace, then `active_kid`, `prev_kid` or a `kid` follow (section 5).
pub const KEY_PREVIEW_KEYS: &str = "terragon:v1:preview:keys";
/// Prefix of the mark that an exchange token was used; its `jti` follows (section 5).
pub const KEY_EXCHANGE_JTI: &str = "terragon:v1:preview:exchange:jti";
/// Prefix of the mark that an exchange token's `nonce` was used.
pub const KEY_EXCHANGE_NONCE: &str = "terragon:v1:preview:exchange:nonce";
/// Prefix of the mark that a subscription token was used; its `jti` follows.
pub const KEY_BROADCAST_JTI: &str = "terragon:v1:preview:broadcast:jti";
/// Prefix of what is remembered of a user's access; environment, user and repository follow (section 6).
pub const KEY_REPO_ACCESS: &str = "terragon:v1:preview:repo-access";
/// Prefix of a preview session's revocation version; its id follows.
pub const KEY_PREVIEW_REVOCATION: &str = "terragon:v1:preview:revocation";
/// Prefix of a preview session's slots; its id follows.
pub const KEY_PREVIEW_SLOTS: &str = "terragon:v1:preview:slots";
/// Prefix of the windows of limits; route, limiter, subject and window follow.
pub const KEY_PREVIEW_LIMIT: &str = "terragon:v1:preview:limit";

/// Names one proxied request in its answer, in logs and in events (section 5).
pub const HEADER_PROXY_REQ_ID: &str = "X-Proxy-Req-Id";
/// Schema version of what a subscription sends (section 5).
pub const BROADCAST_SCHEMA_VERSION: u32 = 1;
/// The channel type of a subscription (section 5, tokens).
pub const BROADCAST_CHANNEL_TYPE: &str = "preview";

/// Schema version of preview events (section 11).
pub const EVENT_SCHEMA_VERSION: u32 = 1;
/// A preview session moved (section 11).
pub const EVENT_SESSION_STATE_CHANGED: &str = "v1.preview.session.state_changed";
/// A validation attempt started (section 11).
pub const EVENT_VALIDATION_ATTEMPT_STARTED: &str = "v1.preview.validation.attempt_started";
/// A validation attempt ended (section 11).
pub const EVENT_VALIDATION_ATTEMPT_FINISHED: &str = "v1.preview.validation.attempt_finished";
/// A container of section 8 will be stopped, because nobody uses it.
pub const EVENT_CONTAINER_IDLE_WARNING: &str = "v1.container.idle_warning";
/// A container of section 8 was stopped, because nobody used it.
pub const EVENT_CONTAINER_IDLE_STOPPED: &str = "v1.container.idle_stopped";
/// Access was denied (section 11).
pub const EVENT_ACCESS_DENIED: &str = "v1.preview.access.denied";

/// Envelopes without `runId` for strict runs (section 11).
pub const METRIC_STRICT_MISMATCH: &str = "preview.strict_mismatch";
/// Envelopes without `runId` for legacy runs (section 11).
pub const METRIC_LEGACY_MODE: &str = "preview.legacy_mode";
/// Terminal envelopes without `endSha` (section 11).
pub const METRIC_MISSING_END_SHA: &str = "preview.missing_end_sha";

/// Milliseconds from `pending` to `ready`, by the server's clock (section 11).
pub const METRIC_PREVIEW_READY_LATENCY: &str = "preview_ready_latency_ms";

/// `failure_reason` of a run that the backstop sweep ended (section 4).
pub const FAILURE_MISSING_END_SHA_TIMEOUT: &str = "missing_end_sha_timeout";
