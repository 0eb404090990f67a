//! A server, an engine, and containers with an app.
#![allow(dead_code, reason = "each test uses the part that it needs")]

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Mutex;
use std::thread::{self, ThreadId};
use std::time::Duration;

use bollard::Docker;
use bollard::models::{ContainerCreateBody, EndpointIpamConfig, EndpointSettings, HostConfig, NetworkingConfig};
use bollard::query_parameters::{CreateContainerOptionsBuilder, RemoveContainerOptionsBuilder};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::time::sleep;

use crate::app::{Db, Options, TestServer};
use crate::docker::{DockerEngine, IMAGE, NETWORK, programs};
use crate::raw::{Answer, Raw};

/// Where the app in a container speaks HTTP.
pub const APP: u16 = 3000;
/// Where it answers with the bytes that it got.
pub const ECHO: u16 = 4000;
/// Where it answers with bytes that are prepared for each path.
pub const PREPARED: u16 = 4500;
/// Where nobody listens.
pub const CLOSED: u16 = 5999;
/// The two routes that show previews.
pub const ROUTES: [&str; 2] = ["/internal-previews/proxy", "/previews"];

const UPSTREAM: &str = include_str!("upstream.js");

/// A running server before an engine.
pub struct World {
    pub server: TestServer,
    pub docker: Docker,
    /// Where containers are connected.
    pub network: &'static str,
    prefix: &'static str,
}

/// How a container is connected.
#[derive(Clone, Copy)]
pub enum Place {
    /// To the network of the tests, wherever the engine puts it.
    Anywhere,
    /// To the network of the tests, at this address.
    At(Ipv4Addr),
    /// To nothing.
    Nowhere,
}

impl World {
    /// `prefix` is of this test alone: the engine is shared.
    pub async fn new(prefix: &'static str) -> Self {
        Self::with(prefix, Options::new(Db::Sqlite)).await
    }

    pub async fn with(prefix: &'static str, options: Options) -> Self {
        static USED: Mutex<BTreeMap<&str, ThreadId>> = Mutex::new(BTreeMap::new());
        let here = thread::current().id();
        let user = *USED.lock().unwrap().entry(prefix).or_insert(here);
        assert_eq!(user, here, "another test has the prefix `{prefix}`");
        let engine = DockerEngine::shared();
        engine.network().await;
        let server = TestServer::with(options.set("DOCKER_HOST", engine.host()));
        Self { server, docker: engine.client().await, network: NETWORK, prefix }
    }

    /// A session's id for a name of this test.
    pub fn id(&self, name: &str) -> String {
        format!("{}-{name}", self.prefix)
    }

    /// The name of its container.
    pub fn container(&self, name: &str) -> String {
        format!("sandbox-session-{}", self.id(name))
    }

    /// Starts a container of this session that runs the app and waits until it listens; its session's id.
    pub async fn app(&self, name: &str) -> String {
        self.app_at(&self.container(name), name, Place::Anywhere).await;
        self.id(name)
    }

    /// The same under any name and at any place; its address.
    pub async fn app_at(&self, container: &str, who: &str, place: Place) -> IpAddr {
        let script = format!("cat >/tmp/app.js <<'EOF'\n{UPSTREAM}\nEOF\nexec node /tmp/app.js {who}");
        self.create(container, &["sh", "-c", &script], place).await;
        self.docker.start_container(container, None).await.unwrap();
        self.listening(container).await
    }

    /// Starts a container that only sleeps; its session's id.
    pub async fn idle(&self, name: &str, place: Place) -> String {
        self.create(&self.container(name), &["sleep", "100000"], place).await;
        self.docker.start_container(&self.container(name), None).await.unwrap();
        self.id(name)
    }

    pub async fn create(&self, container: &str, command: &[&str], place: Place) {
        let mut networking = None;
        if let Place::At(address) = place {
            let ipam = EndpointIpamConfig { ipv4_address: Some(address.to_string()), ..Default::default() };
            let endpoint = EndpointSettings { ipam_config: Some(ipam), ..Default::default() };
            networking =
                Some(NetworkingConfig { endpoints_config: Some([(self.network.to_owned(), endpoint)].into()) });
        }
        let network = if matches!(place, Place::Nowhere) { "none" } else { self.network };
        let body = ContainerCreateBody {
            image: Some(IMAGE.to_owned()),
            cmd: Some(command.iter().map(|word| (*word).to_owned()).collect()),
            stop_signal: Some("SIGKILL".to_owned()),
            host_config: Some(HostConfig {
                network_mode: Some(network.to_owned()),
                binds: Some(programs()),
                ..HostConfig::default()
            }),
            networking_config: networking,
            ..ContainerCreateBody::default()
        };
        let options = CreateContainerOptionsBuilder::default().name(container).build();
        self.docker.create_container(Some(options), body).await.unwrap();
    }

    /// Its address, once the app there listens.
    pub async fn listening(&self, container: &str) -> IpAddr {
        let address = self.address(container).await;
        for _ in 0..200 {
            if TcpStream::connect(SocketAddr::new(address, ECHO)).await.is_ok() {
                return address;
            }
            sleep(Duration::from_millis(50)).await;
        }
        panic!("the app in {container} does not listen");
    }

    pub async fn address(&self, container: &str) -> IpAddr {
        let found = self.docker.inspect_container(container, None).await.unwrap();
        let networks = found.network_settings.unwrap().networks.unwrap();
        networks[self.network].ip_address.as_deref().unwrap().parse().unwrap()
    }

    pub async fn stop(&self, name: &str) {
        self.docker.stop_container(&self.container(name), None).await.unwrap();
    }

    pub async fn remove(&self, name: &str) {
        let options = RemoveContainerOptionsBuilder::default().force(true).build();
        self.docker.remove_container(&self.container(name), Some(options)).await.unwrap();
    }

    /// Asks for a registration; status and body.
    pub async fn ask_to_register(&self, id: &str, body: Value) -> (u16, Value) {
        self.server.post(&format!("/api/internal/sessions/{id}/previews"), body).await
    }

    pub async fn register(&self, id: &str, port: u16) {
        let (status, body) = self.ask_to_register(id, json!({"port": port})).await;
        assert_eq!((status, body), (200, json!({"sessionId": id, "port": port, "registered": true})));
    }

    /// Starts a session's container through its route.
    pub async fn start(&self, id: &str) -> (u16, Value) {
        self.server.internal(reqwest::Method::POST, &format!("/api/internal/sessions/{id}/start"), None).await
    }

    /// Runs a command in a session's container through its route.
    pub async fn exec(&self, id: &str, body: Value) -> (u16, Value) {
        self.server.post(&format!("/api/internal/sessions/{id}/exec"), body).await
    }

    /// One request on a connection of its own, with nothing but a Host.
    pub async fn ask(&self, method: &str, target: &str) -> Answer {
        self.send(method, target, "", "").await
    }

    /// The same with header lines and a body.
    pub async fn send(&self, method: &str, target: &str, lines: &str, body: &str) -> Answer {
        let length = if body.is_empty() { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
        let mut raw = Raw::connect(&self.server.url).await;
        raw.send(format!("{method} {target} HTTP/1.1\r\nHost: server.example\r\n{lines}{length}\r\n{body}")).await;
        raw.answer_to(method).await.expect("an answer")
    }
}

/// What every error of the locked routes looks like.
pub fn locked(code: &str, status: u16, message: &str, error: &str) -> Value {
    json!({"code": code, "message": message, "error": error, "statusCode": status})
}
