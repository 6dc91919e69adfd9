use std::collections::BTreeMap;

use hyperinf::store::{Directions, ProjectionSpec};
use serde::Serialize;
use serde_json::{Map, Value};

use super::curvature::Chosen;
use super::{Rows, Scored};
use crate::data::{BadRow, Columns, Labels, TextTask};
use crate::samples::CutRow;
use crate::score::{Scoring, entries};

/// How the scores of rows came about.
#[derive(Serialize)]
pub(crate) struct Summary<'a> {
    command: &'static str,
    #[serde(flatten)]
    pub(crate) scoring: Scoring,
    curvature: &'a Chosen,
    /// Between seeds of what is drawn, if it was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    uncertainty: Option<Uncertainty>,
    task: TextTask,
    model: Files<'a>,
    adapter: Option<Files<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    labels: Option<&'a Labels>,
    max_length: usize,
    train: Input<'a>,
    query: Input<'a>,
    /// The number of blocks whose gradients were taken.
    gradient_blocks: usize,
    pub(crate) seconds: f64,
    /// What the command found or wrote beyond scores.
    #[serde(flatten)]
    pub(crate) more: Map<String, Value>,
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
    pub(crate) fn new(command: &'static str, scored: &'a Scored, seconds: f64, more: Map<String, Value>) -> Self {
        let files = &scored.files;
        Self {
            command,
            scoring: Scoring::new(&scored.settings, &scored.pair, &scored.attribution),
            curvature: &scored.chosen,
            uncertainty: scored.spread.as_ref().map(|spread| Uncertainty {
                over: match scored.settings.projection {
                    Some(ProjectionSpec { directions: Directions::Random { .. }, .. }) => "random projections",
                    _ => "seeds of the curvature's draws",
                },
                seeds: scored.seeds,
                spearman: spread.stability.spearman,
                top: spread.stability.top,
                top_overlap: spread.stability.overlap,
            }),
            task: if scored.labels.is_some() { TextTask::Classification } else { TextTask::LanguageModel },
            model: Files { path: files.name.clone(), xxh3_128: &files.model_hashes },
            adapter: files
                .adapter
                .as_ref()
                .map(|path| Files { path: path.display().to_string(), xxh3_128: &files.adapter_hashes }),
            labels: scored.labels.as_ref(),
            max_length: scored.max_length,
            train: Input::new(&scored.train),
            query: Input::new(&scored.query),
            gradient_blocks: scored.pair.train.blocks().len(),
            seconds,
            more,
        }
    }

    /// The same as entries of a file's metadata, without the lists of rows.
    pub(crate) fn metadata(&self) -> Map<String, Value> {
        let mut entries = entries(self);
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

    pub(crate) fn blocks(&self) -> usize {
        self.gradient_blocks
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
