//! Keys that daemon tokens are signed with.

use async_trait::async_trait;
use runwarden_actors::contract::Timestamp;
use runwarden_actors::ports::StoreError;
use runwarden_actors::ports::store::{KeyStore, SigningKey};
use sqlx::sqlite::SqliteConnection;

use super::connection::{SqliteStore, settle};
use crate::store::failure::Failure;

#[async_trait]
impl KeyStore for SqliteStore {
    #[tracing::instrument(name = "store.daemon_signing_keys", skip_all)]
    async fn daemon_signing_keys(&self, candidate: &SigningKey) -> Result<Vec<SigningKey>, StoreError> {
        let mut held = self.writer().await?;
        let outcome = self.limit(keys(&mut held, candidate)).await;
        Ok(settle(held, outcome)?)
    }
}

async fn keys(connection: &mut SqliteConnection, candidate: &SigningKey) -> Result<Vec<SigningKey>, Failure> {
    sqlx::query(
        "insert into signing_key (namespace, generation, kid, secret, created_at) \
         select 'daemon', 1, $1, $2, $3 where not exists (select 1 from signing_key where namespace = 'daemon') \
         on conflict do nothing",
    )
    .bind(&candidate.kid)
    .bind(candidate.secret.as_slice())
    .bind(candidate.created_at.as_millis())
    .execute(&mut *connection)
    .await?;
    let rows: Vec<(String, Vec<u8>, i64)> = sqlx::query_as(
        "select kid, secret, created_at from signing_key where namespace = 'daemon' order by generation desc",
    )
    .fetch_all(connection)
    .await?;
    rows.into_iter()
        .map(|(kid, secret, created_at)| {
            let secret = secret.try_into().map_err(|_| Failure::Corrupt(format!("key {kid} is not 32 bytes")))?;
            Ok(SigningKey { kid, secret, created_at: Timestamp::from_millis(created_at) })
        })
        .collect()
}
