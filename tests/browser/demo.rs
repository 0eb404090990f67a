//! The link that `runwarden demo --keep` prints.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};

use serde_json::json;

use crate::app::block_on;
use crate::chromium::Chromium;

const STATE: &str = "return document.querySelector('runwarden-preview').state";
const FRAME: &str = "return document.querySelector('runwarden-preview').shadowRoot.querySelector('iframe')";
const HEADING: &str = "return document.querySelector('h1')?.textContent";

/// The demo as a child that dies with its test.
struct Demo(Child);

impl Drop for Demo {
    fn drop(&mut self) {
        // It takes its sandbox and its folder down.
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.0.id()).unwrap());
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
        let _ = self.0.wait();
    }
}

#[test]
fn the_demos_link_shows_the_app_in_a_frame_and_in_a_tab() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_runwarden"));
    command.args(["demo", "--keep", "--quiet"]).env("TMPDIR", folder.path()).stdin(Stdio::null());
    let mut demo = Demo(command.stdout(Stdio::piped()).spawn().unwrap());
    let lines = BufReader::new(demo.0.stdout.take().unwrap()).lines().map_while(Result::ok);
    let mut read = String::new();
    let link = lines
        .inspect(|line| read.extend([line, "\n"]))
        .find_map(|line| line.trim().strip_prefix("http://").map(|rest| format!("http://{rest}")));
    let link = link.unwrap_or_else(|| panic!("no link in:\n{read}"));
    block_on(async {
        let browser = Chromium::start().await;
        browser.phone().await;
        browser.goto(&link).await;
        browser.until(STATE, "ready").await;
        browser.assert_nothing_overflows().await;
        browser.enter(FRAME).await;
        browser.until(HEADING, "Tea timer").await;
        assert_eq!(browser.run("return document.querySelector('h1').getBoundingClientRect().left >= 16").await, true);
        browser.client.enter_parent_frame().await.unwrap();
        let unfilled = format!("{FRAME}.clientHeight - document.querySelector('runwarden-preview').clientHeight");
        assert_eq!(browser.run(&unfilled).await, 0);
        browser.click("return document.getElementById('tab')").await;
        browser.tab(2).await;
        browser.until(HEADING, "Tea timer").await;
        // Its script ran: the teas are its doing.
        assert_eq!(browser.run("return document.querySelectorAll('#teas button').length >= 3").await, json!(true));
        // A tab opened by hand has nothing that would let it in, and the link nothing to be stolen.
        assert!(!link.contains('?') && !link.contains("token"));
    });
}
