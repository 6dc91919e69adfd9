use std::collections::BTreeMap;

use hyperinf::data::{
    BadRow, Baseline, Columns, CutRow, Derivative, FollowedStates, Influence, Labels, Member, MetricUsed, ModelFiles,
    Quality, Ranked, Refinement, RowMethod, Rows,
};
use hyperinf::eval::Spread;
use hyperinf::gradients::{Block, Estimate, Sketch};
use hyperinf::models::RecordedParts;
use hyperinf::scoring::QueryMode;
use hyperinf::store::{Directions, ProjectionSpec};
use serde::Serialize;
use serde_json::{Map, Value};

use super::Each;
use crate::score::{Scoring, Settings, entries};

/// `summary.json` of a run over rows: its settings, inputs and residuals.
#[derive(Serialize)]
pub(crate) struct Summary<'a> {
    command: &'static str,
    #[serde(flatten)]
    pub(crate) scoring: Scoring,
    curvature: Curvature,
    /// Of a refined inverse.
    #[serde(skip_serializing_if = "Option::is_none")]
    refined: Option<&'a Refinement>,
    /// Further adapters whose scores are in the mean.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    ensemble: &'a [Member],
    /// Of gradients in a metric.
    #[serde(skip_serializing_if = "Option::is_none")]
    metric: Option<&'a MetricUsed>,
    /// Between seeds, with error bars.
    #[serde(skip_serializing_if = "Option::is_none")]
    uncertainty: Option<Uncertainty>,
    #[serde(flatten)]
    inputs: Inputs<'a>,
    /// The layers whose gradients were taken, if not those of adapters alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    layers: Option<Layers>,
    /// The number of blocks whose gradients were taken.
    gradient_blocks: usize,
    /// The outputs, and results of the command beyond scores.
    #[serde(flatten)]
    more: Map<String, Value>,
}

/// The model and the rows.
#[derive(Serialize)]
struct Inputs<'a> {
    task: &'static str,
    model: Files<'a>,
    adapter: Option<Files<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    labels: Option<&'a Labels>,
    max_length: usize,
    train: Input<'a>,
    query: Input<'a>,
    /// How well the model predicts the training and the query rows.
    train_quality: Quality,
    query_quality: Quality,
    /// Of a diffusion model, and of pairs.
    #[serde(skip_serializing_if = "Option::is_none")]
    loss: Option<&'a Value>,
}

impl<'a> Inputs<'a> {
    fn new(
        task: &'static str,
        files: &'a ModelFiles,
        labels: Option<&'a Labels>,
        max_length: usize,
        loss: Option<&'a Value>,
        [train, query]: [&'a Rows; 2],
    ) -> Self {
        let adapter = files.adapter.as_ref();
        Self {
            task,
            model: Files { path: files.name.clone(), xxh3_128: &files.model_hashes },
            adapter: adapter.map(|path| Files { path: path.display().to_string(), xxh3_128: &files.adapter_hashes }),
            labels,
            max_length,
            train: Input::new(train),
            query: Input::new(query),
            train_quality: train.quality(labels),
            query_quality: query.quality(labels),
            loss,
        }
    }
}

/// `summary.json` of a baseline or of the derivative through the training.
#[derive(Serialize)]
pub(crate) struct RowsSummary<'a> {
    command: &'static str,
    hyperinf_version: &'static str,
    /// Its name.
    pub(crate) method: &'static str,
    /// What its scores are.
    pub(crate) unit: &'static str,
    sign: &'static str,
    query_mode: &'static str,
    /// Of random scores, and of rows that are drawn.
    #[serde(skip_serializing_if = "Option::is_none")]
    seed: Option<u64>,
    /// The device, of the derivative.
    #[serde(skip_serializing_if = "Option::is_none")]
    device: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    unrolled: Option<&'a Derivative>,
    #[serde(skip_serializing_if = "Option::is_none")]
    recorded: Option<&'a FollowedStates>,
    /// Further adapters whose scores are in the mean.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    ensemble: &'a [Member],
    #[serde(flatten)]
    inputs: Inputs<'a>,
    #[serde(flatten)]
    more: Map<String, Value>,
}

impl<'a> RowsSummary<'a> {
    pub(crate) fn new(command: &'static str, each: &'a Each<'_>, found: &'a Ranked, more: Map<String, Value>) -> Self {
        let drawn = found.derivative.as_ref().is_some_and(|found| found.smoothness.is_some());
        let random = match found.method {
            RowMethod::Baseline(baseline) => baseline == Baseline::Random,
            RowMethod::Unrolled => drawn,
            RowMethod::Trajectory(trajectory) => trajectory.is_drawn(),
        };
        Self {
            command,
            hyperinf_version: env!("CARGO_PKG_VERSION"),
            method: found.method.name(),
            unit: found.method.summary(),
            sign: "positive = helpful",
            query_mode: match found.query_mode {
                QueryMode::Each => "each",
                QueryMode::Mean => "mean",
            },
            seed: random.then(|| each.job.args.scoring.shared.project.seed.unwrap_or(0)),
            device: found.method.is_recorded().then_some(each.settings.device_name.as_str()),
            unrolled: found.derivative.as_ref(),
            recorded: found.trajectory.as_ref(),
            ensemble: &found.ensemble,
            inputs: Inputs::new(
                found.kind,
                &found.files,
                found.labels.as_ref(),
                found.max_length,
                found.settings.as_ref(),
                [&found.train, &found.query],
            ),
            more,
        }
    }

    /// The same as entries of a file's metadata, with the numbers of rows instead of lists of them.
    pub(crate) fn metadata(&self) -> Map<String, Value> {
        counted(entries(self))
    }
}

/// The numbers of rows instead of lists of them.
fn counted(mut entries: Map<String, Value>) -> Map<String, Value> {
    for set in ["train", "query"] {
        if let Some(Value::Object(input)) = entries.get_mut(set) {
            for list in ["left_out", "cut"] {
                let rows = input.get(list).and_then(Value::as_array).map_or(0, Vec::len);
                input.insert(list.to_owned(), rows.into());
            }
        }
    }
    entries
}

#[derive(Serialize)]
struct Layers {
    recorded: &'static str,
    /// Blocks too large for a gradient per row: rows, columns, and the sides after their projection.
    projected: BTreeMap<String, [usize; 3]>,
}

#[derive(Serialize)]
struct Curvature {
    estimate: &'static str,
    /// Draws of labels or of the sketch; `null` where nothing is drawn.
    draws: Option<usize>,
    seed: Option<u64>,
}

#[derive(Serialize)]
struct Uncertainty {
    over: &'static str,
    seeds: usize,
    /// Between two seeds, the mean over pairs; `null` if no pair has one.
    spearman: Option<f64>,
    top: usize,
    top_overlap: f64,
}

#[derive(Serialize)]
struct Files<'a> {
    path: String,
    /// XXH3 of each file, 128 bits.
    xxh3_128: &'a BTreeMap<String, String>,
}

#[derive(Serialize)]
struct Input<'a> {
    file: String,
    bytes: u64,
    /// XXH3 of the whole file, 128 bits.
    xxh3_128: &'a str,
    columns: &'a Columns,
    rows: usize,
    used: usize,
    left_out: Vec<LeftOut>,
    cut: &'a [CutRow],
}

#[derive(Serialize)]
struct LeftOut {
    row: usize,
    line: Option<usize>,
    reason: String,
}

impl<'a> Summary<'a> {
    pub(crate) fn new(
        command: &'static str,
        settings: &Settings,
        found: &'a Influence,
        spread: Option<&Spread>,
        more: Map<String, Value>,
    ) -> Self {
        Self {
            command,
            scoring: Scoring::new(settings, &found.pair, &found.attribution, found.attribution.scores.queries()),
            curvature: Curvature::new(found.estimate),
            refined: found.refinement.as_ref(),
            ensemble: &found.ensemble,
            metric: found.metric.as_ref(),
            uncertainty: spread.map(|spread| Uncertainty {
                over: match settings.projection {
                    Some(ProjectionSpec { directions: Directions::Random { .. }, .. }) => "random projections",
                    _ => "seeds of the curvature's draws",
                },
                seeds: found.repeats.len(),
                spearman: spread.stability.spearman,
                top: spread.stability.top,
                top_overlap: spread.stability.overlap,
            }),
            inputs: Inputs::new(
                found.kind,
                &found.files,
                found.labels.as_ref(),
                found.max_length,
                found.settings.as_ref(),
                [&found.train, &found.query],
            ),
            layers: (found.layers != RecordedParts::Adapters).then(|| Layers::new(found)),
            gradient_blocks: found.pair.train.blocks().len(),
            more,
        }
    }

    /// The same as entries of a file's metadata, with the numbers of rows instead of lists of them.
    pub(crate) fn metadata(&self) -> Map<String, Value> {
        counted(entries(self))
    }

    pub(crate) fn blocks(&self) -> usize {
        self.gradient_blocks
    }
}

impl Layers {
    fn new(found: &Influence) -> Self {
        let of = |(blocks, rank): &(Vec<Block>, usize)| -> BTreeMap<String, [usize; 3]> {
            blocks.iter().map(|block| (block.name.clone(), [block.rows, block.cols, *rank])).collect()
        };
        Self { recorded: found.layers.name(), projected: found.projected.as_ref().map(of).unwrap_or_default() }
    }
}

impl Curvature {
    fn new(estimate: Estimate) -> Self {
        let (estimate, draws, seed) = match estimate {
            Estimate::Empirical => ("empirical", None, None),
            Estimate::Sampled { seed, draws } => ("sampled", Some(draws), Some(seed)),
            Estimate::GaussNewton { sketch: None } => ("gauss-newton", None, None),
            Estimate::GaussNewton { sketch: Some(Sketch { draws, seed }) } => ("gauss-newton", Some(draws), Some(seed)),
        };
        Self { estimate, draws, seed }
    }
}

impl<'a> Input<'a> {
    fn new(rows: &'a Rows) -> Self {
        let data = &rows.data;
        Self {
            file: data.path.display().to_string(),
            bytes: data.bytes,
            xxh3_128: &data.xxh3_128,
            columns: &data.columns,
            rows: data.total,
            used: data.rows.len(),
            left_out: data.bad.iter().map(LeftOut::new).collect(),
            cut: &rows.cut,
        }
    }
}

impl LeftOut {
    fn new(bad: &BadRow) -> Self {
        Self { row: bad.row, line: bad.line, reason: bad.reason.to_string() }
    }
}
