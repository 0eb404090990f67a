//! A real Docker engine for a test process: its own `dockerd` in a temporary folder, with a network only for those
//! who ask for one, and an image made of this machine's `git` and a static busybox, so that no registry is asked.
#![allow(dead_code, reason = "each test binary uses the part that it needs")]

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use bollard::models::{ContainerCreateBody, HostConfig, Ipam, IpamConfig, NetworkCreateRequest};
use bollard::query_parameters::{CreateContainerOptionsBuilder, CreateImageOptionsBuilder};
use bollard::{API_DEFAULT_VERSION, Docker};
use futures_util::TryStreamExt as _;

/// The image of every container here.
pub const IMAGE: &str = "runwarden-test:latest";
/// What the image has of busybox.
const APPLETS: [&str; 25] = [
    "cat", "chmod", "cp", "dd", "echo", "env", "head", "httpd", "ln", "ls", "mkdir", "mkfifo", "mktemp", "mv",
    "readlink", "rm", "setsid", "sh", "sleep", "stat", "tail", "touch", "tr", "wc", "yes",
];
/// The network of containers that are to be reached.
pub const NETWORK: &str = "previews";

/// Runs the engine and ends it, with its containers and its folder, when the test process ends, however that ends:
/// standard input closes then.
const GUARD: &str = r#"
folder=$1 bridge=$2
shift 2
"$@" >"$folder/log" 2>&1 &
engine=$!
cat >/dev/null
kill $engine 2>/dev/null
wait $engine
busybox ip link delete "$bridge" 2>/dev/null
busybox ip link delete "${bridge}b" 2>/dev/null
rm -rf "$folder"
"#;

/// The engine of this test process.
pub struct DockerEngine {
    folder: PathBuf,
    /// Closing its standard input ends the engine; it is never closed before the process ends.
    _guard: Child,
}

impl DockerEngine {
    /// Starts it with the first call.
    pub fn shared() -> &'static Self {
        static ENGINE: OnceLock<DockerEngine> = OnceLock::new();
        ENGINE.get_or_init(Self::start)
    }

    /// The socket's path.
    pub fn socket(&self) -> PathBuf {
        self.folder.join("docker.sock")
    }

    /// What `DOCKER_HOST` would be.
    pub fn host(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    /// A client of it, in a version that both speak.
    pub async fn client(&self) -> Docker {
        let client = Docker::connect_with_unix(&self.host(), 60, API_DEFAULT_VERSION).unwrap();
        client.negotiate_version().await.unwrap()
    }

    /// Starts a container that has `mount` as its `/workspace`, as this user, without a network.
    pub async fn run(&self, name: &str, user: &str, mount: &Path) {
        self.run_in(name, user, mount, "none", &[]).await;
    }

    /// The same, in a network that this machine reaches.
    pub async fn run_reachable(&self, name: &str, user: &str, mount: &Path) {
        self.run_reachable_with(name, user, mount, &[]).await;
    }

    /// The same, with this machine's programs and libraries for the container to read.
    pub async fn run_reachable_with_programs(&self, name: &str, user: &str, mount: &Path) {
        self.run_reachable_with(name, user, mount, &programs()).await;
    }

    async fn run_reachable_with(&self, name: &str, user: &str, mount: &Path, shared: &[String]) {
        self.network().await;
        self.run_in(name, user, mount, NETWORK, shared).await;
    }

    /// Makes the network [`NETWORK`], once. It has a subnet of its own choice, so that containers can choose addresses.
    pub async fn network(&self) {
        static MADE: tokio::sync::OnceCell<()> = tokio::sync::OnceCell::const_new();
        MADE.get_or_init(|| self.make_network(NETWORK, bridge(), 64)).await;
    }

    /// Another one, and its name; once.
    pub async fn second_network(&self) -> &'static str {
        static MADE: tokio::sync::OnceCell<()> = tokio::sync::OnceCell::const_new();
        const NAME: &str = "previews-2";
        MADE.get_or_init(|| self.make_network(NAME, format!("{}b", bridge()), 192)).await;
        NAME
    }

    /// `tens` tells the subnets of one process apart.
    async fn make_network(&self, name: &str, bridge: String, tens: u32) {
        let process = std::process::id();
        let start = format!("10.{}.{}", tens + (process >> 8) % 64, process % 256);
        let places = IpamConfig {
            subnet: Some(format!("{start}.0/24")),
            gateway: Some(format!("{start}.1")),
            ..IpamConfig::default()
        };
        let body = NetworkCreateRequest {
            name: name.to_owned(),
            driver: Some("bridge".to_owned()),
            options: Some(HashMap::from([("com.docker.network.bridge.name".to_owned(), bridge)])),
            ipam: Some(Ipam { config: Some(vec![places]), ..Ipam::default() }),
            ..NetworkCreateRequest::default()
        };
        self.client().await.create_network(body).await.unwrap();
    }

    async fn run_in(&self, name: &str, user: &str, mount: &Path, network: &str, shared: &[String]) {
        let mut binds = vec![format!("{}:/workspace", mount.display())];
        binds.extend_from_slice(shared);
        let body = ContainerCreateBody {
            image: Some(IMAGE.to_owned()),
            cmd: Some(vec!["sleep".to_owned(), "100000".to_owned()]),
            user: Some(user.to_owned()),
            stop_signal: Some("SIGKILL".to_owned()),
            host_config: Some(HostConfig {
                network_mode: Some(network.to_owned()),
                binds: Some(binds),
                ..HostConfig::default()
            }),
            ..ContainerCreateBody::default()
        };
        let client = self.client().await;
        let options = CreateContainerOptionsBuilder::default().name(name).build();
        client.create_container(Some(options), body).await.unwrap();
        client.start_container(name, None).await.unwrap();
    }

    fn start() -> Self {
        // Sockets have short paths, so not below a test's own folder.
        let folder = tempfile::Builder::new().prefix("rw-docker-").tempdir().unwrap().keep();
        let mut command = if rustix::process::geteuid().is_root() {
            Command::new("sh")
        } else {
            let mut command = Command::new("sudo");
            command.args(["--non-interactive", "sh"]);
            command
        };
        command.args(["-c", GUARD, "docker-guard"]).arg(&folder).arg(bridge()).arg("dockerd");
        command.arg("--host").arg(format!("unix://{}", folder.join("docker.sock").display()));
        for (option, name) in [("--data-root", "data"), ("--exec-root", "exec"), ("--pidfile", "pid")] {
            command.arg(option).arg(folder.join(name));
        }
        command.args(["--group", &rustix::process::getegid().as_raw().to_string()]);
        command.args(["--storage-driver=vfs", "--bridge=none", "--iptables=false", "--ip6tables=false"]);
        // The machine's own engine may be configured otherwise.
        fs::write(folder.join("daemon.json"), "{}").unwrap();
        command.arg("--config-file").arg(folder.join("daemon.json"));
        // Not in the test's process group: what ends that group must leave the guard to clean up.
        command.process_group(0);
        let guard = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let engine = Self { folder, _guard: guard };
        engine.wait();
        // The tests have runtimes of their own; this may be called inside one of them.
        std::thread::scope(|scope| scope.spawn(|| engine.import_image()).join().unwrap());
        engine
    }

    fn wait(&self) {
        for _ in 0..600 {
            if UnixStream::connect(self.socket()).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        let log = fs::read_to_string(self.folder.join("log")).unwrap_or_default();
        let end: Vec<_> = log.lines().rev().take(20).collect();
        panic!("dockerd does not start (it needs root and the package docker.io):\n{}", end.join("\n"));
    }

    fn import_image(&self) {
        let archive = root_file_system();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (name, tag) = IMAGE.split_once(':').unwrap();
            let options = CreateImageOptionsBuilder::default().from_src("-").repo(name).tag(tag).build();
            let body = bollard::body_full(archive.into());
            let done: Vec<_> =
                self.client().await.create_image(Some(options), Some(body), None).try_collect().await.unwrap();
            assert!(done.iter().all(|step| step.error_detail.is_none()), "{done:?}");
        });
    }
}

/// This machine's programs and libraries, for a container to read.
pub fn programs() -> Vec<String> {
    let shared = ["/usr", "/lib", "/lib64"].into_iter().filter(|folder| Path::new(folder).is_dir());
    shared.map(|folder| format!("{folder}:{folder}:ro")).collect()
}

/// The name of this engine's bridge; it outlives the engine unless it is removed.
fn bridge() -> String {
    format!("rwt{}", std::process::id())
}

/// A tar archive of all that a container needs.
fn root_file_system() -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    for name in ["bin", "usr/bin", "tmp", "workspace"] {
        fs::create_dir_all(root.join(name)).unwrap();
    }
    fs::set_permissions(root, fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(root.join("tmp"), fs::Permissions::from_mode(0o1777)).unwrap();
    fs::copy(find("busybox"), root.join("bin/busybox")).unwrap();
    for applet in APPLETS {
        symlink("busybox", root.join("bin").join(applet)).unwrap();
    }
    let git = find("git");
    fs::copy(&git, root.join("usr/bin/git")).unwrap();
    let libraries = Command::new("ldd").arg(&git).output().unwrap();
    for library in String::from_utf8(libraries.stdout).unwrap().split_whitespace().filter(|word| word.starts_with('/'))
    {
        let place = root.join(library.trim_start_matches('/'));
        fs::create_dir_all(place.parent().unwrap()).unwrap();
        fs::copy(library, place).unwrap();
    }
    let tar = Command::new("tar")
        .args(["--create", "--owner=0", "--group=0", "--numeric-owner", "--file=-", "--directory"])
        .arg(root)
        .arg(".")
        .output()
        .unwrap();
    assert!(tar.status.success(), "{}", String::from_utf8_lossy(&tar.stderr));
    tar.stdout
}

/// A program's own file, behind whatever links lead to it.
fn find(program: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .map(|folder| folder.join(program))
        .find_map(|file| file.canonicalize().ok())
        .unwrap_or_else(|| panic!("{program} is not installed"))
}
