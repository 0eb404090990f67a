//! An exchange by form: how a tab, or a frame on a preview's own host, is let in. A form and not a link, so that the
//! token is in no URL, history or log.

use actix_web::http::header::{self, LOCATION};
use actix_web::{HttpRequest, HttpResponse, web};
use runwarden_actors::contract::{OpenMode, PreviewSessionId};

use super::super::ApiError;
use super::super::body::read_body;
use super::enter::{app_path, enter_path};
use super::exchange::exchange_for;
use crate::auth::cookies::CookieScope;
use crate::proxy::PreviewServices;

/// Largest form of an exchange.
const FORM_MAX_BYTES: usize = 16 * 1024;
const FORM_TYPE: &str = "application/x-www-form-urlencoded";

/// Whether the body is a form.
pub(super) fn is_form(request: &HttpRequest) -> bool {
    let kind = request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    kind.and_then(|kind| kind.split(';').next()).is_some_and(|kind| kind.trim().eq_ignore_ascii_case(FORM_TYPE))
}

/// What the form was posted into, as the browser says it: a session that was started for a frame may fall back to a
/// tab, and its cookie has to fit where it is sent from.
fn posted_into(request: &HttpRequest) -> Option<OpenMode> {
    match request.headers().get("sec-fetch-dest")?.to_str().ok()? {
        "document" => Some(OpenMode::NewTab),
        "iframe" | "frame" => Some(OpenMode::Iframe),
        _ => None,
    }
}

/// A form with `token` and, if wanted, `path`: the answer is the cookie and the way into the app; on paths, below
/// `base`.
pub(super) async fn exchange_form(
    services: &PreviewServices,
    request: &HttpRequest,
    payload: web::Payload,
    id: PreviewSessionId,
    scope: CookieScope,
    base: &str,
) -> Result<HttpResponse, ApiError> {
    let body = read_body(request, payload, FORM_MAX_BYTES).await?;
    let field = |wanted: &str| {
        form_urlencoded::parse(&body).find(|(name, _)| name == wanted).map(|(_, value)| value.into_owned())
    };
    let token = field("token")
        .ok_or_else(|| ApiError::without_credential("the body must be a form with `token` and, if wanted, `path`"))?;
    let path = field("path").unwrap_or_else(|| "/".to_owned());
    app_path(&path)?;
    let place = posted_into(request);
    let exchanged = exchange_for(services, request, id, &token, scope, place).await?;
    // A tab beside the frame that the session was started for is no change of mode: the frame's cookie stays.
    let beside = place.is_some_and(|place| place != exchanged.open.record.open_mode);
    let onward = if matches!(scope, CookieScope::Path(_)) { enter_path(base, &path) } else { path };
    let mut builder = HttpResponse::SeeOther();
    builder.insert_header((header::CACHE_CONTROL, "no-store")).insert_header((LOCATION, onward));
    for cookie in exchanged.cookies.into_iter().skip(usize::from(beside)) {
        builder.append_header((header::SET_COOKIE, cookie));
    }
    Ok(builder.finish())
}

#[cfg(test)]
mod tests {
    use actix_web::test::TestRequest;

    use super::*;

    #[test]
    fn a_form_is_told_by_its_type_and_its_place_by_the_browser() {
        let with = |name: &'static str, value: &'static str| {
            TestRequest::default().insert_header((name, value)).to_http_request()
        };
        for (kind, form) in [
            (FORM_TYPE, true),
            ("Application/X-WWW-Form-Urlencoded; charset=UTF-8", true),
            ("application/json", false),
            ("multipart/form-data", false),
        ] {
            assert_eq!(is_form(&with("content-type", kind)), form, "{kind}");
        }
        assert!(!is_form(&TestRequest::default().to_http_request()));
        for (dest, mode) in [("document", Some(OpenMode::NewTab)), ("iframe", Some(OpenMode::Iframe)), ("empty", None)]
        {
            assert_eq!(posted_into(&with("sec-fetch-dest", dest)), mode, "{dest}");
        }
        assert_eq!(posted_into(&TestRequest::default().to_http_request()), None);
    }
}
