//! What processes cost, from `/proc`.

use std::collections::HashMap;
use std::fs;
use std::time::Instant;

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

/// Milliseconds of CPU that each of these processes, its children, and those of them that have ended have taken so far.
/// A child that is named itself counts for itself alone.
fn cpu_ms(roots: &[u32]) -> Result<Vec<u64>> {
    let mut all = HashMap::new();
    for entry in fs::read_dir("/proc").context("cannot read /proc")? {
        let name = entry?.file_name();
        let Some(name) = name.to_str() else { continue };
        if let (Ok(pid), Some(stat)) = (name.parse::<u32>(), stat(name)) {
            all.insert(pid, stat);
        }
    }
    for root in roots {
        anyhow::ensure!(all.contains_key(root), "process {root} has ended");
    }
    let root_of = |mut pid: u32| {
        while pid > 1 {
            if let Some(at) = roots.iter().position(|root| *root == pid) {
                return Some(at);
            }
            pid = all.get(&pid).map_or(0, |stat| stat.parent);
        }
        None
    };
    let mut spent = vec![0; roots.len()];
    for (pid, stat) in &all {
        if let Some(at) = root_of(*pid) {
            spent[at] += stat.ticks * 1000 / TICKS_PER_SECOND;
        }
    }
    Ok(spent)
}

/// Whether a process is there and has not ended.
pub fn is_alive(pid: u32) -> bool {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    text.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with('Z'))
}

/// Milliseconds of CPU that the bench itself and those of its children that have ended have taken so far.
fn own_cpu_ms() -> Result<u64> {
    let stat = stat("self").context("cannot read /proc/self/stat")?;
    Ok(stat.ticks * 1000 / TICKS_PER_SECOND)
}

/// Milliseconds of CPU that the whole machine has spent so far, over all its cores, and lost to its host.
fn machine_cpu_ms() -> Result<u64> {
    let text = fs::read_to_string("/proc/stat").context("cannot read /proc/stat")?;
    let line = text.lines().next().unwrap_or_default();
    let fields: Vec<u64> = line.split_whitespace().skip(1).filter_map(|field| field.parse().ok()).collect();
    anyhow::ensure!(fields.len() >= 8, "/proc/stat begins with: {line}");
    // user, nice, system, idle, iowait, irq, softirq, steal; what follows is counted in user already.
    let ticks: u64 = fields.iter().take(8).enumerate().filter(|(at, _)| !matches!(at, 3 | 4)).map(|(_, n)| n).sum();
    Ok(ticks * 1000 / TICKS_PER_SECOND)
}

/// What a measurement cost, in milliseconds of CPU.
#[derive(Debug, Clone)]
pub struct Costs {
    /// What each of the processes took that were named, in that order.
    pub processes: Vec<u64>,
    /// What makes the load.
    pub generator: u64,
    /// All of the machine.
    machine: u64,
    /// When they were read.
    at: Instant,
}

impl Costs {
    /// Reads them.
    pub fn now(processes: &[u32]) -> Result<Self> {
        Ok(Self {
            processes: cpu_ms(processes)?,
            generator: own_cpu_ms()?,
            machine: machine_cpu_ms()?,
            at: Instant::now(),
        })
    }

    /// What was spent between then and now, by the same processes.
    pub fn since(self, then: &Self) -> Self {
        let spent = |(now, then): (&u64, &u64)| now.saturating_sub(*then);
        Self {
            processes: self.processes.iter().zip(&then.processes).map(spent).collect(),
            generator: self.generator.saturating_sub(then.generator),
            machine: self.machine.saturating_sub(then.machine),
            at: then.at,
        }
    }

    /// The share of the machine, in percent, that processes took which have no part in the measurement. Their noise
    /// is in every number.
    pub fn noise_percent(&self, until: Instant) -> f64 {
        let ours = self.processes.iter().sum::<u64>() + self.generator;
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let all = until.duration_since(self.at).as_secs_f64() * 1000.0 * cores as f64;
        self.machine.saturating_sub(ours) as f64 * 100.0 / all.max(1.0)
    }
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
