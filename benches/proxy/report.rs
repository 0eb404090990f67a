//! The tables, in Markdown.

use super::load::{LOADS, Load, Measured};
use super::streams::Streams;
use super::support::process::Memory;

/// Who was measured, and what came of it.
pub struct Row {
    /// As the tables call it.
    pub name: &'static str,
    /// All rounds of each load, in the order of [`LOADS`].
    pub rounds: [Vec<Measured>; LOADS.len()],
    /// Memory of the proxy: at first, and after each round.
    pub memory: Vec<Memory>,
}

impl Row {
    /// Nothing yet.
    pub const fn new(name: &'static str) -> Self {
        Self { name, rounds: [const { Vec::new() }; LOADS.len()], memory: Vec::new() }
    }

    /// The round with the median rate.
    fn median(&self, load: usize) -> Option<&Measured> {
        let mut rounds: Vec<&Measured> = self.rounds[load].iter().collect();
        rounds.sort_by(|a, b| a.per_second.total_cmp(&b.per_second));
        rounds.get(rounds.len() / 2).copied()
    }
}

/// The names of the rows that others are compared with.
pub struct Peers {
    /// nginx.
    pub nginx: &'static str,
    /// http-proxy-middleware as its documentation sets it up.
    pub node: &'static str,
    /// http-proxy-middleware with kept connections.
    pub node_kept: &'static str,
    /// The upstream without a proxy.
    pub direct: &'static str,
}

/// Prints a table for each load.
pub fn print_loads(rows: &[Row], peers: &Peers, connections: usize) {
    for (at, load) in LOADS.iter().enumerate() {
        if rows.iter().all(|row| row.rounds[at].is_empty()) {
            continue;
        }
        let median = |name: &str| rows.iter().find(|row| row.name == name).and_then(|row| row.median(at));
        let connections = if load.alone { 1 } else { connections };
        println!("\n{} of body, {connections} connections", size(*load));
        println!(
            "| | requests/s | rounds | p50 ms | p99 ms | proxy CPU ms / 1,000 | Redis | upstream | load generator | times nginx | times http-proxy-middleware | with kept connections | nginx's p99, times | added to direct p50, µs | others, % of the machine |"
        );
        println!("|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|");
        for row in rows {
            let Some(measured) = row.median(at) else { continue };
            let per_thousand = |ms: Option<&u64>| {
                let thousands = measured.latency.total().max(1) as f64 / 1000.0;
                ms.map_or_else(|| "–".to_owned(), |ms| format!("{:.1}", *ms as f64 / thousands))
            };
            let times = |peer: Option<&Measured>, of: fn(&Measured) -> f64| {
                peer.map_or_else(|| "–".to_owned(), |peer| format!("{:.2}", of(measured) / of(peer)))
            };
            let rounds: Vec<String> = row.rounds[at].iter().map(|round| format!("{:.0}", round.per_second)).collect();
            let added = median(peers.direct).map(|direct| (p50(measured) - p50(direct)) * 1000.0);
            // The upstream alone is the proxy of nobody.
            let (proxy, upstream) = if row.name == peers.direct { (None, Some(0)) } else { (Some(0), Some(1)) };
            let spent = |which: Option<usize>| which.and_then(|which| measured.costs.processes.get(which));
            println!(
                "| {} | {:.0} | {} | {:.3} | {:.3} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {:.0} |",
                row.name,
                measured.per_second,
                rounds.join(", "),
                p50(measured),
                p99(measured),
                per_thousand(spent(proxy)),
                per_thousand(spent(Some(2))),
                per_thousand(spent(upstream)),
                per_thousand(Some(&measured.costs.generator)),
                times(median(peers.nginx), rate),
                times(median(peers.node), rate),
                times(median(peers.node_kept), rate),
                times(median(peers.nginx), p99),
                added.map_or_else(|| "–".to_owned(), |micros| format!("{micros:.0}")),
                measured.noise_percent,
            );
        }
    }
}

/// Prints the memory of each proxy.
pub fn print_memory(rows: &[Row]) {
    println!("\n| | requests measured | resident MB, by round | most so far MB |");
    println!("|---|---|---|---|");
    for row in rows {
        let Some(last) = row.memory.last() else { continue };
        let requests: u64 = row.rounds.iter().flatten().map(|round| round.latency.total()).sum();
        let resident: Vec<String> = row.memory.iter().map(|memory| format!("{:.1}", memory.now_mb)).collect();
        println!("| {} | {requests} | {} | {:.1} |", row.name, resident.join(", "), last.peak_mb);
    }
}

/// Prints memory with idle streams.
pub fn print_streams(streams: &Streams) {
    println!("\n| | resident MB | most so far MB | wanted |");
    println!("|---|---|---|---|");
    let line = |name: String, memory: Memory, wanted: &str| {
        println!("| {name} | {:.1} | {:.1} | {wanted} |", memory.now_mb, memory.peak_mb);
    };
    line("one session".into(), streams.before, "");
    line(format!("{} sessions", streams.sessions), streams.with_sessions, "");
    line(format!("{} idle event streams", streams.open), streams.while_open, "below 300");
    line("all closed".into(), streams.after, "");
}

const fn rate(measured: &Measured) -> f64 {
    measured.per_second
}

fn p50(measured: &Measured) -> f64 {
    measured.latency.per_mille_ms(500)
}

fn p99(measured: &Measured) -> f64 {
    measured.latency.per_mille_ms(990)
}

const fn size(load: Load) -> &'static str {
    if load.bytes < 1 << 20 { "1 kB" } else { "1 MB" }
}
