-- Keys that all servers on this database sign with. Of several servers that start at once, one makes generation 1
-- and the others find it. Whoever can read this table can sign: keep its backups as you keep secrets.

create table signing_key (
    namespace  text        not null
        constraint signing_key_namespace_check check (namespace in ('daemon')),
    generation bigint      not null
        constraint signing_key_generation_check check (generation >= 1),
    kid        text        not null unique,
    secret     bytea       not null
        constraint signing_key_secret_check check (octet_length(secret) = 32),
    created_at timestamptz not null,
    primary key (namespace, generation)
);
