//! Hot reload: Vite's development server in a container, its preview on a host of its own. A file changes in the
//! sandbox, and the page follows without being loaded again.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use bollard::exec::{CreateExecOptions, StartExecOptions};
use serde_json::json;

use crate::app::{Db, Options, TestServer, block_on};
use crate::chromium::Chromium;
use crate::docker::DockerEngine;
use crate::host_page::{Door, HostPage};
use crate::preview::bound_run_with;

/// Its sandbox's name; `bound_run_with` binds runs to it.
const CONTAINER: &str = "box-1";
const FILES: [&str; 5] = ["package.json", "package-lock.json", "index.html", "main.js", "greeting.js"];
const VITE: &str = "exec node node_modules/vite/bin/vite.js --host 0.0.0.0 --port 5173 --strictPort";
/// A loaded machine has to start Vite and to bundle what it needs.
const WITHIN: Duration = Duration::from_mins(1);
const HEADING: &str = "return document.querySelector('h1')?.textContent";

/// The app with what it depends on, in the versions of its lock file.
fn install(folder: &Path) {
    let app = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/browser/vite-app");
    for file in FILES {
        fs::copy(app.join(file), folder.join(file)).unwrap();
    }
    fs::set_permissions(folder, fs::Permissions::from_mode(0o777)).unwrap();
    let mut command = Command::new("npm");
    command.args(["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]);
    let output = command.current_dir(folder).stdin(Stdio::null()).output().expect("npm is installed");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// A command of the agent, inside the sandbox.
async fn in_the_sandbox(engine: &DockerEngine, command: &str) {
    let client = engine.client().await;
    let options = CreateExecOptions { cmd: Some(vec!["sh", "-c", command]), ..CreateExecOptions::default() };
    let exec = client.create_exec(CONTAINER, options).await.unwrap();
    let options = StartExecOptions { detach: true, ..StartExecOptions::default() };
    client.start_exec(&exec.id, Some(options)).await.unwrap();
}

#[test]
fn a_change_in_the_sandbox_reaches_the_page_without_a_reload() {
    block_on(async {
        let folder = tempfile::tempdir().unwrap();
        install(folder.path());
        let engine = DockerEngine::shared();
        engine.run_reachable_with_programs(CONTAINER, "0:0", folder.path()).await;
        let door = Door::open();
        let options = door
            .lets_in(Options::new(Db::Sqlite))
            .set("DOCKER_HOST", engine.host())
            .set("PREVIEW_HOST_SUFFIX", "preview.localhost")
            .set("ALLOWED_UPSTREAM_NETWORKS", "10.0.0.0/8,172.16.0.0/12,192.168.0.0/16");
        let server = TestServer::with(options);
        let config = json!({"command": VITE, "port": 5173, "healthPath": "/", "requiresWebsocket": true});
        let run = bound_run_with(&server, "t-1", config).await;
        let start = json!({
            "threadId": run.thread, "threadChatId": run.chat, "runId": run.id, "userId": "u-1", "openMode": "new_tab",
        });
        let (status, session) = server.post("/api/internal/preview/session/start", start).await;
        assert_eq!((status, &session["state"]), (201, &json!("ready")), "{session}");
        let id = session["previewSessionId"].as_str().unwrap();
        let host = session["previewHost"].as_str().unwrap();

        let mut page = HostPage::of(&server, id, &format!("mode=\"new_tab\" preview-host=\"{host}\"")).await;
        page.hosts = format!("http://{host}:{}", server.url.rsplit_once(':').unwrap().1);
        let browser = Chromium::start().await;
        browser.goto(&format!("http://localhost:{}/", page.serve(&door))).await;
        browser
            .run("document.querySelector('runwarden-preview').addEventListener('click', (e) => e.target.openTab())")
            .await;
        browser.click("return document.querySelector('runwarden-preview')").await;
        browser.tab(2).await;
        browser.until_within(WITHIN, HEADING, |heading| heading == "Hello from Vite").await;
        browser.until_within(WITHIN, "return document.body.dataset.hot", |hot| hot == "connected").await;

        browser.run("window.marker = 'the same page'").await;
        let change = "echo 'export const greeting = \"Changed in the sandbox\";' > /workspace/greeting.js";
        in_the_sandbox(engine, change).await;
        browser.until_within(WITHIN, HEADING, |heading| heading == "Changed in the sandbox").await;
        assert_eq!(browser.run("return window.marker").await, json!("the same page"), "the page was loaded again");
    });
}
