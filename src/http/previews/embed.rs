//! `GET /api/preview/embed.js`: the custom element `<runwarden-preview>` that a host application puts into its page.
//! What it does stands in the scripts beside this file, which are sent as one; how it is used, in docs/embed.md.

use std::sync::OnceLock;

use actix_web::http::header::{self, HeaderValue};
use actix_web::{HttpRequest, HttpResponse};
use sha2::{Digest as _, Sha256};

/// One closed function, so that a page sees nothing of it but the element; a second copy does nothing.
const SCRIPT: &str = concat!(
    "(() => {\n\"use strict\";\nif (customElements.get(\"runwarden-preview\")) return;\n\n",
    include_str!("embed/words.js"),
    "\n",
    include_str!("embed/looks.js"),
    "\n",
    include_str!("embed/attributes.js"),
    "\n",
    include_str!("embed/calls.js"),
    "\n",
    include_str!("embed/element.js"),
    "})();\n",
);
/// Short, so that a page and the server behind it are of the same version soon after a change.
const CACHE: &str = "public, max-age=300";

fn etag() -> &'static str {
    static ETAG: OnceLock<String> = OnceLock::new();
    ETAG.get_or_init(|| format!("\"{}\"", hex::encode(&Sha256::digest(SCRIPT)[..16])))
}

/// Whether the browser has this very script; `*` and weak forms count, as they do for every GET.
fn has_it(value: &HeaderValue) -> bool {
    let listed =
        |list: &str| list.split(',').map(str::trim).any(|tag| tag == "*" || tag.trim_start_matches("W/") == etag());
    value.to_str().is_ok_and(listed)
}

/// The script; it holds nothing of anybody's.
#[utoipa::path(
    get,
    path = "/api/preview/embed.js",
    tag = "previews",
    responses(
        (status = 200, description = "A script that defines `<runwarden-preview>`", content_type = "text/javascript", body = String),
        (status = 304, description = "`If-None-Match` names it"),
    ),
)]
pub(in crate::http) async fn get(request: HttpRequest) -> HttpResponse {
    let known = request.headers().get_all(header::IF_NONE_MATCH).any(has_it);
    let mut builder = if known { HttpResponse::NotModified() } else { HttpResponse::Ok() };
    builder
        .insert_header((header::ETAG, etag()))
        .insert_header((header::CACHE_CONTROL, CACHE))
        .insert_header((header::X_CONTENT_TYPE_OPTIONS, "nosniff"))
        // Pages of every origin may load it, as a module and under cross-origin isolation too.
        .insert_header((header::ACCESS_CONTROL_ALLOW_ORIGIN, "*"))
        .insert_header(("cross-origin-resource-policy", "cross-origin"));
    if known { builder.finish() } else { builder.content_type("text/javascript; charset=utf-8").body(SCRIPT) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_known_script_is_not_sent_again() {
        for (sent, known) in [
            (etag().to_owned(), true),
            (format!("W/{}", etag()), true),
            (format!("\"other\", {}", etag()), true),
            ("*".to_owned(), true),
            ("\"other\"".to_owned(), false),
            (etag().trim_matches('"').to_owned(), false),
        ] {
            assert_eq!(has_it(&HeaderValue::from_str(&sent).unwrap()), known, "{sent}");
        }
    }

    /// Pages forbid both by their policy.
    #[test]
    fn the_script_needs_neither_eval_nor_style_attributes() {
        for word in
            ["eval(", "new Function", "innerHTML", "document.write", ".style.", "setAttribute(\"style\"", "javascript:"]
        {
            assert!(!SCRIPT.contains(word), "{word}");
        }
    }
}
