//! The settings of Daytona.

use secrecy::SecretString;

use crate::sandbox::DaytonaSettings;

use super::{ConfigError, RawSettings};

/// Whether a secret may be sent to this URL: nobody on the way reads it, and no password stands in it.
pub(super) fn may_get_a_secret(url: &str) -> bool {
    reqwest::Url::parse(url).is_ok_and(|url| {
        let bare = url.username().is_empty() && url.password().is_none();
        bare && match url.scheme() {
            "https" => true,
            "http" => matches!(url.host_str(), Some("localhost" | "127.0.0.1" | "[::1]")),
            _ => false,
        }
    })
}

pub(super) fn daytona(raw: &RawSettings) -> Result<DaytonaSettings, ConfigError> {
    let api_url = raw.get("DAYTONA_API_URL").unwrap_or("https://app.daytona.io/api").to_owned();
    if !may_get_a_secret(&api_url) {
        return Err(raw.invalid("DAYTONA_API_URL", "`https://host/path`, or `http://` on localhost"));
    }
    let word = |name: &'static str| match raw.get(name) {
        Some(value) if value.bytes().all(|byte| byte.is_ascii_graphic()) => Ok(Some(value.to_owned())),
        Some(_) => Err(raw.invalid(name, "printable ASCII without spaces")),
        None => Ok(None),
    };
    let suffixes = raw.get("DAYTONA_PREVIEW_SUFFIX").unwrap_or(".daytonaproxy01.net,.daytonaproxy01.eu");
    let suffixes: Vec<_> = suffixes.split(',').map(|suffix| suffix.trim().to_ascii_lowercase()).collect();
    // A suffix of one label would trust everybody below a top-level domain.
    let domain = |suffix: &String| {
        let mut labels = suffix.split('.');
        let letters = |label: &str| !label.is_empty() && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        labels.next() == Some("") && labels.clone().count() >= 2 && labels.all(letters)
    };
    if !suffixes.iter().all(domain) {
        return Err(raw.invalid("DAYTONA_PREVIEW_SUFFIX", "domains with a leading dot, such as `.preview.example.com`"));
    }
    Ok(DaytonaSettings {
        api_url,
        api_key: word("DAYTONA_API_KEY")?.map(SecretString::from),
        organization_id: word("DAYTONA_ORGANIZATION_ID")?,
        preview_suffixes: suffixes,
    })
}
