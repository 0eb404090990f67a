//! The adapters of the ports `Coordination`, `EvidenceStore` and `Sandbox`, each against the real thing.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

#[path = "../support/docker.rs"]
mod docker_engine;
#[path = "../support/redis.rs"]
mod redis_server;
#[path = "../support/s3.rs"]
mod s3_server;

mod coordination;
mod daytona_stand_in;
mod evidence;
mod git_repository;
mod preview_command;
mod preview_docker;
mod preview_process;
mod sandbox_daytona;
mod sandbox_docker;
mod sandbox_process;
mod sandbox_router;
