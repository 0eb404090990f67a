-- What every batch of events writes gets a narrow table of its own (docs/adr/0020).

create table thread_run_progress (
    run_id             blob    not null primary key references thread_run (run_id),
    last_accepted_seq  integer
        constraint thread_run_progress_seq_range check (last_accepted_seq between 0 and 9007199254740991),
    accepted_count     integer not null default 0,
    duplicate_count    integer not null default 0,
    out_of_order_count integer not null default 0,
    quarantined_count  integer not null default 0,
    gap_count          integer not null default 0,
    revision           integer not null default 0,
    updated_at         integer not null
) strict, without rowid;

insert into thread_run_progress (run_id, last_accepted_seq, accepted_count, duplicate_count, out_of_order_count,
    quarantined_count, gap_count, revision, updated_at)
select run_id, last_accepted_seq, accepted_count, duplicate_count, out_of_order_count, quarantined_count, gap_count,
    revision, updated_at
from thread_run;

-- The statement that moves the place has the same condition.
drop trigger thread_run_seq_only_rises;

alter table thread_run drop column last_accepted_seq;
alter table thread_run drop column accepted_count;
alter table thread_run drop column duplicate_count;
alter table thread_run drop column out_of_order_count;
alter table thread_run drop column quarantined_count;
alter table thread_run drop column gap_count;
alter table thread_run drop column revision;
alter table thread_run drop column updated_at;
