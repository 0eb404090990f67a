//! Every bound of the contract, written once. The unit stands in the name.

/// Longest thread, chat, user, repository, sandbox or start-request id.
pub const ID_MAX_BYTES: usize = 200;
/// Longest usable `eventId` (section 4, case 6).
pub const EVENT_ID_MAX_BYTES: usize = 255;
/// Highest usable `seq`: the largest integer that a JavaScript number holds exactly.
pub const SEQ_MAX: i64 = 9_007_199_254_740_991;
/// Largest daemon envelope (section 4, case 2).
pub const ENVELOPE_MAX_BYTES: usize = 8 * 1024 * 1024;
/// Largest body of an internal API call.
pub const INTERNAL_BODY_MAX_BYTES: usize = 256 * 1024;
/// The envelope version that a run asks of its daemon (section 3).
pub const PAYLOAD_VERSION: u8 = 2;
/// The envelope versions that are understood.
pub const PAYLOAD_VERSIONS_SUPPORTED: [u8; 2] = [1, 2];

/// Retries of a lost race when a run is created or bound (section 3).
pub const RUN_CONTEXT_RETRIES_MAX: u32 = 5;
/// First step of the backoff between those retries: `25 ms * 2^attempt`.
pub const RUN_CONTEXT_BACKOFF_BASE_MS: u64 = 25;
/// Jitter of that backoff, in percent to either side.
pub const RUN_CONTEXT_BACKOFF_JITTER_PERCENT: u64 = 20;

/// Re-decisions of one batch of envelopes after somebody else moved the run.
pub const INGEST_CONFLICT_RETRIES_MAX: u32 = 8;
/// Lost races of one batch after which the run is held: the others wait, where the store can make them.
pub const INGEST_HOLD_AFTER_RACES: u32 = 3;
/// Envelopes that one stream may have in flight, and that one commit of a run carries at the most.
pub const INGEST_BATCH_MAX_EVENTS: usize = 256;
/// Bytes of envelopes that one commit of a run carries at the most, unless a single one is larger.
pub const INGEST_BATCH_MAX_BYTES: usize = 2 * 1024 * 1024;
/// Messages waiting for one run actor; the next sender waits.
pub const RUN_MAILBOX_CAPACITY: usize = 64;
/// How long a sender waits for a run actor before it is told `store_unavailable`.
pub const RUN_ANSWER_TIMEOUT_MS: u64 = 20_000;
/// How long a run actor waits for one call to the store; after that the outcome is unknown and it is rebuilt.
pub const STORE_CALL_TIMEOUT_MS: u64 = 10_000;

/// Quarantined payload bytes kept in the row (section 4).
pub const QUARANTINE_PREFIX_BYTES: usize = 2 * 1024;
/// Larger quarantined payloads go to the object store (section 4).
pub const QUARANTINE_OFFLOAD_ABOVE_BYTES: usize = 16 * 1024;
/// Offloads for one repository in one minute (section 4).
pub const QUARANTINE_OFFLOADS_PER_MINUTE: u32 = 20;
/// Days that a quarantine row lives (section 4).
pub const QUARANTINE_RETENTION_DAYS: i64 = 30;

/// How often the backstop sweep runs (section 4).
pub const SWEEP_INTERVAL_SECONDS: u64 = 60;
/// Life of the sweep's lease: shorter than two intervals, so that a dead node's lease is taken over.
pub const SWEEP_LEASE_SECONDS: u64 = 90;
/// How long a run may wait for `endSha` after a terminal event that lacked it; default of a setting.
pub const MISSING_END_SHA_TIMEOUT_SECONDS: u64 = 300;
/// How long an active run may be silent; default of a setting.
pub const RUN_SILENCE_TIMEOUT_SECONDS: u64 = 6 * 3600;
/// How long a run actor stays without work; default of a setting.
pub const ACTOR_IDLE_SECONDS: u64 = 300;
/// Attempts to carry out one committed effect before it is given up and logged as an error.
pub const EFFECT_ATTEMPTS_MAX: u32 = 10;
/// Time limit of one effect: a HEAD look-up in a sandbox at the most.
pub const EFFECT_TIMEOUT_MS: u64 = 30_000;

/// Events on one JSON page for readers.
pub const EVENT_PAGE_MAX: usize = 500;
/// Bytes of payload on one page for readers, unless a single event is larger.
pub const EVENT_PAGE_MAX_BYTES: usize = 8 * 1024 * 1024;
/// Quarantine rows on one page.
pub const QUARANTINE_PAGE_MAX: usize = 100;
/// How often a node with live readers looks for events that another node has committed.
pub const FEED_POLL_MS: u64 = 500;
/// Events that a live feed keeps in memory for readers that are a little behind.
pub const FEED_WINDOW_EVENTS: usize = 1024;
/// Bytes that a live feed keeps in memory for readers that are a little behind.
pub const FEED_WINDOW_BYTES: usize = 8 * 1024 * 1024;
/// Silence on an SSE stream before a comment line keeps it open.
pub const SSE_KEEPALIVE_SECONDS: u64 = 15;

/// Life of a preview session (section 5).
pub const PREVIEW_SESSION_SECONDS: u64 = 1800;
/// Longest life of an exchange token (section 5).
pub const PREVIEW_EXCHANGE_TOKEN_SECONDS: u64 = 300;
/// Life of a subscription token (section 5).
pub const PREVIEW_BROADCAST_TOKEN_SECONDS: u64 = 60;
/// How far two clocks may be apart (section 5, tokens).
pub const PREVIEW_CLOCK_SKEW_SECONDS: u64 = 60;
/// How long the previous key of a namespace stays good after a rotation (section 5).
pub const PREVIEW_KEY_GRACE_SECONDS: u64 = 15 * 60;
/// How long `session/start` waits for a terminal state before it answers `initializing` (section 5).
pub const PREVIEW_START_ANSWER_MS: u64 = 25_000;
/// How long a preview may take to come up; after that it is `health_check_timeout`.
pub const PREVIEW_HEALTH_TIMEOUT_MS: u64 = 120_000;
/// How long bringing a preview up may take with all that comes before its health is asked: sandboxes that answer late.
pub const PREVIEW_START_TIMEOUT_MS: u64 = 240_000;
/// Age at which a start counts as left behind by a server that died: its own server would have ended it by then, clocks
/// that are apart included.
pub const PREVIEW_START_STALLED_MS: u64 = PREVIEW_START_TIMEOUT_MS + PREVIEW_CLOCK_SKEW_SECONDS * 1000;
/// Pause between two looks at a preview that is coming up.
pub const PREVIEW_HEALTH_INTERVAL_MS: u64 = 250;
/// Last bytes of a failed preview command's output that are kept.
pub const PREVIEW_OUTPUT_TAIL_BYTES: usize = 4 * 1024;
/// Longest preview command.
pub const PREVIEW_COMMAND_MAX_BYTES: usize = 4096;
/// Largest `.terragon/preview.json`.
pub const PREVIEW_CONFIG_MAX_BYTES: usize = 64 * 1024;
/// Longest path, with its query, that is forwarded to a preview.
pub const PREVIEW_PATH_MAX_BYTES: usize = 2048;

/// Largest request body that is forwarded to a preview (section 5, proxy).
pub const PROXY_REQUEST_MAX_BYTES: u64 = 2 * 1024 * 1024;
/// Time for an upstream to answer, and for its body to end (section 5, proxy).
pub const PROXY_HTTP_TIMEOUT_MS: u64 = 30_000;
/// Silence that ends an event stream or WebSocket (section 5, proxy).
pub const PROXY_STREAM_IDLE_MS: u64 = 15 * 60_000;
/// Time to connect to an upstream.
pub const PROXY_CONNECT_TIMEOUT_MS: u64 = 5_000;
/// Requests at once for one session, streams included (section 5, proxy).
pub const PROXY_SLOTS_MAX: u32 = 16;
/// Life of a slot that nobody extends: a server that dies gives its slots back after it.
pub const PROXY_SLOT_MS: u64 = 60_000;
/// How often a node looks whether its live sessions were revoked elsewhere; a cut within a second follows from it.
pub const PREVIEW_REVOCATION_POLL_MS: u64 = 300;
/// How long streams go on while nobody can say whether they were revoked; then they are cut.
pub const PREVIEW_REVOCATION_BLIND_MS: i64 = 5_000;

/// `session/start` for a user: sustained per minute (section 5, limits), default of a setting.
pub const LIMIT_START_USER_PER_MINUTE: u32 = 30;
/// `session/start` for an address: sustained per minute.
pub const LIMIT_START_IP_PER_MINUTE: u32 = 120;
/// `session/start` for a user: burst in 10 s.
pub const LIMIT_START_USER_BURST: u32 = 10;
/// `session/start` for an address: burst in 10 s.
pub const LIMIT_START_IP_BURST: u32 = 30;
/// Exchange for a user: sustained per minute.
pub const LIMIT_EXCHANGE_USER_PER_MINUTE: u32 = 60;
/// Exchange for an address: sustained per minute.
pub const LIMIT_EXCHANGE_IP_PER_MINUTE: u32 = 240;
/// Exchange for a user: burst in 10 s.
pub const LIMIT_EXCHANGE_USER_BURST: u32 = 20;
/// Exchange for an address: burst in 10 s.
pub const LIMIT_EXCHANGE_IP_BURST: u32 = 60;
/// Proxied requests of a session: sustained per minute.
pub const LIMIT_PROXY_SESSION_PER_MINUTE: u32 = 1200;
/// Proxied requests of an address: sustained per minute.
pub const LIMIT_PROXY_IP_PER_MINUTE: u32 = 3600;
/// Proxied requests of a session: burst in 10 s.
pub const LIMIT_PROXY_SESSION_BURST: u32 = 240;
/// Proxied requests of an address: burst in 10 s.
pub const LIMIT_PROXY_IP_BURST: u32 = 600;
/// Look-ups in the database, in 10 s and of one address, for proxied requests that show no cookie and whose session is
/// not open on the server.
pub const STRANGER_LOOKUPS_MAX: u32 = 60;
/// Window of the sustained limits.
pub const LIMIT_SUSTAINED_WINDOW_MS: u64 = 60_000;
/// Window of the bursts.
pub const LIMIT_BURST_WINDOW_MS: u64 = 10_000;

/// How long a granted access to a repository is remembered (section 6); never longer than a session.
pub const ACCESS_TTL_SECONDS: u64 = 60;
/// How long a refused access is remembered (section 6).
pub const ACCESS_NEGATIVE_TTL_SECONDS: u64 = 5;
/// Validation attempts for one run (section 9).
pub const VALIDATION_ATTEMPTS_MAX: u32 = 3;

/// Lowest port that a container's preview may have (section 8).
pub const CONTAINER_PORT_MIN: u16 = 1024;
/// Longest session id of a container (section 8).
pub const CONTAINER_SESSION_ID_MAX_BYTES: usize = 128;
/// Longest name of one more port of a session.
pub const PORT_NAME_MAX_BYTES: usize = 32;
/// Named ports of one session.
pub const NAMED_PORTS_MAX: usize = 16;
/// Sessions that may have registered a port at the same time (section 8); the map lives in memory.
pub const CONTAINER_REGISTRATIONS_MAX: usize = 10_000;
/// Largest request to a container's preview. It streams, so that this bounds a mistake and not memory.
pub const CONTAINER_REQUEST_MAX_BYTES: u64 = 1024 * 1024 * 1024;
/// Questions to the Docker engine about containers of previews that may be under way at once.
pub const CONTAINER_QUESTIONS_MAX: usize = 32;
/// How long such a question may wait for its turn, and again for its answer.
pub const CONTAINER_QUESTION_TIMEOUT_MS: u64 = 10_000;
/// Largest answer of the Docker engine that is read whole: a list of some thousand containers.
pub const CONTAINER_ENGINE_ANSWER_MAX_BYTES: u64 = 8 * 1024 * 1024;

/// Seconds that a session's container has between the request to stop and its end (section 8).
pub const CONTAINER_STOP_GRACE_MAX_SECONDS: u32 = 10;
/// Time limit of a command in a session's container, unless its caller says otherwise.
pub const CONTAINER_EXEC_DEFAULT_MS: u64 = 30_000;
/// Longest time limit of a command in a session's container.
pub const CONTAINER_EXEC_MAX_MS: u64 = 600_000;
/// What is kept of each of a command's two outputs, unless its caller says otherwise.
pub const CONTAINER_OUTPUT_DEFAULT_BYTES: usize = 1024 * 1024;
/// Most that is kept of each of a command's two outputs.
pub const CONTAINER_OUTPUT_MAX_BYTES: usize = 8 * 1024 * 1024;
/// Commands in sessions' containers, files included, that may be under way at once on one server.
pub const CONTAINER_COMMANDS_MAX: usize = 64;
/// Largest file of a workspace that is read or written.
pub const CONTAINER_FILE_MAX_BYTES: usize = 8 * 1024 * 1024;
/// Longest relative path of a file in a workspace.
pub const CONTAINER_PATH_MAX_BYTES: usize = 1024;
/// Entries of a folder that are listed.
pub const CONTAINER_LIST_MAX: usize = 1000;
