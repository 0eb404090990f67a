//! `runwarden migrate`, as the real program.

use std::process::Command;

use crate::app::{Db, Options, block_on};
use crate::on_both;

/// What it prints, with these settings.
fn migrate(settings: &[(String, String)], folder: &std::path::Path) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_runwarden"))
        .arg("migrate")
        .env("DATA_DIR", folder)
        .env("INTERNAL_SERVICE_KEY", crate::app::INTERNAL_KEY)
        .env("ADMIN_TOKEN", "admin-token-of-the-tests")
        .envs(settings.iter().map(|(name, value)| (name, value)))
        .current_dir(folder)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

on_both!(what_is_applied_is_listed_once, |db| {
    let (kind, folder) = match db {
        Db::Sqlite => ("sqlite", "migrations/sqlite"),
        Db::Postgres => ("postgres", "migrations/postgres"),
    };
    let mut files: Vec<String> = std::fs::read_dir(folder)
        .unwrap()
        .map(|file| file.unwrap().file_name().into_string().unwrap().replace(".sql", "").replace('_', " "))
        .collect();
    files.sort();
    let settings = block_on(async { Options::new(db).settings });
    let folder = tempfile::tempdir().unwrap();
    let first = migrate(&settings, folder.path());
    let mut lines: Vec<&str> = first.lines().collect();
    assert_eq!(lines.pop(), Some(format!("the {kind} schema is up to date").as_str()));
    assert_eq!(lines.len(), files.len(), "{first}");
    for (line, file) in lines.iter().zip(&files) {
        let took = line.strip_prefix(&format!("applied {file} (")).and_then(|rest| rest.strip_suffix(" ms)"));
        assert!(took.is_some_and(|took| took.parse::<u64>().is_ok()), "{line} for {file}");
    }
    let second = migrate(&settings, folder.path());
    let expected =
        format!("nothing to apply; {} migrations are in place\nthe {kind} schema is up to date\n", files.len());
    assert_eq!(second, expected);
});
