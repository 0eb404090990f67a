//! A real Redis server for a test, on a free port, with nothing of this machine's configuration.
#![allow(dead_code, reason = "each test binary uses the part that it needs")]

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::Pid;

/// Runs its arguments and ends them with the test process, however that ends: its standard input closes then.
const GUARD: &str = r#""$@" >/dev/null 2>&1 & server=$!; cat >/dev/null; kill -KILL $server 2>/dev/null; wait"#;

/// A server that lives as long as this value; it keeps its port across [`stop`](Self::stop) and
/// [`start`](Self::start).
pub struct RedisServer {
    port: u16,
    password: Option<&'static str>,
    arguments: Vec<String>,
    guard: Option<Child>,
}

impl RedisServer {
    /// Starts one on a free port and waits until it answers.
    pub fn spawn(password: Option<&'static str>) -> Self {
        Self::spawn_with(password, &[])
    }

    /// The same with more arguments, which count more than its own.
    pub fn spawn_with(password: Option<&'static str>, arguments: &[&str]) -> Self {
        let arguments: Vec<String> = arguments.iter().map(ToString::to_string).collect();
        // Another process may take the free port before Redis does.
        for _ in 0..5 {
            let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            let mut server = Self { port, password, arguments: arguments.clone(), guard: None };
            if server.try_start() {
                return server;
            }
        }
        panic!("redis-server does not start; is it installed?");
    }

    /// `redis://` with the password, where there is one.
    pub fn url(&self) -> String {
        let password = self.password.map(|password| format!(":{password}@")).unwrap_or_default();
        format!("redis://{password}127.0.0.1:{}/", self.port)
    }

    /// Kills it, as a power cut would.
    pub fn stop(&mut self) {
        if let Some(mut guard) = self.guard.take() {
            drop(guard.stdin.take());
            guard.wait().unwrap();
        }
    }

    /// Starts it again, empty, on its port.
    pub fn start(&mut self) {
        assert!(self.try_start(), "redis-server does not come back");
    }

    /// Sends one command in the inline form and returns the beginning of the answer.
    pub fn tell(&self, command: &str) -> std::io::Result<String> {
        self.tell_as(self.password, command)
    }

    /// The same with another password.
    pub fn tell_as(&self, password: Option<&str>, command: &str) -> std::io::Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
        stream.set_read_timeout(Some(Duration::from_secs(2)))?;
        if let Some(password) = password {
            stream.write_all(format!("AUTH {password}\r\n").as_bytes())?;
            let mut answer = [0; 512];
            let _ = stream.read(&mut answer)?;
        }
        stream.write_all(format!("{command}\r\n").as_bytes())?;
        let mut answer = [0; 4096];
        let length = stream.read(&mut answer)?;
        Ok(String::from_utf8_lossy(&answer[..length]).into_owned())
    }

    /// The server's process.
    pub fn process(&self) -> Pid {
        let info = self.tell("INFO server").unwrap();
        let id = info.lines().find_map(|line| line.strip_prefix("process_id:")).expect("INFO names the process");
        Pid::from_raw(id.trim().parse().unwrap()).unwrap()
    }

    fn try_start(&mut self) -> bool {
        self.stop();
        let mut command = Command::new("sh");
        command.args(["-c", GUARD, "redis-guard", "redis-server", "--save", "", "--appendonly", "no"]);
        command.args(&self.arguments).args(["--bind", "127.0.0.1", "--port", &self.port.to_string()]);
        if let Some(password) = self.password {
            command.args(["--requirepass", password]);
        }
        // Not in the test's process group: what ends that group must leave the guard to clean up.
        command.process_group(0);
        self.guard = Some(command.stdin(Stdio::piped()).current_dir(std::env::temp_dir()).spawn().unwrap());
        for _ in 0..200 {
            if self.tell("PING").is_ok_and(|answer| answer.starts_with("+PONG")) {
                return true;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        false
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.stop();
    }
}
