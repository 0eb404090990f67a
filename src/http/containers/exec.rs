//! `POST /api/internal/sessions/{id}/exec` (section 8): a command in a session's container.

use std::collections::BTreeMap;
use std::time::Duration;

use actix_web::{HttpResponse, web};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use runwarden_actors::contract::ErrorCode;
use runwarden_actors::contract::limits::{
    CONTAINER_EXEC_DEFAULT_MS, CONTAINER_EXEC_MAX_MS, CONTAINER_OUTPUT_DEFAULT_BYTES, CONTAINER_OUTPUT_MAX_BYTES,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::super::auth::SessionCaller;
use super::super::body::ApiJson;
use super::super::{ApiError, AppState};
use super::{environment, session_id};
use crate::sandbox::Command;

/// Most words of a command.
const WORDS_MAX: usize = 256;

/// How output is written into JSON.
#[derive(Deserialize, JsonSchema, Clone, Copy, Default)]
#[serde(rename_all = "lowercase")]
pub(in crate::http) enum OutputEncoding {
    /// As text; bytes that are none are replaced.
    #[default]
    Utf8,
    /// Byte for byte.
    Base64,
}

/// A command.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(in crate::http) struct ExecBody {
    /// Program and arguments; no shell sees them.
    command: Vec<String>,
    #[serde(default)]
    env: BTreeMap<String, String>,
    /// An absolute path inside; the workspace unless given.
    working_dir: Option<String>,
    /// What it reads on standard input.
    stdin: Option<String>,
    /// 1 to 600000; 30000 unless given. Then it is killed with all that it started.
    timeout_ms: Option<u64>,
    /// Of each output, 0 to 8388608; 1048576 unless given. The rest is thrown away.
    max_output_bytes: Option<usize>,
    #[serde(default)]
    encoding: OutputEncoding,
}

/// How it ended.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(in crate::http) struct ExecAnswerBody {
    /// 126 or 127 where the program could not be started; null where its time was over.
    exit_code: Option<i64>,
    timed_out: bool,
    stdout: String,
    stderr: String,
    stdout_truncated: bool,
    stderr_truncated: bool,
}

/// Runs a command to its end, or to the end of its time.
#[utoipa::path(
    post,
    path = "/api/internal/sessions/{session_id}/exec",
    tag = "containers",
    params(("session_id" = String, Path, description = "The container's name behind `sandbox-session-`")),
    request_body(content = ref("#/components/schemas/ExecBody"), content_type = "application/json"),
    responses(
        (status = 200, description = "How it ended, also where it failed", body = ref("#/components/schemas/ExecAnswerBody")),
        (status = 400, description = "`invalid_request`", body = ref("#/components/schemas/ErrorBody")),
        (status = 403, description = "`permission_denied`: `Forbidden`", body = ref("#/components/schemas/LockedErrorBody")),
        (status = 404, description = "`not_found`", body = ref("#/components/schemas/ErrorBody")),
        (status = 409, description = "`conflict`: it does not run", body = ref("#/components/schemas/ErrorBody")),
        (status = 429, description = "`concurrency_limited`: 64 commands are under way", body = ref("#/components/schemas/ErrorBody")),
        (status = 502, description = "`upstream_unreachable`: the engine refused or is away", body = ref("#/components/schemas/ErrorBody")),
    ),
    security(("internal" = [])),
)]
pub(in crate::http) async fn exec(
    state: web::Data<AppState>,
    _: SessionCaller,
    session: web::Path<String>,
    body: ApiJson<ExecBody>,
) -> Result<HttpResponse, ApiError> {
    let session = session_id(&session)?;
    let body = body.0;
    let encoding = body.encoding;
    let workspace = &state.containers.settings().around.workspace;
    let command = command(body, workspace, state.deps.ids.uuid_v7().to_string())?;
    let turn = state.containers.turn(&session)?;
    let containers = state.containers.clone();
    // Whoever hangs up must not keep the command from being ended in time.
    let running = actix_web::rt::spawn(async move {
        let outcome = containers.engine().run(&session, &command).await;
        drop(turn);
        outcome
    });
    let outcome = running
        .await
        .map_err(|_| ApiError::new(ErrorCode::UpstreamUnreachable, "the command's task ended early"))??;
    let text = |bytes: Vec<u8>| match encoding {
        OutputEncoding::Utf8 => String::from_utf8_lossy(&bytes).into_owned(),
        OutputEncoding::Base64 => STANDARD.encode(bytes),
    };
    Ok(HttpResponse::Ok().json(ExecAnswerBody {
        exit_code: outcome.exit_code,
        timed_out: outcome.exit_code.is_none(),
        stdout: text(outcome.stdout),
        stderr: text(outcome.stderr),
        stdout_truncated: outcome.stdout_truncated,
        stderr_truncated: outcome.stderr_truncated,
    }))
}

fn command(body: ExecBody, workspace: &str, mark: String) -> Result<Command, ApiError> {
    let nul = |text: &String| text.contains('\0');
    let words = &body.command;
    if words.is_empty()
        || words.len() > WORDS_MAX
        || words.iter().any(nul)
        || words.first().is_some_and(String::is_empty)
    {
        return Err(ApiError::invalid(format!(
            "command must be 1 to {WORDS_MAX} words without NUL, the first one a program"
        )));
    }
    if body.working_dir.as_ref().is_some_and(|dir| !dir.starts_with('/') || dir.contains(char::is_control)) {
        return Err(ApiError::invalid("workingDir must be an absolute path"));
    }
    let time = body.timeout_ms.unwrap_or(CONTAINER_EXEC_DEFAULT_MS);
    if !(1..=CONTAINER_EXEC_MAX_MS).contains(&time) {
        return Err(ApiError::invalid(format!("timeoutMs must be from 1 to {CONTAINER_EXEC_MAX_MS}")));
    }
    let output_max_bytes = body.max_output_bytes.unwrap_or(CONTAINER_OUTPUT_DEFAULT_BYTES);
    if output_max_bytes > CONTAINER_OUTPUT_MAX_BYTES {
        return Err(ApiError::invalid(format!("maxOutputBytes must be at most {CONTAINER_OUTPUT_MAX_BYTES}")));
    }
    Ok(Command {
        argv: body.command,
        env: environment(body.env)?,
        dir: Some(body.working_dir.unwrap_or_else(|| workspace.to_owned())),
        input: body.stdin.map(String::into_bytes),
        time: Duration::from_millis(time),
        output_max_bytes,
        mark,
    })
}
