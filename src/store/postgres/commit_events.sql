-- The lean form of commit.sql, for a batch in which no run changes its status and nothing is set aside or promised:
-- the daily bread. The same locks in the same order, the same checks, a quarter of the plan.
with runs_in as materialized (
    select * from unnest($1::uuid[], $2::int8[], $3::timestamptz[], $4::int8[], $5::int8[], $6::int8[], $7::int8[], $8::int8[])
        as r (run_id, expected_revision, now, seq, accepted, duplicate, out_of_order, gaps)
), locked as materialized (
    select t.run_id, t.revision
    from thread_run t
    where t.run_id = any ($1::uuid[])
    order by t.run_id
    for no key update
), stored as materialized (
    select e.run_id
    from unnest($9::uuid[], $11::text[]) as e (run_id, event_id)
    -- The limit keeps this one index probe for each event.
    cross join lateral (
        select from run_event x where x.run_id = e.run_id and x.event_id = e.event_id limit 1
    ) hit
), moved as (
    update thread_run t set
        revision = t.revision + 1,
        updated_at = r.now,
        last_accepted_seq = coalesce(r.seq, t.last_accepted_seq),
        accepted_count = t.accepted_count + r.accepted,
        duplicate_count = t.duplicate_count + r.duplicate,
        out_of_order_count = t.out_of_order_count + r.out_of_order,
        gap_count = t.gap_count + r.gaps
    from runs_in r
    join locked l on l.run_id = r.run_id
    where t.run_id = r.run_id
        and l.revision = r.expected_revision
        and t.revision = r.expected_revision
        and (r.seq is null or t.last_accepted_seq is null or t.last_accepted_seq < r.seq)
        and (r.run_id in (select s.run_id from stored s)) is not true
    returning t.run_id
), added as (
    insert into run_event (run_id, seq, event_id, payload, payload_hash, received_at)
    select e.run_id, e.seq, e.event_id, e.payload, e.payload_hash, e.received_at
    from (
        select
            unnest($9::uuid[]) as run_id,
            unnest($10::int8[]) as seq,
            unnest($11::text[]) as event_id,
            unnest($12::text[]) as payload,
            unnest($13::bytea[]) as payload_hash,
            unnest($14::timestamptz[]) as received_at
    ) e
    where (e.run_id in (select m.run_id from moved m)) is true
)
select m.run_id, 0::int8 from moved m
