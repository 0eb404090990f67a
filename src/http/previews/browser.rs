//! What browsers ask before they let a page of another origin speak to us: which pages may, and with a cookie.

use actix_web::http::header::{self, HeaderMap, HeaderName, HeaderValue};
use actix_web::{HttpRequest, HttpResponse, HttpResponseBuilder, web};

use super::super::{ApiError, AppState, answer_for_people};
use crate::config::PreviewsConfig;
use crate::proxy::PreviewServices;

/// How long a browser may remember an answer to a preflight, in seconds.
const PREFLIGHT_SECONDS: &str = "600";

/// Whether pages of this origin may speak to us with a person's cookie: those that stand by name in the list that frames
/// go by. `*` lets every page show a frame, and none of them read what only that person may.
fn may_embed(settings: &PreviewsConfig, origin: &str) -> bool {
    settings.frame_ancestors.split(' ').any(|source| source != "*" && source.eq_ignore_ascii_case(origin))
}

fn origin(headers: &HeaderMap) -> Option<&str> {
    headers.get(header::ORIGIN)?.to_str().ok()
}

/// Lets the page that asked read the answer, and its cookie be set, where it may embed previews.
pub(super) fn allow_page<'a>(
    services: &PreviewServices,
    request: &HttpRequest,
    builder: &'a mut HttpResponseBuilder,
) -> &'a mut HttpResponseBuilder {
    builder.insert_header((header::CACHE_CONTROL, "no-store")).insert_header((header::VARY, "Origin"));
    if let Some(origin) = origin(request.headers())
        // Of every sandboxed page and file; not one that can be listed.
        && origin != "null"
        && may_embed(&services.settings, origin)
    {
        builder
            .insert_header((header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.to_owned()))
            .insert_header((header::ACCESS_CONTROL_ALLOW_CREDENTIALS, "true"))
            .insert_header((header::ACCESS_CONTROL_EXPOSE_HEADERS, "Retry-After"));
    }
    builder
}

/// An error that the page may read; a page itself, where a form led here.
pub(super) fn readable(services: &PreviewServices, request: &HttpRequest, error: &ApiError) -> HttpResponse {
    let mut response = answer_for_people(request, error, &services.settings.frame_ancestors);
    let mut builder = HttpResponse::build(response.status());
    let allowed = allow_page(services, request, &mut builder).finish();
    let copied: Vec<(HeaderName, HeaderValue)> =
        allowed.headers().iter().map(|(name, value)| (name.clone(), value.clone())).collect();
    for (name, value) in copied {
        response.headers_mut().insert(name, value);
    }
    response
}

/// `OPTIONS` before an exchange or a probe.
pub(in crate::http) async fn preflight(state: web::Data<AppState>, request: HttpRequest) -> HttpResponse {
    let mut builder = HttpResponse::NoContent();
    allow_page(&state.previews, &request, &mut builder)
        .insert_header((header::ACCESS_CONTROL_ALLOW_METHODS, "GET, POST"))
        .insert_header((header::ACCESS_CONTROL_ALLOW_HEADERS, "authorization, content-type"))
        .insert_header((header::ACCESS_CONTROL_MAX_AGE, PREFLIGHT_SECONDS))
        .finish()
}
