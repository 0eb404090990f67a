//! The element in a page of another site.

use std::time::Duration;

use serde_json::json;

use crate::app::{Db, Options, block_on};
use crate::chromium::{Chromium, third_party_cookies};
use crate::host_page::{Door, HostPage};
use crate::preview::Stage;
use crate::site;

/// The element's state.
const STATE: &str = "return document.querySelector('runwarden-preview').state";
/// Whether its subscription stands.
const LIVE: &str = "return told.some((event) => event.live)";
const FRAME: &str = "return document.querySelector('runwarden-preview').shadowRoot.querySelector('iframe')";
const BUTTON: &str = "return document.querySelector('runwarden-preview').shadowRoot.querySelector('.panel button')";
/// What it says to people.
const SAYS: &str = "return document.querySelector('runwarden-preview').shadowRoot.querySelector('.panel').innerText";
/// Whether the app's page, script and image have come.
const LOADED: &str = "return [document.querySelector('h1')?.textContent, document.body.dataset.script, \
                      document.getElementById('dot')?.naturalWidth]";

fn loaded() -> serde_json::Value {
    json!(["Hello from the sandbox", "ran", 8])
}

/// A server that lets in the page at the door, and a ready session.
async fn stage(options: Options) -> (Stage, String, Door) {
    let door = Door::open();
    let stage = Stage::new(door.lets_in(options), site::start()).await;
    let session = stage.start().await;
    assert_eq!(session["state"], "ready", "{session}");
    let id = session["previewSessionId"].as_str().unwrap().to_owned();
    (stage, id, door)
}

async fn revoke(stage: &Stage, id: &str) {
    let (status, body) = stage.server.post(&format!("/api/internal/preview/session/{id}/revoke"), json!({})).await;
    assert_eq!((status, &body["revoked"]), (200, &json!(true)));
}

/// The page around it, in a browser with these preferences, until the element is in this state.
async fn shown(page: HostPage, door: &Door, host: &str, preferences: serde_json::Value, state: &str) -> Chromium {
    let browser = Chromium::with_preferences(preferences).await;
    let port = page.serve(door);
    browser.goto(&format!("http://{host}:{port}/")).await;
    browser.until(STATE, state).await;
    browser
}

async fn assert_the_app_is_in_the_frame(browser: &Chromium) {
    browser.enter(FRAME).await;
    browser.until(LOADED, loaded()).await;
    browser.client.enter_parent_frame().await.unwrap();
}

#[test]
fn a_frame_shows_the_app_until_it_is_revoked() {
    block_on(async {
        let (stage, id, door) = stage(Options::new(Db::Sqlite)).await;
        let page = HostPage::of(&stage.server, &id, "").await;
        let browser = shown(page, &door, "localhost", json!({}), "ready").await;
        assert_the_app_is_in_the_frame(&browser).await;
        browser.until(LIVE, true).await;
        // The sandbox keeps the app away from our origin, where all previews are.
        browser.enter(FRAME).await;
        assert_eq!(browser.run("return origin").await, "null");
        browser.client.enter_parent_frame().await.unwrap();

        browser.phone().await;
        browser.assert_nothing_overflows().await;
        browser.enter(FRAME).await;
        browser.assert_nothing_overflows().await;
        browser.client.enter_parent_frame().await.unwrap();

        revoke(&stage, &id).await;
        browser.until_within(Duration::from_secs(2), STATE, |state| state == "revoked").await;
        assert!(browser.run(SAYS).await.as_str().unwrap().contains("This preview has ended"));
        browser.assert_nothing_overflows().await;
        browser.click(BUTTON).await;
        browser.until("return window.restarted", true).await;
        let violations = browser.run("return told.filter((event) => typeof event === 'string')").await;
        assert_eq!(violations, json!([]), "the page's policy forbids something that the element does");
    });
}

/// A page may give the element its height in any way; percentages know nothing of some of them.
#[test]
fn the_frame_fills_the_element_however_that_gets_its_height() {
    block_on(async {
        let (stage, id, door) = stage(Options::new(Db::Sqlite)).await;
        let page = HostPage::of(&stage.server, &id, "").await;
        let browser = shown(page, &door, "localhost", json!({}), "ready").await;
        for (body, element, least) in [
            ("", "", 36 * 16),
            ("", "height: 50vh", 200),
            ("", "height: auto; min-height: 24rem", 24 * 16),
            (
                "margin: 0; display: flex; flex-direction: column; min-height: 100vh",
                "flex: 1; min-height: 24rem",
                24 * 16,
            ),
            ("margin: 0; display: grid; grid-template-rows: auto 1fr; height: 100vh", "height: auto", 200),
        ] {
            let script = format!(
                "const element = document.querySelector('runwarden-preview'); document.body.style.cssText = '{body}'; \
                 element.style.cssText = '{element}'; const frame = element.shadowRoot.querySelector('iframe'); \
                 return [element.clientHeight, frame.clientHeight, element.clientWidth - frame.clientWidth]"
            );
            let heights = browser.run(&script).await;
            let (outside, inside) = (heights[0].as_u64().unwrap(), heights[1].as_u64().unwrap());
            assert!(outside + 2 >= least && inside == outside && heights[2] == 0, "`{body}` `{element}`: {heights}");
        }
    });
}

/// The frame's page counts as another site under the sandbox, also where the page around it is of ours.
#[test]
fn a_frame_in_a_page_of_the_same_site_loads_its_script_and_image() {
    block_on(async {
        for taken in [false, true] {
            let (stage, id, door) = stage(Options::new(Db::Sqlite)).await;
            let page = HostPage::of(&stage.server, &id, "").await;
            let browser = shown(page, &door, "127.0.0.1", third_party_cookies(taken), "ready").await;
            assert_the_app_is_in_the_frame(&browser).await;
            browser.until(LIVE, true).await;
        }
    });
}

/// A partitioned cookie is no third-party cookie.
#[test]
fn a_frame_works_where_third_party_cookies_are_blocked() {
    block_on(async {
        let (stage, id, door) = stage(Options::new(Db::Sqlite)).await;
        let page = HostPage::of(&stage.server, &id, "").await;
        let browser = shown(page, &door, "localhost", third_party_cookies(false), "ready").await;
        assert_the_app_is_in_the_frame(&browser).await;
        browser.until(LIVE, true).await;
    });
}

#[test]
fn where_all_its_cookies_are_blocked_a_tab_is_offered_with_the_reason() {
    block_on(async {
        let (stage, id, door) = stage(Options::new(Db::Sqlite)).await;
        let page = HostPage::of(&stage.server, &id, "").await;
        let port = page.clone().serve(&door);
        let pair = format!("{},http://localhost:{port}", stage.server.url);
        let mut blocked = third_party_cookies(false);
        blocked["profile.content_settings.exceptions.cookies"] = json!({pair: {"setting": 2}});
        let browser = Chromium::with_preferences(blocked).await;
        browser.goto(&format!("http://localhost:{port}/")).await;
        browser.until(STATE, "new_tab").await;
        let says = browser.run(SAYS).await;
        assert!(says.as_str().unwrap().contains("keeps the preview's cookie out of this page"), "{says}");
        browser.phone().await;
        browser.assert_nothing_overflows().await;
        browser.click(BUTTON).await;
        browser.tab(2).await;
        // The tab itself can have no cookie for its script and image here; the frame that fills it can.
        browser.until("return document.querySelector('iframe') !== null", true).await;
        assert_eq!(browser.run("return window.opener").await, json!(null));
        browser.enter("return document.querySelector('iframe')").await;
        browser.until(LOADED, loaded()).await;
    });
}

#[test]
fn a_tab_on_a_path_has_no_frame_where_third_party_cookies_are_taken() {
    block_on(async {
        let (stage, id, door) = stage(Options::new(Db::Sqlite)).await;
        let page = HostPage::of(&stage.server, &id, "mode=\"new_tab\" path=\"/?deep=link\"").await;
        let browser = shown(page, &door, "localhost", third_party_cookies(true), "new_tab").await;
        browser.click(BUTTON).await;
        browser.tab(2).await;
        browser.until(LOADED, loaded()).await;
        let address = browser.run("return location.href").await;
        assert_eq!(address, json!(format!("{}/api/preview/proxy/{id}/?deep=link", stage.server.url)));
        assert_eq!(browser.run("return origin").await, "null");
    });
}

/// `*` lets every page frame, and none call with a person's cookie.
#[test]
fn a_page_that_is_not_listed_by_name_reads_nothing() {
    block_on(async {
        let stage = Stage::new(Options::new(Db::Sqlite), site::start()).await;
        let session = stage.start().await;
        let id = session["previewSessionId"].as_str().unwrap();
        let page = HostPage::of(&stage.server, id, "").await;
        let browser = Chromium::start().await;
        let port = page.serve(&Door::open());
        browser.goto(&format!("http://localhost:{port}/")).await;
        browser.until(STATE, "error").await;
        let asked =
            "return performance.getEntriesByType('resource').filter((e) => e.name.includes('/api/preview/')).length";
        assert!(browser.run(asked).await.as_u64().unwrap() > 1, "it asked for more than its script");
    });
}

#[test]
fn what_cannot_be_shown_is_said_in_words() {
    block_on(async {
        let (stage, id, door) = stage(Options::new(Db::Sqlite)).await;
        let page = HostPage::of(&stage.server, &id, "unsupported-reason=\"missing_config\"").await;
        let browser = shown(page, &door, "localhost", json!({}), "unsupported").await;
        let says = browser.run(SAYS).await;
        assert!(says.as_str().unwrap().contains(".terragon/preview.json"), "{says}");
        // The same element goes on with what the page sets next.
        let element = "document.querySelector('runwarden-preview')";
        browser.run(&format!("{element}.removeAttribute('unsupported-reason')")).await;
        browser.until(STATE, "ready").await;
        // A token of the page's own is used once and does not stay in the document.
        let token = browser.run("return tokens.shift()").await;
        let script = format!(
            "const e = {element}; e.getExchangeToken = null; e.setAttribute('exchange-token', {token}); \
             return e.hasAttribute('exchange-token')"
        );
        assert_eq!(browser.run(&script).await, json!(false));
        browser.until("return told.filter((event) => event.state === 'ready' && !event.live).length", 2).await;
        browser.run(&format!("{element}.reload()")).await;
        browser.until(STATE, "error").await;
        let says = browser.run(SAYS).await;
        assert!(says.as_str().unwrap().contains("has no token"), "{says}");
        revoke(&stage, &id).await;
        browser.run(&format!("{element}.reload()")).await;
        browser.until(STATE, "expired").await;
    });
}
