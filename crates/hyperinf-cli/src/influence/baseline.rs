//! Baselines among the methods of a command.

use hyperinf::data::{Baseline, Ranked, Run};
use hyperinf::gradients::Estimate;
use hyperinf::scoring::{MethodSpec, RankBy};

use super::{Each, Job, Settings};
use crate::error::{CliError, Usage};
use crate::progress::{observer, warn};

/// Stands for all baselines.
const BASELINES: &str = "baselines";

/// A word of `--method`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Wanted {
    Method(MethodSpec),
    Baseline(Baseline),
}

/// The words of `--method`, each once; `all` stands for the methods, `baselines` for the baselines.
pub(super) fn list(words: &str) -> Result<Vec<Wanted>, CliError> {
    let mut found: Vec<Wanted> = Vec::new();
    for word in words.split(',').map(str::trim) {
        let wanted: Vec<Wanted> = match Baseline::named(word) {
            Some(baseline) => vec![Wanted::Baseline(baseline)],
            None if word == BASELINES => Baseline::NAMES.map(|(_, baseline)| Wanted::Baseline(baseline)).to_vec(),
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
            Self::Baseline(baseline) => baseline.name().to_owned(),
        }
    }
}

impl Job<'_> {
    /// The run of a baseline, which takes the settings that have nothing to do with gradients.
    pub(super) fn run_baseline(&self, baseline: Baseline, drawn: bool) -> Result<(Settings, Run), CliError> {
        let refused = |second, reason| {
            let first = format!("--method {}", baseline.name());
            Err(Usage::Combination { first, second, reason }.into())
        };
        let mut settings = Settings::of("identity".parse()?, &self.args.scoring, self.mode)?;
        settings.method = baseline.name().to_owned();
        self.args.scoring.shared.project.check_seed(drawn)?;
        if self.seeds.is_some() {
            return refused("--uncertainty", "error bars are for methods that draw");
        }
        if settings.rank_by == RankBy::Magnitude {
            return refused("--rank-by magnitude", "a baseline's scores have no sign");
        }
        let run = self.run_with(&settings, Estimate::Empirical)?;
        Ok((settings, run))
    }
}

impl Each<'_> {
    /// The scores of a baseline.
    pub(super) fn ranked(&self, baseline: Baseline) -> Result<Ranked, CliError> {
        Settings::notes(std::iter::once(&self.settings)).iter().for_each(|note| warn(note));
        let seed = self.job.args.scoring.shared.project.seed.unwrap_or(0);
        Ok(self.run.baseline(baseline, seed, &self.settings.device, &mut observer())?)
    }
}
