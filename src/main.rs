//! The `runwarden` program.

use std::process::ExitCode;

/// A proxied request makes some hundred small allocations, most of which another thread frees: the system's own
/// allocator takes about a tenth of the request's time more for them (docs/performance.md).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    runwarden::cli::main()
}
