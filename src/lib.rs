//! Runwarden: supervises the runs of coding agents in sandboxes.
//!
//! This crate reaches the world: routes, database, Redis, objects, Docker, command line. What is decided stands
//! in `runwarden_actors`.

pub mod access;
pub mod auth;
pub mod cli;
pub mod clock;
pub mod config;
pub mod containers;
pub mod coordination;
pub mod daemon;
pub mod data_dir;
pub mod demo;
pub mod evidence;
pub mod http;
pub mod lifecycle;
pub mod names;
pub mod outbound;
pub mod proxy;
pub mod sandbox;
pub mod store;
pub mod telemetry;
