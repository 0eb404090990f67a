//! The way into a preview on paths. Under the CSP sandbox a page counts as another site, also to itself: whether its
//! scripts and images come with our cookie depends on the browser, on the page around it, and on what its user blocks.
//! So a small page of ours goes first, under the same sandbox. It tries, gets a cookie of its own where there is none,
//! and goes on to the app, or says that the browser keeps the cookie out (section 5: shown in a browser, not assumed).
//!
//! A tab under the sandbox can have no such cookie; where it needs one, the app is put into a frame that fills the tab.

use std::sync::OnceLock;

use actix_web::http::Method;
use actix_web::http::header::{self, LOCATION};
use actix_web::{HttpRequest, HttpResponse, web};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use runwarden_actors::contract::limits::INTERNAL_BODY_MAX_BYTES;
use runwarden_actors::contract::{ErrorCode, OpenMode, PreviewSessionId};
use sha2::{Digest as _, Sha256};

use super::super::body::read_body;
use super::super::error_page::escaped;
use super::super::{ApiError, ERROR_PAGE_STYLE};
use super::exchange::{checked_by_cookie, exchange_for};
use super::hosts::OWN_PREFIX;
use super::{base_path, count_stranger, ip_of, open_session, require_vouched};
use crate::auth::cookies::CookieScope;
use crate::proxy::path::check_path;
use crate::proxy::{PreviewServices, check_cookie};

/// Below a session's base path.
pub(super) const ENTER: &str = "/.runwarden/enter";
const SEEN: &str = "/.runwarden/seen.svg";

const SCRIPT: &str = include_str!("enter.js");
/// Of the page that is nothing but a frame.
const FRAME_STYLE: &str =
    "html,body,iframe{margin:0;border:0;width:100%;height:100%;display:block}body{overflow:hidden}";
/// Of the script and the style of the page that tries, as its policy names them.
static HASHES: OnceLock<(String, String)> = OnceLock::new();
const DOT: &str = r#"<svg xmlns="http://www.w3.org/2000/svg" width="1" height="1"/>"#;

/// Whether the path below a session's base is one of these.
pub(super) fn is_enter(target: &str) -> bool {
    let path = target.split('?').next().unwrap_or_default();
    path == ENTER || path == SEEN
}

/// Where a browser that was let in goes on to.
pub(super) fn enter_path(base: &str, path: &str) -> String {
    let query = form_urlencoded::Serializer::new(String::new()).append_pair("path", path).finish();
    format!("{base}{ENTER}?{query}")
}

/// A path of the app, not one of ours.
pub(super) fn app_path(path: &str) -> Result<(), ApiError> {
    if check_path(path).is_err() || path.starts_with(OWN_PREFIX) || !path.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(ApiError::new(ErrorCode::ProxyPathDenied, "`path` must be a path of the app"));
    }
    Ok(())
}

/// Answers what [`is_enter`] has named.
pub(super) async fn answer(
    services: &PreviewServices,
    request: &HttpRequest,
    payload: web::Payload,
    id: PreviewSessionId,
    target: &str,
) -> Result<HttpResponse, ApiError> {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    match (path, request.method()) {
        (SEEN, &Method::GET) => seen(services, request, id).await,
        (ENTER, &Method::GET) => enter(services, request, id, query).await,
        (ENTER, &Method::POST) => let_in(services, request, payload, id).await,
        _ => Err(ApiError::not_found("route, or it does not take this method")),
    }
}

/// An image for whoever comes with the cookie.
async fn seen(
    services: &PreviewServices,
    request: &HttpRequest,
    id: PreviewSessionId,
) -> Result<HttpResponse, ApiError> {
    let ip = ip_of(services, request)?;
    count_stranger(services, &services.deps.options.limits.proxy(id, &ip)).await?;
    let open = open_session(services, id).await?;
    check_cookie(services, request, CookieScope::Path(id), &open).await?;
    require_vouched(services, &open.record.user_id)?;
    Ok(HttpResponse::Ok()
        .content_type("image/svg+xml")
        .insert_header((header::CACHE_CONTROL, "no-store"))
        .insert_header((header::X_CONTENT_TYPE_OPTIONS, "nosniff"))
        .body(DOT))
}

/// The page that tries, with a token of its own for the place where it runs.
async fn enter(
    services: &PreviewServices,
    request: &HttpRequest,
    id: PreviewSessionId,
    query: &str,
) -> Result<HttpResponse, ApiError> {
    let field = |wanted: &str| {
        form_urlencoded::parse(query.as_bytes()).find(|(name, _)| name == wanted).map(|(_, value)| value.into_owned())
    };
    let path = field("path").unwrap_or_else(|| "/".to_owned());
    app_path(&path)?;
    let ip = ip_of(services, request)?;
    count_stranger(services, &services.deps.options.limits.proxy(id, &ip)).await?;
    let open = checked_by_cookie(services, request, id, CookieScope::Path(id), "enter").await?;
    let base = base_path(id);
    if !services.settings.path_sandbox {
        let mut builder = HttpResponse::SeeOther();
        return Ok(builder.insert_header((LOCATION, format!("{base}{path}"))).finish());
    }
    let enter = enter_path(&base, &path);
    let framed = format!("{enter}&framed=1");
    let tab = request.headers().get("sec-fetch-dest").is_some_and(|dest| dest == "document");
    if tab && field("framed").is_some() {
        return Ok(page(
            &format!("default-src 'none'; frame-src 'self'; style-src '{}'; frame-ancestors 'none'", hash(FRAME_STYLE)),
            &format!(
                "<style>{FRAME_STYLE}</style></head>\n<body><iframe src=\"{}\" title=\"Preview\" \
                 sandbox=\"allow-scripts allow-forms allow-popups allow-modals allow-downloads\"></iframe></body></html>\n",
                escaped(&enter)
            ),
        ));
    }
    let token = services.tokens.mint_exchange(&open.record.binding(), open.record.expires_at).await?;
    let (script, style) = HASHES.get_or_init(|| (hash(SCRIPT), hash(ERROR_PAGE_STYLE)));
    let policy = format!(
        "sandbox allow-scripts; default-src 'none'; script-src '{script}'; style-src '{style}'; img-src 'self'; \
         connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors {}",
        services.settings.frame_ancestors
    );
    let body = format!(
        "<style>{ERROR_PAGE_STYLE}</style></head>\n\
         <body data-token=\"{token}\" data-base=\"{base}\" data-path=\"{path}\" data-framed=\"{framed}\">\n\
         <main hidden>\n<h1>Your browser keeps this preview's cookie out</h1>\n\
         <p>It blocks third-party cookies, and without its own the app's scripts and images do not load here. Allow them \
         for this site, or ask the operator for preview hosts, which need no such cookie.</p>\n\
         <p class=\"detail\"><code>cookie_blocked</code></p>\n</main>\n<script>{SCRIPT}</script></body></html>\n",
        token = escaped(&token),
        path = escaped(&path),
        framed = escaped(&framed),
    );
    Ok(page(&policy, &body))
}

/// The cookie for the place that the token was given to: a frame's, because no other is taken there.
async fn let_in(
    services: &PreviewServices,
    request: &HttpRequest,
    payload: web::Payload,
    id: PreviewSessionId,
) -> Result<HttpResponse, ApiError> {
    let body = read_body(request, payload, INTERNAL_BODY_MAX_BYTES).await?;
    let token = std::str::from_utf8(&body).map_err(|_| ApiError::invalid("the body must be the token"))?;
    let scope = CookieScope::Path(id);
    let [_, cookie] = exchange_for(services, request, id, token, scope, Some(OpenMode::Iframe)).await?.cookies;
    // The other mode's stays: it may be what the page around this place came with.
    Ok(HttpResponse::NoContent()
        .insert_header((header::CACHE_CONTROL, "no-store"))
        .append_header((header::SET_COOKIE, cookie))
        .finish())
}

fn hash(text: &str) -> String {
    format!("sha256-{}", STANDARD.encode(Sha256::digest(text)))
}

fn page(policy: &str, rest: &str) -> HttpResponse {
    HttpResponse::Ok()
        .content_type("text/html; charset=utf-8")
        .insert_header((header::CACHE_CONTROL, "no-store"))
        .insert_header((header::X_CONTENT_TYPE_OPTIONS, "nosniff"))
        .insert_header((header::REFERRER_POLICY, "no-referrer"))
        .insert_header((header::CONTENT_SECURITY_POLICY, policy))
        .body(format!(
            "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>Preview</title>\n{rest}"
        ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_way_in_is_ours_and_leads_to_the_app_only() {
        assert!(
            is_enter("/.runwarden/enter")
                && is_enter("/.runwarden/enter?path=%2F")
                && is_enter("/.runwarden/seen.svg?1")
        );
        assert!(!is_enter("/.runwarden/entered") && !is_enter("/enter") && !is_enter("/"));
        assert_eq!(enter_path("/base", "/a?b=\"c&d"), "/base/.runwarden/enter?path=%2Fa%3Fb%3D%22c%26d");
        for (path, fine) in [
            ("/", true),
            ("/a/b?c=d", true),
            ("//evil.example/", false),
            ("https://evil.example/", false),
            ("/../other", false),
            ("/.runwarden/exchange", false),
            ("/a b", false),
            ("", false),
        ] {
            assert_eq!(app_path(path).is_ok(), fine, "{path}");
        }
    }
}
