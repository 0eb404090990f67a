-- One durable write for many runs' decisions. Each run's part is applied whole or not at all.
--
-- Locks: pointers in order of their key, then runs in order of their id, then quarantine keys in order. create_run,
-- bind_run_sandbox and the sweep keep to the same order, so nobody waits in a circle.
--
-- Races: `locked` waits for other writers and gives the newest revision. Every write to a run raises its revision,
-- so where that revision is the expected one nothing was written to the run since this statement's snapshot, and
-- `stored` and `fresh`, which read from the snapshot, tell the truth.
with runs_in as materialized (
    select * from unnest(
        $1::uuid[], $2::int8[], $3::timestamptz[], $4::int8[], $5::int8[], $6::int8[], $7::int8[], $8::int8[],
        $9::text[], $10::int2[], $11::text[], $12::text[], $13::text[], $14::timestamptz[], $15::timestamptz[],
        $16::timestamptz[]
    ) as r (
        run_id, expected_revision, now, seq, accepted, duplicate, out_of_order, gaps,
        status, payload_version, terminal_event_id, terminal_kind, end_sha, missing_end_sha_at, started_at,
        ended_at
    )
), pointers as materialized (
    select c.active_run_id
    from thread_run_context c
    where c.active_run_id = any ($17::uuid[])
    order by c.thread_id, c.thread_chat_id
    for update
), locked as materialized (
    select p.run_id, p.revision
    from thread_run_progress p
    -- The count is there to lock the pointers first.
    where p.run_id = any ($1::uuid[]) and (select count(*) from pointers) >= 0
    order by p.run_id
    for no key update
), stored as materialized (
    select e.run_id
    from unnest($18::uuid[], $20::text[]) as e (run_id, event_id)
    -- The limit keeps this one index probe for each event.
    cross join lateral (
        select from run_event x where x.run_id = e.run_id and x.event_id = e.event_id limit 1
    ) hit
), quarantine_in as materialized (
    select distinct on (q.owner, q.thread_id, q.thread_chat_id, coalesce(q.run_id_or_null, ''), q.reason, q.payload_hash)
        q.*
    from unnest(
        $24::uuid[], $25::uuid[], $26::text[], $27::text[], $28::text[], $29::uuid[], $30::text[], $31::text[],
        $32::bytea[], $33::text[], $34::int8[], $35::text[], $36::timestamptz[]
    ) as q (
        owner, id, thread_id, thread_chat_id, run_id_or_null, active_run_id, repo_full_name, reason,
        payload_hash, payload_prefix_2k, payload_bytes, payload_r2_key, created_at
    )
), fresh as materialized (
    select q.owner, count(*) as rows
    from quarantine_in q
    left join lateral (
        select true as known
        from daemon_event_quarantine d
        where d.thread_id = q.thread_id
            and d.thread_chat_id = q.thread_chat_id
            and coalesce(d.run_id_or_null, '') = coalesce(q.run_id_or_null, '')
            and d.reason = q.reason
            and d.payload_hash = q.payload_hash
        limit 1
    ) hit on true
    where hit.known is null
    group by q.owner
), moved as (
    update thread_run_progress p set
        revision = p.revision + 1,
        updated_at = r.now,
        last_accepted_seq = coalesce(r.seq, p.last_accepted_seq),
        accepted_count = p.accepted_count + r.accepted,
        duplicate_count = p.duplicate_count + r.duplicate,
        out_of_order_count = p.out_of_order_count + r.out_of_order,
        gap_count = p.gap_count + r.gaps,
        quarantined_count = p.quarantined_count + coalesce(f.rows, 0)
    from runs_in r
    join locked l on l.run_id = r.run_id
    left join fresh f on f.owner = r.run_id
    where p.run_id = r.run_id
        and l.revision = r.expected_revision
        and p.revision = r.expected_revision
        and (r.seq is null or p.last_accepted_seq is null or p.last_accepted_seq < r.seq)
        -- `is not true` makes this one hash of the few hits, whatever the planner thinks of the sizes.
        and (r.run_id in (select s.run_id from stored s)) is not true
    returning p.run_id
), changed as (
    update thread_run t set
        status = coalesce(r.status, t.status),
        daemon_payload_version = coalesce(r.payload_version, t.daemon_payload_version),
        terminal_event_id = coalesce(r.terminal_event_id, t.terminal_event_id),
        terminal_kind = coalesce(r.terminal_kind, t.terminal_kind),
        run_end_sha = coalesce(r.end_sha, t.run_end_sha),
        missing_end_sha_at = case
            when r.terminal_event_id is not null then null
            else coalesce(r.missing_end_sha_at, t.missing_end_sha_at)
        end,
        started_at = coalesce(t.started_at, r.started_at),
        ended_at = coalesce(t.ended_at, r.ended_at)
    from runs_in r
    join moved m on m.run_id = r.run_id
    where t.run_id = r.run_id
        -- What a terminal event brings besides comes with its id.
        and num_nonnulls(r.status, r.payload_version, r.terminal_event_id, r.missing_end_sha_at, r.started_at,
            r.ended_at) > 0
), added as (
    insert into run_event (run_id, seq, event_id, payload, payload_hash, received_at)
    select e.run_id, e.seq, e.event_id, e.payload, e.payload_hash, e.received_at
    from (
        -- In the select list the arrays are read as a stream; in FROM they would be copied once more.
        select
            unnest($18::uuid[]) as run_id,
            unnest($19::int8[]) as seq,
            unnest($20::text[]) as event_id,
            unnest($21::text[]) as payload,
            unnest($22::bytea[]) as payload_hash,
            unnest($23::timestamptz[]) as received_at
    ) e
    where (e.run_id in (select m.run_id from moved m)) is true
), pointed as (
    update thread_run_context c set active_status = r.status, active_updated_at = r.now
    from moved m
    join runs_in r on r.run_id = m.run_id
    where c.active_run_id = m.run_id and r.status is not null and c.active_status <> r.status
), quarantined as (
    insert into daemon_event_quarantine (id, thread_id, thread_chat_id, run_id_or_null, active_run_id, repo_full_name,
        reason, payload_hash, payload_prefix_2k, payload_bytes, payload_r2_key, created_at)
    select q.id, q.thread_id, q.thread_chat_id, q.run_id_or_null, q.active_run_id, q.repo_full_name,
        q.reason, q.payload_hash, q.payload_prefix_2k, q.payload_bytes, q.payload_r2_key, q.created_at
    from quarantine_in q
    join moved m on m.run_id = q.owner
    order by q.thread_id, q.thread_chat_id, coalesce(q.run_id_or_null, ''), q.reason, q.payload_hash
    on conflict (thread_id, thread_chat_id, coalesce(run_id_or_null, ''), reason, payload_hash) do nothing
    returning id
), promised as (
    insert into run_effect (id, run_id, kind, effect, next_attempt_at, created_at)
    select e.id, e.run_id, e.kind, e.effect, r.now, r.now
    from unnest($37::uuid[], $38::uuid[], $39::text[], $40::text[]) as e (id, run_id, kind, effect)
    join moved m on m.run_id = e.run_id
    join runs_in r on r.run_id = e.run_id
)
select m.run_id, coalesce(n.rows, 0)
from moved m
left join (
    select q.owner, count(*) as rows
    from quarantined d
    join quarantine_in q on q.id = d.id
    group by q.owner
) n on n.owner = m.run_id
