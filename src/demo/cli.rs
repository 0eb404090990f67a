//! `runwarden demo` on the command line.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::{show, static_server};

/// The seed of a demonstration that was not given one.
const DEFAULT_SEED: u64 = 7;

/// Show on this machine that a bad connection loses nothing and stores nothing twice.
///
/// Makes a temporary folder with a Git repository (a small web app), starts a server on its embedded default in this
/// process, and runs an agent (a shell script that edits and commits) under `runwarden daemon exec`. The daemon reaches
/// the server through a link that cuts connections, loses frames and answers, sends things twice, and repeats old ones
/// late. Halfway the link refuses streams, so that the daemon has to go on over HTTP.
///
/// At the end the agent's own journal is compared with what the server gives to readers: every message has to be there
/// exactly once and in order. HEAD of the repository has to be the commit that the run ended with. Then the app that the
/// agent has changed is started in its folder and opened through the preview proxy.
///
/// Needs `git` and `sh`, about 15 seconds, and no settings: it reads no configuration and leaves nothing behind.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Exit codes:
  0    everything was stored exactly once
  1    it was not, or the demo could not be carried out; the folder with the
       logs is kept then, and named
  130  interrupted

The seed fixes the link's dice: the same seed gives the same verdict on the
same frame. How many messages a frame holds, and how many frames there are,
still depends on the speed of the machine, so the numbers may vary a little.

Examples:
  runwarden demo              a demonstration, with a table at the end
  runwarden demo --seed 42    other mistakes of the link
  runwarden demo --keep       leaves the server running, with a link to the app's
                              preview and commands to try")]
pub struct DemoArgs {
    /// Where the link's randomness starts.
    #[arg(long, value_name = "N", default_value_t = DEFAULT_SEED)]
    pub seed: u64,
    /// Leave the server running after the table, with a link to the preview and commands to try, until Ctrl-C.
    #[arg(long)]
    pub keep: bool,
    /// Port of the server on 127.0.0.1; 0 takes a free one.
    #[arg(long, value_name = "PORT", default_value_t = 0)]
    pub port: u16,
    /// Print the table only.
    #[arg(long, short)]
    pub quiet: bool,
    /// Serve the files of this folder on 127.0.0.1 at `PORT`: the demo's own app inside its sandbox.
    #[arg(long, value_name = "FOLDER", hide = true)]
    pub serve_folder: Option<PathBuf>,
}

/// Runs the subcommand.
#[allow(clippy::print_stderr, reason = "a command's error goes to its terminal")]
pub fn run(args: &DemoArgs) -> ExitCode {
    crate::auth::install_crypto();
    let system = actix_web::rt::System::new();
    match &args.serve_folder {
        Some(folder) => system.block_on(async {
            static_server::serve(folder).await.map_or_else(
                |error| {
                    eprintln!("runwarden demo: {error:#}");
                    ExitCode::FAILURE
                },
                |()| ExitCode::SUCCESS,
            )
        }),
        None => system.block_on(show::show(args)),
    }
}
