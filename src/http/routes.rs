//! Every route, in one place.

use actix_web::guard::fn_guard;
use actix_web::http::Method;
use actix_web::web::{self, ServiceConfig};
use actix_web::{HttpResponse, Resource};

use super::previews::{access, browser, embed, exchange, hosts, paths, probe, sessions, subscribe};
use super::{
    ApiError, chats, containers, daemon_events, daemon_stream, events, flags, framing, health, openapi, quarantine,
    runs,
};

/// Adds the routes to an application that has an [`super::AppState`].
pub fn configure(config: &mut ServiceConfig) {
    config
        .app_data(web::QueryConfig::default().error_handler(|error, _| ApiError::invalid(error.to_string()).into()))
        .app_data(web::PathConfig::default().error_handler(|error, _| ApiError::invalid(error.to_string()).into()))
        // Before everything: nothing is read of a request that two readers would cut differently.
        .service(web::scope("").guard(fn_guard(framing::is_ambiguous)).default_service(web::to(framing::refuse)))
        // Preview hosts next: everything on them is the app's, whatever our own routes are called.
        .service(web::scope("").guard(fn_guard(hosts::is_preview_host)).default_service(web::to(hosts::any)))
        // Every path of previews' apps, as it stands in the request line; the handler reads the id by itself. Before the
        // routes with parameters: each of those costs every request behind it a regular expression.
        .service(web::scope("/api/preview/proxy").default_service(web::to(paths::any)))
        // Container previews: section 8. Nobody is asked for a credential; the handlers read the session by themselves.
        .service(web::scope("/previews").default_service(web::to(containers::proxies::public)))
        .service(web::scope("/internal-previews/proxy").default_service(web::to(containers::proxies::internal)))
        .service(web::scope("/preview-ports").default_service(web::to(containers::proxies::public_named)))
        .service(web::scope("/internal-previews/ports").default_service(web::to(containers::proxies::internal_named)))
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
        // Previews: section 5. Sessions for host applications, the rest for browsers.
        .service(internal("/api/internal/preview/session/start").route(web::post().to(sessions::start)))
        .service(internal("/api/internal/preview/session/{session_id}").route(web::get().to(sessions::get)))
        .service(
            internal("/api/internal/preview/session/{session_id}/exchange-token")
                .route(web::post().to(sessions::exchange_token)),
        )
        .service(
            internal("/api/internal/preview/session/{session_id}/revoke")
                .route(web::post().to(sessions::revoke_session)),
        )
        .service(internal("/api/internal/preview/access/invalidate").route(web::post().to(access::invalidate)))
        // Sessions' containers: section 8. The key is checked by the handlers' `SessionCaller` extractor.
        .service(
            session("/api/internal/sessions/{session_id}")
                .route(web::post().to(containers::lifecycle::create))
                .route(web::get().to(containers::lifecycle::get))
                .route(web::delete().to(containers::lifecycle::remove)),
        )
        .service(
            session("/api/internal/sessions/{session_id}/start").route(web::post().to(containers::lifecycle::start)),
        )
        .service(session("/api/internal/sessions/{session_id}/stop").route(web::post().to(containers::lifecycle::stop)))
        .service(session("/api/internal/sessions/{session_id}/exec").route(web::post().to(containers::exec::exec)))
        .service(
            session("/api/internal/sessions/{session_id}/files")
                .route(web::get().to(containers::files::get))
                .route(web::put().to(containers::files::put)),
        )
        .service(
            session("/api/internal/sessions/{session_id}/previews")
                .route(web::post().to(containers::previews::register))
                .route(web::delete().to(containers::later::remove)),
        )
        .service(
            session("/api/internal/sessions/{session_id}/previews/{name}")
                .route(web::post().to(containers::later::register_named))
                .route(web::delete().to(containers::later::remove_named)),
        )
        .service(
            session("/api/internal/sessions/{session_id}/preview-health")
                .route(web::get().to(containers::later::health)),
        )
        .service(web::scope("/api/internal/sessions").default_service(web::to(unknown_session)))
        .service(resource("/api/preview/embed.js").route(web::get().to(embed::get)))
        .service(
            resource("/api/preview/session/{session_id}/exchange")
                .route(web::post().to(exchange::exchange))
                .route(web::method(Method::OPTIONS).to(browser::preflight)),
        )
        .service(
            resource("/api/preview/session/{session_id}/subscription-token")
                .route(web::post().to(exchange::subscription_token))
                .route(web::method(Method::OPTIONS).to(browser::preflight)),
        )
        .service(
            resource("/api/preview/probe/{session_id}")
                .route(web::get().to(probe::probe))
                .route(web::method(Method::OPTIONS).to(browser::preflight)),
        )
        .service(resource("/api/preview/subscribe/{session_id}").route(web::get().to(subscribe::subscribe)))
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

/// A path of a session's container; the same with the locked refusal.
fn session(path: &str) -> Resource {
    web::resource(path).default_service(web::to(unknown_session))
}

fn resource(path: &str) -> Resource {
    web::resource(path).default_service(web::to(unknown))
}

async fn unknown_internal(_: super::auth::InternalCaller) -> Result<HttpResponse, ApiError> {
    unknown().await
}

async fn unknown_session(_: super::auth::SessionCaller) -> Result<HttpResponse, ApiError> {
    unknown().await
}

async fn unknown() -> Result<HttpResponse, ApiError> {
    Err(ApiError::not_found("route, or it does not take this method"))
}
