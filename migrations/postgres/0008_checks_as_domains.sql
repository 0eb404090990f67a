-- The checks of the two tables that every batch of events writes become checks of domains. A table's check constraints
-- are read and worked out anew by every statement that updates any of its columns; a domain's check runs where a value
-- is assigned, and none of these columns is assigned by a batch of events. What is refused stays the same.

create domain trigger_source as text constraint trigger_source_check
    check (value in ('ui', 'retry', 'follow_up_queue', 'scheduled', 'slash_command', 'system'));
create domain run_status as text constraint run_status_check
    check (value in ('booting', 'running', 'validating', 'finished', 'failed'));
create domain sandbox_provider as text constraint sandbox_provider_check
    check (value in ('docker', 'daytona', 'e2b', 'process'));
create domain terminal_kind as text constraint terminal_kind_check check (value in ('done', 'failed', 'stopped'));
create domain diff_source as text constraint diff_source_check check (value in ('sha', 'working-tree-fallback'));
create domain payload_version as smallint constraint payload_version_check check (value in (1, 2));
create domain daemon_seq as bigint constraint daemon_seq_check check (value between 0 and 9007199254740991);
create domain sha256_bytes as bytea constraint sha256_bytes_check check (octet_length(value) = 32);

-- A column that a trigger names cannot change its type.
drop trigger thread_run_identity_is_immutable on thread_run;
drop trigger thread_run_facts_are_written_once on thread_run;
drop trigger thread_run_end_is_final on thread_run;
drop trigger thread_run_seq_only_rises on thread_run;

alter table thread_run
    drop constraint thread_run_trigger_source_check,
    drop constraint thread_run_status_check,
    drop constraint thread_run_sandbox_provider_check,
    drop constraint thread_run_terminal_kind_check,
    drop constraint thread_run_diff_source_check,
    drop constraint thread_run_daemon_payload_version_check,
    drop constraint thread_run_last_accepted_seq_range,
    drop constraint thread_run_sandbox_is_whole,
    drop constraint thread_run_terminal_is_whole,
    alter column trigger_source type trigger_source,
    alter column status type run_status,
    alter column sandbox_provider type sandbox_provider,
    alter column terminal_kind type terminal_kind,
    alter column diff_source type diff_source,
    alter column daemon_payload_version type payload_version,
    alter column last_accepted_seq type daemon_seq;

alter table run_event
    drop constraint run_event_seq_range,
    drop constraint run_event_payload_hash_check,
    alter column seq type daemon_seq,
    alter column payload_hash type sha256_bytes;

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

-- Two checks over several columns: asked only where one of them is written.
create trigger thread_run_sandbox_is_whole
    before insert or update of codesandbox_id, sandbox_provider on thread_run for each row
    when ((new.codesandbox_id is null) <> (new.sandbox_provider is null))
    execute function thread_run_refuse_change('a sandbox has an id and a provider');

create trigger thread_run_terminal_is_whole
    before insert or update of terminal_event_id, terminal_kind on thread_run for each row
    when ((new.terminal_event_id is null) <> (new.terminal_kind is null))
    execute function thread_run_refuse_change('a terminal event has an id and a kind');
