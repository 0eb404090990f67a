-- Retention looks for objects that only old rows name.

create index daemon_event_quarantine_object on daemon_event_quarantine (payload_r2_key, created_at)
    where payload_r2_key is not null;
