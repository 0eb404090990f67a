-- Daemon events that were set aside, and what is left of them after retention.

create table daemon_event_quarantine (
    id                uuid        primary key,
    thread_id         text        not null,
    thread_chat_id    text        not null,
    run_id_or_null    text,
    active_run_id     uuid,
    repo_full_name    text        not null,
    reason            text        not null
        constraint daemon_event_quarantine_reason_check
        check (reason in ('missing_run_id', 'mismatch', 'legacy_mode', 'payload_version_mismatch', 'missing_end_sha',
            'late_gap')),
    payload_hash      bytea       not null
        constraint daemon_event_quarantine_payload_hash_check check (octet_length(payload_hash) = 32),
    payload_prefix_2k text        not null
        constraint daemon_event_quarantine_prefix_length check (octet_length(payload_prefix_2k) <= 2048),
    payload_bytes     bigint      not null,
    payload_r2_key    text,
    created_at        timestamptz not null
);

-- A retried envelope leaves one row.
create unique index daemon_event_quarantine_body_key on daemon_event_quarantine
    (thread_id, thread_chat_id, coalesce(run_id_or_null, ''), reason, payload_hash);
create index daemon_event_quarantine_thread_created_idx on daemon_event_quarantine (thread_id, created_at desc, id desc);
create index daemon_event_quarantine_created_idx on daemon_event_quarantine (created_at);

create table daemon_event_quarantine_day (
    day            date   not null,
    repo_full_name text   not null,
    reason         text   not null
        constraint daemon_event_quarantine_day_reason_check
        check (reason in ('missing_run_id', 'mismatch', 'legacy_mode', 'payload_version_mismatch', 'missing_end_sha',
            'late_gap')),
    rows           bigint not null,
    primary key (day, repo_full_name, reason)
);
