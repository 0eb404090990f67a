-- Preview sessions come into use: what their configuration says about opening, and the rules that their rows keep to.
-- SQLite adds no constraint to a table that is there, so the table is made anew.

create table preview_session_next (
    preview_session_id    blob    not null primary key,
    thread_id             text    not null,
    thread_chat_id        text    not null,
    run_id                blob    not null references thread_run (run_id),
    user_id               text    not null,
    codesandbox_id        text    not null,
    sandbox_provider      text    not null
        constraint preview_session_sandbox_provider_check
        check (sandbox_provider in ('docker', 'daytona', 'e2b', 'process')),
    repo_full_name        text    not null,
    config_command        text,
    config_port           integer
        constraint preview_session_config_port_range check (config_port between 1 and 65535),
    config_health_path    text,
    requires_websocket    integer not null default 0,
    config_open_mode      text
        constraint preview_session_config_open_mode_check check (config_open_mode in ('iframe', 'new_tab')),
    open_mode             text    not null
        constraint preview_session_open_mode_check check (open_mode in ('iframe', 'new_tab')),
    upstream_origin       text,
    upstream_origin_token text,
    upstream_auth_headers text,
    pinned_upstream_ips   text,
    revocation_version    integer not null default 0,
    last_dns_check_at     integer,
    dns_refreshed_once    integer not null default 0,
    state                 text    not null
        constraint preview_session_state_check
        check (state in ('pending', 'initializing', 'ready', 'unsupported', 'expired', 'revoked', 'error')),
    unsupported_reason    text
        constraint preview_session_unsupported_reason_check
        check (unsupported_reason in ('missing_config', 'adapter_unimplemented', 'ws_required', 'frame_bust',
            'capability_missing', 'cookie_blocked', 'proxy_denied')),
    error_code            text
        constraint preview_session_error_code_check
        check (error_code in ('command_exited', 'health_check_timeout', 'tunnel_failed', 'sandbox_not_running',
            'superseded')),
    error_output          text,
    expires_at            integer not null,
    revoked_at            integer,
    created_at            integer not null,
    updated_at            integer not null,
    constraint preview_session_id_length check (length(preview_session_id) = 16),
    constraint preview_session_config_is_whole
        check ((config_command is null) = (config_port is null)
            and (config_command is null) = (config_health_path is null)),
    constraint preview_session_upstream_is_whole
        check ((upstream_origin is null) = (upstream_origin_token is null)
            and (upstream_origin is null) = (upstream_auth_headers is null)
            and (upstream_origin is null) = (pinned_upstream_ips is null)
            and (upstream_origin is null) = (last_dns_check_at is null)),
    constraint preview_session_reason_fits_state
        check ((state = 'unsupported') = (unsupported_reason is not null)
            and (state = 'error') = (error_code is not null)
            and (state = 'revoked') = (revoked_at is not null))
) strict;

insert into preview_session_next (preview_session_id, thread_id, thread_chat_id, run_id, user_id, codesandbox_id,
    sandbox_provider, repo_full_name, config_command, config_port, config_health_path, requires_websocket, open_mode,
    upstream_origin, upstream_origin_token, upstream_auth_headers, pinned_upstream_ips, revocation_version,
    last_dns_check_at, dns_refreshed_once, state, unsupported_reason, error_code, error_output, expires_at, revoked_at,
    created_at, updated_at)
select preview_session_id, thread_id, thread_chat_id, run_id, user_id, codesandbox_id,
    sandbox_provider, repo_full_name, config_command, config_port, config_health_path, requires_websocket, open_mode,
    upstream_origin, upstream_origin_token, upstream_auth_headers, pinned_upstream_ips, revocation_version,
    last_dns_check_at, dns_refreshed_once, state, unsupported_reason, error_code, error_output, expires_at, revoked_at,
    created_at, updated_at
from preview_session;

drop table preview_session;
alter table preview_session_next rename to preview_session;

create index preview_session_run_created_idx on preview_session (run_id, created_at desc);
create index preview_session_thread_created_idx on preview_session (thread_id, created_at desc);
create index preview_session_open_idx on preview_session (thread_id)
    where state in ('pending', 'initializing', 'ready');
create index preview_session_open_access_idx on preview_session (user_id, repo_full_name)
    where state in ('pending', 'initializing', 'ready');
create index preview_session_open_expires_idx on preview_session (expires_at)
    where state in ('pending', 'initializing', 'ready');

create trigger preview_session_identity_is_immutable
before update of preview_session_id, thread_id, thread_chat_id, run_id, user_id, codesandbox_id, sandbox_provider,
        repo_full_name, expires_at, created_at
on preview_session
when old.preview_session_id is not new.preview_session_id
        or old.thread_id is not new.thread_id
        or old.thread_chat_id is not new.thread_chat_id
        or old.run_id is not new.run_id
        or old.user_id is not new.user_id
        or old.codesandbox_id is not new.codesandbox_id
        or old.sandbox_provider is not new.sandbox_provider
        or old.repo_full_name is not new.repo_full_name
        or old.expires_at is not new.expires_at
        or old.created_at is not new.created_at
begin
    select raise(abort, 'preview_session: identity and life never change');
end;

create trigger preview_session_facts_are_written_once
before update of config_command, config_port, config_health_path, requires_websocket, config_open_mode,
        upstream_origin, upstream_origin_token, upstream_auth_headers
on preview_session
when (old.config_command is not null
            and (old.config_command is not new.config_command
                or old.config_port is not new.config_port
                or old.config_health_path is not new.config_health_path
                or old.requires_websocket is not new.requires_websocket
                or old.config_open_mode is not new.config_open_mode))
        or (old.upstream_origin is not null
            and (old.upstream_origin is not new.upstream_origin
                or old.upstream_origin_token is not new.upstream_origin_token
                or old.upstream_auth_headers is not new.upstream_auth_headers))
begin
    select raise(abort, 'preview_session: configuration and upstream are written once');
end;

create trigger preview_session_addresses_are_refreshed_once
before update of pinned_upstream_ips, dns_refreshed_once on preview_session
when (old.pinned_upstream_ips is not null
            and old.pinned_upstream_ips is not new.pinned_upstream_ips
            and (old.dns_refreshed_once or not new.dns_refreshed_once))
        or (old.dns_refreshed_once and not new.dns_refreshed_once)
begin
    select raise(abort, 'preview_session: pinned addresses are refreshed once');
end;

create trigger preview_session_version_only_rises
before update of revocation_version on preview_session
when new.revocation_version < old.revocation_version
begin
    select raise(abort, 'preview_session: revocation_version only rises');
end;

-- The last pair is the closing of a session that nobody has begun to bring up.
create trigger preview_session_moves_are_listed
before update of state on preview_session
when old.state <> new.state
        and old.state || ' ' || new.state not in ('pending initializing', 'initializing ready',
            'initializing unsupported', 'initializing error', 'ready expired', 'ready revoked', 'pending error')
begin
    select raise(abort, 'preview_session: this transition is not listed');
end;
