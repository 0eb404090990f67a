//! `runwarden serve`.

use std::process::ExitCode;

use crate::config::Config;
use crate::data_dir::DataDirLock;
use crate::lifecycle::Application;

/// Serves until it is told to stop.
pub(super) fn run(config: Config) -> Result<ExitCode, anyhow::Error> {
    actix_web::rt::System::new().block_on(async move {
        let secrets = config.secrets.folder.clone();
        let (database, redis) = (config.database.kind(), config.redis_url.is_some());
        // Until the end: also what is written while it stops is written by one server.
        let _held = DataDirLock::take(&config)?;
        let application = Application::build(config).await?;
        if let Some(folder) = secrets {
            tracing::info!(folder = %folder.display(), "INTERNAL_SERVICE_KEY and ADMIN_TOKEN are in this folder unless you set them");
        }
        if database == "postgres" && !redis {
            tracing::warn!("no REDIS_URL: this must be the only server on its database");
        }
        tracing::info!(addr = %application.addr(), database, coordination = if redis { "redis" } else { "embedded" }, "listening");
        application.run().await?;
        Ok(ExitCode::SUCCESS)
    })
}
