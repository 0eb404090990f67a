//! The settings of Daytona.

use secrecy::SecretString;

use crate::sandbox::DaytonaSettings;

use super::{ConfigError, RawSettings};

pub(super) fn daytona(raw: &RawSettings) -> Result<DaytonaSettings, ConfigError> {
    let api_url = raw.get("DAYTONA_API_URL").unwrap_or("https://app.daytona.io/api").to_owned();
    let url = reqwest::Url::parse(&api_url).ok();
    // The key is sent there.
    let safe = url.is_some_and(|url| match url.scheme() {
        "https" => url.username().is_empty() && url.password().is_none(),
        "http" => matches!(url.host_str(), Some("localhost" | "127.0.0.1" | "[::1]")),
        _ => false,
    });
    if !safe {
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
