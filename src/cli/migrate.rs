//! `runwarden migrate`.

use std::process::ExitCode;

use crate::auth::install_crypto;
use crate::config::Config;
use crate::lifecycle::open_store;

/// Applies what is missing of the schema; each migration in a transaction of its own, safe to repeat.
#[allow(clippy::print_stdout, reason = "its result")]
pub(super) fn run(mut config: Config) -> Result<ExitCode, anyhow::Error> {
    install_crypto();
    config.migrate_on_start = true;
    actix_web::rt::System::new().block_on(async move {
        let kind = config.database.kind();
        let store = open_store(&config).await?;
        store.ping().await?;
        store.close().await;
        println!("the {kind} schema is up to date");
        Ok(ExitCode::SUCCESS)
    })
}
