//! `{previewSessionId}.{suffix}/…`: each preview on a host of its own (section 5, host routing). Everything on that host
//! is the app's, but for the prefix `/.runwarden/`, which is ours.

use actix_web::guard::GuardContext;
use actix_web::http::Method;
use actix_web::http::header::HOST;
use actix_web::http::uri::Authority;
use actix_web::{HttpRequest, HttpResponse, web};
use runwarden_actors::contract::PreviewSessionId;

use super::super::{ApiError, AppState, answer_for_people};
use super::browser::readable;
use super::exchange::another_subscription_token;
use super::form::exchange_form;
use super::probe::probe_for;
use super::session_id;
use crate::auth::cookies::CookieScope;
use crate::auth::over_tls;
use crate::proxy::{Asked, PreviewServices, Routing, proxy};

/// Ours on every preview host.
pub(super) const OWN_PREFIX: &str = "/.runwarden/";

/// The first label of a preview host's name, or nothing where the request is for another host.
fn label<'a>(host: &'a str, suffix: &str) -> Option<&'a str> {
    let name = host
        .rsplit_once(':')
        .map_or(host, |(name, port)| if port.bytes().all(|byte| byte.is_ascii_digit()) { name } else { host });
    // A name with the root's dot is the same host, and must not be a way around this one.
    let name = name.strip_suffix('.').unwrap_or(name);
    let at = name.len().checked_sub(suffix.len() + 1)?;
    let (label, rest) = (name.get(..at)?, name.get(at..)?);
    (rest.starts_with('.') && rest[1..].eq_ignore_ascii_case(suffix)).then_some(label)
}

/// Whether the request is for a preview host, or pretends to be: those never reach our own routes.
pub(in crate::http) fn is_preview_host(context: &GuardContext<'_>) -> bool {
    let Some(state) = context.app_data::<web::Data<AppState>>() else { return false };
    let Some(suffix) = &state.previews.settings.host_suffix else { return false };
    let head = context.head();
    let named = head.headers().get_all(HOST).filter_map(|value| value.to_str().ok());
    let authority = head.uri.authority().map(Authority::as_str);
    named.chain(authority).any(|host| label(host, suffix).is_some())
}

/// The session that every name in the request agrees on.
fn session_of(request: &HttpRequest, suffix: &str) -> Result<PreviewSessionId, ApiError> {
    let mut hosts = request.headers().get_all(HOST);
    let (Some(host), None) = (hosts.next(), hosts.next()) else {
        return Err(ApiError::invalid("the request must name one host"));
    };
    let host = host.to_str().map_err(|_| ApiError::invalid("the host's name is not text"))?;
    if request.uri().authority().is_some_and(|authority| !authority.as_str().eq_ignore_ascii_case(host)) {
        return Err(ApiError::invalid("the request names two hosts"));
    }
    // Names of hosts have no case; ids do.
    session_id(&label(host, suffix).unwrap_or_default().to_ascii_lowercase())
}

/// Every request to a preview host.
pub(in crate::http) async fn any(
    state: web::Data<AppState>,
    request: HttpRequest,
    payload: web::Payload,
) -> HttpResponse {
    let services = &state.previews;
    let answered = answer(services, &request, payload).await;
    // A page that embeds the preview reads errors of what is ours, like it reads them on paths.
    let own = request.uri().path().starts_with(OWN_PREFIX);
    answered.unwrap_or_else(|error| {
        if own {
            readable(services, &request, &error)
        } else {
            answer_for_people(&request, &error, &services.settings.frame_ancestors)
        }
    })
}

async fn answer(
    services: &PreviewServices,
    request: &HttpRequest,
    payload: web::Payload,
) -> Result<HttpResponse, ApiError> {
    let suffix = services.settings.host_suffix.as_deref().unwrap_or_default();
    let id = session_of(request, suffix)?;
    let scope = CookieScope::Host { tls: over_tls(request, &services.settings.trusted_proxies) };
    let target = request.uri().path_and_query().map_or("/", |whole| whole.as_str());
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    if let Some(own) = path.strip_prefix(OWN_PREFIX) {
        return match (own, request.method()) {
            ("exchange", &Method::POST) => exchange_form(services, request, payload, id, scope, "").await,
            ("probe", &Method::GET) => {
                let check = query.split('&').find_map(|pair| pair.strip_prefix("check="));
                probe_for(services, request, id, check, scope, Routing::Host, "/.runwarden/probe").await
            }
            ("subscription-token", &Method::POST) => another_subscription_token(services, request, id, scope).await,
            _ => Err(ApiError::not_found("route, or it does not take this method")),
        };
    }
    let asked = Asked { session: id, target, routing: Routing::Host, base_path: "", cookie_scope: scope };
    Ok(proxy(services, request, payload, asked).await)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_below_the_suffix_are_previews() {
        for (host, found) in [
            ("abc.preview.localhost", Some("abc")),
            ("abc.preview.localhost:4002", Some("abc")),
            ("abc.PREVIEW.localhost", Some("abc")),
            ("a.b.preview.localhost", Some("a.b")),
            (".preview.localhost", Some("")),
            ("preview.localhost", None),
            ("abcpreview.localhost", None),
            ("abc.preview.localhost.", Some("abc")),
            ("abc.preview.localhost.:4002", Some("abc")),
            ("abc.preview.localhost..", None),
            ("abc.preview.localhost.evil.example", None),
            ("localhost:4002", None),
            ("", None),
            ("é.preview.localhost", Some("é")),
        ] {
            assert_eq!(label(host, "preview.localhost"), found, "{host}");
        }
    }
}
