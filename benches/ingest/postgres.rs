//! A Postgres of the bench's own, the same one for the server and for its peer.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::support::guard::Guarded;
use super::support::host::{free_port, path, run};

/// Settings that differ from a fresh installation's; the same for everybody who is measured.
const SETTINGS: &[&str] = &[
    "listen_addresses=127.0.0.1",
    "shared_buffers=2GB",
    "max_wal_size=4GB",
    "min_wal_size=4GB",
    "synchronous_commit=on",
    "fsync=on",
    "full_page_writes=on",
    "max_connections=120",
    "log_min_messages=warning",
];

/// Fills more than all buffers, and writes as much log.
const AGE: &str = "insert into aged select repeat(md5(n::text), 30) from generate_series(1, 400000) n";

/// Begins new files of the log, as a few gigabytes of changes would.
const SWITCH: &str =
    "select pg_logical_emit_message(false, 'age', n::text), pg_switch_wal() from generate_series(1, 240) n";

/// A running database.
pub struct Postgres {
    guard: Guarded,
    programs: PathBuf,
    /// TCP port on the loopback address.
    pub port: u16,
    /// Folder for whatever belongs to this run of the bench; it goes away with the database.
    pub folder: PathBuf,
}

impl Postgres {
    /// Makes a database in a new folder below `parent` and starts it.
    pub fn start(parent: Option<&Path>) -> Result<Self> {
        let programs = programs()?;
        let parent = parent.map_or_else(std::env::temp_dir, Path::to_owned);
        let folder = tempfile::Builder::new().prefix("runwarden-bench-").tempdir_in(&parent);
        let folder = folder.with_context(|| format!("cannot make a folder in {}", parent.display()))?;
        let as_user = database_user()?;
        let data = folder.path().join("postgres");
        std::fs::create_dir(&data)?;
        if !as_user.is_empty() {
            // The folder is handed over; everybody may pass through its parent to get there.
            run(&["chown", "postgres:", path(&data)?])?;
            run(&["chmod", "711", path(folder.path())?])?;
        }
        let initdb = programs.join("initdb");
        let mut command = as_user.clone();
        command.extend([
            path(&initdb)?,
            "-D",
            path(&data)?,
            "-U",
            "postgres",
            "-A",
            "trust",
            "-E",
            "UTF8",
            "--no-locale",
        ]);
        run(&command)?;

        let port = free_port()?;
        let (postgres, port_text) = (programs.join("postgres"), port.to_string());
        let mut command = as_user;
        command.extend([path(&postgres)?, "-D", path(&data)?, "-p", &port_text, "-k", path(&data)?]);
        for setting in SETTINGS {
            command.extend(["-c", setting]);
        }
        let log = folder.path().join("postgres.log");
        let guard = Guarded::start(&command, &[], "INT", &log, Some(folder.path()))?;
        // From here on the guard removes it.
        let started = Self { guard, programs, port, folder: folder.keep() };
        let since = Instant::now();
        while started.query("postgres", "select 1").is_err() {
            if since.elapsed() > Duration::from_mins(1) {
                bail!("the database did not start:\n{}", std::fs::read_to_string(&log).unwrap_or_default());
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        started.begin_anew()?;
        started.age()?;
        Ok(started)
    }

    /// Uses the database for a while. A new one makes and zeroes a file for every 16 MB of its log, and meets each of
    /// its buffers for the first time; one that has been in use has its files and buffers already.
    fn age(&self) -> Result<()> {
        self.query("bench", "create table aged (filler text)")?;
        // Plain inserts: they go through the buffers, and a checkpoint keeps the log's files for the next time around.
        for _ in 0..3 {
            self.query("bench", AGE)?;
            self.query("bench", "checkpoint")?;
        }
        self.query("bench", "drop table aged")?;
        // The rest of the files that `min_wal_size` keeps: to make and sync one stops every commit for as long.
        self.query("bench", SWITCH)?;
        self.query("bench", "checkpoint").map(drop)
    }

    /// An empty database for each part: what one has written is not vacuumed and analyzed in the background of the next.
    pub fn begin_anew(&self) -> Result<()> {
        self.query("postgres", "drop database if exists bench with (force)")?;
        self.query("postgres", "create database bench").map(drop)
    }

    /// One of the programs that come with Postgres.
    pub fn program(&self, name: &str) -> PathBuf {
        self.programs.join(name)
    }

    /// The postmaster's process id.
    pub const fn pid(&self) -> u32 {
        self.guard.pid
    }

    /// What the server under test is told.
    pub fn url(&self) -> String {
        format!("postgres://postgres@127.0.0.1:{}/bench", self.port)
    }

    /// Runs statements and returns what they print, a row on each line.
    pub fn query(&self, database: &str, sql: &str) -> Result<String> {
        let psql = self.program("psql");
        let port = self.port.to_string();
        let arguments = ["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-h", "127.0.0.1", "-U", "postgres"];
        let output = Command::new(psql).args(arguments).args(["-p", &port, "-d", database, "-c", sql]).output()?;
        anyhow::ensure!(output.status.success(), "{sql}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8(output.stdout)?.trim().to_owned())
    }

    /// Brings the database to the same point before each part: what was written before is on the disk.
    pub fn settle(&self) -> Result<()> {
        self.query("bench", "checkpoint").map(drop)
    }

    /// Stops it and removes its folder.
    pub fn stop(self) -> Result<()> {
        self.guard.stop()
    }
}

/// What stands before a command so that it does not run as root, which Postgres refuses.
fn database_user() -> Result<Vec<&'static str>> {
    if run(&["id", "-u"])?.trim() != "0" {
        return Ok(Vec::new());
    }
    Ok(vec!["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups", "--"])
}

/// The folder of the newest Postgres that is installed; `PG_BIN` names another.
fn programs() -> Result<PathBuf> {
    if let Some(folder) = std::env::var_os("PG_BIN") {
        return Ok(folder.into());
    }
    let installed = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let newest = installed
        .filter_map(|entry| entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()))
        .max()
        .map(|version| PathBuf::from(format!("/usr/lib/postgresql/{version}/bin")));
    let in_path = || run(&["pg_config", "--bindir"]).ok().map(|folder| PathBuf::from(folder.trim()));
    newest.or_else(in_path).context("Postgres is not installed; PG_BIN names the folder of its programs")
}
