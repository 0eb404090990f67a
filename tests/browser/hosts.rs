//! Previews on hosts of their own, and the page that people see where they are not let in.

use serde_json::json;

use crate::app::{Db, Options, block_on};
use crate::chromium::{Chromium, third_party_cookies};
use crate::host_page::{Door, HostPage};
use crate::preview::Stage;
use crate::site;

const STATE: &str = "return document.querySelector('runwarden-preview').state";
const FRAME: &str = "return document.querySelector('runwarden-preview').shadowRoot.querySelector('iframe')";
const BUTTON: &str = "return document.querySelector('runwarden-preview').shadowRoot.querySelector('.panel button')";
const LOADED: &str = "return [document.querySelector('h1')?.textContent, document.body.dataset.script, \
                      document.getElementById('dot')?.naturalWidth]";

/// A server with preview hosts, and a ready session with its origin.
async fn stage() -> (Stage, String, String, Door) {
    let door = Door::open();
    let options = Options::new(Db::Sqlite).set("PREVIEW_HOST_SUFFIX", "preview.localhost");
    let stage = Stage::new(door.lets_in(options), site::start()).await;
    let session = stage.start().await;
    assert_eq!(session["state"], "ready", "{session}");
    let id = session["previewSessionId"].as_str().unwrap().to_owned();
    let port = stage.server.url.rsplit_once(':').unwrap().1;
    let origin = format!("http://{}:{port}", session["previewHost"].as_str().unwrap());
    (stage, id, origin, door)
}

/// The page around it, with the element told of the preview's host.
async fn opened(stage: &Stage, door: &Door, id: &str, origin: &str, mode: &str) -> Chromium {
    let host = format!("{id}.preview.localhost");
    let mut page = HostPage::of(&stage.server, id, &format!("mode=\"{mode}\" preview-host=\"{host}\"")).await;
    origin.clone_into(&mut page.hosts);
    let browser = Chromium::with_preferences(third_party_cookies(false)).await;
    let port = page.serve(door);
    browser.goto(&format!("http://localhost:{port}/")).await;
    browser
}

#[test]
fn a_tab_on_a_host_of_its_own_has_all_that_an_app_needs() {
    block_on(async {
        let (stage, id, origin, door) = stage().await;
        let browser = opened(&stage, &door, &id, &origin, "new_tab").await;
        browser.until(STATE, "new_tab").await;
        browser.click(BUTTON).await;
        browser.tab(2).await;
        let loaded = json!(["Hello from the sandbox", "ran", 8]);
        browser.until(LOADED, loaded.clone()).await;
        assert_eq!(browser.run("return [location.href, window.opener]").await, json!([format!("{origin}/"), null]));

        browser.goto(&format!("{origin}/absolute")).await;
        browser.until(LOADED, loaded).await;

        // The app's own login; of ours it is told nothing.
        let login = "return fetch('/login', {method: 'POST'}).then((answer) => answer.text())";
        assert_eq!(browser.run(login).await, json!("user=ada"));
        browser.run("localStorage.setItem('kept', 'yes')").await;
        browser.client.refresh().await.unwrap();
        assert_eq!(browser.run("return localStorage.getItem('kept')").await, json!("yes"));

        let echo = "const socket = new WebSocket(`ws://${location.host}/echo`); window.said = null; \
                    socket.onopen = () => socket.send('hello'); socket.onmessage = (event) => (said = event.data); \
                    socket.onclose = (event) => (said ??= `closed with ${event.code}`);";
        browser.run(echo).await;
        browser.until("return window.said", "echo hello").await;
    });
}

#[test]
fn a_frame_on_a_host_of_its_own_shows_absolute_paths_and_ends_with_the_session() {
    block_on(async {
        let (stage, id, origin, door) = stage().await;
        let browser = opened(&stage, &door, &id, &origin, "auto").await;
        browser.until(STATE, "ready").await;
        browser.enter(FRAME).await;
        browser.until(LOADED, json!(["Hello from the sandbox", "ran", 8])).await;
        assert_eq!(browser.run("return origin").await, json!(origin));
        // The browser does keep third-party cookies out; ours is partitioned.
        assert_eq!(browser.run("return document.hasStorageAccess()").await, json!(false));
        browser.run("location.href = '/absolute'").await;
        browser.until("return location.pathname", "/absolute").await;
        browser.until(LOADED, json!(["Hello from the sandbox", "ran", 8])).await;
        browser.client.enter_parent_frame().await.unwrap();
        browser.until("return told.some((event) => event.live)", true).await;
        let (status, _) = stage.server.post(&format!("/api/internal/preview/session/{id}/revoke"), json!({})).await;
        assert_eq!(status, 200);
        browser.until(STATE, "revoked").await;
    });
}

#[test]
fn people_who_are_not_let_in_read_why_and_programs_get_the_code() {
    block_on(async {
        let (stage, id, origin, _door) = stage().await;
        let browser = Chromium::start().await;
        browser.phone().await;
        for url in [format!("{origin}/"), format!("{}/api/preview/proxy/{id}/", stage.server.url)] {
            browser.goto(&url).await;
            assert_eq!(browser.text("h1").await, "This preview is not open to you", "{url}");
            assert_eq!(browser.text("code").await, "permission_denied");
            browser.assert_nothing_overflows().await;
            // The page's own policy lets its style in.
            let padding = "return getComputedStyle(document.querySelector('main')).paddingLeft";
            assert_eq!(browser.run(padding).await, json!("24px"));
            let asked = "return performance.getEntriesByType('navigation')[0].responseStatus";
            assert_eq!(browser.run(asked).await, json!(401));
            // Its policy forbids it to ask anything, so a program does.
            let answer = stage.server.http.get(url.replace(&origin, &stage.server.url)).header("host", host_of(&url));
            let answer = answer.header("accept", "*/*").send().await.unwrap();
            assert_eq!(answer.status(), 401);
            let body: serde_json::Value = serde_json::from_str(&answer.text().await.unwrap()).unwrap();
            assert_eq!(body["code"], "permission_denied");
        }
    });
}

fn host_of(url: &str) -> &str {
    url.split('/').nth(2).unwrap()
}

/// Each takes the other's cookie for its own; that is no reason to give up the frame.
#[test]
fn two_elements_of_one_session_do_not_disturb_each_other() {
    block_on(async {
        let (stage, id, origin, door) = stage().await;
        let browser = opened(&stage, &door, &id, &origin, "auto").await;
        let states = "return [...document.querySelectorAll('runwarden-preview')].map((element) => element.state)";
        browser.until(states, json!(["ready"])).await;
        let double = "const first = document.querySelector('runwarden-preview'); const second = first.cloneNode(); \
                      second.getExchangeToken = first.getExchangeToken; document.body.append(second); first.reload();";
        browser.run(double).await;
        browser.until(states, json!(["ready", "ready"])).await;
    });
}
