//! A list in a file, for development.

use std::collections::HashSet;
use std::io::Read as _;
use std::path::Path;

use async_trait::async_trait;
use runwarden_actors::contract::{RepoFullName, UserId};
use runwarden_actors::ports::{AccessQuestion, AccessSourceError, RepoAccess};

use super::AccessSetupError;

/// Largest list.
const LIST_MAX_BYTES: u64 = 1024 * 1024;

/// `ACCESS_SOURCE=static:PATH`: lines of `userId owner/repo`, either of which may be `*` for all; empty lines and those
/// that begin with `#` say nothing. Read once, at start.
#[derive(Debug, Clone, Default)]
pub struct ListAccess {
    pairs: HashSet<(Option<UserId>, Option<RepoFullName>)>,
}

impl ListAccess {
    /// Reads the file; a line that cannot be understood is an error with its number.
    pub fn read(file: &Path) -> Result<Self, AccessSetupError> {
        let wrong = |why: String| AccessSetupError(format!("ACCESS_SOURCE: {}: {why}", file.display()));
        let mut text = String::new();
        let opened = std::fs::File::open(file).map_err(|error| wrong(error.to_string()))?;
        opened.take(LIST_MAX_BYTES + 1).read_to_string(&mut text).map_err(|error| wrong(error.to_string()))?;
        if text.len() as u64 > LIST_MAX_BYTES {
            return Err(wrong(format!("the list is larger than {LIST_MAX_BYTES} bytes")));
        }
        Self::parse(&text).map_err(wrong)
    }

    fn parse(text: &str) -> Result<Self, String> {
        let mut pairs = HashSet::new();
        for (index, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let pair = || {
                // A user id may hold spaces, a repository's name cannot.
                let (user, repo) = line.rsplit_once(char::is_whitespace)?;
                let user = match user.trim_end() {
                    "*" => None,
                    user => Some(UserId::parse(user).ok()?),
                };
                let repo = match repo {
                    "*" => None,
                    repo => Some(RepoFullName::parse(repo).ok()?),
                };
                Some((user, repo))
            };
            pairs.insert(pair().ok_or_else(|| format!("line {} is not `userId owner/repo`", index + 1))?);
        }
        Ok(Self { pairs })
    }
}

#[async_trait]
impl RepoAccess for ListAccess {
    async fn may_see(&self, question: AccessQuestion<'_>) -> Result<bool, AccessSourceError> {
        let (user, repo) = (question.user_id, question.repo_full_name);
        let ways = [
            (Some(user.clone()), Some(repo.clone())),
            (Some(user.clone()), None),
            (None, Some(repo.clone())),
            (None, None),
        ];
        Ok(ways.iter().any(|way| self.pairs.contains(way)))
    }
}
