//! A Postgres of a test's own, to be stopped, frozen and filled.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::cell::Cell;
use crate::postgres::{bin, command, is_up};
use crate::processes::{lasting_port, tail};

/// Makes the data, once, and becomes the server.
const RUN: &str = r#"
    bin=$1; data=$2; shift 2
    if [ ! -e "$data/PG_VERSION" ]; then
        "$bin/initdb" --pgdata "$data" --username=postgres --auth=trust --no-sync --encoding=UTF8 --locale=C \
            --wal-segsize=1 || exit 1
    fi
    exec "$bin/postgres" -D "$data" "$@"
"#;

/// The server; it keeps its port and its data.
pub struct Database {
    pub cell: Cell,
    pub port: u16,
    frozen: Vec<Pid>,
    folder: tempfile::TempDir,
}

impl Database {
    /// Starts one. With a size, such as `64m`, its data is on a disk of that size.
    pub fn start_new(disk_size: Option<&str>) -> Self {
        let folder = tempfile::Builder::new().prefix("runwarden-postgres-").tempdir().unwrap();
        let disk = folder.path().join("disk");
        std::fs::create_dir(&disk).unwrap();
        // Does nothing, and may fail, for anybody but root.
        let _ = Command::new("chown").arg("-R").arg("postgres").arg(folder.path()).status();
        let port = lasting_port();
        let shell = command("sh");
        let mut run = Command::new(shell.get_program());
        run.args(shell.get_args()).args(["-c", RUN, "postgres"]).arg(bin()).arg(disk.join("data"));
        run.args(["-c", &format!("port={port}"), "-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories="]);
        run.args(["-c", "max_connections=100", "-c", "shared_buffers=16MB", "-c", "max_wal_size=4MB"]);
        // The tests end processes, not machines: nothing is lost without it.
        run.args(["-c", "min_wal_size=2MB", "-c", "fsync=off", "-c", "restart_after_crash=on"]);
        let log = Self::log(folder.path());
        let cell = Cell::new(&run, &log, disk_size.map(|size| (disk.as_path(), size)));
        let mut database = Self { cell, port, frozen: Vec::new(), folder };
        database.start();
        database
    }

    fn log(folder: &Path) -> PathBuf {
        folder.join("log")
    }

    /// Its URL by way of `port`.
    pub fn url(port: u16) -> String {
        format!("postgres://postgres@127.0.0.1:{port}/postgres")
    }

    /// Starts it again and waits until it takes connections.
    pub fn start(&mut self) {
        self.cell.start();
        for _ in 0..3_000 {
            if is_up(self.port) {
                return;
            }
            assert!(!self.cell.has_ended(), "postgres ended: {}", tail(&Self::log(self.folder.path())));
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("postgres does not start: {}", tail(&Self::log(self.folder.path())));
    }

    /// Stops it as `pg_ctl -m immediate` does: at once, without a checkpoint.
    pub fn stop(&mut self) {
        self.cell.signal(Signal::SIGQUIT);
        self.cell.wait();
    }

    /// Stops every process of it from running; connections stay open, and new ones are taken by the system.
    pub fn freeze(&mut self) {
        let server = self.cell.pid();
        kill(server, Signal::SIGSTOP).unwrap();
        self.frozen = vec![server];
        for entry in std::fs::read_dir("/proc").unwrap().flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
            let stat = std::fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
            let parent = stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(1)?.parse::<i32>().ok());
            if parent == Some(server.as_raw()) && kill(Pid::from_raw(pid), Signal::SIGSTOP).is_ok() {
                self.frozen.push(Pid::from_raw(pid));
            }
        }
        assert!(self.frozen.len() > 3, "postgres has more processes than {:?}", self.frozen);
    }

    /// Lets them run again.
    pub fn thaw(&mut self) {
        for pid in self.frozen.drain(..).rev() {
            let _ = kill(pid, Signal::SIGCONT);
        }
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        self.thaw();
        if self.cell.runs() && !self.cell.has_ended() {
            self.stop();
        }
    }
}
