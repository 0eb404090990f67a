-- Preview sessions, validation attempts, and what is known of each chat's user-interface validation.

create table preview_session (
    preview_session_id    uuid        primary key,
    thread_id             text        not null,
    thread_chat_id        text        not null,
    run_id                uuid        not null references thread_run (run_id),
    user_id               text        not null,
    codesandbox_id        text        not null,
    sandbox_provider      text        not null
        constraint preview_session_sandbox_provider_check
        check (sandbox_provider in ('docker', 'daytona', 'e2b', 'process')),
    repo_full_name        text        not null,
    config_command        text,
    config_port           integer
        constraint preview_session_config_port_range check (config_port between 1 and 65535),
    config_health_path    text,
    requires_websocket    boolean     not null default false,
    open_mode             text        not null
        constraint preview_session_open_mode_check check (open_mode in ('iframe', 'new_tab')),
    upstream_origin       text,
    upstream_origin_token text,
    upstream_auth_headers text,
    pinned_upstream_ips   jsonb,
    revocation_version    bigint      not null default 0,
    last_dns_check_at     timestamptz,
    dns_refreshed_once    boolean     not null default false,
    state                 text        not null
        constraint preview_session_state_check
        check (state in ('pending', 'initializing', 'ready', 'unsupported', 'expired', 'revoked', 'error')),
    unsupported_reason    text
        constraint preview_session_unsupported_reason_check
        check (unsupported_reason in ('missing_config', 'adapter_unimplemented', 'ws_required', 'frame_bust',
            'capability_missing', 'cookie_blocked', 'proxy_denied')),
    error_code            text,
    error_output          text,
    expires_at            timestamptz not null,
    revoked_at            timestamptz,
    created_at            timestamptz not null,
    updated_at            timestamptz not null
);

create index preview_session_run_created_idx on preview_session (run_id, created_at desc);
create index preview_session_thread_created_idx on preview_session (thread_id, created_at desc);
create index preview_session_open_idx on preview_session (thread_id)
    where state in ('pending', 'initializing', 'ready');

create table preview_validation_attempt (
    thread_id                text        not null,
    thread_chat_id           text        not null,
    run_id                   uuid        not null references thread_run (run_id),
    attempt_number           smallint    not null
        constraint preview_validation_attempt_number_range check (attempt_number between 1 and 3),
    status                   text        not null
        constraint preview_validation_attempt_status_check
        check (status in ('pending', 'running', 'passed', 'failed', 'inconclusive', 'unsupported')),
    command                  text,
    exit_code                integer,
    duration_ms              bigint,
    diff_source              text
        constraint preview_validation_attempt_diff_source_check
        check (diff_source in ('sha', 'working-tree-fallback')),
    diff_source_context      text,
    capability_snapshot      text,
    matched_rules            text,
    summary_object_key       text,
    summary_sha256           bytea,
    summary_bytes            bigint,
    stdout_object_key        text,
    stdout_sha256            bytea,
    stdout_bytes             bigint,
    stderr_object_key        text,
    stderr_sha256            bytea,
    stderr_bytes             bigint,
    trace_object_key         text,
    trace_sha256             bytea,
    trace_bytes              bigint,
    screenshot_object_key    text,
    screenshot_sha256        bytea,
    screenshot_bytes         bigint,
    video_object_key         text,
    video_sha256             bytea,
    video_bytes              bigint,
    video_unsupported_reason text,
    timeout_code             text,
    timeout_reason           text,
    started_at               timestamptz,
    finished_at              timestamptz,
    created_at               timestamptz not null,
    updated_at               timestamptz not null,
    primary key (thread_id, run_id, attempt_number)
);

create function preview_validation_attempt_refuse_change() returns trigger language plpgsql as $$
begin
    raise exception 'preview_validation_attempt: a finished attempt never changes'
        using errcode = 'restrict_violation';
end
$$;

create trigger preview_validation_attempt_is_final
    before update on preview_validation_attempt for each row
    when (old.status in ('passed', 'failed', 'inconclusive', 'unsupported'))
    execute function preview_validation_attempt_refuse_change();

create table thread_ui_validation (
    thread_id              text        not null,
    thread_chat_id         text        not null,
    latest_run_id          uuid        not null references thread_run (run_id),
    ui_validation_outcome  text        not null
        constraint thread_ui_validation_outcome_check
        check (ui_validation_outcome in ('not_required', 'pending', 'passed', 'failed', 'inconclusive', 'blocked')),
    ready_downgrade_state  text        not null default 'not_attempted'
        constraint thread_ui_validation_ready_downgrade_state_check
        check (ready_downgrade_state in ('not_attempted', 'converted_to_draft', 'conversion_failed', 'not_supported')),
    ready_downgrade_run_id uuid,
    ready_downgraded_at    timestamptz,
    blocking_reason        text,
    created_at             timestamptz not null,
    updated_at             timestamptz not null,
    primary key (thread_id, thread_chat_id)
);
