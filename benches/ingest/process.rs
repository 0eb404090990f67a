//! What processes cost, from `/proc`.

use std::collections::HashMap;
use std::fs;

use anyhow::{Context, Result};

/// Clock ticks in a second: fixed by Linux for what `/proc` shows.
const TICKS_PER_SECOND: u64 = 100;

struct Stat {
    parent: u32,
    ticks: u64,
}

fn stat(pid: &str) -> Option<Stat> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything; what follows the last one is plain.
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = fields.get(11..15)?.iter().filter_map(|field| field.parse::<u64>().ok()).sum();
    Some(Stat { parent: fields.get(1)?.parse().ok()?, ticks })
}

/// Milliseconds of CPU that a process, its children, and those of them that have ended have taken so far.
pub fn cpu_ms(root: u32) -> Result<u64> {
    let mut all = HashMap::new();
    for entry in fs::read_dir("/proc").context("cannot read /proc")? {
        let name = entry?.file_name();
        let Some(name) = name.to_str() else { continue };
        if let (Ok(pid), Some(stat)) = (name.parse::<u32>(), stat(name)) {
            all.insert(pid, stat);
        }
    }
    anyhow::ensure!(all.contains_key(&root), "process {root} has ended");
    let within = |mut pid: u32| {
        while pid > 1 {
            if pid == root {
                return true;
            }
            pid = all.get(&pid).map_or(0, |stat| stat.parent);
        }
        false
    };
    let ticks: u64 = all.iter().filter(|(pid, _)| within(**pid)).map(|(_, stat)| stat.ticks).sum();
    Ok(ticks * 1000 / TICKS_PER_SECOND)
}

/// Whether a process is there and has not ended.
pub fn is_alive(pid: u32) -> bool {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    text.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with('Z'))
}

/// Milliseconds of CPU that the bench itself and those of its children that have ended have taken so far.
pub fn own_cpu_ms() -> Result<u64> {
    let stat = stat("self").context("cannot read /proc/self/stat")?;
    Ok(stat.ticks * 1000 / TICKS_PER_SECOND)
}

/// Memory of one process.
#[derive(Debug, Clone, Copy)]
pub struct Memory {
    /// Resident now, MB.
    pub now_mb: f64,
    /// Most that was ever resident, MB.
    pub peak_mb: f64,
}

/// Memory of one process now.
pub fn memory(pid: u32) -> Result<Memory> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).with_context(|| format!("process {pid} has ended"))?;
    let field = |name: &str| {
        let line = text.lines().find(|line| line.starts_with(name));
        let kib = line.and_then(|line| line.split_whitespace().nth(1)).and_then(|kib| kib.parse::<f64>().ok());
        kib.map(|kib| kib * 1024.0 / 1e6).with_context(|| format!("no {name} of process {pid}"))
    };
    Ok(Memory { now_mb: field("VmRSS:")?, peak_mb: field("VmHWM:")? })
}
