//! Baselines and the derivative through the training among the methods of a command.

use std::io::{self, Write};

use hyperinf::data::{Baseline, Derivative, FollowedStates, Ranked, RowMethod, Run, Steadiness, Trajectory};
use hyperinf::gradients::Estimate;
use hyperinf::scoring::{MethodSpec, RankBy};

use super::{Each, Job, RowsSummary, Settings};
use crate::error::{CliError, Usage};
use crate::progress::{observer, warn};
use crate::score::counted;

/// Stands for all baselines.
const BASELINES: &str = "baselines";
/// Stands for all methods that follow a recorded training.
const RECORDED: &str = "recorded";
/// An error of the differences beyond which scores are not to be trusted.
const DOUBTFUL: f64 = 0.05;
/// A correlation below which other weights would give other scores.
const UNSTEADY: f64 = 0.5;

/// A word of `--method`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Wanted {
    Method(MethodSpec),
    Rows(RowMethod),
}

/// The words of `--method`, each once; `all` stands for the methods, `recorded` for those that follow a training,
/// `baselines` for the baselines.
pub(crate) fn list(words: &str) -> Result<Vec<Wanted>, CliError> {
    let mut found: Vec<Wanted> = Vec::new();
    for word in words.split(',').map(str::trim) {
        let wanted: Vec<Wanted> = match RowMethod::named(word) {
            Some(rows) => vec![Wanted::Rows(rows)],
            None if word == BASELINES => {
                Baseline::NAMES.map(|(_, baseline)| Wanted::Rows(RowMethod::Baseline(baseline))).to_vec()
            }
            None if word == RECORDED => {
                let trajectories = Trajectory::NAMES.map(|(_, trajectory)| RowMethod::Trajectory(trajectory));
                std::iter::once(RowMethod::Unrolled).chain(trajectories).map(Wanted::Rows).collect()
            }
            None => MethodSpec::list(&[word], &MethodSpec::all())?.into_iter().map(Wanted::Method).collect(),
        };
        wanted.into_iter().for_each(|wanted| {
            if !found.contains(&wanted) {
                found.push(wanted)
            }
        });
    }
    Ok(found)
}

impl Wanted {
    /// The name of the folder of its results: its word, with the characters that a name may not have as hyphens.
    pub(super) fn folder(&self) -> String {
        match self {
            Self::Method(method) => method.to_string().replace([':', '/', '@'], "-"),
            Self::Rows(rows) => rows.name().to_owned(),
        }
    }
}

impl Job<'_> {
    /// The run of a method of rows, which takes the settings that have nothing to do with stored gradients.
    pub(super) fn run_rows(&self, rows: RowMethod, drawn: bool) -> Result<(Settings, Run), CliError> {
        let refused = |second, reason| {
            let first = format!("--method {}", rows.name());
            Err(Usage::Combination { first, second, reason }.into())
        };
        let mut settings = Settings::of("identity".parse()?, &self.args.scoring, self.mode)?;
        settings.method = rows.name().to_owned();
        self.args.scoring.shared.project.check_seed(drawn)?;
        if self.seeds.is_some() {
            return refused("--uncertainty", "error bars are for methods that draw");
        }
        if self.args.refine.is_some() {
            return refused("--refine", "it has no inverse to refine");
        }
        if self.args.metric.is_some() {
            return refused("--metric", "it scores no stored gradients");
        }
        if settings.rank_by == RankBy::Magnitude && !rows.is_recorded() {
            return refused("--rank-by magnitude", "a baseline's scores have no sign");
        }
        let run = self.run_with(&settings, Estimate::Empirical)?;
        if rows.is_recorded() {
            if settings.rank_by == RankBy::Magnitude {
                return refused("--rank-by magnitude", "these scores are ranked by their signed value only");
            }
            if self.args.scoring.normalise.is_some() {
                return refused("--normalise", "its scores are changes of a loss");
            }
            run.check_recorded(rows)?;
        }
        Ok((settings, run))
    }

    /// Refuses `--smoothness` where nothing is differentiated.
    pub(super) fn check_smoothness(&self, methods: &[Wanted]) -> Result<(), CliError> {
        let unrolled = methods.contains(&Wanted::Rows(RowMethod::Unrolled));
        match self.args.smoothness {
            Some(_) if !unrolled => {
                let (first, second) = ("--smoothness".to_owned(), "these methods");
                let reason = "it is a figure of --method unrolled";
                Err(Usage::Combination { first, second, reason }.into())
            }
            _ => Ok(()),
        }
    }
}

impl Each<'_> {
    /// The scores of a method of rows.
    pub(super) fn ranked(&self, rows: RowMethod) -> Result<Ranked, CliError> {
        Settings::notes(std::iter::once(&self.settings)).iter().for_each(|note| warn(note));
        let (args, device) = (self.job.args, &self.settings.device);
        let seed = args.scoring.shared.project.seed.unwrap_or(0);
        let found = match rows {
            RowMethod::Baseline(baseline) => self.run.baseline(baseline, seed, device, &mut observer())?,
            RowMethod::Unrolled => {
                self.run.unrolled(args.smoothness.map(|share| (share, seed)), device, &mut observer())?
            }
            RowMethod::Trajectory(trajectory) => self.run.trajectory(trajectory, seed, device, &mut observer())?,
        };
        if let Some(derivative) = &found.derivative {
            doubts(derivative).iter().for_each(|doubt| warn(doubt));
        }
        Ok(found)
    }

    /// The first lines about a method of rows.
    pub(crate) fn headline(&self, out: &mut dyn Write, summary: &RowsSummary<'_>, found: &Ranked) -> io::Result<()> {
        if let members @ 1.. = found.ensemble.len() {
            writeln!(out, "ensemble  the mean over {} adapters", members + 1)?;
        }
        if let Some(FollowedStates { states, segments, .. }) = &found.trajectory {
            let each: Vec<String> = segments.iter().map(usize::to_string).collect();
            let segments =
                if each.is_empty() { String::new() } else { format!(", in segments of {}", each.join(", ")) };
            writeln!(out, "method    {}: {}", summary.method, summary.unit)?;
            return writeln!(out, "followed  {}{segments}", counted(states.len(), "recorded state", "recorded states"));
        }
        let Some(Derivative { steps, states, recorded_by: _, error, smoothness }) = &found.derivative else {
            return writeln!(out, "baseline  {}: {}", summary.method, summary.unit);
        };
        writeln!(out, "method    {}: {}", summary.method, summary.unit)?;
        writeln!(
            out,
            "followed  {steps} steps backwards from {states} recorded states, each led to the recorded numbers; \
             differences right to {error:.1e}"
        )?;
        let Some(Steadiness { left_out, correlation, foretold, found }) = smoothness else { return Ok(()) };
        let correlation = correlation.map_or("–".to_owned(), |found| format!("{found:.3}"));
        writeln!(
            out,
            "smooth    without {left_out} rows the scores of the others correlate with these by {correlation}; the mean \
             loss of the queries changed by {found:+.3e}, foretold {foretold:+.3e}"
        )
    }
}

/// What a reader of these scores must know.
fn doubts(found: &Derivative) -> Vec<String> {
    let mut doubts = Vec::new();
    if found.error > DOUBTFUL {
        doubts.push(format!(
            "the differences behind the scores are right to {:.1e} only: the losses are too rough or too small for their \
             type",
            found.error
        ));
    }
    let correlation = found.smoothness.as_ref().and_then(|found| found.correlation);
    if let Some(correlation) = correlation.filter(|correlation| *correlation < UNSTEADY) {
        doubts.push(format!(
            "the training is not smooth: without some rows the scores of the others correlate with these by \
             {correlation:.2} only; a lower learning rate, larger batches or fewer epochs make a training smoother"
        ));
    }
    doubts
}
