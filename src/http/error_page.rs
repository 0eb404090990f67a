//! An error as a page, for people whose browser was on its way to a preview. Programs get the JSON body of
//! [`ApiError`]; status and code are the same (section 7).

use std::fmt::Write as _;
use std::sync::OnceLock;

use actix_web::http::header::{self, HeaderMap, HeaderName, HeaderValue};
use actix_web::{HttpRequest, HttpResponse, ResponseError as _};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use runwarden_actors::contract::ErrorCode;
use sha2::{Digest as _, Sha256};

use super::ApiError;

/// What the page looks like. Its hash stands in the page's own policy, so nothing else can style it.
pub(super) const STYLE: &str = include_str!("error_page.css");
/// Longest message that is shown, in characters.
const MESSAGE_MAX: usize = 400;

const FETCH_MODE: &str = "sec-fetch-mode";
const FETCH_DEST: &str = "sec-fetch-dest";

/// The error as a page where a person navigated here, as JSON otherwise. `frame_ancestors` says who may frame the page,
/// as CSP writes it: a preview that opens in a frame fails in that frame too.
pub fn answer(request: &HttpRequest, error: &ApiError, frame_ancestors: &str) -> HttpResponse {
    let mut response = error.error_response();
    if !is_navigation(request.headers()) {
        return response;
    }
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    let policy = format!(
        "default-src 'none'; style-src '{}'; base-uri 'none'; form-action 'none'; frame-ancestors {frame_ancestors}",
        style_hash()
    );
    headers.insert(
        header::CONTENT_SECURITY_POLICY,
        HeaderValue::from_str(&policy)
            .unwrap_or(HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'")),
    );
    response.map_body(|_, _| actix_web::body::BoxBody::new(page(error)))
}

/// A browser says what it wants an answer for; one that does not say, and names HTML, is taken at its word.
fn is_navigation(headers: &HeaderMap) -> bool {
    let text = |name: &HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    let said = |name: &'static str| text(&HeaderName::from_static(name));
    let html = text(&header::ACCEPT).is_some_and(|accept| {
        accept.split(',').any(|kind| kind.split(';').next().is_some_and(|kind| kind.trim() == "text/html"))
    });
    html && match (said(FETCH_MODE), said(FETCH_DEST)) {
        (None, None) | (Some("navigate"), _) => true,
        (_, dest) => matches!(dest, Some("document" | "iframe" | "frame")),
    }
}

fn style_hash() -> &'static str {
    static HASH: OnceLock<String> = OnceLock::new();
    HASH.get_or_init(|| format!("sha256-{}", STANDARD.encode(Sha256::digest(STYLE))))
}

/// What happened, and what a person can do about it.
const fn words(code: ErrorCode) -> (&'static str, &'static str) {
    match code {
        ErrorCode::Expired => ("This preview has expired", "Start it again from the page that it was opened from."),
        ErrorCode::Revoked => ("This preview has ended", "Start it again from the page that it was opened from."),
        ErrorCode::PermissionDenied | ErrorCode::SignatureMismatch | ErrorCode::BindingMismatch => {
            ("This preview is not open to you", "Open it from the page of its run; its address alone lets nobody in.")
        }
        ErrorCode::TokenReplay => {
            ("This link was used already", "Each link opens a preview once. Open it again from the page of its run.")
        }
        ErrorCode::NotFound => ("There is no such preview", "It may have been deleted, or previews are switched off."),
        ErrorCode::RateLimited | ErrorCode::ConcurrencyLimited => {
            ("Too many requests", "Wait a moment, then load the page again.")
        }
        ErrorCode::UpstreamUnreachable
        | ErrorCode::UpstreamTimeout
        | ErrorCode::ContainerUnavailable
        | ErrorCode::ContainerNotRunning
        | ErrorCode::ContainerNoAddress => {
            ("The app does not answer", "It may still be starting or have stopped. Load the page again in a moment.")
        }
        ErrorCode::CacheUnavailable | ErrorCode::StoreUnavailable => {
            ("Previews are briefly unavailable", "Wait a moment, then load the page again.")
        }
        ErrorCode::ProxySsrfBlocked | ErrorCode::ProxyPathDenied => {
            ("This address is not allowed", "The preview asked for something that leads out of it.")
        }
        ErrorCode::WsRequired => ("This preview cannot be shown here", "It needs a live connection that is off here."),
        ErrorCode::InvalidRequest
        | ErrorCode::RunNotActive
        | ErrorCode::Conflict
        | ErrorCode::ReadyBlocked
        | ErrorCode::PayloadTooLarge => ("This preview cannot be shown", "Open it again from the page of its run."),
    }
}

fn page(error: &ApiError) -> String {
    let (title, advice) = words(error.code());
    let message: String = error.message().chars().take(MESSAGE_MAX).collect();
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"robots\" content=\"noindex\">\n<title>{title}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n\
         <main>\n<h1>{title}</h1>\n<p>{advice}</p>\n<p class=\"detail\">{message}</p>\n\
         <p class=\"detail\"><code>{code}</code></p>\n</main>\n</body>\n</html>\n",
        message = escaped(&message),
        code = error.code(),
    )
}

/// Text as it may stand between tags.
pub(super) fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' | '\'' => {
                let _ = write!(safe, "&#{};", u32::from(character));
            }
            _ => safe.push(character),
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use actix_web::body::to_bytes;
    use actix_web::test::TestRequest;

    use super::*;

    fn asked(headers: &[(&'static str, &'static str)]) -> HttpRequest {
        headers.iter().fold(TestRequest::default(), |request, pair| request.insert_header(*pair)).to_http_request()
    }

    #[test]
    fn only_a_navigation_gets_a_page() {
        let html = ("accept", "text/html,application/xhtml+xml,*/*;q=0.8");
        for (headers, page) in [
            (vec![html, (FETCH_MODE, "navigate"), (FETCH_DEST, "document")], true),
            (vec![html, (FETCH_MODE, "navigate"), (FETCH_DEST, "iframe")], true),
            (vec![html], true),
            (vec![html, (FETCH_MODE, "cors"), (FETCH_DEST, "empty")], false),
            (vec![html, (FETCH_MODE, "no-cors"), (FETCH_DEST, "image")], false),
            (vec![("accept", "*/*"), (FETCH_MODE, "navigate"), (FETCH_DEST, "document")], false),
            (vec![("accept", "application/json")], false),
            (vec![("accept", "text/htmlx")], false),
            (vec![], false),
        ] {
            assert_eq!(is_navigation(asked(&headers).headers()), page, "{headers:?}");
        }
    }

    #[actix_web::test]
    async fn the_page_has_the_same_status_and_nothing_of_others() {
        let request = asked(&[("accept", "text/html")]);
        let error = ApiError::new(ErrorCode::Revoked, "<script>alert('x')</script> & more");
        let response = answer(&request, &error, "https://app.example");
        assert_eq!(response.status(), 401);
        let policy = response.headers().get("content-security-policy").unwrap().to_str().unwrap().to_owned();
        assert!(policy.starts_with("default-src 'none'; style-src 'sha256-"), "{policy}");
        assert!(policy.ends_with("frame-ancestors https://app.example"), "{policy}");
        let body = to_bytes(response.into_body()).await.unwrap();
        let body = std::str::from_utf8(&body).unwrap();
        assert!(body.contains("This preview has ended") && body.contains("<code>revoked</code>"), "{body}");
        assert!(body.contains("&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt; &amp; more"), "{body}");
        assert!(!body.contains("<script") && !body.contains("http"), "{body}");
    }

    #[actix_web::test]
    async fn a_program_gets_the_body_of_every_error() {
        let error = ApiError::rate_limited(runwarden_actors::contract::Limiter::Ip, 1500, at_zero());
        let response = answer(&asked(&[("accept", "application/json")]), &error, "*");
        assert_eq!(
            (response.status().as_u16(), &response.headers().get("retry-after").unwrap().to_str().unwrap()),
            (429, &"2")
        );
        let body = to_bytes(response.into_body()).await.unwrap();
        assert_eq!(serde_json::from_slice::<serde_json::Value>(&body).unwrap(), error.body());
        let page = answer(&asked(&[("accept", "text/html")]), &error, "*");
        assert_eq!(page.headers().get("retry-after").unwrap().to_str().unwrap(), "2");
    }

    fn at_zero() -> runwarden_actors::contract::Timestamp {
        runwarden_actors::contract::Timestamp::from_millis(0)
    }
}
