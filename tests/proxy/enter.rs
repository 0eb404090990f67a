//! How browsers get in: by form, through the page that goes before the app, and the script that pages embed.

use reqwest::header::{CONTENT_TYPE, SET_COOKIE};
use reqwest::{Method, Response, StatusCode};
use serde_json::{Value, json};

use crate::app::{Db, Options, block_on};
use crate::preview::{Browser, Stage};
use crate::upstream::{TestUpstream, ok};

const FORM: &str = "application/x-www-form-urlencoded";

async fn stage(options: Options) -> Stage {
    let upstream = TestUpstream::answering(|_| ok("hello from the sandbox")).await;
    Stage::new(options, upstream.address).await
}

fn cookies(answer: &Response) -> Vec<String> {
    answer.headers().get_all(SET_COOKIE).iter().map(|value| value.to_str().unwrap().to_owned()).collect()
}

fn header<'a>(answer: &'a Response, name: &str) -> &'a str {
    answer.headers().get(name).map_or("", |value| value.to_str().unwrap())
}

/// A form posted to a session's exchange, from a page that opens it in `place`.
async fn post_form(stage: &Stage, session: &Value, path: &str, place: &str) -> Response {
    let id = session["previewSessionId"].as_str().unwrap();
    let token = session["exchangeToken"].as_str().unwrap();
    let http = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build().unwrap();
    let request = http.post(format!("{}/api/preview/session/{id}/exchange", stage.server.url));
    let request =
        request.header(CONTENT_TYPE, FORM).header("sec-fetch-dest", place).header("sec-fetch-mode", "navigate");
    let path = path.replace('/', "%2F").replace('?', "%3F").replace('=', "%3D");
    request.header("accept", "text/html").body(format!("token={token}&path={path}")).send().await.unwrap()
}

#[test]
fn a_form_lets_a_tab_in_and_leaves_the_cookie_of_the_frame_beside_it() {
    block_on(async {
        let stage = stage(Options::new(Db::Sqlite)).await;
        let session = stage.start().await;
        let base = session["proxyBasePath"].as_str().unwrap().to_owned();
        let answer = post_form(&stage, &session, "/deep?a=b", "document").await;
        assert_eq!(answer.status(), StatusCode::SEE_OTHER);
        assert_eq!(header(&answer, "location"), format!("{base}/.runwarden/enter?path=%2Fdeep%3Fa%3Db"));
        assert_eq!(header(&answer, "cache-control"), "no-store");
        let [cookie] = cookies(&answer).try_into().expect("one cookie");
        assert!(cookie.starts_with("rw_preview=ey") && !cookie.contains("Partitioned"), "{cookie}");

        // The same token again: once is once, and a person reads why.
        let again = post_form(&stage, &session, "/", "document").await;
        assert_eq!((again.status(), cookies(&again).len()), (StatusCode::CONFLICT, 0));
        assert!(again.text().await.unwrap().contains("<code>token_replay</code>"));

        // Where the session was started for what it is opened in, the mode has changed, and the other cookie goes.
        let session = stage.start_with(json!({"openMode": "new_tab"})).await.1;
        let both = cookies(&post_form(&stage, &session, "/", "document").await);
        assert!(both.len() == 2 && both[0].starts_with("rw_preview_frame=;"), "{both:?}");
        for path in ["//evil.example/", "https://evil.example/", "/.runwarden/enter", "/../x"] {
            let refused = post_form(&stage, &session, path, "document").await;
            assert_eq!((refused.status(), cookies(&refused).len()), (StatusCode::FORBIDDEN, 0), "{path}");
        }
    });
}

#[test]
fn a_json_exchange_sets_the_cookie_of_the_mode_that_it_names() {
    block_on(async {
        let stage = stage(Options::new(Db::Sqlite)).await;
        let session = stage.start().await;
        let id = session["previewSessionId"].as_str().unwrap();
        let body = json!({"token": session["exchangeToken"], "openMode": "new_tab"}).to_string();
        let url = format!("{}/api/preview/session/{id}/exchange", stage.server.url);
        let answer =
            stage.server.http.post(url).header(CONTENT_TYPE, "application/json").body(body).send().await.unwrap();
        let set = cookies(&answer);
        assert!(set.last().unwrap().starts_with("rw_preview=ey"), "{set:?}");
    });
}

#[test]
fn the_page_before_the_app_is_for_those_with_a_cookie_and_gives_one_to_its_own_place() {
    block_on(async {
        let stage = stage(Options::new(Db::Sqlite)).await;
        let browser = stage.open().await;
        let enter = "/.runwarden/enter?path=%2Fa%3Fb%3D%22";
        for path in [enter, "/.runwarden/seen.svg"] {
            let without = browser.http.get(format!("{}{path}", browser.base)).send().await.unwrap();
            assert_eq!(without.status(), StatusCode::UNAUTHORIZED, "{path}");
        }
        assert_eq!(browser.get("/.runwarden/seen.svg?1").await.status(), StatusCode::OK);

        let page = browser.get("/.runwarden/enter?path=%2Fa%3Fb%3Dc%26d").await;
        assert_eq!(page.status(), StatusCode::OK);
        assert!(header(&page, "content-security-policy").starts_with("sandbox allow-scripts; default-src 'none';"));
        assert_eq!(header(&page, "cache-control"), "no-store");
        let page = page.text().await.unwrap();
        assert!(page.contains("data-path=\"/a?b=c&amp;d\""), "{page}");
        let token = page.split("data-token=\"").nth(1).unwrap().split('"').next().unwrap().to_owned();

        // Without a cookie: the token is all that the place has.
        let let_in = || browser.http.post(format!("{}/.runwarden/enter", browser.base)).body(token.clone()).send();
        let answer = let_in().await.unwrap();
        assert_eq!(answer.status(), StatusCode::NO_CONTENT);
        let [cookie] = cookies(&answer).try_into().expect("one cookie");
        assert!(cookie.starts_with("rw_preview_frame=ey") && cookie.ends_with("; Partitioned"), "{cookie}");
        let again = let_in().await.unwrap();
        assert_eq!((again.status(), cookies(&again).len()), (StatusCode::CONFLICT, 0));

        for path in ["%2F%2Fevil.example", "%2F.runwarden%2Fenter", "javascript:alert(1)"] {
            let refused = browser.get(&format!("/.runwarden/enter?path={path}")).await;
            assert_eq!(refused.status(), StatusCode::FORBIDDEN, "{path}");
        }
        let revoke = format!("/api/internal/preview/session/{}/revoke", browser.id);
        assert_eq!(stage.server.post(&revoke, json!({})).await.0, 200);
        for path in ["/.runwarden/enter", "/.runwarden/seen.svg"] {
            assert_eq!(browser.get(path).await.status(), StatusCode::UNAUTHORIZED, "{path}");
        }
    });
}

#[test]
fn without_the_sandbox_nothing_goes_before_the_app() {
    block_on(async {
        let stage = stage(Options::new(Db::Sqlite).set("PREVIEW_PATH_SANDBOX", "off")).await;
        let browser: Browser = stage.open().await;
        let answer = browser.get("/.runwarden/enter?path=%2Fa").await;
        assert_eq!(answer.status(), StatusCode::SEE_OTHER);
        assert_eq!(header(&answer, "location"), format!("/api/preview/proxy/{}/a", browser.id));
    });
}

#[test]
fn a_refused_navigation_is_a_page_and_anything_else_is_json() {
    block_on(async {
        let stage = stage(Options::new(Db::Sqlite).set("PREVIEW_FRAME_ANCESTORS", "https://app.example")).await;
        let browser = stage.open().await;
        let ask = |accept: &str, mode: &str| {
            let request = browser.http.request(Method::GET, format!("{}/", browser.base));
            request.header("accept", accept).header("sec-fetch-mode", mode).header("sec-fetch-dest", "iframe").send()
        };
        let page = ask("text/html,*/*;q=0.8", "navigate").await.unwrap();
        assert_eq!(
            (page.status(), header(&page, "content-type")),
            (StatusCode::UNAUTHORIZED, "text/html; charset=utf-8")
        );
        assert!(header(&page, "content-security-policy").ends_with("frame-ancestors https://app.example 'self'"));
        assert!(page.headers().contains_key("x-proxy-req-id"));
        assert!(page.text().await.unwrap().contains("<code>permission_denied</code>"));
        let json = ask("application/json", "cors").await.unwrap();
        assert_eq!((json.status(), header(&json, "content-type")), (StatusCode::UNAUTHORIZED, "application/json"));
    });
}

#[test]
fn the_script_is_for_every_page_and_is_sent_once() {
    block_on(async {
        let stage = stage(Options::new(Db::Sqlite)).await;
        let url = format!("{}/api/preview/embed.js", stage.server.url);
        let script = stage.server.http.get(&url).send().await.unwrap();
        assert_eq!(header(&script, "content-type"), "text/javascript; charset=utf-8");
        assert_eq!(header(&script, "access-control-allow-origin"), "*");
        assert_eq!(header(&script, "cache-control"), "public, max-age=300");
        let tag = header(&script, "etag").to_owned();
        assert!(script.text().await.unwrap().contains("customElements.define(\"runwarden-preview\""));
        let again = stage.server.http.get(&url).header("if-none-match", &tag).send().await.unwrap();
        assert_eq!((again.status(), header(&again, "etag")), (StatusCode::NOT_MODIFIED, tag.as_str()));
        assert!(again.text().await.unwrap().is_empty());
    });
}

/// What a page of this origin is told about reading answers with a person's cookie: to its preflight, to an exchange that
/// fails, and to one that does not.
async fn allowed(stage: &Stage, origin: &str) -> Vec<(String, String)> {
    let session = stage.start().await;
    let id = session["previewSessionId"].as_str().unwrap();
    let url = format!("{}/api/preview/session/{id}/exchange", stage.server.url);
    let token = session["exchangeToken"].as_str().unwrap();
    let http = &stage.server.http;
    let mut told = Vec::new();
    for (request, status) in [
        (http.request(Method::OPTIONS, &url), StatusCode::NO_CONTENT),
        (http.post(&url).bearer_auth("no token"), StatusCode::UNAUTHORIZED),
        (http.post(&url).bearer_auth(token), StatusCode::OK),
    ] {
        let answer = request.header("origin", origin).send().await.unwrap();
        assert_eq!(answer.status(), status, "{origin}");
        assert_eq!(header(&answer, "vary"), "Origin");
        let said = |name| header(&answer, name).to_owned();
        told.push((said("access-control-allow-origin"), said("access-control-allow-credentials")));
    }
    told
}

#[test]
fn only_pages_that_are_listed_by_name_may_call_with_a_persons_cookie() {
    block_on(async {
        let nothing = vec![(String::new(), String::new()); 3];
        let everything = |origin: &str| vec![(origin.to_owned(), "true".to_owned()); 3];
        // The default is `*`: whoever likes may frame.
        for options in [Options::new(Db::Sqlite), Options::new(Db::Sqlite).set("PREVIEW_FRAME_ANCESTORS", "*")] {
            let stage = stage(options).await;
            for origin in ["https://app.example", "null", "*", &stage.server.url.clone()] {
                assert_eq!(allowed(&stage, origin).await, nothing, "{origin}");
            }
        }
        let listed = "* https://app.example https://*.more.example";
        let stage = stage(Options::new(Db::Sqlite).set("PREVIEW_FRAME_ANCESTORS", listed)).await;
        assert_eq!(allowed(&stage, "https://app.example").await, everything("https://app.example"));
        for origin in ["https://other.example", "https://app.example.evil.example", "https://a.more.example", "'self'"]
        {
            assert_eq!(allowed(&stage, origin).await, nothing, "{origin}");
        }
    });
}
