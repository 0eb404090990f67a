//! `runwarden keys`: the keys that preview tokens are signed with. Never prints a secret.

use std::process::ExitCode;
use std::str::FromStr;
use std::sync::Arc;

use clap::{Args, Subcommand};
use runwarden_actors::contract::limits::PREVIEW_KEY_GRACE_SECONDS;
use runwarden_actors::contract::{KeyNamespace, Timestamp};
use runwarden_actors::ports::{Clock, Coordination, IdSource, KeyRing, PreviewKey};

use super::Settings;
use crate::auth::{install_crypto, random_secret};
use crate::clock::{SystemClock, SystemIds};
use crate::config::Config;
use crate::lifecycle::open_coordination;

/// Shown below the commands.
pub(super) const HELP: &str = "\
Each kind of preview token has a namespace of keys of its own:
  exchange   tokens that a host application hands to a browser, good for 300 s
  broadcast  tokens that open a subscription, good for 60 s
  cookie     the browser's cookie, good for the session (1800 s)
  origin     the signed address of a preview, good for the session (1800 s)

Grace: after a rotation the new key signs, and the one before still verifies for 15 minutes; then it is forgotten.
Within the grace nobody notices. Of `cookie` and `origin`, sessions that are older than it then have to be started
anew. A second rotation within the grace ends the older of the two at once.

A revoked key has no grace: whatever it signed is refused, on every server within 5 seconds. Revoke where a key may
have leaked; rotate otherwise.

The keys are in Redis where REDIS_URL is set, else in coordination.sqlite3 in DATA_DIR. Servers may be running: they
look every 5 seconds, and at once when they meet a key that they do not know.";

#[derive(Args)]
pub(super) struct KeysArgs {
    #[command(subcommand)]
    command: KeysCommand,
    #[command(flatten)]
    settings: Settings,
}

#[derive(Subcommand)]
enum KeysCommand {
    /// Show the keys by their ids: which one signs, and until when the one before verifies. A namespace without a key
    /// gets its first one.
    List,
    /// Sign with a fresh key from now on; the present one verifies for 15 more minutes.
    Rotate {
        /// exchange, broadcast, cookie or origin.
        #[arg(value_parser = KeyNamespace::from_str)]
        namespace: KeyNamespace,
    },
    /// Forget a key at once, with everything that it signed. Where it is the one that signs, a fresh one takes its place.
    Revoke {
        /// exchange, broadcast, cookie or origin.
        #[arg(value_parser = KeyNamespace::from_str)]
        namespace: KeyNamespace,
        /// The key's id, as `list` shows it.
        kid: String,
    },
}

/// Carries out the command.
pub(super) fn run(args: KeysArgs) -> Result<ExitCode, anyhow::Error> {
    let KeysArgs { command, settings } = args;
    super::with_config(&settings, |config| {
        install_crypto();
        actix_web::rt::System::new().block_on(carry_out(&command, &config))
    })
}

#[allow(clippy::print_stdout, clippy::print_stderr, reason = "its result")]
async fn carry_out(command: &KeysCommand, config: &Config) -> Result<ExitCode, anyhow::Error> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let store = open_coordination(config, &clock).await?;
    match command {
        KeysCommand::List => list(store.as_ref(), clock.as_ref()).await?,
        KeysCommand::Rotate { namespace } => {
            let fresh = fresh_key(clock.as_ref());
            let ring = store.rotate_key(*namespace, &fresh, PREVIEW_KEY_GRACE_SECONDS * 1000).await?;
            println!("{namespace}: {} signs from now on", ring.active.kid);
            if let Some((previous, until)) = &ring.previous {
                println!("{namespace}: {} verifies until {until}", previous.kid);
            }
        }
        KeysCommand::Revoke { namespace, kid } => {
            let Some(ring) = store.revoke_key(*namespace, kid, &fresh_key(clock.as_ref())).await? else {
                eprintln!(
                    "runwarden: `{}` has no key `{}`; `runwarden keys list` shows those it has",
                    namespace,
                    kid.escape_debug()
                );
                return Ok(ExitCode::FAILURE);
            };
            println!("{namespace}: {kid} is forgotten; every server refuses it within 5 s");
            println!("{namespace}: {} signs", ring.active.kid);
        }
    }
    Ok(ExitCode::SUCCESS)
}

#[allow(clippy::print_stdout, reason = "its result")]
async fn list(store: &dyn Coordination, clock: &dyn Clock) -> Result<(), anyhow::Error> {
    println!("{:<10} {:<36} {:<9} {:<24} GOOD UNTIL", "NAMESPACE", "KID", "ROLE", "CREATED");
    for namespace in KeyNamespace::ALL {
        let KeyRing { active, previous } = store.key_ring(*namespace, &fresh_key(clock)).await?;
        line(*namespace, &active, "signs", None);
        if let Some((previous, until)) = previous {
            line(*namespace, &previous, "verifies", Some(until));
        }
    }
    Ok(())
}

#[allow(clippy::print_stdout, reason = "its result")]
fn line(namespace: KeyNamespace, key: &PreviewKey, role: &str, until: Option<Timestamp>) {
    let until = until.map_or_else(|| "-".to_owned(), |until| until.to_string());
    println!("{:<10} {:<36} {role:<9} {:<24} {until}", namespace.as_str(), key.kid, key.created_at.to_string());
}

fn fresh_key(clock: &dyn Clock) -> PreviewKey {
    PreviewKey { kid: SystemIds.uuid_v7().to_string(), secret: random_secret(), created_at: clock.now() }
}
