//! `GET /healthz`, `/readyz`, `/metrics` (section 13).

use std::future::Future;
use std::time::Duration;

use actix_web::{HttpResponse, web};
use serde_json::{Value, json};
use tokio::time::timeout;

use super::AppState;

/// Time for each part to answer.
const PART_WITHIN: Duration = Duration::from_secs(3);

/// The process is there.
#[utoipa::path(
    get,
    path = "/healthz",
    tag = "operations",
    responses(
        (status = 200, description = "The process is there"),
    ),
)]
pub(super) async fn healthz() -> HttpResponse {
    HttpResponse::Ok().json(json!({"status": "ok", "version": env!("CARGO_PKG_VERSION")}))
}

/// Every part that a request needs, named: 200 where all answer, else 503.
#[utoipa::path(
    get,
    path = "/readyz",
    tag = "operations",
    responses(
        (status = 200, description = "Database, coordination and objects answer"),
        (status = 503, description = "One of them does not; the body names it"),
    ),
)]
pub(super) async fn readyz(state: web::Data<AppState>) -> HttpResponse {
    let deps = &state.deps;
    let (database, mut coordination, objects) = futures_util::join!(
        part("database", async { deps.store.ping().await.map_err(|error| error.to_string()) }),
        part("coordination", async { deps.coordination.now().await.map(drop).map_err(|error| error.to_string()) }),
        part("objects", async { deps.evidence.ping().await.map_err(|error| error.to_string()) }),
    );
    if let Some(bypass) = &deps.bypass {
        // Said, not counted: a server that lets in a few users past Redis is not ready for the others.
        let active = bypass.is_away() && deps.clock.now() < bypass.until();
        coordination["bypass"] = json!({"active": active, "until": bypass.until()});
    }
    let going_down = *state.shutdown.borrow();
    let ready = [&database, &coordination, &objects].iter().all(|part| part["ok"] == true) && !going_down;
    let body = json!({
        "status": if ready { "ready" } else { "not_ready" },
        "shuttingDown": going_down,
        "database": database,
        "coordination": coordination,
        "objects": objects,
    });
    if ready { HttpResponse::Ok().json(body) } else { HttpResponse::ServiceUnavailable().json(body) }
}

/// The details of a failure go to the log: whoever may ask here may not be whoever may read them.
async fn part(name: &'static str, check: impl Future<Output = Result<(), String>>) -> Value {
    match timeout(PART_WITHIN, check).await {
        Ok(Ok(())) => json!({"ok": true}),
        Ok(Err(error)) => {
            tracing::warn!(part = name, %error, "not ready");
            json!({"ok": false, "message": "out of reach"})
        }
        Err(_) => {
            tracing::warn!(part = name, "not ready: no answer in time");
            json!({"ok": false, "message": "no answer within 3 s"})
        }
    }
}

/// Counters in the text format of Prometheus.
#[utoipa::path(
    get,
    path = "/metrics",
    tag = "operations",
    responses(
        (status = 200, description = "Counters in the text format of Prometheus"),
    ),
)]
pub(super) async fn metrics(state: web::Data<AppState>) -> HttpResponse {
    match &state.metrics {
        Some(metrics) => HttpResponse::Ok().content_type("text/plain; version=0.0.4").body(metrics.render()),
        None => HttpResponse::NotFound().json(json!({"code": "not_found", "message": "metrics are not recorded"})),
    }
}
