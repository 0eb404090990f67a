//! A Chromium without a window, with a profile of its own, driven over WebDriver. Ends when it is dropped.
#![allow(dead_code, reason = "each test uses the part that it needs")]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use fantoccini::elements::Element;
use fantoccini::{Client, ClientBuilder, Locator};
use hyper_util::client::legacy::connect::HttpConnector;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

/// Nothing that it does by itself, and nothing that a machine without a screen lacks.
const FLAGS: [&str; 12] = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--no-default-browser-check",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-sync",
    "--lang=en",
];
/// How long is waited for what has to come.
const WITHIN: Duration = Duration::from_secs(20);
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// A profile that blocks third-party cookies, or takes them.
pub fn third_party_cookies(taken: bool) -> Value {
    json!({"profile.cookie_controls_mode": u8::from(!taken), "profile.block_third_party_cookies": !taken})
}

/// Times that a driver is started: it picks a free port of IPv4, and ends where somebody has the same one of IPv6.
const DRIVER_STARTS: usize = 5;

/// A running driver and its port.
fn start_driver() -> (Child, u16) {
    let mut said = Vec::new();
    for _ in 0..DRIVER_STARTS {
        let mut driver = Command::new("chromedriver")
            .arg("--port=0")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("chromedriver is installed (Debian: chromium-driver)");
        let mut lines = BufReader::new(driver.stdout.take().unwrap()).lines().map_while(Result::ok);
        let port = lines.by_ref().find_map(|line| {
            let port =
                line.split_once("successfully on port ").and_then(|(_, port)| port.trim_end_matches('.').parse().ok());
            said.push(line);
            port
        });
        if let Some(port) = port {
            // Nobody reads on, and a full pipe would stop it.
            std::thread::spawn(move || lines.for_each(drop));
            return (driver, port);
        }
        said.push(format!("{:?}", driver.wait()));
    }
    panic!("chromedriver does not start: {}", said.join("\n"));
}

pub struct Chromium {
    pub client: Client,
    driver: Child,
    port: u16,
    session: String,
    _profile: TempDir,
}

impl Chromium {
    pub async fn start() -> Self {
        Self::with_preferences(json!({})).await
    }

    /// With these preferences of the profile.
    pub async fn with_preferences(preferences: Value) -> Self {
        let (driver, port) = start_driver();
        let profile = tempfile::Builder::new().prefix("rw-chromium-").tempdir().unwrap();
        let mut arguments: Vec<String> = FLAGS.map(str::to_owned).to_vec();
        arguments.push(format!("--user-data-dir={}", profile.path().display()));
        let options = json!({"args": arguments, "prefs": preferences});
        let capabilities = json!({"goog:chromeOptions": options});
        let Value::Object(capabilities) = capabilities else { unreachable!() };
        let client = ClientBuilder::new(HttpConnector::new())
            .capabilities(capabilities)
            .connect(&format!("http://127.0.0.1:{port}"))
            .await
            .expect("chromium starts");
        let session = client.session_id().await.unwrap().unwrap();
        Self { client, driver, port, session, _profile: profile }
    }

    pub async fn goto(&self, url: &str) {
        self.client.goto(url).await.unwrap();
    }

    /// The size of the page itself, as a phone has it.
    pub async fn phone(&self) {
        let script = "return [outerWidth - innerWidth, outerHeight - innerHeight]";
        self.client.set_window_size(390, 844).await.unwrap();
        let border = self.run(script).await;
        let (width, height) = (border[0].as_u64().unwrap_or(0), border[1].as_u64().unwrap_or(0));
        let (width, height) = (u32::try_from(390 + width).unwrap(), u32::try_from(844 + height).unwrap());
        self.client.set_window_size(width, height).await.unwrap();
    }

    /// The value of a script's `return`.
    pub async fn run(&self, script: &str) -> Value {
        self.client.execute(script, Vec::new()).await.unwrap()
    }

    /// Until the script gives this value.
    pub async fn until(&self, script: &str, wanted: impl Into<Value>) {
        let wanted = wanted.into();
        self.until_within(WITHIN, script, |value| *value == wanted).await;
    }

    /// Until the script's value is as wanted; a script that fails meanwhile, as on a page that is going away, is run
    /// again.
    pub async fn until_within(&self, within: Duration, script: &str, wanted: impl Fn(&Value) -> bool) -> Duration {
        let started = Instant::now();
        loop {
            let found = self.client.execute(script, Vec::new()).await;
            match &found {
                Ok(value) if wanted(value) => return started.elapsed(),
                _ if started.elapsed() < within => sleep(LOOK_EVERY).await,
                _ => {
                    let source = self.client.source().await.unwrap_or_default();
                    panic!("`{script}` came to {found:?}\n{source}");
                }
            }
        }
    }

    /// Clicks on what the script finds.
    pub async fn click(&self, script: &str) {
        self.element(script).await.click().await.unwrap();
    }

    /// Goes into the frame that the script finds.
    pub async fn enter(&self, script: &str) {
        self.element(script).await.enter_frame().await.unwrap();
    }

    /// Goes on in the newest of so many tabs.
    pub async fn tab(&self, tabs: usize) {
        let started = Instant::now();
        loop {
            let windows = self.client.windows().await.unwrap();
            if windows.len() >= tabs {
                return self.client.switch_to_window(windows.last().unwrap().clone()).await.unwrap();
            }
            assert!(started.elapsed() < WITHIN, "there are {} tabs", windows.len());
            sleep(LOOK_EVERY).await;
        }
    }

    pub async fn text(&self, selector: &str) -> String {
        self.client.find(Locator::Css(selector)).await.unwrap().text().await.unwrap()
    }

    /// Nothing is wider than the page.
    pub async fn assert_nothing_overflows(&self) {
        let widths = self.run("return [document.scrollingElement.scrollWidth, innerWidth]").await;
        assert!(widths[0].as_u64().unwrap() <= widths[1].as_u64().unwrap(), "scroll width and width: {widths}");
    }

    async fn element(&self, script: &str) -> Element {
        let found = self.run(script).await;
        let id = found.as_object().and_then(|object| object.values().next()?.as_str()).map(str::to_owned);
        let id = id.unwrap_or_else(|| panic!("`{script}` came to {found}"));
        Element::from_element_id(self.client.clone(), id.into())
    }
}

impl Drop for Chromium {
    /// Ends the browser before its driver, whose child it is, also after a failure.
    fn drop(&mut self) {
        if let Ok(mut stream) = TcpStream::connect(("127.0.0.1", self.port)) {
            let _ = stream.set_read_timeout(Some(Duration::from_secs(10)));
            let request = format!(
                "DELETE /session/{} HTTP/1.1\r\nHost: 127.0.0.1:{}\r\nConnection: close\r\n\r\n",
                self.session, self.port
            );
            let _ = stream.write_all(request.as_bytes());
            let _ = stream.read(&mut [0; 1024]);
        }
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}
