//! `runwarden migrate`.

use std::process::ExitCode;

use crate::auth::install_crypto;
use crate::config::Config;
use crate::lifecycle::open_and_migrate;

/// Applies what is missing of the schema, each migration in a transaction of its own and safe to repeat, and lists it.
#[allow(clippy::print_stdout, reason = "its result")]
pub(super) fn run(mut config: Config) -> Result<ExitCode, anyhow::Error> {
    install_crypto();
    config.migrate_on_start = true;
    actix_web::rt::System::new().block_on(async move {
        let kind = config.database.kind();
        let (store, migrated) = open_and_migrate(&config).await?;
        store.close().await;
        for migration in &migrated.applied {
            let took = migration.took.as_millis();
            println!("applied {:04} {} ({took} ms)", migration.version, migration.description);
        }
        if migrated.applied.is_empty() {
            println!("nothing to apply; {} migrations are in place", migrated.in_place);
        }
        println!("the {kind} schema is up to date");
        Ok(ExitCode::SUCCESS)
    })
}
