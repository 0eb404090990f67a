//! `POST /api/preview/session/{id}/exchange`: a token, once, for the session's cookie; and subscription tokens under
//! that cookie (section 5).

use actix_web::http::header::{self, HeaderMap};
use actix_web::{HttpRequest, HttpResponse, web};
use runwarden_actors::contract::limits::INTERNAL_BODY_MAX_BYTES;
use runwarden_actors::contract::names::BROADCAST_CHANNEL_TYPE;
use runwarden_actors::contract::{ErrorCode, KeyNamespace, OpenMode, PreviewSessionId, Timestamp};
use runwarden_actors::preview::{OpenSession, announce_session, preview_dimensions};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

use super::super::body::read_body;
use super::super::{ApiError, AppState};
use super::browser::{allow_page, readable};
use super::form::{exchange_form, is_form};
use super::{base_path, count, count_stranger, ip_of, open_session, require_access, session_id};
use crate::auth::cookies::{CookieScope, session_cookies};
use crate::auth::{Bound as _, single_use_ms};
use crate::proxy::{PreviewServices, check_cookie};

/// The token, in the body rather than as bearer; never in a URL.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(in crate::http) struct ExchangeBody {
    /// The exchange token.
    token: String,
    /// How the preview is opened now, where that is not how the session was started.
    open_mode: Option<OpenMode>,
}

/// What an exchange gives beside the cookie.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(in crate::http) struct ExchangedBody {
    preview_session_id: PreviewSessionId,
    /// Below which the app is.
    proxy_base_path: String,
    open_mode: OpenMode,
    expires_at: Timestamp,
    /// Opens one subscription within 60 s.
    subscription_token: String,
    /// What the subscription is about.
    channel: String,
}

/// Another subscription token.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(in crate::http) struct SubscriptionTokenBody {
    subscription_token: String,
    channel: String,
}

/// `preview:{id}`.
pub(super) fn channel(session: PreviewSessionId) -> String {
    format!("{BROADCAST_CHANNEL_TYPE}:{session}")
}

/// An exchange that went well: the session, and what sets its cookie.
pub(super) struct Exchanged {
    pub(super) open: Arc<OpenSession>,
    pub(super) cookies: [String; 2],
}

/// Checks the token, the session, access and single use, in this order, and makes the cookie: for `mode`, or for how
/// the session was started.
pub(super) async fn exchange_for(
    services: &PreviewServices,
    request: &HttpRequest,
    id: PreviewSessionId,
    token: &str,
    scope: CookieScope,
    mode: Option<OpenMode>,
) -> Result<Exchanged, ApiError> {
    let limits = &services.deps.options.limits;
    let ip = ip_of(services, request)?;
    count_stranger(services, &limits.exchange_ip(&ip)).await?;
    let claims = services.tokens.verify_exchange(token).await?;
    let open = open_session(services, id).await?;
    let session = &open.record;
    let deps = &services.deps.for_session(session, Some("exchange"), None);
    let checked = async {
        claims.check_binding(&session.binding())?;
        count(deps, &limits.exchange_user(&session.user_id)).await?;
        require_access(services, deps, session).await?;
        // Last, so that a refusal for another reason does not use the token up.
        let marks = claims.marks();
        if !deps.run.coordination.use_once(&marks, single_use_ms(KeyNamespace::Exchange)).await? {
            return Err(ApiError::new(ErrorCode::TokenReplay, "the exchange token was used already; ask for another"));
        }
        services.tokens.confirm_key(KeyNamespace::Exchange, token).await?;
        Ok(())
    };
    checked.await.inspect_err(|error| {
        if let Some(reason) = error.security_reason() {
            services.deps.run.observer.preview_denied(preview_dimensions(session, None), reason);
        }
    })?;
    // Every server knows the version before a cookie carries it.
    announce_session(&deps.run, id).await?.ok_or_else(|| ApiError::not_found("preview session"))?;
    let now = services.deps.run.clock.now();
    let cookie =
        services.tokens.mint_cookie(&session.binding(), session.revocation_version, session.expires_at).await?;
    let seconds = u64::try_from(session.expires_at.millis_since(now) / 1000).unwrap_or(0);
    let mode = mode.unwrap_or(session.open_mode);
    let cookies = session_cookies(scope, mode, services.settings.path_sandbox, &cookie, seconds);
    Ok(Exchanged { open, cookies })
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// Gives the session's cookie for a token.
#[utoipa::path(
    post,
    path = "/api/preview/session/{session_id}/exchange",
    tag = "previews",
    params(("session_id" = String, Path, description = "The session's UUID, as text"), ("Authorization" = Option<String>, Header, description = "`Bearer TOKEN`, instead of the body")),
    request_body(content = ref("#/components/schemas/ExchangeBody"), content_type = "application/json"),
    responses(
        (status = 200, description = "`Set-Cookie` lets the browser in", body = ref("#/components/schemas/ExchangedBody")),
        (status = 303, description = "The same for a form (`application/x-www-form-urlencoded` with `token` and, if wanted, `path`): leads into the app"),
        (status = 400, description = "`invalid_request`", body = ref("#/components/schemas/ErrorBody")),
        (status = 401, description = "`expired`, `revoked`, `signature_mismatch`; `permission_denied` without a token", body = ref("#/components/schemas/ErrorBody")),
        (status = 403, description = "`binding_mismatch`, `permission_denied`", body = ref("#/components/schemas/ErrorBody")),
        (status = 404, description = "`not_found`", body = ref("#/components/schemas/ErrorBody")),
        (status = 409, description = "`token_replay`", body = ref("#/components/schemas/ErrorBody")),
        (status = 429, description = "`rate_limited`", body = ref("#/components/schemas/ErrorBody")),
        (status = 503, description = "`cache_unavailable` or `store_unavailable`", body = ref("#/components/schemas/ErrorBody")),
    ),
)]
pub(in crate::http) async fn exchange(
    state: web::Data<AppState>,
    request: HttpRequest,
    id: web::Path<String>,
    payload: web::Payload,
) -> HttpResponse {
    let services = &state.previews;
    let answered = match session_id(&id) {
        Ok(id) if is_form(&request) => {
            exchange_form(services, &request, payload, id, CookieScope::Path(id), &base_path(id)).await
        }
        Ok(id) => exchanged(services, &request, id, payload).await,
        Err(error) => Err(error),
    };
    answered.unwrap_or_else(|error| readable(services, &request, &error))
}

async fn exchanged(
    services: &PreviewServices,
    request: &HttpRequest,
    id: PreviewSessionId,
    payload: web::Payload,
) -> Result<HttpResponse, ApiError> {
    let ExchangeBody { token, open_mode } = if let Some(token) = bearer(request.headers()) {
        ExchangeBody { token: token.to_owned(), open_mode: None }
    } else {
        let body = read_body(request, payload, INTERNAL_BODY_MAX_BYTES).await?;
        if body.is_empty() {
            return Err(ApiError::without_credential(
                "the exchange token is missing: send it in the body or as bearer",
            ));
        }
        // The parser would also take an array of the fields.
        let object = if body.trim_ascii_start().first() == Some(&b'{') { &body[..] } else { &[] };
        let body: Result<ExchangeBody, _> = serde_json::from_slice(object);
        // The parser's own words may repeat a part of the token.
        body.map_err(|_| ApiError::invalid("the body must be a JSON object with `token`, a string"))?
    };
    let Exchanged { open, cookies } =
        exchange_for(services, request, id, &token, CookieScope::Path(id), open_mode).await?;
    let session = &open.record;
    let subscription_token = services.tokens.mint_broadcast(&session.binding(), session.expires_at).await?;
    let mut builder = HttpResponse::Ok();
    allow_page(services, request, &mut builder);
    for cookie in cookies {
        builder.append_header((header::SET_COOKIE, cookie));
    }
    Ok(builder.json(ExchangedBody {
        preview_session_id: id,
        proxy_base_path: base_path(id),
        open_mode: session.open_mode,
        expires_at: session.expires_at,
        subscription_token,
        channel: channel(id),
    }))
}

/// Another subscription token, for whoever has the session's cookie. A browser sends that cookie only below the proxied
/// path, so the same is answered at `/api/preview/proxy/{id}/.runwarden/subscription-token`.
#[utoipa::path(
    post,
    path = "/api/preview/session/{session_id}/subscription-token",
    tag = "previews",
    params(("session_id" = String, Path, description = "The session's UUID, as text")),
    responses(
        (status = 200, description = "The token", body = ref("#/components/schemas/SubscriptionTokenBody")),
        (status = 401, description = "`expired`, `revoked`, `signature_mismatch`; `permission_denied` without a cookie", body = ref("#/components/schemas/ErrorBody")),
        (status = 403, description = "`binding_mismatch`, `permission_denied`", body = ref("#/components/schemas/ErrorBody")),
        (status = 404, description = "`not_found`", body = ref("#/components/schemas/ErrorBody")),
        (status = 429, description = "`rate_limited`", body = ref("#/components/schemas/ErrorBody")),
        (status = 503, description = "`cache_unavailable` or `store_unavailable`", body = ref("#/components/schemas/ErrorBody")),
    ),
)]
pub(in crate::http) async fn subscription_token(
    state: web::Data<AppState>,
    request: HttpRequest,
    id: web::Path<String>,
) -> HttpResponse {
    let services = &state.previews;
    let answered = match session_id(&id) {
        Ok(id) => another_subscription_token(services, &request, id, CookieScope::Path(id)).await,
        Err(error) => Err(error),
    };
    answered.unwrap_or_else(|error| readable(services, &request, &error))
}

/// Under the same checks as a proxied request, but for its slot.
pub(super) async fn another_subscription_token(
    services: &PreviewServices,
    request: &HttpRequest,
    id: PreviewSessionId,
    scope: CookieScope,
) -> Result<HttpResponse, ApiError> {
    let limits = &services.deps.options.limits;
    let ip = ip_of(services, request)?;
    count_stranger(services, &limits.exchange_ip(&ip)).await?;
    let open = checked_by_cookie(services, request, id, scope, "subscription_token").await?;
    let session = &open.record;
    // Its use was noted by the checks before.
    let deps = services.deps.for_session(session, None, None);
    count(&deps, &limits.exchange_user(&session.user_id)).await?;
    let subscription_token = services.tokens.mint_broadcast(&session.binding(), session.expires_at).await?;
    let mut builder = HttpResponse::Ok();
    allow_page(services, request, &mut builder);
    Ok(builder.json(SubscriptionTokenBody { subscription_token, channel: channel(id) }))
}

/// The open session of whoever comes with its cookie, while neither session nor access was withdrawn. `route` names what
/// is asked for.
pub(super) async fn checked_by_cookie(
    services: &PreviewServices,
    request: &HttpRequest,
    id: PreviewSessionId,
    scope: CookieScope,
    route: &'static str,
) -> Result<Arc<OpenSession>, ApiError> {
    let open = open_session(services, id).await?;
    let session = &open.record;
    let version = check_cookie(services, request, scope, &open).await?;
    let deps = services.deps.for_session(session, Some(route), None);
    let known = deps.run.coordination.revocations(&[id]).await?;
    if known.first().copied().flatten().is_some_and(|current| current > version) {
        return Err(ApiError::new(ErrorCode::Revoked, "the preview session was revoked"));
    }
    require_access(services, &deps, session).await?;
    Ok(open)
}
