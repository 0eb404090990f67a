//! Structured logs on standard error. Payloads, tokens and keys are never among their fields.

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt;
use tracing_subscriber::prelude::*;

/// How a log line is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Of a connection's bytes that are no HTTP, of heads that are too long and of bodies that break off, this part of the
/// HTTP library writes lines of level `error`: whoever reaches the port could fill the log.
const WRITTEN_BY_STRANGERS: &str = "actix_http::h1::dispatcher";
/// Whose name in a filter says that the operator wants to see them, or part of them.
const HTTP_LIBRARY: &str = "actix_http";

/// The filter that is meant by a level or a list of `target=level`; what cannot be read is `info`.
fn read_filter(filter: &str) -> EnvFilter {
    let said = if EnvFilter::try_new(filter).is_ok() { filter } else { "info" };
    if said.split(',').any(|directive| directive.trim().starts_with(HTTP_LIBRARY)) {
        return EnvFilter::new(said);
    }
    EnvFilter::new(format!("{said},{WRITTEN_BY_STRANGERS}=off"))
}

/// Starts logging into a file, for a command that needs the terminal for itself.
pub fn init_logs_in_file(file: std::fs::File, filter: &str) {
    let filter = read_filter(filter);
    let layer = fmt::layer().with_ansi(false).with_writer(std::sync::Mutex::new(file));
    let _ = tracing_subscriber::registry().with(filter).with(layer).try_init();
}

/// Starts logging. `filter` is a level or a list of `target=level`; what cannot be read falls back to `info`.
/// Lines that strangers cause at will are left out, unless the filter names their target. Calling it again changes nothing.
pub fn init_logs(format: LogFormat, filter: &str) {
    let registry = tracing_subscriber::registry().with(read_filter(filter));
    let _ = match format {
        LogFormat::Text => registry
            .with(
                fmt::layer()
                    .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
                    .with_writer(std::io::stderr),
            )
            .try_init(),
        LogFormat::Json => registry
            .with(
                fmt::layer()
                    .json()
                    .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
                    .with_writer(std::io::stderr),
            )
            .try_init(),
    };
}
