//! `POST /api/internal/preview/access/invalidate`: a host application says that somebody's access may have changed
//! (section 6).

use actix_web::{HttpResponse, web};
use runwarden_actors::contract::{AccessInvalidation, RepoFullName, UserId};
use runwarden_actors::preview::invalidate_repo_access;
use schemars::JsonSchema;
use serde::Deserialize;

use super::super::auth::InternalCaller;
use super::super::body::ApiJson;
use super::super::{ApiError, AppState};

/// Whose access to what may have changed, and why.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(in crate::http) struct InvalidateBody {
    user_id: UserId,
    repo_full_name: RepoFullName,
    reason: AccessInvalidation,
}

/// Forgets what is remembered: the next request asks the access source, and a refusal ends the user's sessions.
#[utoipa::path(
    post,
    path = "/api/internal/preview/access/invalidate",
    tag = "previews",
    request_body(content = ref("#/components/schemas/InvalidateBody"), content_type = "application/json"),
    responses(
        (status = 204, description = "Forgotten, also where nothing was remembered"),
        (status = 400, description = "`invalid_request`", body = ref("#/components/schemas/ErrorBody")),
        (status = 403, description = "`permission_denied`: the key is missing or wrong", body = ref("#/components/schemas/ErrorBody")),
        (status = 503, description = "`cache_unavailable`", body = ref("#/components/schemas/ErrorBody")),
    ),
    security(("internal" = [])),
)]
pub(in crate::http) async fn invalidate(
    state: web::Data<AppState>,
    _: InternalCaller,
    ApiJson(body): ApiJson<InvalidateBody>,
) -> Result<HttpResponse, ApiError> {
    invalidate_repo_access(&state.previews.deps, &body.user_id, &body.repo_full_name, body.reason).await?;
    Ok(HttpResponse::NoContent().finish())
}
