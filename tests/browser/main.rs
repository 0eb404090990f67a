//! What people see of previews, in a real Chromium: the embedded element, a preview's own host, an app with hot reload,
//! and the demonstration's link.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

#[path = "../support/app.rs"]
mod app;
#[path = "../support/docker.rs"]
mod docker;
#[path = "../support/postgres.rs"]
mod postgres;
#[path = "../proxy/preview.rs"]
mod preview;

mod chromium;
mod host_page;
mod site;

mod demo;
mod embed;
mod hosts;
mod vite;
