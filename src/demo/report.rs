//! What came of it: the table, and everything that is not as it has to be.

use std::time::Duration;

use runwarden_actors::contract::{CommitSha, DiffSource, RunStatus, TerminalKind};

use super::check::Comparison;
use super::host::{RunRow, SetAside};
use super::link::{Fault, LinkStats};
use super::preview::Seen;
use super::strangers::Stranger;

const LABEL_WIDTH: usize = 36;
const VALUE_WIDTH: usize = 12;
const SHA_SHOWN: usize = 12;

/// The link's mistakes as a newcomer would sort them.
const FAULTS: [(&str, &str, &[Fault]); 5] = [
    ("lost on the way", "connection cut", &[Fault::FrameLost, Fault::CutInFrame, Fault::RequestLost]),
    ("arrived, answer lost", "connection cut", &[Fault::CutAfterFrame, Fault::AckLost, Fault::ResponseLost]),
    ("sent on twice", "", &[Fault::FrameDuplicated, Fault::RequestDuplicated]),
    ("repeated late, out of order", "", &[Fault::FrameReplayed, Fault::RequestReplayed]),
    ("held back", "up to 30 ms", &[Fault::FrameDelayed, Fault::RequestDelayed]),
];

/// Everything that was found out at the end.
pub(super) struct Report<'a> {
    pub(super) seed: u64,
    /// The record as pages, read after the end.
    pub(super) stored: Comparison,
    /// The record as the live reader saw it.
    pub(super) live: Comparison,
    pub(super) envelopes: usize,
    pub(super) link: &'a LinkStats,
    pub(super) run: RunRow,
    pub(super) strangers: Vec<Stranger>,
    pub(super) set_aside: Vec<SetAside>,
    pub(super) head: CommitSha,
    pub(super) commits: u64,
    /// What the daemon's exit says, where that is not 0.
    pub(super) daemon_problem: Option<String>,
    /// What a browser saw of the app, or why it saw nothing.
    pub(super) preview: Result<Seen, String>,
    pub(super) time: Duration,
}

impl Report<'_> {
    /// In plain words; nothing where all is well.
    pub(super) fn problems(&self) -> Vec<String> {
        let mut problems = self.stored.problems("what the server stored");
        problems.extend(self.live.problems("what the live reader saw"));
        if self.stored.said == 0 {
            problems.push("the agent said nothing".to_owned());
        }
        problems.extend(self.daemon_problem.clone());
        problems.extend(self.end_problems());
        for stranger in self.strangers.iter().filter(|stranger| !stranger.as_expected()) {
            problems.push(format!("{}: the server answered {}", stranger.what, stranger.answer()));
        }
        for stranger in &self.strangers {
            let reasons: Vec<_> = self.set_aside.iter().filter(|row| belongs(row, stranger)).collect();
            if reasons.len() != usize::from(stranger.set_aside.is_some())
                || reasons.iter().any(|row| Some(row.reason) != stranger.set_aside)
            {
                problems.push(format!("{}: it is not in quarantine as it has to be", stranger.what));
            }
        }
        match &self.preview {
            Ok(seen) if seen.status == 200 && seen.is_the_app => {}
            Ok(seen) => problems.push(format!("the preview answered {} without the app's page", seen.status)),
            Err(error) => problems.push(format!("the preview: {error}")),
        }
        let foreign = self.of_the_agent();
        if foreign > 0 {
            problems.push(format!("{foreign} envelopes of the agent's daemon were set aside"));
        }
        problems
    }

    fn end_problems(&self) -> Vec<String> {
        let run = &self.run;
        let mut problems = Vec::new();
        if (run.status, run.terminal_kind) != (RunStatus::Finished, Some(TerminalKind::Done)) {
            let kind = run.terminal_kind.map_or("no end", TerminalKind::as_str);
            problems.push(format!("the run is {} ({kind}), not finished (done)", run.status));
        }
        if run.run_end_sha.as_ref() != Some(&self.head) {
            let stored = short(run.run_end_sha.as_ref());
            problems.push(format!("HEAD is {}, the run's endSha is {stored}", short(Some(&self.head))));
        }
        if run.diff_source != Some(DiffSource::Sha) {
            let source = run.diff_source.map_or("none", DiffSource::as_str);
            problems.push(format!("the server's own look at HEAD came to {source}, not sha"));
        }
        problems
    }

    /// Rows of quarantine that the demonstration did not cause itself.
    fn of_the_agent(&self) -> usize {
        self.set_aside.iter().filter(|row| !self.strangers.iter().any(|stranger| belongs(row, stranger))).count()
    }

    /// The table.
    pub(super) fn table(&self) -> String {
        let mut table = Table::default();
        table.line(&format!("Result, seed {}", self.seed));
        table.line("");
        let exactly =
            |found: &Comparison| if found.problems("").is_empty() { "each once, in order" } else { "see below" };
        table.row("messages sent by the agent", self.stored.said, "from its own journal");
        table.row("messages stored by the server", self.stored.recorded, exactly(&self.stored));
        table.row("messages seen by a live reader", self.live.recorded, exactly(&self.live));
        table.row("lost", self.stored.lost.len(), "");
        table.row("stored twice", self.stored.repeated.len(), "");
        table.line("");
        table.row("envelopes that carried the messages", self.envelopes, "");
        let sendings = self.link.frames() + self.link.requests();
        table.row("times the daemon sent one", sendings, "again until acknowledged");
        table.row("  over a stream", self.link.frames(), "");
        table.row("  over HTTP", self.link.requests(), "");
        table.row("duplicates refused", self.run.counters.duplicate, "counted by the server");
        table.row("ignored, late in the agent's run", self.run.counters.out_of_order, "counted by the server");
        for stranger in self.strangers.iter().filter(|stranger| stranger.set_aside.is_none()) {
            table.row(&format!("ignored, {}", stranger.why), 1, "by the demo itself");
        }
        table.row("quarantined", self.set_aside.len(), "");
        for stranger in &self.strangers {
            if let Some(reason) = stranger.set_aside {
                let count = self.set_aside.iter().filter(|row| belongs(row, stranger)).count();
                table.row(&format!("  {reason}, {}", stranger.why), count, "by the demo itself");
            }
        }
        table.row("  of the agent's own", self.of_the_agent(), "");
        table.line("");
        table.row("mistakes made by the link", self.link.made_in_all(), "");
        for (label, note, faults) in FAULTS {
            let made: u64 = faults.iter().map(|fault| self.link.made(*fault)).sum();
            table.row(&format!("  {label}"), made, note);
        }
        table.line("");
        table.row("commits made by the agent", self.commits, "");
        table.row("HEAD, asked of git", short(Some(&self.head)), "");
        let equal = if self.run.run_end_sha.as_ref() == Some(&self.head) { "equal" } else { "different" };
        table.row("endSha, stored by the server", short(self.run.run_end_sha.as_ref()), equal);
        let source = self.run.diff_source.map_or("none", DiffSource::as_str);
        table.row("diffSource, decided by the server", source, "");
        table.line("");
        match &self.preview {
            Ok(seen) => {
                let app = if seen.is_the_app { "the app's page" } else { "another page" };
                table.row("preview of the changed app, status", seen.status, app);
                table.row("  bytes of its page", seen.bytes, "through the proxy");
            }
            Err(_) => table.row("preview of the changed app", "none", "see below"),
        }
        table.row("time", format!("{:.1} s", self.time.as_secs_f64()), "");
        table.0
    }
}

fn belongs(row: &SetAside, stranger: &Stranger) -> bool {
    row.event_id().as_deref() == Some(stranger.event_id)
}

fn short(sha: Option<&CommitSha>) -> &str {
    sha.map_or("none", |sha| sha.as_str().get(..SHA_SHOWN).unwrap_or(sha.as_str()))
}

/// Lines of a label, a value on the right, and a note.
#[derive(Default)]
struct Table(String);

impl Table {
    fn line(&mut self, text: &str) {
        self.0.push_str(text);
        self.0.push('\n');
    }

    fn row(&mut self, label: &str, value: impl std::fmt::Display, note: &str) {
        let value = value.to_string();
        let line = format!("  {label:<LABEL_WIDTH$}{value:>VALUE_WIDTH$}  {note}");
        self.line(line.trim_end());
    }
}
