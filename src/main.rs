//! The `runwarden` program.

use std::process::ExitCode;

fn main() -> ExitCode {
    runwarden::cli::main()
}
