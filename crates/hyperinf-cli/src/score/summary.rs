use hyperinf::curvature::Damping;
use hyperinf::gradients::Block;
use hyperinf::scoring::{Attribution, BlockReport, Method, QueryMode, Set};
use serde::Serialize;
use serde_json::{Map, Value};

use super::checkpoints::{self, CheckpointSummary};
use super::settings::Settings;
use super::variants::{GroupSummary, Outcome, UncertaintySummary};
use crate::args::StructureArg;
use crate::error::CliError;
use hyperinf::store::{Checkpoint, GradientPair, Precision, ProjectionSpec, ScoreRows, StoreError};

/// The settings and reports of scores, for their file and for programs.
#[derive(Serialize)]
pub(super) struct Summary {
    #[serde(flatten)]
    pub(super) scoring: Scoring,
    pub(super) train_gradients: Input,
    pub(super) query_gradients: Input,
    /// All checkpoints, the first one included, if there are several.
    pub(super) checkpoints: Option<Vec<CheckpointSummary>>,
    /// `null` if the curvature is that of the training samples.
    pub(super) curvature_gradients: Option<Input>,
    /// The contrast queries, if there are any.
    pub(super) contrast_gradients: Option<Input>,
    /// The groups, if they are scored instead of samples.
    pub(super) groups: Option<GroupSummary>,
    /// The error bars, with `--uncertainty`.
    pub(super) uncertainty: Option<UncertaintySummary>,
}

/// The settings and reports of scores, without their inputs.
#[derive(Serialize)]
pub(crate) struct Scoring {
    pub(crate) hyperinf_version: &'static str,
    pub(crate) method: String,
    /// The method with the choices of all flags, in one word.
    pub(crate) spec: String,
    /// The solver; `null` for methods without curvature.
    pub(crate) solver: Option<&'static str>,
    pub(crate) sign: &'static str,
    pub(crate) unit: String,
    pub(crate) normalisation: &'static str,
    /// `null` for methods without curvature.
    pub(crate) damping: Option<DampingSummary>,
    pub(crate) query_mode: &'static str,
    pub(crate) structure: &'static str,
    /// `null` for methods without a generalized Fisher matrix.
    pub(crate) gfim_side: Option<&'static str>,
    pub(crate) gfim_scale: Option<&'static str>,
    /// The projection, if there is one.
    pub(crate) projection: Option<ProjectionSpec>,
    /// `score`, or `magnitude` for its size.
    pub(crate) rank_by: &'static str,
    pub(crate) device: String,
    pub(crate) precision: &'static str,
    /// Rows of scores.
    pub(crate) queries: usize,
    /// Training samples.
    pub(crate) samples: usize,
    /// The largest over the blocks; `null` for methods without curvature.
    pub(crate) residual: Option<f64>,
    /// Whether every block that has a tolerance met it.
    pub(crate) converged: bool,
    /// One per block that was inverted.
    pub(crate) blocks: Vec<BlockSummary>,
    /// Each block's share of the scores, [`Attribution::shares`].
    pub(crate) shares: Vec<ShareSummary>,
}

#[derive(Serialize)]
pub(crate) struct ShareSummary {
    pub(crate) name: String,
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    pub(crate) share: f64,
}

#[derive(Serialize)]
pub(crate) struct DampingSummary {
    pub(crate) kind: &'static str,
    pub(crate) value: f64,
}

#[derive(Serialize)]
pub(crate) struct Input {
    pub(super) file: String,
    pub(super) bytes: u64,
    /// XXH3 of the whole file, 128 bits.
    pub(super) xxh3_128: String,
    pub(super) samples: usize,
    pub(super) blocks: usize,
}

#[derive(Serialize)]
pub(crate) struct BlockSummary {
    pub(crate) name: String,
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    /// `null` if all training gradients are zero.
    pub(crate) lambda: Option<f64>,
    pub(crate) mean_square: f64,
    /// How it was inverted, where the solver's name is not enough.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) chosen: String,
    pub(crate) iterations: usize,
    pub(crate) residual: f64,
    /// `null` for methods that do not aim for the inverse of their curvature.
    pub(crate) tolerance: Option<f64>,
    /// A bound on the error by rounding in the curvature's sum, relative to the scores' scale.
    pub(crate) rounding: f64,
    pub(crate) converged: bool,
}

impl Summary {
    /// Reads the rest of the files, for their fingerprints.
    pub(super) fn new(
        settings: &Settings,
        moments: &[Checkpoint],
        attribution: &Attribution,
        outcome: &Outcome,
    ) -> Result<Self, CliError> {
        let pair = &moments[0].pair;
        let other = |is: bool, set| is.then(|| input(pair, set)).transpose();
        let mut scoring = Scoring::new(settings, pair, attribution, outcome.scores.queries());
        scoring.unit = outcome.unit(&settings.options, pair.contrast.is_some());
        if moments.len() > 1 {
            scoring.unit =
                format!("sum over {} checkpoints of the learning rate times: {}", moments.len(), scoring.unit);
        }
        Ok(Self {
            scoring,
            train_gradients: input(pair, Set::Train)?,
            query_gradients: input(pair, Set::Query)?,
            checkpoints: checkpoints::summaries(moments)?,
            curvature_gradients: other(pair.curvature.is_some(), Set::Curvature)?,
            contrast_gradients: other(pair.contrast.is_some(), Set::Contrast)?,
            groups: outcome.groups.clone(),
            uncertainty: outcome.uncertainty.clone(),
        })
    }

    /// The same as entries of a file's metadata.
    pub(super) fn metadata(&self) -> Map<String, Value> {
        entries(self)
    }
}

/// The fields of a value as entries of a file's metadata.
///
/// # Panics
///
/// If it is not a struct of numbers and texts.
pub(crate) fn entries(value: &impl Serialize) -> Map<String, Value> {
    match serde_json::to_value(value) {
        Ok(Value::Object(map)) => map,
        _ => unreachable!("a struct of numbers and texts is a JSON object"),
    }
}

impl Scoring {
    pub(crate) fn new(settings: &Settings, pair: &GradientPair, attribution: &Attribution, queries: usize) -> Self {
        let inverse = matches!(settings.options.method, Method::Inverse { .. });
        let (Damping::Relative(value) | Damping::Absolute(value)) = settings.options.damping;
        let kind = match settings.options.damping {
            Damping::Relative(_) => "relative",
            Damping::Absolute(_) => "absolute",
        };
        let (gfim_side, gfim_scale) = settings.gfim_names().unzip();
        Self {
            hyperinf_version: env!("CARGO_PKG_VERSION"),
            method: settings.method.clone(),
            spec: settings.spec.to_string(),
            solver: match &settings.options.method {
                Method::Inverse { solver, .. } => Some(solver.name()),
                Method::Identity => None,
            },
            sign: "positive = helpful",
            unit: settings.options.unit().into(),
            normalisation: settings.options.normalisation.name(),
            damping: inverse.then_some(DampingSummary { kind, value }),
            query_mode: match settings.options.query {
                QueryMode::Each => "each",
                QueryMode::Mean => "mean",
            },
            structure: match settings.structure {
                StructureArg::PerBlock => "per-block",
                StructureArg::Merged => "merged",
            },
            gfim_side,
            gfim_scale,
            projection: settings.projection,
            rank_by: settings.rank_by.name(),
            device: settings.device_name.clone(),
            precision: match pair.precision(&settings.device) {
                Precision::Single => "f32",
                Precision::Double => "f64",
            },
            queries,
            samples: pair.train.samples(),
            residual: attribution.residual(),
            converged: attribution.converged(),
            blocks: attribution.blocks.iter().map(block).collect(),
            shares: attribution.shares().into_iter().map(share).collect(),
        }
    }
}

/// One of the files, with its fingerprint.
pub(crate) fn input(pair: &GradientPair, set: Set) -> Result<Input, CliError> {
    let file = pair.file(set);
    let path = file.path();
    let xxh3_128 = file.fingerprint().map_err(|source| StoreError::File { set, path: path.to_owned(), source })?;
    Ok(Input {
        file: path.display().to_string(),
        bytes: file.length(),
        xxh3_128,
        samples: file.samples(),
        blocks: file.blocks().len(),
    })
}

fn share((block, share): (&Block, f64)) -> ShareSummary {
    ShareSummary { name: block.name.clone(), rows: block.rows, cols: block.cols, share }
}

fn block(report: &BlockReport) -> BlockSummary {
    BlockSummary {
        name: report.block.name.clone(),
        rows: report.block.rows,
        cols: report.block.cols,
        lambda: report.lambda,
        mean_square: report.mean_square,
        chosen: report.plan.to_string(),
        iterations: report.iterations,
        residual: report.residual,
        tolerance: report.tolerance,
        rounding: report.rounding,
        converged: report.converged(),
    }
}
