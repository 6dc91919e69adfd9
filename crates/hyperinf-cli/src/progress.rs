//! How far a long task is, on standard error.

use std::io::{IsTerminal, Write, stderr};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// Where no terminal draws a bar, a line is written this often.
const EVERY: Duration = Duration::from_secs(10);

/// A bar on a terminal; elsewhere a line now and then.
pub(crate) struct Progress {
    what: &'static str,
    bar: Option<ProgressBar>,
    length: u64,
    began: Instant,
    told: Instant,
}

impl Progress {
    pub(crate) fn new(what: &'static str, length: u64) -> Self {
        let template = "{prefix:18} {bar:30} {pos}/{len}  {msg}  {eta}";
        let style = || ProgressStyle::with_template(template).expect("the template is well formed");
        let bar = stderr().is_terminal().then(|| ProgressBar::new(length).with_style(style()).with_prefix(what));
        let now = Instant::now();
        Self { what, bar, length, began: now, told: now }
    }

    /// Sets how much is done, with a word about it.
    pub(crate) fn at(&mut self, position: u64, message: impl FnOnce() -> String) {
        match &self.bar {
            Some(bar) => {
                bar.set_message(message());
                bar.set_position(position);
            }
            None if self.told.elapsed() >= EVERY => {
                self.told = Instant::now();
                let left = self.began.elapsed().as_secs_f64() / position.max(1) as f64
                    * self.length.saturating_sub(position) as f64;
                // Without standard error there is nobody left to tell.
                let _ = writeln!(
                    stderr(),
                    "{}: {position} of {}, {}, {} left",
                    self.what,
                    self.length,
                    message(),
                    duration(left)
                );
            }
            None => {}
        }
    }

    pub(crate) fn finish(self) {
        if let Some(bar) = self.bar {
            bar.finish_and_clear();
        }
    }
}

/// Seconds for people.
pub(crate) fn duration(seconds: f64) -> String {
    let seconds = seconds.round() as u64;
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, s) => format!("{s} s"),
        (0, m, s) => format!("{m} min {s:02} s"),
        (h, m, _) => format!("{h} h {m:02} min"),
    }
}

/// Tells on standard error what the results do not show.
pub(crate) fn warn(note: &str) {
    // Without standard error there is nobody left to warn.
    let _ = writeln!(stderr(), "warning: {note}");
}
