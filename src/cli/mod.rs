//! The command line. What a command does stands in its own file; here they are named and explained.

mod doctor;
mod keys;
mod migrate;
mod serve;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::auth::install_crypto;
use crate::config::{Config, LogConfig, RawSettings, help_text};
use crate::lifecycle::StartError;
use crate::telemetry::{LogFormat, init_logs};

/// Exit code of a wrong setting or argument.
const EXIT_USAGE: u8 = 2;
/// The same for `runwarden daemon`, whose other codes may be the agent's own; after sysexits.h.
const EXIT_DAEMON_USAGE: u8 = 64;

/// Supervises the runs of coding agents in sandboxes, and shows previews of what they have changed.
#[derive(Parser)]
#[command(name = "runwarden", version, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the server.
    #[command(after_long_help = help_text())]
    Serve(Settings),
    // Explained where its arguments are.
    Demo(crate::demo::cli::DemoArgs),
    /// Run an agent's command inside its sandbox and report on it.
    #[command(subcommand)]
    Daemon(DaemonCommand),
    /// List, rotate and revoke the keys that preview tokens are signed with.
    #[command(after_help = keys::HELP)]
    Keys(keys::KeysArgs),
    /// Bring the database's schema up to date; safe to repeat.
    Migrate(Settings),
    /// Check the settings and everything that they name, and say what to do about what is wrong.
    Doctor(Settings),
}

#[derive(Subcommand)]
enum DaemonCommand {
    /// Run a command and send what it says to the server.
    Exec(Box<crate::daemon::cli::ExecArgs>),
}

#[derive(Args)]
struct Settings {
    /// TOML file with settings; the environment overrides it. Default: `runwarden.toml`, if there is one.
    #[arg(long, value_name = "FILE", env = "RUNWARDEN_CONFIG")]
    config: Option<PathBuf>,
}

impl Settings {
    fn raw(&self) -> Result<RawSettings, anyhow::Error> {
        let default = PathBuf::from("runwarden.toml");
        let file = match &self.config {
            Some(file) => Some(file.clone()),
            None => default.exists().then_some(default),
        };
        // A value that is not UTF-8 cannot be a setting's; other programs' variables are none of our business.
        let environment =
            std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
        Ok(RawSettings::read(file.as_deref(), environment)?)
    }

    /// Reads and checks everything, and starts the log.
    fn load(&self) -> Result<Config, anyhow::Error> {
        let raw = self.raw()?;
        let log = LogConfig::from_raw(&raw)?;
        init_logs(log.format, &log.filter);
        Ok(Config::from_raw(&raw)?)
    }
}

/// Parses the arguments and runs the command.
#[allow(clippy::print_stderr, reason = "a command's error goes to its terminal")]
pub fn main() -> ExitCode {
    let command = match Cli::try_parse() {
        Ok(Cli { command }) => command,
        Err(error) => {
            let for_daemon = std::env::args_os().nth(1).is_some_and(|first| first == "daemon");
            // Nobody may be there any more to read it.
            let _ = error.print();
            return match error.exit_code() {
                0 => ExitCode::SUCCESS,
                _ if for_daemon => ExitCode::from(EXIT_DAEMON_USAGE),
                _ => ExitCode::from(EXIT_USAGE),
            };
        }
    };
    let result = match command {
        Command::Serve(settings) => with_config(&settings, serve::run),
        Command::Migrate(settings) => with_config(&settings, migrate::run),
        Command::Keys(args) => keys::run(args),
        Command::Doctor(settings) => doctor::run(&settings),
        Command::Demo(args) => Ok(crate::demo::cli::run(&args)),
        Command::Daemon(DaemonCommand::Exec(args)) => Ok(daemon(*args)),
    };
    result.unwrap_or_else(|error| {
        eprintln!("runwarden: {error:#}");
        match error.downcast_ref() {
            Some(StartError::Setting(_)) => ExitCode::from(EXIT_USAGE),
            _ => ExitCode::FAILURE,
        }
    })
}

/// The daemon logs to standard error, beside what the agent prints there. Its exit code is the agent's, or says
/// what its caller can do.
#[allow(clippy::print_stderr, reason = "a command's error goes to its terminal")]
fn daemon(args: crate::daemon::cli::ExecArgs) -> ExitCode {
    install_crypto();
    init_logs(LogFormat::Text, &std::env::var("LOG_LEVEL").unwrap_or_else(|_| "info".to_owned()));
    let ended = actix_web::rt::System::new().block_on(crate::daemon::cli::run(args));
    ExitCode::from(ended.unwrap_or_else(|error| {
        eprintln!("runwarden daemon: {error}");
        error.exit_code()
    }))
}

/// A wrong setting is the operator's to mend: its own exit code.
#[allow(clippy::print_stderr, reason = "a command's error goes to its terminal")]
fn with_config(
    settings: &Settings,
    command: impl FnOnce(Config) -> Result<ExitCode, anyhow::Error>,
) -> Result<ExitCode, anyhow::Error> {
    match settings.load() {
        Ok(config) => command(config),
        Err(error) => {
            eprintln!("runwarden: {error:#}");
            Ok(ExitCode::from(EXIT_USAGE))
        }
    }
}
