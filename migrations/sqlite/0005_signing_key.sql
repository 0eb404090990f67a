-- Keys that this server signs with. Whoever can read this table can sign: keep its backups as you keep secrets.

create table signing_key (
    namespace  text    not null
        constraint signing_key_namespace_check check (namespace in ('daemon')),
    generation integer not null
        constraint signing_key_generation_check check (generation >= 1),
    kid        text    not null unique,
    secret     blob    not null
        constraint signing_key_secret_check check (length(secret) = 32),
    created_at integer not null,
    primary key (namespace, generation)
) strict;
