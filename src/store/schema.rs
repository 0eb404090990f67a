//! Which migrations a database has had, beside those that this build brings.

use std::collections::HashSet;
use std::fmt;
use std::time::Duration;

use runwarden_actors::ports::StoreError;
use sqlx::migrate::Migrator;

/// The schema that a database has and the one that this build wants, as migration numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SchemaVersion {
    /// The last migration applied; `None` where there has been none.
    pub applied: Option<i64>,
    /// The last migration of this build.
    pub wanted: i64,
    /// A migration stopped half-way.
    pub dirty: bool,
}

impl SchemaVersion {
    pub(super) fn new(applied: &[(i64, bool)], migrator: &Migrator) -> Self {
        Self {
            applied: applied.iter().map(|(version, _)| *version).max(),
            wanted: migrator.iter().map(|migration| migration.version).max().unwrap_or_default(),
            dirty: applied.iter().any(|(_, success)| !success),
        }
    }

    /// Whether this build can work on it. A newer schema will do: migrations first add and only later take away,
    /// so that old and new servers run side by side.
    pub fn is_usable(self) -> bool {
        !self.dirty && self.applied.is_some_and(|applied| applied >= self.wanted)
    }

    pub(super) fn check(self) -> Result<(), StoreError> {
        if self.is_usable() { Ok(()) } else { Err(StoreError::Rejected(self.to_string())) }
    }
}

impl fmt::Display for SchemaVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.applied {
            _ if self.dirty => write!(f, "a migration of the database stopped half-way"),
            None => write!(f, "the database has no schema yet; run `runwarden migrate`"),
            Some(applied) if applied < self.wanted => {
                write!(f, "the database is at migration {applied}, {} is wanted; run `runwarden migrate`", self.wanted)
            }
            Some(applied) => write!(f, "the database is at migration {applied}, {} is wanted", self.wanted),
        }
    }
}

/// A migration that a database has had now and had not before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppliedMigration {
    /// Its number.
    pub version: i64,
    /// Its file's name in words.
    pub description: String,
    /// How long it took; zero where the database was not told.
    pub took: Duration,
}

/// What bringing a schema up to date did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Migrated {
    /// What was applied, in order.
    pub applied: Vec<AppliedMigration>,
    /// How many were in place before, those of newer builds included.
    pub in_place: usize,
}

/// What is read of `_sqlx_migrations`, in order: version, description, nanoseconds (-1 where they were not written).
pub(super) const MIGRATIONS: &str =
    "select version, description, execution_time from _sqlx_migrations order by version";

/// A row of [`MIGRATIONS`].
pub(super) type MigrationRow = (i64, String, i64);

impl Migrated {
    /// From the rows before and after.
    pub(super) fn between(before: &[MigrationRow], after: Vec<MigrationRow>) -> Self {
        let known: HashSet<i64> = before.iter().map(|(version, ..)| *version).collect();
        let fresh = after.into_iter().filter(|(version, ..)| !known.contains(version));
        let applied = fresh.map(|(version, description, nanos)| AppliedMigration {
            version,
            description,
            took: Duration::from_nanos(u64::try_from(nanos).unwrap_or_default()),
        });
        Self { applied: applied.collect(), in_place: before.len() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_older_or_broken_schema_is_refused_and_a_newer_one_will_do() {
        let at = |applied, dirty| SchemaVersion { applied, wanted: 4, dirty };
        assert!(at(Some(4), false).is_usable() && at(Some(5), false).is_usable());
        assert!(!at(None, false).is_usable() && !at(Some(3), false).is_usable() && !at(Some(4), true).is_usable());
        assert!(at(Some(3), false).check().unwrap_err().to_string().contains("runwarden migrate"));
    }
}
