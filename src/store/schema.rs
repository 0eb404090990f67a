//! Which migrations a database has had, beside those that this build brings.

use std::fmt;

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
