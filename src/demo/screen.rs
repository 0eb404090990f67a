//! What a person sees: lines, and one line that is redrawn on a terminal and repeated every second elsewhere.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

/// Width of a redrawn line; one less than the narrowest usual terminal, whose last column would wrap.
const WIDTH: usize = 79;
const PLAIN_EVERY: Duration = Duration::from_secs(1);

/// Standard output. That nobody reads it is no reason to stop: a closed pipe is passed over.
pub(super) struct Screen<W> {
    to: W,
    redraws: bool,
    quiet: bool,
    drawn: bool,
    plain_at: Option<Instant>,
}

impl Screen<std::io::Stdout> {
    pub(super) fn new(quiet: bool) -> Self {
        let to = std::io::stdout();
        let redraws = to.is_terminal();
        Self { to, redraws, quiet, drawn: false, plain_at: None }
    }
}

impl<W: Write> Screen<W> {
    /// Lines that are always shown.
    pub(super) fn print(&mut self, text: &str) {
        if std::mem::take(&mut self.drawn) {
            let _ = write!(self.to, "\r{:WIDTH$}\r", "");
        }
        let _ = writeln!(self.to, "{text}");
        let _ = self.to.flush();
    }

    /// Lines that explain.
    pub(super) fn say(&mut self, text: &str) {
        if !self.quiet {
            self.print(text);
        }
    }

    /// How far it is.
    pub(super) fn progress(&mut self, text: &str) {
        if self.quiet {
            return;
        }
        if self.redraws {
            let text: String = text.chars().take(WIDTH).collect();
            let _ = write!(self.to, "\r{text:WIDTH$}");
            let _ = self.to.flush();
            self.drawn = true;
        } else if self.plain_at.is_none_or(|at| at.elapsed() >= PLAIN_EVERY) {
            self.plain_at = Some(Instant::now());
            self.print(text);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(redraws: bool, quiet: bool) -> String {
        let mut screen = Screen { to: Vec::new(), redraws, quiet, drawn: false, plain_at: None };
        screen.say("headline");
        screen.progress("one");
        screen.progress("two");
        screen.print("table");
        String::from_utf8(screen.to).unwrap()
    }

    #[test]
    fn a_terminal_has_one_line_that_changes_and_goes_away() {
        let blank = " ".repeat(WIDTH);
        assert_eq!(shown(true, false), format!("headline\n\r{:79}\r{:79}\r{blank}\rtable\n", "one", "two"));
    }

    #[test]
    fn a_pipe_has_plain_lines_and_not_too_many() {
        assert_eq!(shown(false, false), "headline\none\ntable\n");
    }

    #[test]
    fn quiet_leaves_the_table() {
        assert_eq!(shown(true, true), "table\n");
    }
}
