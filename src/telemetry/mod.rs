//! What operators see: logs, metrics, preview events.

mod logs;
mod metrics;
mod observer;

pub use logs::{LogFormat, init_logs, init_logs_in_file};
pub use metrics::{Metrics, install_metrics};
pub use observer::TelemetryObserver;
