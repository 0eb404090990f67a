//! `GET /api/internal/runs/{runId}/events` (section 4, readers): JSON pages, or live as SSE.

use std::time::Duration;

use actix_web::http::header::{ACCEPT, CACHE_CONTROL, HeaderName};
use actix_web::web::{self, Bytes};
use actix_web::{HttpRequest, HttpResponse};
use futures_util::stream;
use runwarden_actors::contract::limits::{EVENT_PAGE_MAX, EVENT_PAGE_MAX_BYTES, SSE_KEEPALIVE_SECONDS};
use runwarden_actors::contract::{RunId, Seq};
use runwarden_actors::ports::store::StoredEvent;
use runwarden_actors::run::Reader;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::timeout;

use super::auth::InternalCaller;
use super::reader_json::ReaderEvent;
use super::{ApiError, AppState};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct EventsQuery {
    after: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Page<'a> {
    events: Vec<ReaderEvent<'a>>,
    next_after: Option<Seq>,
}

/// One page, or a stream where `Accept` asks for `text/event-stream`.
#[utoipa::path(
    get,
    path = "/api/internal/runs/{run_id}/events",
    tag = "readers",
    params(("run_id" = String, Path, description = "The run's UUID, as text"), ("after" = Option<String>, Query, description = "Events above this `seq`"), ("Last-Event-ID" = Option<String>, Header, description = "Overrides `after` on a live stream")),
    responses(
        (status = 200, description = "A page, or with `Accept: text/event-stream` a live stream of `id: seq` and `data: event`", body = ref("#/components/schemas/EventPage")),
        (status = 400, description = "`invalid_request`", body = ref("#/components/schemas/ErrorBody")),
        (status = 403, description = "`permission_denied`: the key is missing or wrong", body = ref("#/components/schemas/ErrorBody")),
        (status = 404, description = "`not_found`", body = ref("#/components/schemas/ErrorBody")),
        (status = 503, description = "`store_unavailable`; `Retry-After` says when to come back", body = ref("#/components/schemas/ErrorBody")),
    ),
    security(("internal" = [])),
)]
pub(super) async fn get(
    state: web::Data<AppState>,
    _: InternalCaller,
    run_id: web::Path<String>,
    query: web::Query<EventsQuery>,
    request: HttpRequest,
) -> Result<HttpResponse, ApiError> {
    let run_id = RunId::parse(&run_id).map_err(|_| ApiError::not_found("run"))?;
    let mut after = parse_after("after", query.after.as_deref())?;
    let live = header(&request, ACCEPT.as_str()).is_some_and(|accept| accept.contains("text/event-stream"));
    if !live {
        let events = state.deps.store.events_after(run_id, after, EVENT_PAGE_MAX, EVENT_PAGE_MAX_BYTES).await?;
        // Where there are events there is a run.
        if events.is_empty() && state.deps.store.load_run(run_id).await?.is_none() {
            return Err(ApiError::not_found("run"));
        }
        let next_after = events.last().map(|event| event.seq).or(after);
        return Ok(HttpResponse::Ok()
            .insert_header((CACHE_CONTROL, "no-store"))
            .json(Page { events: events.iter().map(ReaderEvent).collect(), next_after }));
    }
    // A browser that reconnects says where it was; that is later than what the URL says.
    if let Some(last) = header(&request, "Last-Event-ID") {
        after = parse_after("Last-Event-ID", Some(last))?;
    }
    let reader = state.deps.feeds.subscribe(run_id, after).await?.ok_or_else(|| ApiError::not_found("run"))?;
    let live = Live { reader, shutdown: state.shutdown.clone(), run_id };
    Ok(HttpResponse::Ok()
        .content_type("text/event-stream")
        .insert_header((CACHE_CONTROL, "no-cache, no-transform"))
        .insert_header((HeaderName::from_static("x-accel-buffering"), "no"))
        .streaming(stream::unfold(Some(live), next_chunk)))
}

struct Live {
    reader: Reader,
    shutdown: watch::Receiver<bool>,
    run_id: RunId,
}

/// The next piece of the stream; a comment where nothing happens, the end where the server goes down.
async fn next_chunk(live: Option<Live>) -> Option<(Result<Bytes, ApiError>, Option<Live>)> {
    let mut live = live?;
    if *live.shutdown.borrow() {
        return None;
    }
    let chunk = tokio::select! {
        events = timeout(Duration::from_secs(SSE_KEEPALIVE_SECONDS), live.reader.next()) => match events {
            Err(_) => Bytes::from_static(b": still here\n\n"),
            Ok(Ok(events)) => frames(live.run_id, &events),
            Ok(Err(error)) => {
                // The reader comes back with Last-Event-ID; until then the database may.
                tracing::warn!(run_id = %live.run_id, %error, "live reader ended");
                return Some((Ok(Bytes::from_static(b"event: error\ndata: {\"code\":\"store_unavailable\"}\n\n")), None));
            }
        },
        _ = live.shutdown.changed() => {
            return Some((Ok(Bytes::from_static(b": the server is shutting down\n\n")), None));
        }
    };
    Some((Ok(chunk), Some(live)))
}

fn frames(run_id: RunId, events: &[std::sync::Arc<StoredEvent>]) -> Bytes {
    let mut text = Vec::new();
    for event in events {
        text.extend_from_slice(format!("id: {}\ndata: ", event.seq).as_bytes());
        // JSON has no raw line breaks once it is written by a serializer, but a payload may have been sent with
        // some between its tokens; a line break would end the SSE field.
        match serde_json::to_vec(&ReaderEvent(event)) {
            Ok(json) => {
                text.extend(json.into_iter().map(|byte| if matches!(byte, b'\n' | b'\r') { b' ' } else { byte }));
            }
            Err(error) => {
                tracing::error!(%run_id, seq = %event.seq, %error, "a stored event cannot be read");
                text.extend_from_slice(b"null");
            }
        }
        text.extend_from_slice(b"\n\n");
    }
    Bytes::from(text)
}

fn header<'a>(request: &'a HttpRequest, name: &str) -> Option<&'a str> {
    request.headers().get(name).and_then(|value| value.to_str().ok())
}

fn parse_after(name: &str, text: Option<&str>) -> Result<Option<Seq>, ApiError> {
    match text {
        // Before the first event, for readers that keep their place as a number.
        None | Some("" | "-1") => Ok(None),
        Some(text) => text
            .parse::<i64>()
            .ok()
            .and_then(|seq| Seq::new(seq).ok())
            .map(Some)
            .ok_or_else(|| ApiError::invalid(format!("{name} must be a sequence number, 0 to 9007199254740991"))),
    }
}
