//! `ACCESS_SOURCE` and what belongs to it.

use std::path::PathBuf;

use secrecy::SecretString;

use super::daytona::may_get_a_secret;
use super::{ConfigError, RawSettings};

/// GitHub's own API.
const GITHUB_API_URL: &str = "https://api.github.com";

/// Who may see a repository's previews.
#[derive(Debug, Clone)]
pub enum AccessConfig {
    /// The user that the run belongs to.
    Owner,
    /// Collaborators on GitHub.
    GitHub {
        /// What we are known by there.
        token: SecretString,
        /// Base of the API.
        api_url: String,
    },
    /// Whom the host application lets.
    Host {
        /// Where it is asked.
        url: String,
    },
    /// Whom a file lists; for development.
    List {
        /// Lines of `userId owner/repo`.
        file: PathBuf,
    },
}

/// Whether the text can be a base of questions; its adapter judges the rest.
fn is_http(text: &str) -> bool {
    ["http://", "https://"].iter().any(|scheme| text.strip_prefix(scheme).is_some_and(|rest| !rest.is_empty()))
}

impl AccessConfig {
    pub(super) fn from_raw(raw: &RawSettings) -> Result<Self, ConfigError> {
        let source = raw.get("ACCESS_SOURCE").unwrap_or("owner");
        if let Some(file) = source.strip_prefix("static:").filter(|file| !file.is_empty()) {
            return Ok(Self::List { file: PathBuf::from(file) });
        }
        match source {
            "owner" => Ok(Self::Owner),
            "github" => Self::github(raw),
            url if is_http(url) && !url.contains('@') => Ok(Self::Host { url: url.to_owned() }),
            _ => Err(raw.invalid(
                "ACCESS_SOURCE",
                "`owner`, `github`, an http or https URL of the host application without a password, or `static:FILE`",
            )),
        }
    }

    fn github(raw: &RawSettings) -> Result<Self, ConfigError> {
        let api_url = raw.get("GITHUB_API_URL").unwrap_or(GITHUB_API_URL);
        if !may_get_a_secret(api_url) || api_url.contains(['@', '?', '#']) {
            let expected = "`https://host/path` without password and query, or `http://` on localhost";
            return Err(raw.invalid("GITHUB_API_URL", expected));
        }
        match raw.get("GITHUB_TOKEN") {
            Some(token) if token.bytes().all(|byte| byte.is_ascii_graphic()) => {
                Ok(Self::GitHub { token: SecretString::from(token.to_owned()), api_url: api_url.to_owned() })
            }
            Some(_) => Err(raw.invalid("GITHUB_TOKEN", "printable ASCII without spaces")),
            None => Err(ConfigError::Missing {
                name: "GITHUB_TOKEN",
                expected: "with ACCESS_SOURCE=github it must be given".to_owned(),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access(pairs: &[(&str, &str)]) -> Result<AccessConfig, ConfigError> {
        let pairs = pairs.iter().map(|(name, value)| (*name, (*value).to_owned()));
        AccessConfig::from_raw(&RawSettings::from_pairs(pairs).unwrap())
    }

    #[test]
    fn each_source_is_read() {
        assert!(matches!(access(&[]).unwrap(), AccessConfig::Owner));
        let host = access(&[("ACCESS_SOURCE", "https://app.example/may-see?x=1")]).unwrap();
        assert!(matches!(host, AccessConfig::Host { url } if url == "https://app.example/may-see?x=1"));
        let list = access(&[("ACCESS_SOURCE", "static:people.txt")]).unwrap();
        assert!(matches!(list, AccessConfig::List { file } if file.ends_with("people.txt")));
        let github = access(&[("ACCESS_SOURCE", "github"), ("GITHUB_TOKEN", "ghp_s3cret")]).unwrap();
        assert!(!format!("{github:?}").contains("s3cret"));
        assert!(matches!(github, AccessConfig::GitHub { api_url, .. } if api_url == "https://api.github.com"));
    }

    #[test]
    fn a_wrong_source_is_named_with_what_would_be_right() {
        for source in ["everybody", "static:", "https://", "ftp://x", "https://user:pa55@app.example/"] {
            let error = access(&[("ACCESS_SOURCE", source)]).unwrap_err().to_string();
            assert!(error.starts_with("ACCESS_SOURCE is") && error.contains("`owner`"), "{error}");
            assert!(!error.contains("pa55"), "{error}");
        }
        let error = access(&[("ACCESS_SOURCE", "github")]).unwrap_err().to_string();
        assert!(error.starts_with("GITHUB_TOKEN is not set"), "{error}");
        let wrong = [("ACCESS_SOURCE", "github"), ("GITHUB_TOKEN", "two s3cret")];
        let error = access(&wrong).unwrap_err().to_string();
        assert!(error.starts_with("GITHUB_TOKEN") && !error.contains("s3cret"), "{error}");
        let of = |url| access(&[("ACCESS_SOURCE", "github"), ("GITHUB_TOKEN", "t0ken"), ("GITHUB_API_URL", url)]);
        for url in [
            "api.github.com",
            "http://api.github.com",
            "http://github.example:8080/api/v3",
            "http://127.0.0.1.example/",
            "http://10.0.0.1/",
            "https://user:pa55@github.example/",
            "https://github.example/?x=1",
        ] {
            let error = of(url).unwrap_err().to_string();
            assert!(error.starts_with("GITHUB_API_URL is") && error.contains("`https://host/path`"), "{error}");
            assert!(!error.contains("pa55") && !error.contains("t0ken"), "{error}");
        }
        for url in ["https://github.example/api/v3", "http://127.0.0.1:4010", "http://localhost:4010", "http://[::1]/"]
        {
            assert!(of(url).is_ok(), "{url}");
        }
    }
}
