//! The settings of the emergency bypass (section 5, tokens). Both or none: what is forgotten reopens nothing.

use runwarden_actors::contract::{Timestamp, UserId};

use super::{ConfigError, RawSettings};

/// How far ahead its end may lie when a server starts, in milliseconds: 4 hours.
pub const BYPASS_AHEAD_MAX_MS: i64 = 4 * 3600 * 1000;
/// Users that may be named.
const USERS_MAX: usize = 100;
const UNTIL: &str = "PREVIEW_BYPASS_UNTIL";
const USERS: &str = "PREVIEW_BYPASS_USERS";

/// Who is let in without Redis, and how long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BypassConfig {
    /// When it ends, whatever happens.
    pub until: Timestamp,
    /// 1 to 100 users.
    pub users: Vec<UserId>,
}

impl BypassConfig {
    /// Checks the form; for the time see [`Self::check`]. `None` unless it is asked for.
    pub fn from_raw(raw: &RawSettings) -> Result<Option<Self>, ConfigError> {
        let (until, users) = match (raw.get(UNTIL), raw.get(USERS)) {
            (None, None) => return Ok(None),
            (Some(until), Some(users)) => (until, users),
            (None, Some(_)) => {
                let expected = "it is required with PREVIEW_BYPASS_USERS: an instant at most 4 hours ahead".to_owned();
                return Err(ConfigError::Missing { name: UNTIL, expected });
            }
            (Some(_), None) => {
                let expected = "it is required with PREVIEW_BYPASS_UNTIL: 1 to 100 user ids".to_owned();
                return Err(ConfigError::Missing { name: USERS, expected });
            }
        };
        if raw.get("REDIS_URL").is_none() {
            return Err(raw.invalid(UNTIL, "unset where REDIS_URL is not set: there is nothing to bypass"));
        }
        let wrong = || raw.invalid(UNTIL, "an instant as RFC 3339 writes it, such as `2026-01-31T16:00:00Z`");
        let until: Timestamp =
            serde_json::from_value(serde_json::Value::String(until.to_owned())).map_err(|_| wrong())?;
        let wrong = || raw.invalid(USERS, "1 to 100 user ids separated by commas, each written out and none twice");
        let named: Result<Vec<UserId>, _> = users.split(',').map(|user| UserId::parse(user.trim())).collect();
        let named = named.map_err(|_| wrong())?;
        // A pattern would look as if it meant many.
        let fine = |user: &UserId| !user.as_str().contains('*');
        let twice = (1..named.len()).any(|at| named[..at].contains(&named[at]));
        if named.len() > USERS_MAX || twice || !named.iter().all(fine) {
            return Err(wrong());
        }
        Ok(Some(Self { until, users: named }))
    }

    /// At a start: refuses an end that has passed, or that lies too far ahead.
    pub fn check(&self, now: Timestamp) -> Result<(), ConfigError> {
        let ahead = self.until.millis_since(now);
        if (1..=BYPASS_AHEAD_MAX_MS).contains(&ahead) {
            return Ok(());
        }
        Err(ConfigError::Invalid {
            name: UNTIL,
            given: format!("`{}`", self.until),
            expected: format!(
                "after now and not after `{}` (at most 4 hours ahead), or unset together with PREVIEW_BYPASS_USERS",
                now.plus_millis(BYPASS_AHEAD_MAX_MS)
            ),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Result<Option<BypassConfig>, ConfigError> {
        let redis = [("REDIS_URL", "redis://localhost")];
        let pairs = redis.iter().chain(pairs).map(|(name, value)| (*name, (*value).to_owned()));
        BypassConfig::from_raw(&RawSettings::from_pairs(pairs).unwrap())
    }

    #[test]
    fn both_or_none_and_users_by_name() {
        assert_eq!(read(&[]).unwrap(), None);
        let (until, users) = ((UNTIL, "2026-01-31T16:00:00Z"), (USERS, "u-1, u-2"));
        let config = read(&[until, users]).unwrap().unwrap();
        assert_eq!(config.until.to_rfc3339(), "2026-01-31T16:00:00.000Z");
        assert_eq!(config.users.iter().map(UserId::as_str).collect::<Vec<_>>(), ["u-1", "u-2"]);
        assert_eq!(read(&[until]).unwrap_err().to_string().split(' ').next(), Some(USERS));
        assert_eq!(read(&[users]).unwrap_err().to_string().split(' ').next(), Some(UNTIL));
        for (name, value) in [
            (UNTIL, "tomorrow"),
            (UNTIL, "4h"),
            (UNTIL, "on"),
            (USERS, "*"),
            (USERS, "u-*"),
            (USERS, ","),
            (USERS, "a,a"),
        ] {
            let pairs = if name == UNTIL { [(UNTIL, value), users] } else { [until, (USERS, value)] };
            let error = read(&pairs).unwrap_err().to_string();
            assert!(error.starts_with(name), "{name}={value}: {error}");
        }
        let many = |count: usize| (0..count).map(|at| format!("u-{at}")).collect::<Vec<_>>().join(",");
        assert!(read(&[until, (USERS, &many(100))]).is_ok() && read(&[until, (USERS, &many(101))]).is_err());
        let embedded = [until, users].map(|(name, value)| (name, value.to_owned()));
        let error = BypassConfig::from_raw(&RawSettings::from_pairs(embedded).unwrap()).unwrap_err().to_string();
        assert!(error.starts_with(UNTIL) && error.contains("REDIS_URL"), "{error}");
    }

    #[test]
    fn its_end_is_ahead_and_near() {
        let until = Timestamp::from_millis(1_000_000_000_000);
        let config = BypassConfig { until, users: vec![UserId::parse("u-1").unwrap()] };
        let at = |ahead: i64| config.check(until.plus_millis(-ahead));
        assert!(at(1).is_ok() && at(BYPASS_AHEAD_MAX_MS).is_ok());
        for ahead in [0, -1, BYPASS_AHEAD_MAX_MS + 1] {
            let error = at(ahead).unwrap_err().to_string();
            assert!(error.starts_with(UNTIL) && error.contains("at most 4 hours ahead"), "{error}");
        }
    }
}
