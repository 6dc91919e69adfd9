//! Contrasts, groups, checkpoints and error bars of `hyperinf score`.

use std::path::Path;

use hyperinf::eval::{Bootstrap, Spread, Stability, Stratum, between, bootstrap};
use hyperinf::models::read_regular;
use hyperinf::scoring::{Groups, Normalisation, Options, Pool, QueryMode, Scores};
use serde::Serialize;
use twox_hash::XxHash3_128;

use super::checkpoints::{self, Typed};
use crate::args::{DirectionsArg, OverArg, QueryModeArg, ScoreArgs};
use crate::error::{CliError, Input, Usage};
use hyperinf::store::{Checkpoint, GradientPair, IdColumn, Ids, KeptScores, ProjectionSpec, ScoreRows, Unit};

/// The fewest resamples whose interval means something: its ends are the second and the last but one of 40.
const RESAMPLES: usize = 40;
/// The highest scores whose overlap between projections is reported.
pub(crate) const TOP: usize = 10;

/// The flags of variants, checked.
pub(super) struct Variants<'a> {
    args: &'a ScoreArgs,
    checkpoints: Vec<Typed<'a>>,
    repeats: Option<Repeats>,
}

/// Repetitions for error bars, by the source of the uncertainty.
#[derive(Clone, Copy)]
enum Repeats {
    Queries(Bootstrap),
    /// This many projections, with consecutive seeds.
    Projections(usize),
}

/// The groups of the training samples.
pub(super) struct Grouped {
    groups: Groups,
    pool: Pool,
    summary: GroupSummary,
}

impl Grouped {
    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.groups.ids.len()
    }

    /// The scores of the groups.
    pub(super) fn pooled(&self, scores: &Scores) -> Result<Scores, CliError> {
        Ok(self.groups.of_train(scores, self.pool)?)
    }

    /// The ids of the groups in place of those of the samples, with what the summary says about them.
    fn named(groups: Option<Self>, ids: Ids) -> (Ids, Option<GroupSummary>) {
        match groups {
            None => (ids, None),
            Some(Self { groups, summary, .. }) => {
                (Ids { train: IdColumn::Names(groups.ids), unit: Unit::Group, ..ids }, Some(summary))
            }
        }
    }
}

/// The scores with everything that was derived from them.
pub(super) struct Outcome {
    pub(super) scores: KeptScores,
    pub(super) spread: Option<Spread>,
    pub(super) ids: Ids,
    pub(super) groups: Option<GroupSummary>,
    pub(super) uncertainty: Option<UncertaintySummary>,
}

#[derive(Clone, Serialize)]
pub(super) struct GroupSummary {
    pub(super) file: String,
    /// XXH3 of the whole file, 128 bits.
    xxh3_128: String,
    pub(super) groups: usize,
    /// Of samples.
    pub(super) scores: &'static str,
}

#[derive(Clone, Serialize)]
pub(super) struct UncertaintySummary {
    pub(super) over: &'static str,
    pub(super) resamples: usize,
    pub(super) seed: u64,
    /// The share of resamples between `low` and `high`; `null` where they are the smallest and the largest.
    pub(super) level: Option<f64>,
    queries: usize,
    /// Between two resamples, the mean over pairs; `null` if no pair has one.
    pub(super) spearman: Option<f64>,
    pub(super) top: usize,
    pub(super) top_overlap: f64,
}

impl Outcome {
    /// What one unit of the scores means.
    pub(super) fn unit(&self, options: &Options, contrast: bool) -> String {
        let first_order = options.is_first_order();
        let base = options.unit();
        let base = match (contrast, first_order) {
            (false, _) => base.to_owned(),
            (true, true) => {
                base.replace("the query's loss", "the queries' mean loss minus the contrast queries' mean loss")
            }
            (true, false) => format!("{base}, of the mean of the queries minus the mean of the contrast queries"),
        };
        match self.groups.as_ref().map(|groups| groups.scores) {
            None => base,
            Some("sum") if first_order => base.replace("the sample is", "the whole group is"),
            Some(pool) => format!("{pool} over the group's samples; of a sample: {base}"),
        }
    }
}

impl<'a> Variants<'a> {
    /// # Errors
    ///
    /// If choices contradict each other, or the resamples are too few or too many.
    pub(super) fn new(args: &'a ScoreArgs) -> Result<Self, CliError> {
        let variants = &args.variants;
        let flag = variants.uncertainty.map(|_| "--uncertainty");
        let flag = flag.or(variants.contrast_gradients.as_ref().map(|_| "--contrast-gradients"));
        if let (Some(first), Some(QueryModeArg::Each)) = (flag, args.query_mode) {
            let (first, second) = (first.to_owned(), "--query-mode each");
            return Err(Usage::Combination { first, second, reason: "they are about the mean of the queries" }.into());
        }
        let repeats = variants.uncertainty.map(|count| repeats(args, count)).transpose()?;
        args.scoring.shared.project.check_seed(matches!(repeats, Some(Repeats::Queries(_))))?;
        Ok(Self { args, checkpoints: checkpoints::typed(variants)?, repeats })
    }

    /// # Errors
    ///
    /// If `--uncertainty-over projections` is given but nothing is projected.
    pub(super) fn check_projection(&self, pair: &GradientPair, how: Option<ProjectionSpec>) -> Result<(), CliError> {
        match (self.repeats, how) {
            (Some(Repeats::Projections(_)), Some(how)) if pair.is_within(how.rank) => Err(nothing_projected()),
            _ => Ok(()),
        }
    }

    /// The projection of the scores, and those that they are repeated with.
    pub(super) fn projections(&self, first: Option<ProjectionSpec>) -> Vec<Option<ProjectionSpec>> {
        let others = match (self.repeats, first) {
            (Some(Repeats::Projections(count)), Some(first)) => first.further(count - 1),
            _ => Vec::new(),
        };
        [first].into_iter().chain(others.into_iter().map(Some)).collect()
    }

    pub(super) fn query_mode(&self) -> QueryModeArg {
        let mean = self.repeats.is_some() || self.args.variants.contrast_gradients.is_some();
        self.args.query_mode.unwrap_or(if mean { QueryModeArg::Mean } else { QueryModeArg::Each })
    }

    /// The options to score with: queries are resampled from the scores of each.
    ///
    /// # Errors
    ///
    /// If the scores of the mean query are not the means of these.
    pub(super) fn options(&self, options: &Options) -> Result<Options, CliError> {
        let Some(Repeats::Queries(_)) = self.repeats else { return Ok(options.clone()) };
        if options.normalisation == Normalisation::Cosine {
            return Err(Usage::Combination {
                first: "--uncertainty".into(),
                second: "a cosine",
                reason: "the cosine with a mean is no mean of cosines; --normalise l2 divides by the training gradients alone",
            }.into());
        }
        Ok(Options { query: QueryMode::Each, ..options.clone() })
    }

    /// The input files.
    pub(super) fn inputs(&self) -> Vec<&'a Path> {
        let ScoreArgs { train_gradients, query_gradients, variants, .. } = self.args;
        let others = [&variants.curvature_gradients, &variants.contrast_gradients, &variants.groups];
        let others = others.into_iter().filter_map(|path| path.as_deref()).chain(self.args.ids.inputs());
        let moments = self.checkpoints.iter().flat_map(|&(train, query, _)| [train, query]);
        [train_gradients.as_path(), query_gradients.as_path()].into_iter().chain(others).chain(moments).collect()
    }

    /// The gradients of every checkpoint, the first one first.
    pub(super) fn open(&self) -> Result<Vec<Checkpoint>, CliError> {
        let ScoreArgs { train_gradients, query_gradients, variants, .. } = self.args;
        let (curvature, contrast) = (&variants.curvature_gradients, &variants.contrast_gradients);
        let first =
            GradientPair::open(train_gradients, query_gradients)?.with(curvature.as_deref(), contrast.as_deref())?;
        checkpoints::open(first, &self.checkpoints, variants.learning_rate)
    }

    /// The groups of the training samples, with `--groups`.
    pub(super) fn groups(&self, samples: usize) -> Result<Option<Grouped>, CliError> {
        let Some(path) = &self.args.variants.groups else { return Ok(None) };
        let error = |source| Input::File { what: "groups", path: path.clone(), source };
        let text = read_regular(path).map_err(|e| error(e.into()))?;
        let text = String::from_utf8(text)
            .map_err(|e| error(format!("it cannot be read as text: {}", e.utf8_error()).into()))?;
        let groups = Groups::parse(&text, samples).map_err(|e| error(e.into()))?;
        let pool: Pool = self.args.variants.group_scores.unwrap_or_default().into();
        let summary = GroupSummary {
            file: path.display().to_string(),
            xxh3_128: format!("{:032x}", XxHash3_128::oneshot(text.as_bytes())),
            groups: groups.ids.len(),
            scores: pool.name(),
        };
        Ok(Some(Grouped { groups, pool, summary }))
    }

    /// Whether scores are repeated for error bars.
    pub(super) fn repeats(&self) -> bool {
        self.repeats.is_some()
    }

    /// The result without error bars, of scores that are those of the groups if there are any.
    pub(super) fn outcome(&self, scores: KeptScores, queries: usize, ids: Ids, groups: Option<Grouped>) -> Outcome {
        let (ids, groups) = Grouped::named(groups, ids);
        // Contrasts have no ids.
        let ids = if scores.queries() == queries {
            ids
        } else {
            Ids { queries: IdColumn::numbered(scores.queries()), ..ids }
        };
        Outcome { scores, spread: None, ids, groups, uncertainty: None }
    }

    /// The result with error bars, from the scores of each query to be resampled, or of each projection.
    pub(super) fn spread(
        &self,
        scores: Scores,
        queries: usize,
        ids: Ids,
        groups: Option<Grouped>,
    ) -> Result<Outcome, CliError> {
        let scores = match &groups {
            Some(groups) => groups.pooled(&scores)?,
            None => scores,
        };
        let (spread, over, resamples, seed, level) = match &self.repeats {
            None => return Ok(self.outcome(scores.into(), queries, ids, groups)),
            Some(Repeats::Queries(settings)) => {
                let over = "queries drawn with replacement";
                (resampled(&scores, queries, settings)?, over, settings.resamples, settings.seed, Some(settings.level))
            }
            Some(Repeats::Projections(count)) => {
                let project = &self.args.scoring.shared.project;
                let seed = project.project_seed.or(project.seed).unwrap_or_default();
                (between(&scores.rows, TOP)?, "random projections", *count, seed, None)
            }
        };
        let Stability { spearman, top, overlap: top_overlap } = spread.stability;
        let uncertainty = UncertaintySummary { over, resamples, seed, level, queries, spearman, top, top_overlap };
        let (ids, groups) = Grouped::named(groups, ids);
        Ok(Outcome {
            scores: Scores { rows: vec![spread.mean.clone()] }.into(),
            spread: Some(spread),
            ids,
            groups,
            uncertainty: Some(uncertainty),
        })
    }
}

/// `--uncertainty` over projections was given, but nothing is projected.
fn nothing_projected() -> CliError {
    Usage::Combination {
        first: "--uncertainty over projections".into(),
        second: "this --project",
        reason: "no side of any block is longer than the rank, so nothing is projected",
    }
    .into()
}

/// The repetitions that the arguments ask for.
fn repeats(args: &ScoreArgs, count: Option<usize>) -> Result<Repeats, CliError> {
    let flag = "--uncertainty";
    if args.variants.uncertainty_over.unwrap_or_default() == OverArg::Queries {
        let resamples = count.unwrap_or(1000);
        if !(RESAMPLES..=Bootstrap::MOST).contains(&resamples) {
            let expected = "at least 40 resamples and at most 1000000";
            return Err(Usage::Value { flag, expected, value: resamples as f64 }.into());
        }
        let seed = args.scoring.shared.project.seed.unwrap_or_default();
        return Ok(Repeats::Queries(Bootstrap { resamples, seed, ..Bootstrap::default() }));
    }
    let refused = |second, reason| {
        Err(Usage::Combination { first: "--uncertainty-over projections".into(), second, reason }.into())
    };
    let drawn = args.scoring.shared.project.project_on.unwrap_or_default() == DirectionsArg::Random;
    match (args.scoring.shared.project.project.filter(|_| drawn), count.unwrap_or(10)) {
        (None, _) => refused("no random --project", "nothing else is projected by chance"),
        (_, count) if !(2..=Bootstrap::MOST).contains(&count) => {
            let expected = "at least 2 projections and at most 1000000";
            Err(Usage::Value { flag, expected, value: count as f64 }.into())
        }
        (_, count) => Ok(Repeats::Projections(count)),
    }
}

/// The spread of the mean over resampled queries.
fn resampled(scores: &Scores, queries: usize, settings: &Bootstrap) -> Result<Spread, CliError> {
    let (helped, harmed) = scores.rows.split_at(queries);
    let mut strata = vec![Stratum { weight: 1.0, rows: helped }];
    if !harmed.is_empty() {
        strata.push(Stratum { weight: -1.0, rows: harmed });
    }
    Ok(bootstrap(&strata, settings)?)
}
