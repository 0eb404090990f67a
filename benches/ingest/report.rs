//! The tables, in Markdown.

use super::memory::{LiveRuns, Sample};
use super::support::histogram::Histogram;
use super::support::process::Costs;

/// What one part came to in one round.
#[derive(Clone)]
pub struct Measured {
    /// Acknowledged events per second.
    pub events_per_second: f64,
    /// Events in the measured time.
    pub events: u64,
    /// Times from sending to acknowledgement.
    pub latency: Histogram,
    /// What it cost: the server's processes, then the database's.
    pub costs: Costs,
    /// The share of the machine that others took meanwhile, percent.
    pub noise_percent: f64,
}

impl Measured {
    /// [`Measured::noise_percent`].
    pub const fn noise(&self) -> f64 {
        self.noise_percent
    }
}

/// The rounds of one part.
pub struct Row {
    /// As the table calls it.
    pub name: String,
    /// Times the peer that is asked for.
    pub goal: Option<f64>,
    /// All rounds.
    pub rounds: Vec<Measured>,
}

impl Row {
    /// The round with the median rate.
    pub fn median(&self) -> Option<&Measured> {
        let mut rounds: Vec<&Measured> = self.rounds.iter().collect();
        rounds.sort_by(|a, b| a.events_per_second.total_cmp(&b.events_per_second));
        rounds.get(rounds.len() / 2).copied()
    }
}

/// Prints a row for each part; the ratio is to the first row that is named `peer`.
pub fn print_rates(rows: &[Row], peer: &str) {
    if rows.iter().all(|row| row.rounds.is_empty()) {
        return;
    }
    let peer = rows.iter().find(|row| row.name == peer).and_then(Row::median).map(|peer| peer.events_per_second);
    println!();
    println!(
        "| | events/s | rounds | ack p50 ms | ack p99 ms | server CPU ms / 1,000 | database CPU ms / 1,000 | load generator CPU ms / 1,000 | times the peer | asked for |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|---|");
    for row in rows {
        let Some(median) = row.median() else { continue };
        let per_thousand = |ms: u64| ms as f64 * 1000.0 / (median.events.max(1)) as f64;
        let rounds: Vec<String> = row.rounds.iter().map(|round| format!("{:.0}", round.events_per_second)).collect();
        println!(
            "| {} | {:.0} | {} | {:.1} | {:.1} | {:.1} | {:.1} | {:.1} | {} | {} | {:.0} |",
            row.name,
            median.events_per_second,
            rounds.join(", "),
            median.latency.per_mille_ms(500),
            median.latency.per_mille_ms(990),
            per_thousand(median.costs.processes[0]),
            per_thousand(median.costs.processes[1]),
            per_thousand(median.costs.generator),
            peer.map_or_else(|| "–".to_owned(), |peer| format!("{:.2}", median.events_per_second / peer)),
            row.goal.map_or_else(|| "–".to_owned(), |goal| format!("{goal}")),
            median.noise_percent,
        );
    }
}

/// Prints memory with many live runs.
pub fn print_live_runs(runs: usize, live: &LiveRuns) {
    println!();
    println!("| | resident MB | most so far MB | asked for |");
    println!("|---|---|---|---|");
    println!("| after the start | {:.1} | {:.1} | |", live.idle.now_mb, live.idle.peak_mb);
    println!(
        "| {runs} live runs ({} actors alive) | {:.1} | {:.1} | below 150 |",
        live.actors, live.live.now_mb, live.live.peak_mb
    );
}

/// Prints memory over a long run.
pub fn print_long_run(samples: &[Sample]) {
    println!();
    println!("| events acknowledged | resident MB | most so far MB |");
    println!("|---|---|---|");
    for sample in samples {
        println!("| {} | {:.1} | {:.1} |", sample.events, sample.memory.now_mb, sample.memory.peak_mb);
    }
}
