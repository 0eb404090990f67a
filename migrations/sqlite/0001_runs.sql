-- Identities are the 16 bytes of the UUID, times are milliseconds since the epoch.
-- Runs: immutable facts (thread_run), the moving pointer (thread_run_context), accepted events (run_event), and the
-- outbox (run_effect). See docs/tables.md.

create table thread_run (
    run_id                  blob    not null primary key,
    thread_id               text    not null,
    thread_chat_id          text    not null,
    start_request_id        text    not null,
    trigger_source          text    not null
        constraint thread_run_trigger_source_check
        check (trigger_source in ('ui', 'retry', 'follow_up_queue', 'scheduled', 'slash_command', 'system')),
    user_id                 text    not null,
    repo_full_name          text    not null,
    status                  text    not null
        constraint thread_run_status_check
        check (status in ('booting', 'running', 'validating', 'finished', 'failed')),
    codesandbox_id          text,
    sandbox_provider        text
        constraint thread_run_sandbox_provider_check
        check (sandbox_provider in ('docker', 'daytona', 'e2b', 'process')),
    repo_dir                text,
    run_start_sha           text,
    run_end_sha             text,
    frozen_flag_snapshot    text    not null,
    preview_config          text,
    daemon_payload_version  integer
        constraint thread_run_daemon_payload_version_check check (daemon_payload_version in (1, 2)),
    terminal_event_id       text,
    terminal_kind           text
        constraint thread_run_terminal_kind_check check (terminal_kind in ('done', 'failed', 'stopped')),
    failure_reason          text,
    missing_end_sha_at      integer,
    diff_source             text
        constraint thread_run_diff_source_check check (diff_source in ('sha', 'working-tree-fallback')),
    diff_source_context     text,
    last_accepted_seq       integer
        constraint thread_run_last_accepted_seq_range check (last_accepted_seq between 0 and 9007199254740991),
    accepted_count          integer not null default 0,
    duplicate_count         integer not null default 0,
    out_of_order_count      integer not null default 0,
    quarantined_count       integer not null default 0,
    gap_count               integer not null default 0,
    revision                integer not null default 0,
    started_at              integer,
    ended_at                integer,
    created_at              integer not null,
    updated_at              integer not null,
    constraint thread_run_run_id_length check (length(run_id) = 16),
    constraint thread_run_snapshot_is_json check (json_valid(frozen_flag_snapshot)),
    constraint thread_run_sandbox_is_whole check ((codesandbox_id is null) = (sandbox_provider is null)),
    constraint thread_run_terminal_is_whole check ((terminal_event_id is null) = (terminal_kind is null))
) strict;

create unique index thread_run_start_request_key on thread_run (thread_id, thread_chat_id, start_request_id);
create unique index thread_run_active_key on thread_run (thread_id, thread_chat_id)
    where status in ('booting', 'running', 'validating');
create unique index thread_run_terminal_event_key on thread_run (run_id, terminal_event_id)
    where terminal_event_id is not null;
create index thread_run_chat_created_idx on thread_run (thread_id, thread_chat_id, created_at desc);

create trigger thread_run_identity_is_immutable
before update of run_id, thread_id, thread_chat_id, start_request_id, trigger_source, user_id, repo_full_name,
    frozen_flag_snapshot, preview_config, created_at
on thread_run
when old.run_id is not new.run_id
    or old.thread_id is not new.thread_id
    or old.thread_chat_id is not new.thread_chat_id
    or old.start_request_id is not new.start_request_id
    or old.trigger_source is not new.trigger_source
    or old.user_id is not new.user_id
    or old.repo_full_name is not new.repo_full_name
    or old.frozen_flag_snapshot is not new.frozen_flag_snapshot
    or old.preview_config is not new.preview_config
    or old.created_at is not new.created_at
begin
    select raise(abort, 'thread_run: identity, snapshot and trigger never change');
end;

create trigger thread_run_facts_are_written_once
before update of run_start_sha, run_end_sha, daemon_payload_version, terminal_event_id, terminal_kind
on thread_run
when (old.run_start_sha is not null and old.run_start_sha is not new.run_start_sha)
    or (old.run_end_sha is not null and old.run_end_sha is not new.run_end_sha)
    or (old.daemon_payload_version is not null and old.daemon_payload_version is not new.daemon_payload_version)
    or (old.terminal_event_id is not null and old.terminal_event_id is not new.terminal_event_id)
    or (old.terminal_kind is not null and old.terminal_kind is not new.terminal_kind)
begin
    select raise(abort, 'thread_run: SHAs, payload version and terminal event are written once');
end;

create trigger thread_run_end_is_final
before update of status on thread_run
when old.status in ('finished', 'failed') and new.status is not old.status
begin
    select raise(abort, 'thread_run: a run that has ended stays ended');
end;

create trigger thread_run_seq_only_rises
before update of last_accepted_seq on thread_run
when old.last_accepted_seq is not null
    and (new.last_accepted_seq is null or new.last_accepted_seq < old.last_accepted_seq)
begin
    select raise(abort, 'thread_run: last_accepted_seq only rises');
end;

create table thread_run_context (
    thread_id               text    not null,
    thread_chat_id          text    not null,
    -- Checked at the end of the transaction: the pointer row is there to be locked before the run is.
    active_run_id           blob    not null references thread_run (run_id) deferrable initially deferred,
    active_codesandbox_id   text,
    active_sandbox_provider text
        constraint thread_run_context_active_sandbox_provider_check
        check (active_sandbox_provider in ('docker', 'daytona', 'e2b', 'process')),
    active_status           text    not null
        constraint thread_run_context_active_status_check
        check (active_status in ('booting', 'running', 'validating', 'finished', 'failed')),
    version                 integer not null default 0,
    active_updated_at       integer not null,
    primary key (thread_id, thread_chat_id)
) strict, without rowid;

create index thread_run_context_active_run_idx on thread_run_context (active_run_id);

-- No foreign key here: the commit that writes an event has locked and updated its run in the same statement, and a
-- key check for each row would only cost.
create table run_event (
    run_id       blob    not null,
    seq          integer not null constraint run_event_seq_range check (seq between 0 and 9007199254740991),
    event_id     text,
    payload      text    not null,
    payload_hash blob    constraint run_event_payload_hash_check check (length(payload_hash) = 32),
    received_at  integer not null,
    primary key (run_id, seq)
) strict;

create unique index run_event_event_id_key on run_event (run_id, event_id) where event_id is not null;

create table run_effect (
    id              blob    not null primary key,
    run_id          blob    not null references thread_run (run_id),
    kind            text    not null,
    effect          text    not null,
    attempts        integer not null default 0,
    -- Null: given up, left for a person.
    next_attempt_at integer,
    last_error      text,
    created_at      integer not null
) strict;

create index run_effect_due_idx on run_effect (next_attempt_at) where next_attempt_at is not null;
create index run_effect_run_idx on run_effect (run_id);
