//! What a failed query means. The texts hold the database's own message and never a value, a payload or a URL.

use runwarden_actors::ports::StoreError;
use sqlx::error::{DatabaseError, ErrorKind};

/// Why a query failed.
#[derive(Debug)]
pub(super) enum Failure {
    /// Out of reach, out of space or too slow; nothing is known about the write.
    Unavailable(String),
    /// A deadlock or a lost race; nothing was written.
    Conflict(String),
    /// A unique key is taken; nothing was written.
    Taken(String),
    /// Another constraint or a type; nothing was written.
    Rejected(String),
    /// A row does not hold what it should.
    Corrupt(String),
}

impl Failure {
    /// No answer within the call's time.
    pub(super) fn too_slow() -> Self {
        Self::Unavailable("no answer in time".to_owned())
    }

    /// Whether somebody else was first.
    pub(super) const fn is_lost_race(&self) -> bool {
        matches!(self, Self::Conflict(_) | Self::Taken(_))
    }
}

impl From<Failure> for StoreError {
    fn from(failure: Failure) -> Self {
        match failure {
            // Callers that can lose a race have an outcome for it; for the rest it is worth another try.
            Failure::Unavailable(why) | Failure::Conflict(why) => Self::Unavailable(why),
            Failure::Taken(why) | Failure::Rejected(why) => Self::Rejected(why),
            Failure::Corrupt(why) => Self::Corrupt(why),
        }
    }
}

impl From<sqlx::Error> for Failure {
    fn from(error: sqlx::Error) -> Self {
        match error {
            sqlx::Error::Database(error) => database(error.as_ref()),
            sqlx::Error::RowNotFound
            | sqlx::Error::ColumnIndexOutOfBounds { .. }
            | sqlx::Error::ColumnNotFound(_)
            | sqlx::Error::TypeNotFound { .. }
            | sqlx::Error::ColumnDecode { .. }
            | sqlx::Error::Decode(_) => Self::Corrupt(error.to_string()),
            sqlx::Error::Encode(_) | sqlx::Error::InvalidArgument(_) => Self::Rejected(error.to_string()),
            // A broken URL is told apart where it is parsed; its text may hold a password.
            sqlx::Error::Configuration(_) => Self::Unavailable("the connection settings cannot be used".to_owned()),
            other => Self::Unavailable(other.to_string()),
        }
    }
}

fn database(error: &dyn DatabaseError) -> Failure {
    let code = error.code().unwrap_or_default();
    let text = match error.constraint() {
        Some(constraint) => format!("{} ({code}, {constraint})", error.message()),
        None => format!("{} ({code})", error.message()),
    };
    if error.kind() == ErrorKind::UniqueViolation {
        return Failure::Taken(text);
    }
    // Postgres has five characters; no code of SQLite is that long.
    if code.len() == 5 { postgres(&code, text) } else { sqlite(&code, text) }
}

fn postgres(code: &str, text: String) -> Failure {
    match code {
        // serialization_failure, deadlock_detected, lock_not_available
        "40001" | "40P01" | "55P03" => Failure::Conflict(text),
        // read_only_sql_transaction: the primary has moved
        "25006" => Failure::Unavailable(text),
        // connection, unknown end of a transaction, resources (53100: disk full), operator, system, internal
        _ => match code.get(..2) {
            Some("08" | "40" | "53" | "57" | "58" | "XX") => Failure::Unavailable(text),
            _ => Failure::Rejected(text),
        },
    }
}

fn sqlite(code: &str, text: String) -> Failure {
    // The low byte is the primary result code.
    match code.parse::<u32>().map(|code| code & 0xff) {
        // constraint, mismatch, too big, range, error
        Ok(1 | 18..=20 | 25) => Failure::Rejected(text),
        // busy, locked, no memory, read-only, I/O, corrupt, full, cannot open and the rest
        _ => Failure::Unavailable(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_unavailable_and_a_constraint_is_refused() {
        let text = || "text".to_owned();
        for code in ["53100", "08006", "57014", "57P01", "25006"] {
            assert!(matches!(postgres(code, text()), Failure::Unavailable(_)), "{code}");
        }
        assert!(matches!(postgres("40P01", text()), Failure::Conflict(_)));
        assert!(matches!(postgres("23514", text()), Failure::Rejected(_)));
        // SQLITE_FULL, SQLITE_IOERR_WRITE, SQLITE_BUSY
        for code in ["13", "778", "5"] {
            assert!(matches!(sqlite(code, text()), Failure::Unavailable(_)), "{code}");
        }
        // SQLITE_CONSTRAINT_CHECK, SQLITE_CONSTRAINT_TRIGGER
        for code in ["275", "1811"] {
            assert!(matches!(sqlite(code, text()), Failure::Rejected(_)), "{code}");
        }
    }
}
