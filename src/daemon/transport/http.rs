//! One envelope at a time over HTTP.

use runwarden_actors::contract::{Ack, AckReason, NumberText};
use tokio::time::{Instant, sleep, timeout_at};

use super::api::{Answer, Api};
use super::backoff::Backoff;
use crate::daemon::outbox::Outbox;
use crate::daemon::spool::Entry;

/// Sends over HTTP until the stream is due to be tried again. An error is the status that refused the token.
pub(super) async fn run(api: &Api, outbox: &Outbox, until: Instant, backoff: &mut Backoff) -> Result<(), u16> {
    while let Ok(entry) = timeout_at(until, outbox.until(|state| state.next_after(None))).await {
        let wait = match api.post(entry.body.clone()).await {
            Answer::Good(ack) if is_for(&ack, &entry) => {
                outbox.settle(entry.seq, entry.event_id.as_str(), outcome(ack.reason));
                report(&entry, ack.reason);
                backoff.reset();
                continue;
            }
            Answer::Good(_) => {
                tracing::warn!(event_id = %entry.event_id, seq = entry.seq, "the answer names another envelope");
                backoff.step()
            }
            Answer::Unauthorized(status) => return Err(status),
            Answer::Refused { status, code, message } => {
                tracing::error!(
                    event_id = %entry.event_id, seq = entry.seq, status, code, message,
                    "the server refuses an envelope; it is kept beside the spool, in the file that ends in .rejected"
                );
                match outbox.set_aside(&entry, status, code).await {
                    Ok(()) => continue,
                    Err(error) => tracing::error!(%error, "a refused envelope cannot be set aside"),
                }
                backoff.step()
            }
            Answer::Again { why, after } => {
                tracing::info!(event_id = %entry.event_id, seq = entry.seq, why, "sending again");
                backoff.step_at_least(after)
            }
        };
        sleep(wait).await;
        if Instant::now() >= until {
            break;
        }
    }
    Ok(())
}

fn is_for(ack: &Ack, entry: &Entry) -> bool {
    ack.success
        && ack.acknowledged_event_id.as_deref() == Some(entry.event_id.as_str())
        && ack.acknowledged_seq.as_ref().and_then(NumberText::as_integer) == Some(entry.seq)
}

pub(super) fn outcome(reason: Option<AckReason>) -> &'static str {
    reason.map_or("accepted", AckReason::as_str)
}

/// A line in the log where an acknowledged envelope is not in the run's record.
pub(super) fn report(entry: &Entry, reason: Option<AckReason>) {
    let (event_id, seq) = (&entry.event_id, entry.seq);
    match reason {
        None | Some(AckReason::DuplicateEvent) => {}
        Some(reason) => tracing::warn!(%event_id, seq, %reason, "acknowledged, but not simply stored"),
    }
}
