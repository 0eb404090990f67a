//! The database (section 2): two adapters of the port [`runwarden_actors::ports::Store`], held to one suite of tests.
//!
//! - [`postgres`]: production, several servers
//! - [`sqlite`]: one server, in its data directory
//!
//! Both write decisions through the same group commit: one durable write serves everybody who waits.

mod batch;
mod binding;
mod failure;
pub mod postgres;
mod preview_rows;
mod rows;
mod schema;
pub mod sqlite;
mod text;

pub use schema::{AppliedMigration, Migrated, SchemaVersion};
