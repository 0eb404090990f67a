//! `runwarden doctor`: every part that a server would need, checked for real.

use std::future::Future;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use runwarden_actors::ports::{Clock, StoreError};
use secrecy::{ExposeSecret as _, SecretString};
use tokio::time::timeout;

use super::{EXIT_USAGE, Settings};
use crate::auth::install_crypto;
use crate::clock::SystemClock;
use crate::config::{BypassConfig, Config};
use crate::coordination::RedisCoordination;
use crate::lifecycle::{StartError, open_coordination, open_docker, open_objects, open_store};

/// Time for each check.
const CHECK_WITHIN: Duration = Duration::from_secs(15);
/// Difference of clocks that tokens tolerate (contract section 5).
const SKEW_MAX_MS: u64 = 60_000;

/// A line of the report. A reader that has seen enough (`| head`) is no reason to fail.
macro_rules! say {
    ($($text:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stdout(), $($text)*);
    }};
}

/// What a check found.
enum Finding {
    Good(String),
    /// Works without it; say what is missing.
    Optional(String),
    /// Works, and may bring harm later.
    Warning(String),
    Bad(String),
}

/// Prints a line for each check; fails where a server would.
pub(super) fn run(settings: &Settings) -> Result<ExitCode, anyhow::Error> {
    install_crypto();
    let config = match settings.raw().and_then(|raw| Ok(Config::from_raw(&raw)?)) {
        Ok(config) => config,
        Err(error) => {
            say!("BAD   settings      {error:#}");
            return Ok(ExitCode::from(EXIT_USAGE));
        }
    };
    say!("ok    settings      all readable");
    actix_web::rt::System::new().block_on(async move {
        let (mut bad, mut warnings) = (0, 0);
        let mut report = |name: &str, finding: Finding| match finding {
            Finding::Good(text) => say!("ok    {name:<13} {text}"),
            Finding::Optional(text) => say!("--    {name:<13} {text}"),
            Finding::Warning(text) => {
                warnings += 1;
                say!("warn  {name:<13} {text}");
            }
            Finding::Bad(text) => {
                bad += 1;
                say!("BAD   {name:<13} {text}");
            }
        };
        report("database", within(database(&config)).await);
        report("coordination", within(coordination(&config)).await);
        if let Some(url) = &config.redis_url {
            for finding in redis_memory(url).await {
                report("redis memory", finding);
            }
        }
        if let Some(settings) = &config.bypass {
            report("bypass", bypass(settings));
        }
        report("objects", within(objects(&config)).await);
        report("git", within(git()).await);
        report("docker", within(docker(&config)).await);
        report("process", process(&config));
        if bad == 0 {
            let warned = if warnings == 0 { String::new() } else { format!(" Warnings: {warnings}.") };
            say!("\nEverything that is needed answers.{warned}");
            Ok(ExitCode::SUCCESS)
        } else {
            say!("\n{bad} of the checks failed; a server with these settings would not be ready.");
            Ok(ExitCode::FAILURE)
        }
    })
}

async fn within(check: impl Future<Output = Finding>) -> Finding {
    let late = || Finding::Bad(format!("no answer within {} s", CHECK_WITHIN.as_secs()));
    timeout(CHECK_WITHIN, check).await.unwrap_or_else(|_| late())
}

async fn database(config: &Config) -> Finding {
    let kind = config.database.kind();
    // A look must not change the schema.
    let mut looking = config.clone();
    looking.migrate_on_start = false;
    let store = match open_store(&looking).await {
        Ok(store) => store,
        Err(StartError::Database { error: StoreError::Rejected(why), .. }) if config.migrate_on_start => {
            return Finding::Optional(format!("{kind}: {why}, or let `runwarden serve` do it at start"));
        }
        Err(error) => return Finding::Bad(format!("{error}; check DATABASE_URL or DATA_DIR")),
    };
    store.close().await;
    Finding::Good(format!("{kind} answers and its schema is up to date"))
}

async fn coordination(config: &Config) -> Finding {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let kind = if config.redis_url.is_some() { "redis" } else { "embedded" };
    let coordination = match open_coordination(config, &clock).await {
        Ok(coordination) => coordination,
        Err(error) => return Finding::Bad(error.to_string()),
    };
    match coordination.now().await {
        Ok(theirs) => {
            let drift = theirs.millis_since(clock.now()).unsigned_abs();
            if drift <= SKEW_MAX_MS {
                Finding::Good(format!("{kind} answers; its clock differs by {drift} ms"))
            } else {
                Finding::Bad(format!("{kind}: its clock differs by {drift} ms; at most {SKEW_MAX_MS} ms are tolerated"))
            }
        }
        Err(error) => Finding::Bad(format!("{error}; check REDIS_URL")),
    }
}

/// The emergency bypass is never a matter of course.
fn bypass(settings: &BypassConfig) -> Finding {
    match settings.check(SystemClock.now()) {
        Ok(()) => Finding::Warning(format!(
            "PREVIEW_BYPASS_UNTIL: while Redis is away, {} named users are let in without it until {}; take it away when \
             it is not needed any more",
            settings.users.len(),
            settings.until
        )),
        Err(error) => Finding::Bad(error.to_string()),
    }
}

/// Whether Redis keeps what must not be forgotten: one finding for each thing to mend.
async fn redis_memory(url: &SecretString) -> Vec<Finding> {
    let Ok(redis) = RedisCoordination::new(url.expose_secret()) else { return Vec::new() };
    match redis.memory().await {
        Ok(memory) => {
            let warnings = memory.warnings();
            if warnings.is_empty() {
                return vec![Finding::Good("it keeps what it is told (appendonly, noeviction)".into())];
            }
            warnings.into_iter().map(Finding::Warning).collect()
        }
        Err(error) => vec![Finding::Warning(format!("its settings could not be read: {error}"))],
    }
}

async fn objects(config: &Config) -> Finding {
    let evidence = match open_objects(config) {
        Ok(evidence) => evidence,
        Err(error) => return Finding::Bad(error.to_string()),
    };
    let key = "doctor/probe.txt";
    let written = Bytes::from_static(b"written and read back by `runwarden doctor`");
    if let Err(error) = evidence.put(key, written.clone()).await {
        return Finding::Bad(format!("{error}; check OBJECT_STORE_URL and the AWS variables"));
    }
    let read = evidence.get(key).await;
    let removed = evidence.delete(key).await;
    match read {
        Ok(Some(read)) if read == written => match removed {
            Ok(()) => Finding::Good("an object was written, read back and removed".into()),
            Err(error) => Finding::Bad(format!("{error}; old objects could not be removed")),
        },
        Ok(_) => Finding::Bad("an object was written and did not come back".into()),
        Err(error) => Finding::Bad(error.to_string()),
    }
}

async fn git() -> Finding {
    match tokio::process::Command::new("git").arg("--version").output().await {
        Ok(output) if output.status.success() => {
            Finding::Good(String::from_utf8_lossy(&output.stdout).trim().to_owned())
        }
        _ => Finding::Optional("not found: the process provider and `daemon exec` need it".into()),
    }
}

async fn docker(config: &Config) -> Finding {
    let engine = match open_docker(config) {
        Ok(engine) => engine,
        Err(error) => return Finding::Bad(error.to_string()),
    };
    match engine.version().await {
        Ok(version) => Finding::Good(format!("engine {version}")),
        Err(error) => Finding::Optional(format!(
            "{error}; runs bound to docker fall back to the working tree, and there are no containers and none of their previews"
        )),
    }
}

fn process(config: &Config) -> Finding {
    match &config.sandbox.process_root {
        None => Finding::Optional("PROCESS_SANDBOX_ROOT is not set: the process provider is refused".into()),
        Some(root) => Finding::Good(format!("repositories below {} (development only)", root.display())),
    }
}
