//! Progress and warnings on standard error.

use std::path::Path;
use std::time::{Duration, Instant};

use hyperinf::data::{Event, Notice, PlannedDisk, Stage};
use hyperinf::store::resident;
use indicatif::{ProgressBar, ProgressFinish, ProgressStyle};

use crate::log;
use crate::team::helps;
use crate::text::size;
pub(crate) use hyperinf::data::duration;

/// Without a terminal that draws a bar, a line is written this often.
const EVERY: Duration = Duration::from_secs(10);

/// A bar on a terminal, elsewhere a line now and then; a bar vanishes at the end.
pub(crate) struct Progress {
    what: &'static str,
    /// What is counted, for the speed.
    unit: Option<&'static str>,
    bar: Option<ProgressBar>,
    length: u64,
    /// When the first part was done, and how much it was: what an earlier run left took no time.
    began: Option<(Instant, u64)>,
    written: Instant,
}

impl Progress {
    pub(crate) fn new(what: &'static str, length: u64) -> Self {
        let template = "{prefix:18} {bar:30} {pos}/{len}  {msg}  {eta}";
        let style = || ProgressStyle::with_template(template).expect("the template is well formed");
        let new =
            || ProgressBar::new(length).with_style(style()).with_prefix(what).with_finish(ProgressFinish::AndClear);
        let bar = log::draws_bars().then(new);
        Self { what, unit: None, bar, length, began: None, written: Instant::now() }
    }

    /// Also shows how many of these are done per second, and the memory that is held.
    fn counting(self, unit: &'static str) -> Self {
        Self { unit: Some(unit), ..self }
    }

    /// Sets how much is done, with more about it.
    pub(crate) fn at(&mut self, position: u64, about: impl FnOnce() -> String) {
        let (began, first) = *self.began.get_or_insert((Instant::now(), position));
        let (seconds, done) = (began.elapsed().as_secs_f64(), position.saturating_sub(first));
        let speed = (done > 0).then(|| done as f64 / seconds.max(1e-9));
        if self.bar.is_none() && self.written.elapsed() < EVERY {
            return;
        }
        let mut about = about();
        if let Some(unit) = self.unit {
            if let Some(speed) = speed {
                about.push_str(&format!(", {speed:.1} {unit}/s"));
            }
            if let Some(memory) = resident() {
                about.push_str(&format!(", {}", size(memory as u64)));
            }
        }
        if let Some(bar) = &self.bar {
            bar.set_message(about);
            bar.set_position(position);
            return;
        }
        self.written = Instant::now();
        let left = speed.map(|speed| self.length.saturating_sub(position) as f64 / speed);
        let memory = resident().map(|memory| memory as u64);
        tracing::info!(
            stage = self.what,
            done = position,
            total = self.length,
            per_second = speed,
            seconds_left = left,
            memory,
            "{about}"
        );
    }

    pub(crate) fn finish(self) {
        if let Some(bar) = self.bar {
            bar.finish_and_clear();
        }
    }
}

/// Warns on standard error about notices that the results do not show.
pub(crate) fn warn(note: &str) {
    // What rank 0 says, too; an error is the rank's own.
    if !helps() {
        tracing::warn!("{note}");
    }
}

/// Warns if so many scores have no room on the disk of a folder; `spilled` ones are in a file there meanwhile, too.
pub(crate) fn warn_of_disk(folder: &Path, scores: usize, spilled: bool) {
    /// An upper bound for a table, which has ids and ranks as well.
    const BYTES: u64 = 16;
    const SPILLED: u64 = 8;
    let bytes = if spilled { BYTES + SPILLED } else { BYTES };
    if let Some(shortage) = PlannedDisk::new(folder, scores as u64 * bytes).shortage() {
        warn(&shortage.to_string());
    }
}

/// Tells on standard error what is no problem.
pub(crate) fn note(note: &str) {
    if !helps() {
        tracing::info!("{note}");
    }
}

/// What a stage counts, in one word.
fn unit(stage: Stage) -> &'static str {
    match stage {
        Stage::TrainGradients | Stage::QueryGradients | Stage::Evaluation => "rows",
        Stage::Curvature | Stage::Tokens | Stage::Trajectory => "passes",
        Stage::Finetuning | Stage::Unrolling => "steps",
        Stage::Retraining => "trainings",
        Stage::Refinement => "batches",
    }
}

/// Shows the progress and the notices of a run.
pub(crate) fn observer() -> impl FnMut(Event) {
    let mut current: Option<(Stage, Progress)> = None;
    // A stage begins where the one before ended: its first event is that of a part that is done.
    let mut mark = Instant::now();
    move |event| match event {
        Event::Notice(Notice::IdleProjection { rank }) => {
            warn(&format!("--project {rank} has no effect: no side of any block is longer"));
        }
        Event::Notice(
            notice @ (Notice::Earlier { .. }
            | Notice::Factors(_)
            | Notice::ResumedTraining { .. }
            | Notice::Recording { .. }
            | Notice::Unrolling { .. }
            | Notice::Refining { .. }
            | Notice::Kept { .. }
            | Notice::Tracing { .. }
            | Notice::AlreadyTrained { .. }),
        ) => {
            notice.to_string().lines().for_each(note);
        }
        Event::Notice(notice) => notice.to_string().lines().for_each(warn),
        Event::Progress(at) => {
            let drawn = current.take().filter(|(stage, _)| *stage == at.stage);
            let (_, mut bar) = drawn.unwrap_or_else(|| {
                (at.stage, Progress::new(at.stage.name(), at.total as u64).counting(unit(at.stage)))
            });
            bar.at(at.done as u64, || at.detail.to_string());
            if at.done >= at.total {
                let (stage, seconds) = (at.stage.name(), std::mem::replace(&mut mark, Instant::now()).elapsed());
                let seconds = seconds.as_secs_f64();
                tracing::debug!(stage, total = at.total as u64, seconds, "{stage}: done in {}", duration(seconds));
            }
            // Notices that follow must not be drawn over.
            current = (at.done < at.total).then_some((at.stage, bar));
        }
    }
}
