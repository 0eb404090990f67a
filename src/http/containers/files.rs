//! `GET|PUT /api/internal/sessions/{id}/files?path=…` (section 8): the files of a session's workspace.

use std::future::{Ready, ready};

use actix_web::dev::Payload;
use actix_web::http::header::ContentType;
use actix_web::{FromRequest, HttpRequest, HttpResponse, web};
use runwarden_actors::contract::ErrorCode;
use runwarden_actors::contract::limits::CONTAINER_FILE_MAX_BYTES;
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::super::auth::SessionCaller;
use super::super::body::read_body;
use super::super::{ApiError, AppState};
use super::escapes::is_utf8;
use super::session_id;
use crate::sandbox::{Entry, EntryKind, FileError, Workspace};

/// What is asked of a path.
#[derive(Deserialize, Clone, Copy, Default)]
#[serde(rename_all = "lowercase")]
pub(in crate::http) enum FileOperation {
    #[default]
    Read,
    List,
    Stat,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(in crate::http) struct FileQuery {
    #[serde(default)]
    path: String,
    #[serde(default)]
    op: FileOperation,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct WriteQuery {
    path: String,
}

/// An entry of the workspace.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(in crate::http) struct EntryBody {
    name: String,
    /// `file`, `folder`, `link` or `other`.
    kind: &'static str,
    size_bytes: u64,
    /// Permissions, as octal digits.
    mode: String,
    /// Seconds since 1970.
    modified_at_seconds: i64,
}

/// A folder's entries by name, at most 1000.
#[derive(Serialize, JsonSchema)]
pub(in crate::http) struct ListBody {
    entries: Vec<EntryBody>,
    truncated: bool,
}

impl From<Entry> for EntryBody {
    fn from(entry: Entry) -> Self {
        Self {
            name: entry.name,
            kind: match entry.kind {
                EntryKind::File => "file",
                EntryKind::Folder => "folder",
                EntryKind::Link => "link",
                EntryKind::Other => "other",
            },
            size_bytes: entry.size,
            mode: format!("{:o}", entry.mode),
            modified_at_seconds: entry.modified_at,
        }
    }
}

impl From<FileError> for ApiError {
    fn from(error: FileError) -> Self {
        let code = match &error {
            FileError::Container(error) => return error.clone().into(),
            FileError::BadPath | FileError::NotAFile(_) | FileError::NotAFolder(_) => ErrorCode::InvalidRequest,
            FileError::Outside(_) => ErrorCode::PermissionDenied,
            FileError::NotFound(_) => ErrorCode::NotFound,
            FileError::TooLarge(_) => ErrorCode::PayloadTooLarge,
            FileError::NoWorkspace(_) | FileError::Replaced(_) | FileError::Failed(_) => ErrorCode::Conflict,
        };
        Self::new(code, error.to_string())
    }
}

/// A query whose text is what the caller wrote. The names of files are taken from it, and a byte that is no text would
/// make another name of one.
pub(in crate::http) struct TextQuery<T>(T);

impl<T: DeserializeOwned> FromRequest for TextQuery<T> {
    type Error = ApiError;
    type Future = Ready<Result<Self, ApiError>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let query = request.query_string();
        let read = if is_utf8(query) {
            web::Query::<T>::from_query(query).map_err(|error| ApiError::invalid(error.to_string()))
        } else {
            Err(ApiError::invalid("the query must be UTF-8, also where it is escaped"))
        };
        ready(read.map(|query| Self(query.into_inner())))
    }
}

/// Reads a file, lists a folder, or looks at either.
#[utoipa::path(
    get,
    path = "/api/internal/sessions/{session_id}/files",
    tag = "containers",
    params(
        ("session_id" = String, Path, description = "The container's name behind `sandbox-session-`"),
        ("path" = Option<String>, Query, description = "Relative to the workspace; the workspace itself unless given"),
        ("op" = Option<String>, Query, description = "`read` (default), `list` or `stat`"),
    ),
    responses(
        (status = 200, description = "`read`: the bytes; `stat`: an `EntryBody`; `list`", body = ref("#/components/schemas/ListBody")),
        (status = 400, description = "`invalid_request`: the path, or what is there is of another kind", body = ref("#/components/schemas/ErrorBody")),
        (status = 403, description = "`permission_denied`: `Forbidden`, or a link leads out of the workspace", body = ref("#/components/schemas/ErrorBody")),
        (status = 404, description = "`not_found`: no such file or container", body = ref("#/components/schemas/ErrorBody")),
        (status = 409, description = "`conflict`: the container does not run, or could not do it", body = ref("#/components/schemas/ErrorBody")),
        (status = 413, description = "`payload_too_large`: at most 8 MiB", body = ref("#/components/schemas/ErrorBody")),
        (status = 429, description = "`concurrency_limited`: 64 commands are under way", body = ref("#/components/schemas/ErrorBody")),
        (status = 502, description = "`upstream_unreachable`: the engine refused or is away", body = ref("#/components/schemas/ErrorBody")),
        (status = 504, description = "`upstream_timeout`: the engine did not answer in time", body = ref("#/components/schemas/ErrorBody")),
    ),
    security(("internal" = [])),
)]
pub(in crate::http) async fn get(
    state: web::Data<AppState>,
    _: SessionCaller,
    session: web::Path<String>,
    query: TextQuery<FileQuery>,
) -> Result<HttpResponse, ApiError> {
    let (session, query) = (session_id(&session)?, query.0);
    let mark = state.deps.ids.uuid_v7().to_string();
    let engine = state.containers.engine();
    let within = Workspace { session: &session, root: &state.containers.settings().around.workspace, mark: &mark };
    let _turn = state.containers.turn(&session)?;
    Ok(match query.op {
        FileOperation::Read => {
            let bytes = engine.read_file(&within, &query.path).await?;
            HttpResponse::Ok().content_type(ContentType::octet_stream()).body(bytes)
        }
        FileOperation::Stat => HttpResponse::Ok().json(EntryBody::from(engine.stat_file(&within, &query.path).await?)),
        FileOperation::List => {
            let listing = engine.list_files(&within, &query.path).await?;
            let entries = listing.entries.into_iter().map(EntryBody::from).collect();
            HttpResponse::Ok().json(ListBody { entries, truncated: listing.truncated })
        }
    })
}

/// Writes a file whole; folders on the way are made.
#[utoipa::path(
    put,
    path = "/api/internal/sessions/{session_id}/files",
    tag = "containers",
    params(
        ("session_id" = String, Path, description = "The container's name behind `sandbox-session-`"),
        ("path" = String, Query, description = "Relative to the workspace"),
    ),
    request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    responses(
        (status = 200, description = "Written", body = ref("#/components/schemas/EntryBody")),
        (status = 400, description = "`invalid_request`: the path, or what is there is no file", body = ref("#/components/schemas/ErrorBody")),
        (status = 403, description = "`permission_denied`: `Forbidden`, or a link", body = ref("#/components/schemas/ErrorBody")),
        (status = 404, description = "`not_found`: no such container", body = ref("#/components/schemas/ErrorBody")),
        (status = 409, description = "`conflict`: the container does not run, or could not do it, or has put something else there at once", body = ref("#/components/schemas/ErrorBody")),
        (status = 413, description = "`payload_too_large`: at most 8 MiB", body = ref("#/components/schemas/ErrorBody")),
        (status = 429, description = "`concurrency_limited`: 64 commands are under way", body = ref("#/components/schemas/ErrorBody")),
        (status = 502, description = "`upstream_unreachable`: the engine refused or is away", body = ref("#/components/schemas/ErrorBody")),
        (status = 504, description = "`upstream_timeout`: the engine did not answer in time", body = ref("#/components/schemas/ErrorBody")),
    ),
    security(("internal" = [])),
)]
pub(in crate::http) async fn put(
    state: web::Data<AppState>,
    _: SessionCaller,
    request: HttpRequest,
    session: web::Path<String>,
    query: TextQuery<WriteQuery>,
    payload: web::Payload,
) -> Result<HttpResponse, ApiError> {
    let session = session_id(&session)?;
    let bytes = read_body(&request, payload, CONTAINER_FILE_MAX_BYTES).await?;
    let mark = state.deps.ids.uuid_v7().to_string();
    let within = Workspace { session: &session, root: &state.containers.settings().around.workspace, mark: &mark };
    let _turn = state.containers.turn(&session)?;
    let written = state.containers.engine().write_file(&within, &query.0.path, &bytes).await?;
    Ok(HttpResponse::Ok().json(EntryBody::from(written)))
}
