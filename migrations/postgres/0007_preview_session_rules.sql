-- Preview sessions come into use: what their configuration says about opening, and the rules that their rows keep to.

alter table preview_session
    add column config_open_mode text
        constraint preview_session_config_open_mode_check check (config_open_mode in ('iframe', 'new_tab')),
    add constraint preview_session_error_code_check
        check (error_code in ('command_exited', 'health_check_timeout', 'tunnel_failed', 'sandbox_not_running',
            'superseded')),
    add constraint preview_session_config_is_whole
        check ((config_command is null) = (config_port is null)
            and (config_command is null) = (config_health_path is null)),
    add constraint preview_session_upstream_is_whole
        check ((upstream_origin is null) = (upstream_origin_token is null)
            and (upstream_origin is null) = (upstream_auth_headers is null)
            and (upstream_origin is null) = (pinned_upstream_ips is null)
            and (upstream_origin is null) = (last_dns_check_at is null)),
    add constraint preview_session_reason_fits_state
        check ((state = 'unsupported') = (unsupported_reason is not null)
            and (state = 'error') = (error_code is not null)
            and (state = 'revoked') = (revoked_at is not null));

create index preview_session_open_access_idx on preview_session (user_id, repo_full_name)
    where state in ('pending', 'initializing', 'ready');
create index preview_session_open_expires_idx on preview_session (expires_at)
    where state in ('pending', 'initializing', 'ready');

create function preview_session_refuse_change() returns trigger language plpgsql as $$
begin
    raise exception 'preview_session: %', tg_argv[0] using errcode = 'restrict_violation';
end
$$;

create trigger preview_session_identity_is_immutable
    before update of preview_session_id, thread_id, thread_chat_id, run_id, user_id, codesandbox_id, sandbox_provider,
        repo_full_name, expires_at, created_at
    on preview_session for each row
    when (old.preview_session_id is distinct from new.preview_session_id
        or old.thread_id is distinct from new.thread_id
        or old.thread_chat_id is distinct from new.thread_chat_id
        or old.run_id is distinct from new.run_id
        or old.user_id is distinct from new.user_id
        or old.codesandbox_id is distinct from new.codesandbox_id
        or old.sandbox_provider is distinct from new.sandbox_provider
        or old.repo_full_name is distinct from new.repo_full_name
        or old.expires_at is distinct from new.expires_at
        or old.created_at is distinct from new.created_at)
    execute function preview_session_refuse_change('identity and life never change');

create trigger preview_session_facts_are_written_once
    before update of config_command, config_port, config_health_path, requires_websocket, config_open_mode,
        upstream_origin, upstream_origin_token, upstream_auth_headers
    on preview_session for each row
    when ((old.config_command is not null
            and (old.config_command is distinct from new.config_command
                or old.config_port is distinct from new.config_port
                or old.config_health_path is distinct from new.config_health_path
                or old.requires_websocket is distinct from new.requires_websocket
                or old.config_open_mode is distinct from new.config_open_mode))
        or (old.upstream_origin is not null
            and (old.upstream_origin is distinct from new.upstream_origin
                or old.upstream_origin_token is distinct from new.upstream_origin_token
                or old.upstream_auth_headers is distinct from new.upstream_auth_headers)))
    execute function preview_session_refuse_change('configuration and upstream are written once');

create trigger preview_session_addresses_are_refreshed_once
    before update of pinned_upstream_ips, dns_refreshed_once on preview_session for each row
    when ((old.pinned_upstream_ips is not null
            and old.pinned_upstream_ips is distinct from new.pinned_upstream_ips
            and (old.dns_refreshed_once or not new.dns_refreshed_once))
        or (old.dns_refreshed_once and not new.dns_refreshed_once))
    execute function preview_session_refuse_change('pinned addresses are refreshed once');

create trigger preview_session_version_only_rises
    before update of revocation_version on preview_session for each row
    when (new.revocation_version < old.revocation_version)
    execute function preview_session_refuse_change('revocation_version only rises');

-- The last pair is the closing of a session that nobody has begun to bring up.
create trigger preview_session_moves_are_listed
    before update of state on preview_session for each row
    when (old.state <> new.state
        and old.state || ' ' || new.state not in ('pending initializing', 'initializing ready',
            'initializing unsupported', 'initializing error', 'ready expired', 'ready revoked', 'pending error'))
    execute function preview_session_refuse_change('this transition is not listed');
