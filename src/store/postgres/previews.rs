//! Preview sessions: beginning, moving, loading. How they are closed from outside stands in `closing.rs`.

use async_trait::async_trait;
use runwarden_actors::contract::{OpenMode, PreviewConfig, PreviewSessionId, PreviewSessionState, Timestamp};
use runwarden_actors::ports::StoreError;
use runwarden_actors::ports::store::{
    BeginPreview, ClosedPreview, NewPreviewSession, PinnedAddresses, PreviewMove, PreviewMoved, PreviewSession,
    PreviewStore, RevocationScope,
};
use sqlx::Connection;
use sqlx::postgres::PgConnection;
use sqlx::types::Uuid;

use super::closing;
use super::connection::{PostgresStore, at, settle};
use crate::store::failure::Failure;
use crate::store::preview_rows::{MoveColumns, PreviewRow, pinned_text};

/// A session's row as [`PreviewRow`] reads it.
const SELECT_PREVIEW: &str = "select preview_session_id, thread_id, thread_chat_id, run_id, user_id, codesandbox_id, \
    sandbox_provider, repo_full_name, config_command, config_port, config_health_path, requires_websocket, \
    config_open_mode, open_mode, upstream_origin, upstream_origin_token, upstream_auth_headers, \
    pinned_upstream_ips::text as pinned_upstream_ips, revocation_version, (extract(epoch from last_dns_check_at) * 1000)::int8 as last_dns_check_at, dns_refreshed_once, state, unsupported_reason, error_code, \
    error_output, (extract(epoch from expires_at) * 1000)::int8 as expires_at, (extract(epoch from revoked_at) * 1000)::int8 as revoked_at, (extract(epoch from created_at) * 1000)::int8 as created_at, (extract(epoch from updated_at) * 1000)::int8 as updated_at \
    from preview_session where preview_session_id = $1";

#[async_trait]
impl PreviewStore for PostgresStore {
    #[tracing::instrument(name = "store.begin_preview", skip_all, fields(preview_session_id = %new.id, run_id = %new.run_id))]
    async fn begin_preview(&self, new: &NewPreviewSession) -> Result<BeginPreview, StoreError> {
        let mut held = self.acquire().await?;
        let outcome = self.limit(begin(&mut held, new)).await;
        Ok(settle(held, outcome)?)
    }

    #[tracing::instrument(name = "store.load_preview", skip_all, fields(preview_session_id = %id))]
    async fn load_preview(&self, id: PreviewSessionId) -> Result<Option<PreviewSession>, StoreError> {
        let mut held = self.acquire().await?;
        let outcome = self.limit(load(&mut held, id.as_uuid())).await;
        Ok(settle(held, outcome)?)
    }

    #[tracing::instrument(name = "store.set_preview_config", skip_all, fields(preview_session_id = %id))]
    async fn set_preview_config(
        &self,
        id: PreviewSessionId,
        config: &PreviewConfig,
        open_mode: OpenMode,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let mut held = self.acquire().await?;
        let outcome = self.limit(set_config(&mut held, id, config, open_mode, now)).await;
        Ok(settle(held, outcome)?)
    }

    #[tracing::instrument(name = "store.move_preview", skip_all, fields(preview_session_id = %id, to = %change.target()))]
    async fn move_preview(
        &self,
        id: PreviewSessionId,
        change: &PreviewMove,
        now: Timestamp,
    ) -> Result<PreviewMoved, StoreError> {
        let mut held = self.acquire().await?;
        let outcome = self.limit(move_along(&mut held, id, change, now)).await;
        Ok(settle(held, outcome)?)
    }

    #[tracing::instrument(name = "store.refresh_preview_pin", skip_all, fields(preview_session_id = %id))]
    async fn refresh_preview_pin(
        &self,
        id: PreviewSessionId,
        pinned: &PinnedAddresses,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let mut held = self.acquire().await?;
        let outcome = self.limit(refresh(&mut held, id, pinned, now)).await;
        Ok(settle(held, outcome)?)
    }

    #[tracing::instrument(name = "store.revoke_previews", skip_all)]
    async fn revoke_previews(
        &self,
        scope: &RevocationScope,
        now: Timestamp,
        most: u32,
    ) -> Result<Vec<ClosedPreview>, StoreError> {
        let mut held = self.acquire().await?;
        let outcome = self.limit(closing::revoke(&mut held, scope, at(now), most)).await;
        Ok(settle(held, outcome)?)
    }

    #[tracing::instrument(name = "store.expire_previews", skip_all)]
    async fn expire_previews(
        &self,
        begun_before: Timestamp,
        now: Timestamp,
        most: u32,
    ) -> Result<Vec<ClosedPreview>, StoreError> {
        let mut held = self.acquire().await?;
        let outcome = self.limit(closing::expire(&mut held, at(begun_before), at(now), most)).await;
        Ok(settle(held, outcome)?)
    }
}

async fn load(connection: &mut PgConnection, id: Uuid) -> Result<Option<PreviewSession>, Failure> {
    let row: Option<PreviewRow> = sqlx::query_as(SELECT_PREVIEW).bind(id).fetch_optional(connection).await?;
    row.map(PreviewSession::try_from).transpose()
}

async fn loaded(connection: &mut PgConnection, id: Uuid) -> Result<Box<PreviewSession>, Failure> {
    let session = load(connection, id).await?;
    session.map(Box::new).ok_or_else(|| Failure::Corrupt("a preview session is gone that was just there".to_owned()))
}

async fn begin(connection: &mut PgConnection, new: &NewPreviewSession) -> Result<BeginPreview, Failure> {
    let (id, run) = (new.id.as_uuid(), new.run_id.as_uuid());
    let mut tx = connection.begin().await?;
    // No new run and no other sandbox comes in between: both take this lock for themselves.
    let active: Option<Uuid> = sqlx::query_scalar(
        "select active_run_id from thread_run_context where thread_id = $1 and thread_chat_id = $2 for share",
    )
    .bind(new.thread_id.as_str())
    .bind(new.thread_chat_id.as_str())
    .fetch_optional(&mut *tx)
    .await?;
    if active != Some(run) {
        tx.rollback().await?;
        return Ok(BeginPreview::NotActive);
    }
    // A run that has ended is looked at too, for as long as the pointer names it.
    let begun = sqlx::query(
        "insert into preview_session (preview_session_id, thread_id, thread_chat_id, run_id, user_id, codesandbox_id, \
         sandbox_provider, repo_full_name, open_mode, state, expires_at, created_at, updated_at) \
         select $1, thread_id, thread_chat_id, run_id, $3, codesandbox_id, sandbox_provider, repo_full_name, $4, $5, \
         $6, $7, $7 from thread_run where run_id = $2 and codesandbox_id is not null",
    )
    .bind(id)
    .bind(run)
    .bind(new.user_id.as_str())
    .bind(new.open_mode.as_str())
    .bind(PreviewSessionState::Pending.as_str())
    .bind(at(new.expires_at))
    .bind(at(new.now))
    .execute(&mut *tx)
    .await?
    .rows_affected();
    if begun != 1 {
        tx.rollback().await?;
        return Ok(BeginPreview::NotActive);
    }
    let session = loaded(&mut tx, id).await?;
    tx.commit().await?;
    Ok(BeginPreview::Begun(session))
}

async fn set_config(
    connection: &mut PgConnection,
    id: PreviewSessionId,
    config: &PreviewConfig,
    open_mode: OpenMode,
    now: Timestamp,
) -> Result<bool, Failure> {
    let written = sqlx::query(
        "update preview_session set config_command = $2, config_port = $3, config_health_path = $4, \
         requires_websocket = $5, config_open_mode = $6, open_mode = $7, updated_at = $8 \
         where preview_session_id = $1 and state = 'initializing' and config_command is null",
    )
    .bind(id.as_uuid())
    .bind(&config.command)
    .bind(i32::from(config.port))
    .bind(&config.health_path)
    .bind(config.requires_websocket)
    .bind(config.open_mode.map(OpenMode::as_str))
    .bind(open_mode.as_str())
    .bind(at(now))
    .execute(connection)
    .await?;
    Ok(written.rows_affected() == 1)
}

async fn move_along(
    connection: &mut PgConnection,
    id: PreviewSessionId,
    change: &PreviewMove,
    now: Timestamp,
) -> Result<PreviewMoved, Failure> {
    let columns = MoveColumns::new(change)?;
    let upstream = columns.upstream.as_ref();
    let mut tx = connection.begin().await?;
    let moved = sqlx::query(
        "update preview_session set state = $2, updated_at = $4, revocation_version = revocation_version + $5, \
         revoked_at = case when $2 = 'revoked' then $4 else revoked_at end, \
         unsupported_reason = $6, error_code = $7, error_output = $8, \
         upstream_origin = coalesce($9, upstream_origin), \
         upstream_origin_token = coalesce($10, upstream_origin_token), \
         upstream_auth_headers = coalesce($11, upstream_auth_headers), \
         pinned_upstream_ips = coalesce($12::text::jsonb, pinned_upstream_ips), \
         last_dns_check_at = coalesce($13, last_dns_check_at), \
         dns_refreshed_once = coalesce($14, dns_refreshed_once) \
         where preview_session_id = $1 and state = any ($3)",
    )
    .bind(id.as_uuid())
    .bind(columns.to)
    .bind(&columns.from)
    .bind(at(now))
    .bind(columns.version_step)
    .bind(columns.unsupported_reason)
    .bind(columns.error_code)
    .bind(columns.error_output.as_deref())
    .bind(upstream.map(|upstream| upstream.origin.as_str()))
    .bind(upstream.map(|upstream| upstream.token.as_str()))
    .bind(upstream.map(|upstream| upstream.auth_headers.as_str()))
    .bind(upstream.map(|upstream| upstream.pinned.as_str()))
    .bind(upstream.map(|upstream| at(upstream.checked_at)))
    .bind(upstream.map(|upstream| upstream.refreshed_once))
    .execute(&mut *tx)
    .await?
    .rows_affected();
    let session = load(&mut tx, id.as_uuid()).await?;
    tx.commit().await?;
    Ok(match session.map(Box::new) {
        None => PreviewMoved::NotFound,
        Some(session) if moved == 1 => PreviewMoved::Moved(session),
        Some(session) => PreviewMoved::NotListed(session),
    })
}

async fn refresh(
    connection: &mut PgConnection,
    id: PreviewSessionId,
    pinned: &PinnedAddresses,
    now: Timestamp,
) -> Result<bool, Failure> {
    let refreshed = sqlx::query(
        "update preview_session set pinned_upstream_ips = $2::text::jsonb, dns_refreshed_once = true, last_dns_check_at = $3, \
         updated_at = $3 where preview_session_id = $1 and state = 'ready' and not dns_refreshed_once",
    )
    .bind(id.as_uuid())
    .bind(pinned_text(pinned)?)
    .bind(at(now))
    .execute(connection)
    .await?;
    Ok(refreshed.rows_affected() == 1)
}
