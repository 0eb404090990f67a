-- Many runs' plain commits: new events, the place in the run, and counters. Each run's part is applied whole or not
-- at all; a run whose revision is another is left out of the answer.
--
-- Locks: the arrays come in order of the run id, and whichever side of the join leads, the rows come in that order
-- too: from the arrays, or from the index that `any` goes by. No pointer is locked here.
--
-- A known event id breaks a unique key and with it the statement. It is for commit.sql to say whose it is.
with moved as (
    update thread_run_progress p set
        revision = p.revision + 1,
        updated_at = r.now,
        last_accepted_seq = coalesce(r.seq, p.last_accepted_seq),
        accepted_count = p.accepted_count + r.accepted,
        duplicate_count = p.duplicate_count + r.duplicate,
        out_of_order_count = p.out_of_order_count + r.out_of_order,
        gap_count = p.gap_count + r.gaps
    from (
        -- In the select list the arrays are read as a stream; in FROM they would be copied once more.
        select
            unnest($1::uuid[]) as run_id,
            unnest($2::int8[]) as expected_revision,
            unnest($3::timestamptz[]) as now,
            unnest($4::int8[]) as seq,
            unnest($5::int8[]) as accepted,
            unnest($6::int8[]) as duplicate,
            unnest($7::int8[]) as out_of_order,
            unnest($8::int8[]) as gaps
    ) r
    where p.run_id = r.run_id
        and p.run_id = any ($1::uuid[])
        and p.revision = r.expected_revision
        and (r.seq is null or p.last_accepted_seq is null or p.last_accepted_seq < r.seq)
    returning p.run_id
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
    -- `is true` makes this one hash, whatever the planner thinks of the sizes.
    where (e.run_id in (select m.run_id from moved m)) is true
)
select m.run_id from moved m
