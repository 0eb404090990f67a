//! Rows of `preview_session`, and what both databases write of a move or a closing.

use std::collections::BTreeMap;

use runwarden_actors::contract::{
    PreviewConfig, PreviewErrorCode, PreviewSessionId, PreviewSessionState, RunId, Timestamp, UnsupportedReason,
};
use runwarden_actors::ports::Scheme;
use runwarden_actors::ports::store::{ClosedPreview, PinnedAddresses, PreviewMove, PreviewSession, PreviewUpstream};
use runwarden_actors::preview::sources_of;
use runwarden_actors::run::effect::Effect;
use sqlx::FromRow;
use sqlx::types::Uuid;

use super::failure::Failure;
use super::rows::{corrupt, name, name_or_none};
use super::text::without_nul;

/// Sessions that one effect announces: it has to end within an effect's time, also where each has a command to stop.
const ANNOUNCED_AT_ONCE: usize = 50;

/// `preview_session`.
#[derive(FromRow)]
pub(super) struct PreviewRow {
    preview_session_id: Uuid,
    thread_id: String,
    thread_chat_id: String,
    run_id: Uuid,
    user_id: String,
    codesandbox_id: String,
    sandbox_provider: String,
    repo_full_name: String,
    config_command: Option<String>,
    config_port: Option<i32>,
    config_health_path: Option<String>,
    requires_websocket: bool,
    config_open_mode: Option<String>,
    open_mode: String,
    upstream_origin: Option<String>,
    upstream_origin_token: Option<String>,
    upstream_auth_headers: Option<String>,
    pinned_upstream_ips: Option<String>,
    revocation_version: i64,
    last_dns_check_at: Option<i64>,
    dns_refreshed_once: bool,
    state: String,
    unsupported_reason: Option<String>,
    error_code: Option<String>,
    error_output: Option<String>,
    expires_at: i64,
    revoked_at: Option<i64>,
    created_at: i64,
    updated_at: i64,
}

impl PreviewRow {
    fn config(&self) -> Result<Option<PreviewConfig>, Failure> {
        let (Some(command), Some(port), Some(health_path)) =
            (&self.config_command, self.config_port, &self.config_health_path)
        else {
            return Ok(None);
        };
        Ok(Some(PreviewConfig {
            // The only one there is; another would bring a column of its own.
            schema_version: 1,
            command: command.clone(),
            port: u16::try_from(port).map_err(corrupt)?,
            health_path: health_path.clone(),
            requires_websocket: self.requires_websocket,
            open_mode: name_or_none(self.config_open_mode.as_deref())?,
        }))
    }

    fn upstream(&self) -> Result<Option<PreviewUpstream>, Failure> {
        let (Some(origin), Some(token), Some(headers), Some(pinned), Some(checked_at)) = (
            &self.upstream_origin,
            &self.upstream_origin_token,
            &self.upstream_auth_headers,
            &self.pinned_upstream_ips,
            self.last_dns_check_at,
        ) else {
            return Ok(None);
        };
        let (scheme, host, port) =
            split_origin(origin).ok_or_else(|| Failure::Corrupt("an upstream's origin cannot be read".to_owned()))?;
        Ok(Some(PreviewUpstream {
            scheme,
            host: host.to_owned(),
            port,
            origin_token: token.clone(),
            // The parser's message may quote a value, and the values are secrets.
            auth_headers: serde_json::from_str(headers)
                .map_err(|_| Failure::Corrupt("an upstream's headers cannot be read".to_owned()))?,
            pinned: serde_json::from_str(pinned).map_err(corrupt)?,
            last_dns_check_at: Timestamp::from_millis(checked_at),
            dns_refreshed_once: self.dns_refreshed_once,
        }))
    }
}

impl TryFrom<PreviewRow> for PreviewSession {
    type Error = Failure;

    fn try_from(row: PreviewRow) -> Result<Self, Failure> {
        use runwarden_actors::contract as c;
        Ok(Self {
            config: row.config()?,
            upstream: row.upstream()?,
            id: PreviewSessionId::from_uuid(row.preview_session_id),
            thread_id: c::ThreadId::parse(&row.thread_id).map_err(corrupt)?,
            thread_chat_id: c::ThreadChatId::parse(&row.thread_chat_id).map_err(corrupt)?,
            run_id: RunId::from_uuid(row.run_id),
            user_id: c::UserId::parse(&row.user_id).map_err(corrupt)?,
            codesandbox_id: c::CodesandboxId::parse(&row.codesandbox_id).map_err(corrupt)?,
            sandbox_provider: name(&row.sandbox_provider)?,
            repo_full_name: c::RepoFullName::parse(&row.repo_full_name).map_err(corrupt)?,
            open_mode: name(&row.open_mode)?,
            revocation_version: row.revocation_version,
            state: name(&row.state)?,
            unsupported_reason: name_or_none(row.unsupported_reason.as_deref())?,
            error_code: name_or_none(row.error_code.as_deref())?,
            error_output: row.error_output,
            expires_at: Timestamp::from_millis(row.expires_at),
            revoked_at: row.revoked_at.map(Timestamp::from_millis),
            created_at: Timestamp::from_millis(row.created_at),
            updated_at: Timestamp::from_millis(row.updated_at),
        })
    }
}

/// What [`PreviewUpstream::origin`] writes, taken apart again.
fn split_origin(origin: &str) -> Option<(Scheme, &str, u16)> {
    let (scheme, authority) = origin.split_once("://")?;
    let scheme = Scheme::parse(scheme)?;
    let (host, port) = match authority.strip_prefix('[') {
        Some(bracketed) => bracketed.split_once(']')?,
        None => authority.find(':').map_or((authority, ""), |colon| authority.split_at(colon)),
    };
    let port = match (port.strip_prefix(':'), scheme) {
        (Some(port), _) => port.parse().ok()?,
        (None, _) if !port.is_empty() => return None,
        (None, Scheme::Http) => 80,
        (None, Scheme::Https) => 443,
    };
    (!host.is_empty()).then_some((scheme, host, port))
}

/// What a move writes.
pub(super) struct MoveColumns {
    pub(super) to: &'static str,
    /// The states that it may start from.
    pub(super) from: Vec<&'static str>,
    /// What the revocation version goes up by.
    pub(super) version_step: i64,
    pub(super) unsupported_reason: Option<&'static str>,
    pub(super) error_code: Option<&'static str>,
    pub(super) error_output: Option<String>,
    pub(super) upstream: Option<UpstreamColumns>,
}

/// An upstream as its columns take it.
pub(super) struct UpstreamColumns {
    pub(super) origin: String,
    pub(super) token: String,
    pub(super) auth_headers: String,
    pub(super) pinned: String,
    pub(super) checked_at: Timestamp,
    pub(super) refreshed_once: bool,
}

impl MoveColumns {
    pub(super) fn new(change: &PreviewMove) -> Result<Self, Failure> {
        let to = change.target();
        let mut columns = Self {
            to: to.as_str(),
            from: sources_of(to).map(PreviewSessionState::as_str).collect(),
            version_step: 0,
            unsupported_reason: None,
            error_code: None,
            error_output: None,
            upstream: None,
        };
        match change {
            PreviewMove::Initializing | PreviewMove::Expired => {}
            PreviewMove::Ready { upstream } => columns.upstream = Some(UpstreamColumns::new(upstream)?),
            PreviewMove::Unsupported { reason } => {
                columns.unsupported_reason = Some(UnsupportedReason::as_str(*reason));
            }
            PreviewMove::Error { code, output } => {
                columns.error_code = Some(PreviewErrorCode::as_str(*code));
                columns.error_output = output.as_deref().map(|text| without_nul(text).into_owned());
            }
            PreviewMove::Revoked => columns.version_step = 1,
        }
        Ok(columns)
    }
}

impl UpstreamColumns {
    fn new(upstream: &PreviewUpstream) -> Result<Self, Failure> {
        let unwritable = |error: serde_json::Error| Failure::Rejected(error.to_string());
        Ok(Self {
            origin: upstream.origin(),
            token: upstream.origin_token.clone(),
            auth_headers: serde_json::to_string(&upstream.auth_headers).map_err(unwritable)?,
            pinned: pinned_text(&upstream.pinned)?,
            checked_at: upstream.last_dns_check_at,
            refreshed_once: upstream.dns_refreshed_once,
        })
    }
}

/// Pinned addresses as their column takes them.
pub(super) fn pinned_text(pinned: &PinnedAddresses) -> Result<String, Failure> {
    serde_json::to_string(pinned).map_err(|error| Failure::Rejected(error.to_string()))
}

/// An open session that is about to be closed: its id, its run, its state.
pub(super) type OpenRow = (Uuid, Uuid, String);

/// Why sessions are closed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Closing {
    /// Taken back: ready ones are `revoked`, the others fail as `superseded`; versions go up.
    TakenBack,
    /// Their life is over: ready ones are `expired`, the others never became healthy, in their life or in the time of a
    /// start. What was granted has the same end, so versions stay.
    Ended,
}

/// What a closing writes to one session.
pub(super) struct CloseColumns {
    pub(super) to: PreviewSessionState,
    pub(super) version_step: i64,
    pub(super) error_code: Option<&'static str>,
    /// For people, beside the code.
    pub(super) error_output: Option<&'static str>,
}

/// What a start says that nobody has finished.
const UNFINISHED: &str = "the start was not finished in time: the server that ran it has probably ended";

impl Closing {
    pub(super) fn columns(self, was: PreviewSessionState) -> CloseColumns {
        let ready = was == PreviewSessionState::Ready;
        let (closed, code) = match self {
            Self::TakenBack => (PreviewSessionState::Revoked, PreviewErrorCode::Superseded),
            Self::Ended => (PreviewSessionState::Expired, PreviewErrorCode::HealthCheckTimeout),
        };
        CloseColumns {
            to: if ready { closed } else { PreviewSessionState::Error },
            version_step: i64::from(self == Self::TakenBack),
            error_code: (!ready).then(|| code.as_str()),
            error_output: (!ready && self == Self::Ended).then_some(UNFINISHED),
        }
    }
}

/// What the outbox is told about closed sessions: for each run its effects, as kind and JSON.
pub(super) fn announcements(closed: &[(Uuid, ClosedPreview)]) -> Result<Vec<(Uuid, &'static str, String)>, Failure> {
    let mut by_run = BTreeMap::<Uuid, Vec<ClosedPreview>>::new();
    for (run, session) in closed {
        by_run.entry(*run).or_default().push(*session);
    }
    let mut effects = Vec::new();
    for (run, sessions) in by_run {
        for sessions in sessions.chunks(ANNOUNCED_AT_ONCE) {
            let effect = Effect::AnnounceClosedPreviews { sessions: sessions.to_vec() };
            let json = serde_json::to_string(&effect).map_err(|error| Failure::Rejected(error.to_string()))?;
            effects.push((run, effect.kind(), json));
        }
    }
    Ok(effects)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_read_as_it_was_written() {
        for (origin, parts) in [
            ("http://172.17.0.2:5173", (Scheme::Http, "172.17.0.2", 5173)),
            ("http://box", (Scheme::Http, "box", 80)),
            ("https://5173-box.preview.example", (Scheme::Https, "5173-box.preview.example", 443)),
            ("https://[fd00::2]", (Scheme::Https, "fd00::2", 443)),
            ("http://[fd00::2]:8080", (Scheme::Http, "fd00::2", 8080)),
        ] {
            assert_eq!(split_origin(origin), Some(parts), "{origin}");
        }
        for wrong in ["", "box:80", "ftp://box", "http://", "http://:80", "http://box:x", "http://[fd00::2]80"] {
            assert_eq!(split_origin(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn one_effect_announces_a_bounded_number_of_one_runs_sessions() {
        let session = |number: u128| ClosedPreview {
            preview_session_id: PreviewSessionId::from_uuid(Uuid::from_u128(number)),
            revocation_version: 1,
            was: PreviewSessionState::Ready,
            now: PreviewSessionState::Revoked,
        };
        let (one, two) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let mut closed: Vec<_> = (0..51).map(|number| (one, session(number))).collect();
        closed.push((two, session(99)));
        let runs: Vec<_> = announcements(&closed).unwrap().into_iter().map(|(run, ..)| run).collect();
        assert_eq!(runs, [one, one, two]);
    }
}
