//! One Postgres server for the whole test binary, on a free port, in a folder of its own; it ends with the process,
//! however that ends. Included by path from the test binaries that need it.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use sqlx::{ConnectOptions, Connection, Executor};

/// Longest wait for the server to come up.
const START_TIMEOUT: Duration = Duration::from_mins(1);

/// The running server. Its wrapper ends it, and removes its folder, when `_stdin` closes.
struct Server {
    port: u16,
    folder: PathBuf,
    _stdin: ChildStdin,
}

static SERVER: OnceLock<Server> = OnceLock::new();
static DATABASES: AtomicU32 = AtomicU32::new(0);

/// The URL of a new, empty database on this process's server.
pub async fn new_database() -> String {
    // The first caller starts the server; the others must not block their runtime's only thread meanwhile.
    let port = tokio::task::spawn_blocking(|| SERVER.get_or_init(start).port).await.unwrap();
    let name = format!("test_{}", DATABASES.fetch_add(1, Ordering::Relaxed));
    let admin = format!("postgres://postgres@127.0.0.1:{port}/postgres");
    let options: sqlx::postgres::PgConnectOptions = admin.parse().unwrap();
    let mut connection = options.connect().await.unwrap();
    connection.execute(sqlx::AssertSqlSafe(format!("create database {name}"))).await.unwrap();
    connection.close().await.unwrap();
    format!("postgres://postgres@127.0.0.1:{port}/{name}")
}

/// What the server has logged about the database of this URL.
#[allow(dead_code, reason = "not every test binary reads it")]
pub fn log_of(url: &str) -> String {
    let name = url.rsplit('/').next().unwrap();
    let log = std::fs::read_to_string(SERVER.get().unwrap().folder.join("log")).unwrap();
    log.lines().filter(|line| line.split(' ').next() == Some(name)).collect::<Vec<_>>().join("\n")
}

/// The folder of `initdb` and `postgres`: `PG_BIN`, else the newest of Debian's, else the search path's.
pub fn bin() -> PathBuf {
    if let Some(folder) = std::env::var_os("PG_BIN") {
        return folder.into();
    }
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    versions
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse::<u32>().ok()?, entry.path().join("bin"))))
        .max()
        .map_or_else(PathBuf::new, |(_, folder)| folder)
}

/// Postgres refuses to run as root: then everything is done as the user `postgres`.
pub fn command(program: impl AsRef<Path>) -> Command {
    let id = Command::new("id").arg("-u").output().unwrap();
    if id.stdout == b"0\n" {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups"]).arg(program.as_ref());
        command
    } else {
        Command::new(program.as_ref())
    }
}

fn start() -> Server {
    let deadline = Instant::now() + START_TIMEOUT;
    loop {
        let folder = tempfile::Builder::new().prefix("runwarden-postgres-").tempdir().unwrap().keep();
        // Does nothing, and may fail, for anybody but root.
        let _ = Command::new("chown").arg("postgres").arg(&folder).stderr(Stdio::null()).status();
        let data = folder.join("data");
        let made = command(bin().join("initdb"))
            .current_dir(&folder)
            .arg("--pgdata")
            .arg(&data)
            .args(["--username=postgres", "--auth=trust", "--no-sync", "--encoding=UTF8", "--locale=C"])
            .output()
            .unwrap();
        assert!(made.status.success(), "initdb: {}", String::from_utf8_lossy(&made.stderr));
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let (mut wrapper, stdin) = launch(&folder, &data, port);
        // Somebody may take the port between its choice and its use: then the server ends at once.
        while wrapper.try_wait().unwrap().is_none() {
            if is_up(port) {
                return Server { port, folder, _stdin: stdin };
            }
            assert!(Instant::now() < deadline, "postgres did not start");
            std::thread::sleep(Duration::from_millis(20));
        }
        assert!(Instant::now() < deadline, "postgres did not start");
    }
}

/// A shell that starts the server, ends it when its own standard input closes, and then removes the folder.
fn launch(folder: &Path, data: &Path, port: u16) -> (Child, ChildStdin) {
    const SCRIPT: &str = r#"
        folder=$1; shift
        exec 3<&0 </dev/null
        "$@" >"$folder/log" 2>&1 3<&- &
        server=$!
        (read -r _ <&3; kill -QUIT $server) &
        reader=$!
        exec 3<&-
        wait $server
        kill $reader
        rm -rf "$folder"
    "#;
    let server = command(bin().join("postgres"));
    let mut wrapper = Command::new("sh")
        .current_dir(folder)
        .args(["-c", SCRIPT, "sh"])
        .arg(folder)
        .arg(server.get_program())
        .args(server.get_args())
        .arg("-D")
        .arg(data)
        .args(["-c", &format!("port={port}"), "-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories="])
        .args(["-c", "max_connections=300", "-c", "shared_buffers=64MB", "-c", "autovacuum=off"])
        .args(["-c", "log_line_prefix=%d "])
        // The tests end processes, not machines: nothing is lost without it.
        .args(["-c", "fsync=off"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let stdin = wrapper.stdin.take().unwrap();
    (wrapper, stdin)
}

/// Whether the server takes connections: the answer to a login is `R`, or an error while it still starts.
pub fn is_up(port: u16) -> bool {
    const LOGIN: &[u8] = b"\0\0\0\x17\0\x03\0\0user\0postgres\0\0";
    let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) else {
        return false;
    };
    let mut answer = [0];
    stream.set_read_timeout(Some(Duration::from_secs(1))).is_ok()
        && stream.write_all(LOGIN).is_ok()
        && stream.read_exact(&mut answer).is_ok()
        && answer == *b"R"
}
