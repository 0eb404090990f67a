//! Reading stored events.

use std::collections::HashSet;

use runwarden_actors::contract::{EventId, RunId, Seq};
use runwarden_actors::ports::store::{Seen, StoredEvent};
use sqlx::sqlite::SqliteConnection;

use crate::store::failure::Failure;
use crate::store::rows::{EventRow, records};

/// A list as the one parameter that `json_each` reads.
pub(super) fn json_list<T: serde::Serialize>(list: &[T]) -> Result<String, Failure> {
    serde_json::to_string(list).map_err(|error| Failure::Rejected(error.to_string()))
}

/// Which of these are stored, in the order asked.
pub(super) async fn seen(
    connection: &mut SqliteConnection,
    run_id: RunId,
    asked: &[(Option<EventId>, Option<Seq>)],
) -> Result<Vec<Seen>, Failure> {
    let event_ids: Vec<&str> = asked.iter().filter_map(|(id, _)| id.as_ref().map(EventId::as_str)).collect();
    let seqs: Vec<i64> = asked.iter().filter_map(|(_, seq)| seq.map(Seq::get)).collect();
    let stored_ids: Vec<String> = sqlx::query_scalar(
        "select event_id from run_event where run_id = $1 and event_id in (select value from json_each($2))",
    )
    .bind(run_id.as_uuid())
    .bind(json_list(&event_ids)?)
    .fetch_all(&mut *connection)
    .await?;
    let stored_seqs: Vec<i64> =
        sqlx::query_scalar("select seq from run_event where run_id = $1 and seq in (select value from json_each($2))")
            .bind(run_id.as_uuid())
            .bind(json_list(&seqs)?)
            .fetch_all(connection)
            .await?;
    let stored_ids: HashSet<String> = stored_ids.into_iter().collect();
    let stored_seqs: HashSet<i64> = stored_seqs.into_iter().collect();
    Ok(asked
        .iter()
        .map(|(id, seq)| Seen {
            event_id: id.as_ref().is_some_and(|id| stored_ids.contains(id.as_str())),
            seq: seq.is_some_and(|seq| stored_seqs.contains(&seq.get())),
        })
        .collect())
}

/// Stored events above `after`, ascending, within both bounds, at least one where there is any.
pub(super) async fn after(
    connection: &mut SqliteConnection,
    run_id: RunId,
    after: Option<Seq>,
    limit: usize,
    max_bytes: usize,
) -> Result<Vec<StoredEvent>, Failure> {
    let after = after.map_or(-1, Seq::get);
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let max_bytes = i64::try_from(max_bytes).unwrap_or(i64::MAX);
    // The length of a payload is known without reading it, so a page's bytes are bounded before they are fetched.
    // Stored events never change and are only added above the last, so two statements see the same ones.
    let sizes: Vec<(i64, i64)> = sqlx::query_as(
        "select seq, octet_length(payload) from run_event where run_id = $1 and seq > $2 order by seq limit $3",
    )
    .bind(run_id.as_uuid())
    .bind(after)
    .bind(limit)
    .fetch_all(&mut *connection)
    .await?;
    let mut bytes = 0_i64;
    let mut last = None;
    for (seq, size) in sizes {
        bytes = bytes.saturating_add(size);
        if last.is_some() && bytes > max_bytes {
            break;
        }
        last = Some(seq);
    }
    let Some(last) = last else {
        return Ok(Vec::new());
    };
    let rows: Vec<EventRow> = sqlx::query_as(
        "select seq, event_id, payload, received_at from run_event where run_id = $1 and seq > $2 and seq <= $3 \
         order by seq",
    )
    .bind(run_id.as_uuid())
    .bind(after)
    .bind(last)
    .fetch_all(connection)
    .await?;
    records(rows)
}
