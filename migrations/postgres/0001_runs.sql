-- Runs: immutable facts (thread_run), the moving pointer (thread_run_context), accepted events (run_event), and the
-- outbox (run_effect). See docs/tables.md.

create table thread_run (
    run_id                  uuid        primary key,
    thread_id               text        not null,
    thread_chat_id          text        not null,
    start_request_id        text        not null,
    trigger_source          text        not null
        constraint thread_run_trigger_source_check
        check (trigger_source in ('ui', 'retry', 'follow_up_queue', 'scheduled', 'slash_command', 'system')),
    user_id                 text        not null,
    repo_full_name          text        not null,
    status                  text        not null
        constraint thread_run_status_check
        check (status in ('booting', 'running', 'validating', 'finished', 'failed')),
    codesandbox_id          text,
    sandbox_provider        text
        constraint thread_run_sandbox_provider_check
        check (sandbox_provider in ('docker', 'daytona', 'e2b', 'process')),
    repo_dir                text,
    run_start_sha           text,
    run_end_sha             text,
    frozen_flag_snapshot    jsonb       not null,
    preview_config          text,
    daemon_payload_version  smallint
        constraint thread_run_daemon_payload_version_check check (daemon_payload_version in (1, 2)),
    terminal_event_id       text,
    terminal_kind           text
        constraint thread_run_terminal_kind_check check (terminal_kind in ('done', 'failed', 'stopped')),
    failure_reason          text,
    missing_end_sha_at      timestamptz,
    diff_source             text
        constraint thread_run_diff_source_check check (diff_source in ('sha', 'working-tree-fallback')),
    diff_source_context     text,
    last_accepted_seq       bigint
        constraint thread_run_last_accepted_seq_range check (last_accepted_seq between 0 and 9007199254740991),
    accepted_count          bigint      not null default 0,
    duplicate_count         bigint      not null default 0,
    out_of_order_count      bigint      not null default 0,
    quarantined_count       bigint      not null default 0,
    gap_count               bigint      not null default 0,
    revision                bigint      not null default 0,
    started_at              timestamptz,
    ended_at                timestamptz,
    created_at              timestamptz not null,
    updated_at              timestamptz not null,
    constraint thread_run_sandbox_is_whole check ((codesandbox_id is null) = (sandbox_provider is null)),
    constraint thread_run_terminal_is_whole check ((terminal_event_id is null) = (terminal_kind is null))
)
-- Every batch of events updates last_accepted_seq, the counters, revision and updated_at. None of them is indexed,
-- and half of each page stays free, so that these updates stay on their page and touch no index.
with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.05);

create unique index thread_run_start_request_key on thread_run (thread_id, thread_chat_id, start_request_id);
create unique index thread_run_active_key on thread_run (thread_id, thread_chat_id)
    where status in ('booting', 'running', 'validating');
create unique index thread_run_terminal_event_key on thread_run (run_id, terminal_event_id)
    where terminal_event_id is not null;
create index thread_run_chat_created_idx on thread_run (thread_id, thread_chat_id, created_at desc);

create function thread_run_refuse_change() returns trigger language plpgsql as $$
begin
    raise exception 'thread_run: %', tg_argv[0] using errcode = 'restrict_violation';
end
$$;

-- The WHEN clauses run without entering the function, so an update that keeps to the rules pays next to nothing.
create trigger thread_run_identity_is_immutable
    before update of run_id, thread_id, thread_chat_id, start_request_id, trigger_source, user_id, repo_full_name,
        frozen_flag_snapshot, preview_config, created_at
    on thread_run for each row
    when (old.run_id is distinct from new.run_id
        or old.thread_id is distinct from new.thread_id
        or old.thread_chat_id is distinct from new.thread_chat_id
        or old.start_request_id is distinct from new.start_request_id
        or old.trigger_source is distinct from new.trigger_source
        or old.user_id is distinct from new.user_id
        or old.repo_full_name is distinct from new.repo_full_name
        or old.frozen_flag_snapshot is distinct from new.frozen_flag_snapshot
        or old.preview_config is distinct from new.preview_config
        or old.created_at is distinct from new.created_at)
    execute function thread_run_refuse_change('identity, snapshot and trigger never change');

create trigger thread_run_facts_are_written_once
    before update of run_start_sha, run_end_sha, daemon_payload_version, terminal_event_id, terminal_kind
    on thread_run for each row
    when ((old.run_start_sha is not null and old.run_start_sha is distinct from new.run_start_sha)
        or (old.run_end_sha is not null and old.run_end_sha is distinct from new.run_end_sha)
        or (old.daemon_payload_version is not null
            and old.daemon_payload_version is distinct from new.daemon_payload_version)
        or (old.terminal_event_id is not null and old.terminal_event_id is distinct from new.terminal_event_id)
        or (old.terminal_kind is not null and old.terminal_kind is distinct from new.terminal_kind))
    execute function thread_run_refuse_change('SHAs, payload version and terminal event are written once');

create trigger thread_run_end_is_final
    before update of status on thread_run for each row
    when (old.status in ('finished', 'failed') and new.status is distinct from old.status)
    execute function thread_run_refuse_change('a run that has ended stays ended');

create trigger thread_run_seq_only_rises
    before update of last_accepted_seq on thread_run for each row
    when (old.last_accepted_seq is not null
        and (new.last_accepted_seq is null or new.last_accepted_seq < old.last_accepted_seq))
    execute function thread_run_refuse_change('last_accepted_seq only rises');

create table thread_run_context (
    thread_id               text        not null,
    thread_chat_id          text        not null,
    -- Checked at the end of the transaction: the pointer row is there to be locked before the run is.
    active_run_id           uuid        not null references thread_run (run_id) deferrable initially deferred,
    active_codesandbox_id   text,
    active_sandbox_provider text
        constraint thread_run_context_active_sandbox_provider_check
        check (active_sandbox_provider in ('docker', 'daytona', 'e2b', 'process')),
    active_status           text        not null
        constraint thread_run_context_active_status_check
        check (active_status in ('booting', 'running', 'validating', 'finished', 'failed')),
    version                 bigint      not null default 0,
    active_updated_at       timestamptz not null,
    primary key (thread_id, thread_chat_id)
) with (fillfactor = 70);

create index thread_run_context_active_run_idx on thread_run_context (active_run_id);

-- No foreign key here: the commit that writes an event has locked and updated its run in the same statement, and a
-- key check for each row would cost more than the insert.
create table run_event (
    run_id       uuid        not null,
    seq          bigint      not null constraint run_event_seq_range check (seq between 0 and 9007199254740991),
    event_id     text,
    payload      text        not null,
    payload_hash bytea       constraint run_event_payload_hash_check check (octet_length(payload_hash) = 32),
    received_at  timestamptz not null,
    primary key (run_id, seq)
);

create unique index run_event_event_id_key on run_event (run_id, event_id) where event_id is not null;

-- lz4 takes a fraction of pglz's time; a server built without it keeps the default.
do $$
begin
    alter table run_event alter column payload set compression lz4;
exception when feature_not_supported or invalid_parameter_value then
    null;
end
$$;

create table run_effect (
    id              uuid        primary key,
    run_id          uuid        not null references thread_run (run_id),
    kind            text        not null,
    effect          text        not null,
    attempts        integer     not null default 0,
    -- Null: given up, left for a person.
    next_attempt_at timestamptz,
    last_error      text,
    created_at      timestamptz not null
);

create index run_effect_due_idx on run_effect (next_attempt_at) where next_attempt_at is not null;
create index run_effect_run_idx on run_effect (run_id);
