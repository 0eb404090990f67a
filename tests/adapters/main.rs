//! The adapters of the ports `Coordination`, `EvidenceStore`, `Names`, `RepoAccess` and `Sandbox`, each against the real
//! thing; only foreign HTTP and the name server are stand-ins.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

#[path = "../support/docker.rs"]
mod docker_engine;
#[path = "../support/redis.rs"]
mod redis_server;
#[path = "../support/s3.rs"]
mod s3_server;

mod access;
mod coordination;
mod coordination_keys;
mod coordination_limits;
mod coordination_previews;
mod daytona_stand_in;
mod evidence;
mod git_repository;
mod names;
mod preview_command;
mod preview_docker;
mod preview_process;
mod sandbox_daytona;
mod sandbox_docker;
mod sandbox_process;
mod sandbox_router;
