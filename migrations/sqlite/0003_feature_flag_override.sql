-- Feature flags set for one user, one repository, or everybody. The subject of `default` is empty.

create table feature_flag_override (
    flag       text    not null
        constraint feature_flag_override_flag_check check (flag in ('sandboxPreview', 'daemonRunIdStrict')),
    scope      text    not null
        constraint feature_flag_override_scope_check check (scope in ('user', 'repo', 'default')),
    subject    text    not null,
    enabled    integer not null,
    updated_at integer not null,
    primary key (flag, scope, subject),
    constraint feature_flag_override_subject_check check ((scope = 'default') = (subject = ''))
) strict;
