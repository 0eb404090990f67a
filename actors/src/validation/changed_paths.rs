//! `git diff --name-status -z`, parsed (section 9). Names are bytes: Git allows any but NUL in them.

use thiserror::Error;

/// One changed file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Added, modified, deleted, of another type, unmerged or untracked.
    One {
        /// `A`, `M`, `D`, `T`, `U` or `?`.
        status: u8,
        /// The path.
        path: Vec<u8>,
    },
    /// Renamed or copied.
    Two {
        /// `R` or `C`.
        status: u8,
        /// Similarity in percent.
        similarity: u8,
        /// Where it came from.
        from: Vec<u8>,
        /// Where it is.
        to: Vec<u8>,
    },
}

impl Change {
    /// The paths that it touches: one, or both sides.
    pub fn paths(&self) -> impl Iterator<Item = &[u8]> {
        let (first, second) = match self {
            Self::One { path, .. } => (path, None),
            Self::Two { from, to, .. } => (from, Some(to)),
        };
        std::iter::once(first.as_slice()).chain(second.map(Vec::as_slice))
    }
}

/// Output that Git does not write.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ParseError {
    /// A status that is not known.
    #[error("unknown status `{0}`")]
    UnknownStatus(String),
    /// The output ends inside an entry.
    #[error("the output ends inside an entry")]
    Truncated,
}

/// Parses the whole output; an entry is a status, NUL, and one or two paths that end in NUL.
pub fn parse(raw: &[u8]) -> Result<Vec<Change>, ParseError> {
    let mut changes = Vec::new();
    let mut fields = Fields(raw);
    while let Some(status) = fields.next()? {
        let path = |fields: &mut Fields<'_>| match fields.next()? {
            Some(path) if !path.is_empty() => Ok(path.to_vec()),
            _ => Err(ParseError::Truncated),
        };
        let unknown = || ParseError::UnknownStatus(String::from_utf8_lossy(&status[..status.len().min(16)]).into());
        changes.push(match status {
            [status @ (b'A' | b'M' | b'D' | b'T' | b'U')] => Change::One { status: *status, path: path(&mut fields)? },
            b"??" => Change::One { status: b'?', path: path(&mut fields)? },
            [status @ (b'R' | b'C'), score @ ..] => {
                let similarity = std::str::from_utf8(score)
                    .ok()
                    .and_then(|score| score.parse().ok())
                    .filter(|score: &u8| *score <= 100)
                    .ok_or_else(unknown)?;
                Change::Two { status: *status, similarity, from: path(&mut fields)?, to: path(&mut fields)? }
            }
            _ => return Err(unknown()),
        });
    }
    Ok(changes)
}

struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn next(&mut self) -> Result<Option<&'a [u8]>, ParseError> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let end = self.0.iter().position(|byte| *byte == 0).ok_or(ParseError::Truncated)?;
        let (field, rest) = (&self.0[..end], &self.0[end + 1..]);
        self.0 = rest;
        Ok(Some(field))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_kind_of_entry_is_read() {
        let raw = b"M\0a\nb\tc\0A\0\xff\xfe\0D\0d\0T\0t\0U\0u\0??\0new file\0R087\0old\0new\0C100\0x\0y\0";
        let changes = parse(raw).unwrap();
        assert_eq!(changes.len(), 8);
        assert_eq!(changes[1], Change::One { status: b'A', path: vec![0xff, 0xfe] });
        assert_eq!(
            changes[6],
            Change::Two { status: b'R', similarity: 87, from: b"old".to_vec(), to: b"new".to_vec() }
        );
    }

    #[test]
    fn what_git_does_not_write_is_refused() {
        for raw in [&b"M"[..], b"M\0", b"M\0a", b"R100\0a\0", b"R\0a\0b\0", b"R101\0a\0b\0", b"X\0a\0", b"\0"] {
            assert!(parse(raw).is_err(), "{raw:?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_either_parse_or_are_refused(raw in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&raw);
        }

        #[test]
        fn names_of_any_bytes_survive(names in proptest::collection::vec(proptest::collection::vec(1u8..=255, 1..20), 0..20)) {
            let raw: Vec<u8> = names.iter().flat_map(|name| [b"M\0".as_slice(), name, b"\0"].concat()).collect();
            let parsed: Vec<Vec<u8>> = parse(&raw).unwrap().iter().flat_map(|c| c.paths().map(<[u8]>::to_vec).collect::<Vec<_>>()).collect();
            prop_assert_eq!(parsed, names);
        }
    }
}
