//! Reading stored events.

use runwarden_actors::contract::{EventId, RunId, Seq};
use runwarden_actors::ports::store::{Seen, StoredEvent};
use sqlx::postgres::PgConnection;

use crate::store::failure::Failure;
use crate::store::rows::{EventRow, records};

/// Which of these are stored, in the order asked.
pub(super) async fn seen(
    connection: &mut PgConnection,
    run_id: RunId,
    asked: &[(Option<EventId>, Option<Seq>)],
) -> Result<Vec<Seen>, Failure> {
    let event_ids: Vec<Option<&str>> = asked.iter().map(|(id, _)| id.as_ref().map(EventId::as_str)).collect();
    let seqs: Vec<Option<i64>> = asked.iter().map(|(_, seq)| seq.map(Seq::get)).collect();
    // The limits keep each look-up one index probe.
    let rows: Vec<(bool, bool)> = sqlx::query_as(
        "select id_hit.found is not null, seq_hit.found is not null \
         from unnest($2::text[], $3::int8[]) with ordinality as a (event_id, seq, place) \
         left join lateral (select true as found from run_event e \
            where e.run_id = $1 and e.event_id = a.event_id limit 1) id_hit on true \
         left join lateral (select true as found from run_event e \
            where e.run_id = $1 and e.seq = a.seq limit 1) seq_hit on true \
         order by a.place",
    )
    .bind(run_id.as_uuid())
    .bind(event_ids)
    .bind(seqs)
    .fetch_all(connection)
    .await?;
    Ok(rows.into_iter().map(|(event_id, seq)| Seen { event_id, seq }).collect())
}

/// Stored events above `after`, ascending, within both bounds, at least one where there is any.
pub(super) async fn after(
    connection: &mut PgConnection,
    run_id: RunId,
    after: Option<Seq>,
    limit: usize,
    max_bytes: usize,
) -> Result<Vec<StoredEvent>, Failure> {
    // The length of a payload is known without reading it, so a page's bytes are bounded before they are fetched.
    let rows: Vec<EventRow> = sqlx::query_as(
        "select p.seq, p.event_id, p.payload, (extract(epoch from p.received_at) * 1000)::int8 as received_at \
         from (select e.*, sum(octet_length(e.payload)) over (order by e.seq) as bytes \
            from (select seq, event_id, payload, received_at from run_event \
                where run_id = $1 and seq > $2 order by seq limit $3) e) p \
         where p.bytes <= $4 or p.bytes = octet_length(p.payload) \
         order by p.seq",
    )
    .bind(run_id.as_uuid())
    .bind(after.map_or(-1, Seq::get))
    .bind(i64::try_from(limit).unwrap_or(i64::MAX))
    .bind(i64::try_from(max_bytes).unwrap_or(i64::MAX))
    .fetch_all(connection)
    .await?;
    records(rows)
}
