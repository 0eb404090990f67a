//! `GET|PUT|DELETE /api/internal/flags/{flag}?userId=…|repoFullName=…` (section 3).

use actix_web::{HttpResponse, web};
use runwarden_actors::contract::{FeatureFlag, FlagScope, RepoFullName, UserId};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::auth::InternalCaller;
use super::body::ApiJson;
use super::{ApiError, AppState};

#[derive(Deserialize)]
// A misspelt name must not widen what is meant.
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct ScopeQuery {
    user_id: Option<String>,
    repo_full_name: Option<String>,
}

/// The value to set.
#[derive(Deserialize, JsonSchema)]
pub(super) struct FlagBody {
    enabled: bool,
}

/// A flag's value and where it comes from: `user`, `repo`, `default` or `built_in`.
#[derive(Serialize, JsonSchema)]
pub(super) struct FlagAnswer {
    flag: FeatureFlag,
    enabled: bool,
    source: &'static str,
}

fn flag_of(name: &str) -> Result<FeatureFlag, ApiError> {
    name.parse().map_err(|_| ApiError::not_found("flag; there are sandboxPreview and daemonRunIdStrict"))
}

/// The scope that is written: exactly one.
fn one_scope(query: &ScopeQuery) -> Result<FlagScope, ApiError> {
    match (&query.user_id, &query.repo_full_name) {
        (None, None) => Ok(FlagScope::Default),
        (Some(user), None) => Ok(FlagScope::User(UserId::parse(user)?)),
        (None, Some(repo)) => Ok(FlagScope::Repo(RepoFullName::parse(repo)?)),
        (Some(_), Some(_)) => Err(ApiError::invalid("give userId or repoFullName, not both")),
    }
}

/// The value that holds: the most specific wins, user before repository before default.
#[utoipa::path(
    get,
    path = "/api/internal/flags/{flag}",
    tag = "flags",
    params(("flag" = String, Path, description = "`sandboxPreview` or `daemonRunIdStrict`"), ("userId" = Option<String>, Query, description = "The user's override"), ("repoFullName" = Option<String>, Query, description = "The repository's override")),
    responses(
        (status = 200, description = "The value that holds", body = ref("#/components/schemas/FlagAnswer")),
        (status = 400, description = "`invalid_request`", body = ref("#/components/schemas/ErrorBody")),
        (status = 403, description = "`permission_denied`: the key is missing or wrong", body = ref("#/components/schemas/ErrorBody")),
        (status = 404, description = "`not_found`", body = ref("#/components/schemas/ErrorBody")),
        (status = 503, description = "`store_unavailable`; `Retry-After` says when to come back", body = ref("#/components/schemas/ErrorBody")),
    ),
    security(("internal" = [])),
)]
pub(super) async fn get(
    state: web::Data<AppState>,
    _: InternalCaller,
    flag: web::Path<String>,
    query: web::Query<ScopeQuery>,
) -> Result<HttpResponse, ApiError> {
    let flag = flag_of(&flag)?;
    let mut scopes = Vec::new();
    if let Some(user) = &query.user_id {
        scopes.push(FlagScope::User(UserId::parse(user)?));
    }
    if let Some(repo) = &query.repo_full_name {
        scopes.push(FlagScope::Repo(RepoFullName::parse(repo)?));
    }
    scopes.push(FlagScope::Default);
    for scope in scopes {
        if let Some(enabled) = state.deps.store.flag_override(flag, &scope).await? {
            return Ok(answer(flag, enabled, scope.kind()));
        }
    }
    Ok(answer(flag, flag.default_enabled(), "built_in"))
}

/// Sets the override of one scope.
#[utoipa::path(
    put,
    path = "/api/internal/flags/{flag}",
    tag = "flags",
    params(("flag" = String, Path, description = "`sandboxPreview` or `daemonRunIdStrict`"), ("userId" = Option<String>, Query, description = "The user's override"), ("repoFullName" = Option<String>, Query, description = "The repository's override")),
    request_body(content = ref("#/components/schemas/FlagBody"), content_type = "application/json"),
    responses(
        (status = 200, description = "Set", body = ref("#/components/schemas/FlagAnswer")),
        (status = 400, description = "`invalid_request`", body = ref("#/components/schemas/ErrorBody")),
        (status = 403, description = "`permission_denied`: the key is missing or wrong", body = ref("#/components/schemas/ErrorBody")),
        (status = 404, description = "`not_found`", body = ref("#/components/schemas/ErrorBody")),
        (status = 503, description = "`store_unavailable`; `Retry-After` says when to come back", body = ref("#/components/schemas/ErrorBody")),
    ),
    security(("internal" = [])),
)]
pub(super) async fn put(
    state: web::Data<AppState>,
    _: InternalCaller,
    flag: web::Path<String>,
    query: web::Query<ScopeQuery>,
    body: ApiJson<FlagBody>,
) -> Result<HttpResponse, ApiError> {
    let flag = flag_of(&flag)?;
    let scope = one_scope(&query)?;
    let enabled = body.0.enabled;
    state.deps.store.set_flag_override(flag, &scope, enabled, state.deps.clock.now()).await?;
    tracing::info!(%flag, scope = scope.kind(), subject = scope.subject(), enabled, "flag set");
    Ok(answer(flag, enabled, scope.kind()))
}

/// Removes the override of one scope.
#[utoipa::path(
    delete,
    path = "/api/internal/flags/{flag}",
    tag = "flags",
    params(("flag" = String, Path, description = "`sandboxPreview` or `daemonRunIdStrict`"), ("userId" = Option<String>, Query, description = "The user's override"), ("repoFullName" = Option<String>, Query, description = "The repository's override")),
    responses(
        (status = 204, description = "Removed"),
        (status = 400, description = "`invalid_request`", body = ref("#/components/schemas/ErrorBody")),
        (status = 403, description = "`permission_denied`: the key is missing or wrong", body = ref("#/components/schemas/ErrorBody")),
        (status = 404, description = "`not_found`: no such flag or no such override", body = ref("#/components/schemas/ErrorBody")),
        (status = 503, description = "`store_unavailable`; `Retry-After` says when to come back", body = ref("#/components/schemas/ErrorBody")),
    ),
    security(("internal" = [])),
)]
pub(super) async fn delete(
    state: web::Data<AppState>,
    _: InternalCaller,
    flag: web::Path<String>,
    query: web::Query<ScopeQuery>,
) -> Result<HttpResponse, ApiError> {
    let flag = flag_of(&flag)?;
    let scope = one_scope(&query)?;
    if !state.deps.store.delete_flag_override(flag, &scope).await? {
        return Err(ApiError::not_found("flag override"));
    }
    tracing::info!(%flag, scope = scope.kind(), subject = scope.subject(), "flag override removed");
    Ok(HttpResponse::NoContent().finish())
}

fn answer(flag: FeatureFlag, enabled: bool, source: &'static str) -> HttpResponse {
    HttpResponse::Ok().json(FlagAnswer { flag, enabled, source })
}
