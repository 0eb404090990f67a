//! Feature flag overrides.

use async_trait::async_trait;
use runwarden_actors::contract::{FeatureFlag, FlagScope, Timestamp};
use runwarden_actors::ports::StoreError;
use runwarden_actors::ports::store::FlagStore;
use sqlx::sqlite::SqliteConnection;

use super::connection::{SqliteStore, settle};
use crate::store::failure::Failure;

#[async_trait]
impl FlagStore for SqliteStore {
    #[tracing::instrument(name = "store.flag_override", skip_all, fields(%flag))]
    async fn flag_override(&self, flag: FeatureFlag, scope: &FlagScope) -> Result<Option<bool>, StoreError> {
        let mut held = self.reader().await?;
        let outcome = self.limit(get(&mut held, flag, scope)).await;
        Ok(settle(held, outcome)?)
    }

    #[tracing::instrument(name = "store.set_flag_override", skip_all, fields(%flag))]
    async fn set_flag_override(
        &self,
        flag: FeatureFlag,
        scope: &FlagScope,
        enabled: bool,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let mut held = self.writer().await?;
        let outcome = self.limit(set(&mut held, flag, scope, enabled, now)).await;
        Ok(settle(held, outcome)?)
    }

    #[tracing::instrument(name = "store.delete_flag_override", skip_all, fields(%flag))]
    async fn delete_flag_override(&self, flag: FeatureFlag, scope: &FlagScope) -> Result<bool, StoreError> {
        let mut held = self.writer().await?;
        let outcome = self.limit(delete(&mut held, flag, scope)).await;
        Ok(settle(held, outcome)?)
    }
}

async fn get(connection: &mut SqliteConnection, flag: FeatureFlag, scope: &FlagScope) -> Result<Option<bool>, Failure> {
    Ok(sqlx::query_scalar("select enabled from feature_flag_override where flag = $1 and scope = $2 and subject = $3")
        .bind(flag.as_str())
        .bind(scope.kind())
        .bind(scope.subject())
        .fetch_optional(connection)
        .await?)
}

async fn set(
    connection: &mut SqliteConnection,
    flag: FeatureFlag,
    scope: &FlagScope,
    enabled: bool,
    now: Timestamp,
) -> Result<(), Failure> {
    sqlx::query(
        "insert into feature_flag_override (flag, scope, subject, enabled, updated_at) values ($1, $2, $3, $4, $5) \
         on conflict (flag, scope, subject) do update set enabled = excluded.enabled, updated_at = excluded.updated_at",
    )
    .bind(flag.as_str())
    .bind(scope.kind())
    .bind(scope.subject())
    .bind(enabled)
    .bind(now.as_millis())
    .execute(connection)
    .await?;
    Ok(())
}

async fn delete(connection: &mut SqliteConnection, flag: FeatureFlag, scope: &FlagScope) -> Result<bool, Failure> {
    let gone = sqlx::query("delete from feature_flag_override where flag = $1 and scope = $2 and subject = $3")
        .bind(flag.as_str())
        .bind(scope.kind())
        .bind(scope.subject())
        .execute(connection)
        .await?;
    Ok(gone.rows_affected() == 1)
}
