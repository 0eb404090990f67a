//! `{previewSessionId}.{suffix}/…`: each preview on a host of its own (section 5, host routing). Everything on that host
//! is the app's, but for the prefix `/.runwarden/`, which is ours.

use actix_web::guard::GuardContext;
use actix_web::http::Method;
use actix_web::http::header::{self, HOST, LOCATION};
use actix_web::http::uri::Authority;
use actix_web::{HttpRequest, HttpResponse, ResponseError as _, web};
use runwarden_actors::contract::{ErrorCode, PreviewSessionId};

use super::super::body::read_body;
use super::super::{ApiError, AppState};
use super::exchange::{another_subscription_token, exchange_for};
use super::probe::probe_for;
use super::session_id;
use crate::auth::cookies::CookieScope;
use crate::auth::over_tls;
use crate::proxy::path::check_path;
use crate::proxy::{Asked, PreviewServices, Routing, proxy};

/// Largest form of an exchange.
const FORM_MAX_BYTES: usize = 16 * 1024;
/// Ours on every preview host.
const OWN_PREFIX: &str = "/.runwarden/";

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
    session_id(label(host, suffix).unwrap_or_default())
}

/// Every request to a preview host.
pub(in crate::http) async fn any(
    state: web::Data<AppState>,
    request: HttpRequest,
    payload: web::Payload,
) -> HttpResponse {
    answer(&state.previews, &request, payload).await.unwrap_or_else(|error| error.error_response())
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
            ("exchange", &Method::POST) => exchange(services, request, payload, id, scope).await,
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

/// A form with the token, from a page of the host application: the answer is the cookie and the way into the app. A
/// form and not a link, so that the token is in no URL, history or log.
async fn exchange(
    services: &PreviewServices,
    request: &HttpRequest,
    payload: web::Payload,
    id: PreviewSessionId,
    scope: CookieScope,
) -> Result<HttpResponse, ApiError> {
    let body = read_body(request, payload, FORM_MAX_BYTES).await?;
    let field = |wanted: &str| {
        form_urlencoded::parse(&body).find(|(name, _)| name == wanted).map(|(_, value)| value.into_owned())
    };
    let token = field("token")
        .ok_or_else(|| ApiError::without_credential("the body must be a form with `token` and, if wanted, `path`"))?;
    let path = field("path").unwrap_or_else(|| "/".to_owned());
    if check_path(&path).is_err() || path.starts_with(OWN_PREFIX) || !path.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(ApiError::new(ErrorCode::ProxyPathDenied, "`path` must be a path of the app"));
    }
    let exchanged = exchange_for(services, request, id, &token, scope).await?;
    let mut builder = HttpResponse::SeeOther();
    builder.insert_header((header::CACHE_CONTROL, "no-store")).insert_header((LOCATION, path));
    for cookie in exchanged.cookies {
        builder.append_header((header::SET_COOKIE, cookie));
    }
    Ok(builder.finish())
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
