//! Progress and warnings on standard error.

use std::io::{IsTerminal, Write, stderr};
use std::time::{Duration, Instant};

use hyperinf::data::{Event, Notice, Stage};
use indicatif::{ProgressBar, ProgressFinish, ProgressStyle};

use crate::terminal::{message, tell};

/// Without a terminal that draws a bar, a line is written this often.
const EVERY: Duration = Duration::from_secs(10);

/// A bar on a terminal, elsewhere a line now and then; a bar vanishes at the end.
pub(crate) struct Progress {
    what: &'static str,
    bar: Option<ProgressBar>,
    length: u64,
    began: Instant,
    written: Instant,
}

impl Progress {
    pub(crate) fn new(what: &'static str, length: u64) -> Self {
        let template = "{prefix:18} {bar:30} {pos}/{len}  {msg}  {eta}";
        let style = || ProgressStyle::with_template(template).expect("the template is well formed");
        let new =
            || ProgressBar::new(length).with_style(style()).with_prefix(what).with_finish(ProgressFinish::AndClear);
        let bar = stderr().is_terminal().then(new);
        let now = Instant::now();
        Self { what, bar, length, began: now, written: now }
    }

    /// Sets how much is done, with more about it.
    pub(crate) fn at(&mut self, position: u64, about: impl FnOnce() -> String) {
        match &self.bar {
            Some(bar) => {
                bar.set_message(about());
                bar.set_position(position);
            }
            None if self.written.elapsed() >= EVERY => {
                self.written = Instant::now();
                let left = self.began.elapsed().as_secs_f64() / position.max(1) as f64
                    * self.length.saturating_sub(position) as f64;
                // Without standard error nobody reads it.
                let _ = writeln!(
                    stderr(),
                    "{}: {position} of {}, {}, {} left",
                    self.what,
                    self.length,
                    about(),
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

/// A duration in its two largest units.
pub(crate) fn duration(seconds: f64) -> String {
    let seconds = seconds.round() as u64;
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, s) => format!("{s} s"),
        (0, m, s) => format!("{m} min {s:02} s"),
        (h, m, _) => format!("{h} h {m:02} min"),
    }
}

/// Warns on standard error about notices that the results do not show.
pub(crate) fn warn(note: &str) {
    tell(&format!("warning: {}", message(note)));
}

/// Tells on standard error what is no problem.
fn note(note: &str) {
    tell(&format!("note: {}", message(note)));
}

/// Shows the progress and the notices of a run.
pub(crate) fn observer() -> impl FnMut(Event) {
    let mut current: Option<(Stage, Progress)> = None;
    move |event| match event {
        Event::Notice(Notice::IdleProjection { rank }) => {
            warn(&format!("--project {rank} has no effect: no side of any block is longer"));
        }
        Event::Notice(
            notice @ (Notice::Earlier { .. } | Notice::ResumedTraining { .. } | Notice::AlreadyTrained { .. }),
        ) => {
            notice.to_string().lines().for_each(note);
        }
        Event::Notice(notice) => notice.to_string().lines().for_each(warn),
        Event::Progress(at) => {
            let begun = current.take().filter(|(stage, _)| *stage == at.stage);
            let (_, mut bar) = begun.unwrap_or_else(|| (at.stage, Progress::new(at.stage.name(), at.total as u64)));
            bar.at(at.done as u64, || at.detail.to_string());
            // Notices that follow must not be drawn over.
            current = (at.done < at.total).then_some((at.stage, bar));
        }
    }
}
