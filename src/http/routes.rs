//! Every route, in one place.

use actix_web::web::{self, ServiceConfig};
use actix_web::{HttpResponse, Resource};

use super::{ApiError, chats, daemon_events, daemon_stream, events, flags, health, openapi, quarantine, runs};

/// Adds the routes to an application that has an [`super::AppState`].
pub fn configure(config: &mut ServiceConfig) {
    config
        .app_data(web::QueryConfig::default().error_handler(|error, _| ApiError::invalid(error.to_string()).into()))
        .app_data(web::PathConfig::default().error_handler(|error, _| ApiError::invalid(error.to_string()).into()))
        // Daemons: section 4. The token is checked by the handlers' `Daemon` extractor.
        .service(resource("/api/daemon-event").route(web::post().to(daemon_events::post_event)))
        .service(resource("/api/daemon/position").route(web::get().to(daemon_events::get_position)))
        .service(resource("/api/daemon/stream").route(web::get().to(daemon_stream::open)))
        // Host applications: section 3. The key is checked by the handlers' `InternalCaller` extractor.
        .service(internal("/api/internal/runs").route(web::post().to(runs::create)))
        .service(internal("/api/internal/runs/{run_id}").route(web::get().to(runs::get)))
        .service(internal("/api/internal/runs/{run_id}/bind").route(web::post().to(runs::bind)))
        .service(internal("/api/internal/runs/{run_id}/events").route(web::get().to(events::get)))
        .service(internal("/api/internal/threads/{thread_id}/chats/{chat_id}").route(web::get().to(chats::get)))
        .service(
            internal("/api/internal/flags/{flag}")
                .route(web::get().to(flags::get))
                .route(web::put().to(flags::put))
                .route(web::delete().to(flags::delete)),
        )
        .service(internal("/api/internal/quarantine").route(web::get().to(quarantine::list)))
        // Every other internal path asks for the key too, before it says that there is nothing.
        .service(web::scope("/api/internal").default_service(web::to(unknown_internal)))
        // Operations: section 13.
        .service(resource("/healthz").route(web::get().to(health::healthz)))
        .service(resource("/readyz").route(web::get().to(health::readyz)))
        .service(resource("/metrics").route(web::get().to(health::metrics)))
        .service(resource("/openapi.json").route(web::get().to(openapi::get)))
        .default_service(web::to(unknown));
}

/// A path of host applications: another method meets the key too.
fn internal(path: &str) -> Resource {
    web::resource(path).default_service(web::to(unknown_internal))
}

fn resource(path: &str) -> Resource {
    web::resource(path).default_service(web::to(unknown))
}

async fn unknown_internal(_: super::auth::InternalCaller) -> Result<HttpResponse, ApiError> {
    unknown().await
}

async fn unknown() -> Result<HttpResponse, ApiError> {
    Err(ApiError::not_found("route, or it does not take this method"))
}
