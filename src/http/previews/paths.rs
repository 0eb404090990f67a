//! `ANY /api/preview/proxy/{id}/{path}`: previews on paths of our own origin (section 5, proxy).

use actix_web::http::header::LOCATION;
use actix_web::{HttpRequest, HttpResponse, web};

use super::super::{ApiError, AppState, answer_for_people};
use super::exchange::another_subscription_token;
use super::{base_path, enter, session_id};
use crate::auth::cookies::CookieScope;
use crate::proxy::{Asked, Routing, proxy};

/// What is ours below a preview's base path: a browser sends the cookie of the preview nowhere else.
const OWN_SUBSCRIPTION_TOKEN: &str = "/.runwarden/subscription-token";

/// Carries the request to the preview.
#[utoipa::path(
    get,
    path = "/api/preview/proxy/{session_id}/{path}",
    tag = "previews",
    params(("session_id" = String, Path, description = "The session's UUID, as text"), ("path" = String, Path, description = "The app's own path")),
    responses(
        (status = 200, description = "Whatever the app answers; every method is carried"),
        (status = 401, description = "`expired`, `revoked`, `signature_mismatch`; `permission_denied` without a cookie", body = ref("#/components/schemas/ErrorBody")),
        (status = 403, description = "`binding_mismatch`, `proxy_path_denied`, `proxy_ssrf_blocked`, `permission_denied`", body = ref("#/components/schemas/ErrorBody")),
        (status = 404, description = "`not_found`", body = ref("#/components/schemas/ErrorBody")),
        (status = 413, description = "`payload_too_large`: at most 2 MiB", body = ref("#/components/schemas/ErrorBody")),
        (status = 429, description = "`rate_limited`, `concurrency_limited`", body = ref("#/components/schemas/ErrorBody")),
        (status = 501, description = "`ws_required`", body = ref("#/components/schemas/ErrorBody")),
        (status = 502, description = "`upstream_unreachable`", body = ref("#/components/schemas/ErrorBody")),
        (status = 503, description = "`cache_unavailable`, `store_unavailable`", body = ref("#/components/schemas/ErrorBody")),
        (status = 504, description = "`upstream_timeout`", body = ref("#/components/schemas/ErrorBody")),
    ),
)]
pub(in crate::http) async fn any(
    state: web::Data<AppState>,
    request: HttpRequest,
    payload: web::Payload,
) -> HttpResponse {
    let services = &state.previews;
    // The request line as it came: the router's own view of it is decoded in part.
    let uri = request.uri();
    let whole = uri.path_and_query().map_or("/", |whole| whole.as_str());
    let id = whole.strip_prefix("/api/preview/proxy/").and_then(|rest| rest.get(..36));
    let Some(Ok(id)) = id.map(session_id) else {
        let error = ApiError::not_found("preview session");
        return answer_for_people(&request, &error, &services.settings.frame_ancestors);
    };
    let base = base_path(id);
    let target = whole.get(base.len()..).unwrap_or_default();
    if target.is_empty() || target.starts_with('?') {
        // Relative links of the page would lead out of the session.
        return HttpResponse::TemporaryRedirect().insert_header((LOCATION, format!("{base}/{target}"))).finish();
    }
    if target == OWN_SUBSCRIPTION_TOKEN && request.method() == actix_web::http::Method::POST {
        let answered = another_subscription_token(services, &request, id, CookieScope::Path(id)).await;
        return answered.unwrap_or_else(|error| super::browser::readable(services, &request, &error));
    }
    if enter::is_enter(target) {
        let answered = enter::answer(services, &request, payload, id, target).await;
        return answered
            .unwrap_or_else(|error| answer_for_people(&request, &error, &services.settings.frame_ancestors));
    }
    let asked = Asked {
        session: id,
        target,
        routing: Routing::Path { sandbox: services.settings.path_sandbox },
        base_path: &base,
        cookie_scope: CookieScope::Path(id),
    };
    proxy(services, &request, payload, asked).await
}
