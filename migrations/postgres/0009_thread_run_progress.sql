-- What every batch of events writes gets a narrow table of its own (docs/adr/0020). An update copies the whole row and
-- looks at each index and foreign key of the table: thread_run has thirty columns, four indexes and is referenced by
-- many; here a row is 80 bytes with one index.

create table thread_run_progress (
    run_id             uuid        primary key references thread_run (run_id),
    last_accepted_seq  daemon_seq,
    accepted_count     bigint      not null default 0,
    duplicate_count    bigint      not null default 0,
    out_of_order_count bigint      not null default 0,
    quarantined_count  bigint      not null default 0,
    gap_count          bigint      not null default 0,
    revision           bigint      not null default 0,
    updated_at         timestamptz not null
)
-- No column that is written is indexed and half of each page stays free, so that updates stay on their page.
with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.05);

insert into thread_run_progress (run_id, last_accepted_seq, accepted_count, duplicate_count, out_of_order_count,
    quarantined_count, gap_count, revision, updated_at)
select run_id, last_accepted_seq, accepted_count, duplicate_count, out_of_order_count, quarantined_count, gap_count,
    revision, updated_at
from thread_run;

-- Its condition was read from text anew by every statement. The statements that move the place have the same one.
drop trigger thread_run_seq_only_rises on thread_run;

alter table thread_run
    drop column last_accepted_seq,
    drop column accepted_count,
    drop column duplicate_count,
    drop column out_of_order_count,
    drop column quarantined_count,
    drop column gap_count,
    drop column revision,
    drop column updated_at;

-- Its rows are written a few times now, not for every batch.
alter table thread_run reset (fillfactor, autovacuum_vacuum_scale_factor);
