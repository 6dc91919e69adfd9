use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use burn::tensor::Device;
use hyperinf_gradients::Estimate;
use hyperinf_scoring::{Attribution, Method, Options, QueryMode, RankBy};
use hyperinf_store::{Ends, Factors, GradientPair, IdColumn, Ids, IndexFolder, ProjectionSpec, StoredRow, Unit};
use serde::Serialize;

use super::Settings;
use crate::RunError;
use crate::columns::ColumnOptions;
use crate::dataset::ReadOptions;
use crate::event::Event;
use crate::influence::Rows;
use crate::model_files::ModelFiles;
use crate::ranking::RowId;
use crate::run::Run;
use crate::stop::Stop;

/// A question to an index: which of its rows help and harm the predictions on these rows.
///
/// Only the queries run through the model; no training row is read. Every method that needs gradients alone can be
/// asked; what it needs of all rows, its curvature, is taken from the index in a pass, or from an earlier question. The
/// first question also leaves sketches of the gradients in the index, from which later ones know that most rows are not
/// at an end of the ranking ([`top_rows`](hyperinf_store::top_rows)): only the others are read in full.
///
/// | field | default | purpose |
/// |---|---|---|
/// | `index` | `hyperinf-index` | the index |
/// | `asked` | no row | the query rows |
/// | `model`, `adapter`, `tokenizer` | where the index was built | where they are now |
/// | `columns` | those of the index | the columns of the query rows |
/// | `options`, `projection`, `memory` | as for [`Run`] | how rows are scored |
/// | `rank_by` | score | with ranks by magnitude, the most influential rows are listed as well |
/// | `top` | 10 | the rows at either end of each ranking |
/// | `keep_factors` | `true` | whether curvature and sketches that were computed are kept in the index for later questions |
/// | `every_row` | `false` | whether all rows are read and scored, where sketches would do |
#[derive(Clone)]
pub struct Query {
    /// The index.
    pub index: PathBuf,
    /// The query rows.
    pub asked: Asked,
    /// The model, if it is elsewhere than when the index was built.
    pub model: Option<String>,
    /// The adapter, if it is elsewhere.
    pub adapter: Option<PathBuf>,
    /// The tokenizer, if it is elsewhere.
    pub tokenizer: Option<PathBuf>,
    /// The columns of the query rows that are not those of the index.
    pub columns: ColumnOptions,
    /// How rows are scored.
    pub options: Options,
    /// A projection of the gradients before they are scored.
    pub projection: Option<ProjectionSpec>,
    /// The memory in bytes that scoring may take; `None` for what the system grants.
    pub memory: Option<f64>,
    /// What rankings are by.
    pub rank_by: RankBy,
    /// The rows at either end of each ranking.
    pub top: usize,
    /// Whether curvature and sketches that were computed are kept.
    pub keep_factors: bool,
    /// Whether all rows are read and scored.
    pub every_row: bool,
    /// The name of the device.
    pub device_name: String,
    /// A request to stop between two batches.
    pub stop: Stop,
}

/// The rows of a [`Query`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    /// Those of a file.
    File(PathBuf),
    /// One row: its cells by column.
    Row(BTreeMap<String, String>),
}

impl Default for Query {
    fn default() -> Self {
        Self {
            index: PathBuf::from("hyperinf-index"),
            asked: Asked::Row(BTreeMap::new()),
            model: None,
            adapter: None,
            tokenizer: None,
            columns: ColumnOptions::default(),
            options: Options::default(),
            projection: None,
            memory: None,
            rank_by: RankBy::default(),
            top: 10,
            keep_factors: true,
            every_row: false,
            device_name: String::new(),
            stop: Stop::default(),
        }
    }
}

/// The answer of an index.
#[must_use]
pub struct Answer {
    /// The index.
    pub index: IndexFolder,
    /// The query rows; their gradients are gone.
    pub query: Rows,
    /// Scores `[queries, rows of the index]`, and a report of each block's inverse. Without scores and shares of blocks
    /// unless all rows were read.
    pub attribution: Attribution,
    /// The gradients that were scored.
    pub pair: GradientPair,
    /// Whether queries were scored one by one.
    pub query_mode: QueryMode,
    /// The ends of each query's ranking.
    pub answers: Vec<AnsweredQuery>,
    /// Whether the curvature was that of an earlier run, and what is kept of it.
    pub factors: Factors,
    /// The rows that were read in full.
    pub reading: Reading,
    /// What it took.
    pub seconds: QuerySeconds,
}

/// The rows of an index that were read in full for a question.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Reading {
    /// Those that may be at an end of a ranking; of the others the sketches say that they are not.
    Few {
        /// Their number.
        rows: usize,
        /// The leaves that were sketched for this question.
        sketched: usize,
    },
    /// All.
    Every {
        /// Why.
        reason: &'static str,
    },
}

/// The ends of one query's ranking.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct AnsweredQuery {
    /// The query's id; of the mean of several queries `None`.
    pub query_id: Option<RowId>,
    /// Its text.
    pub text: Option<String>,
    /// Its label, if it has one.
    pub label: Option<String>,
    /// The highest scores, the highest first.
    pub most_helpful: Vec<Hit>,
    /// The lowest scores, those below 0, the lowest first.
    pub most_harmful: Vec<Hit>,
    /// The largest scores of either sign, the largest first: where ranks are by magnitude.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub most_influential: Vec<Hit>,
}

/// A row of the index with its score for a query.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Hit {
    /// The row's id.
    pub train_id: RowId,
    /// Its score; positive = helpful.
    pub score: f64,
    /// Its text.
    pub text: String,
    /// Its label, if it has one.
    pub label: Option<String>,
    /// Its loss when the index was built, in nats.
    pub loss: f64,
}

/// What a question took, in seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct QuerySeconds {
    /// Until the model and the queries were loaded.
    pub load: f64,
    /// For the gradients of the queries.
    pub gradients: f64,
    /// For the curvature.
    pub curvature: f64,
    /// For scores and rankings.
    pub scores: f64,
}

impl Query {
    /// Asks the index.
    ///
    /// # Errors
    ///
    /// [`RunError::Index`] if it is incomplete or damaged, or the model is not the one that it was built from;
    /// [`RunError::NotFromIndex`] if the method needs the model on the training rows; and as [`Run::attribute`].
    pub fn ask(&self, device: &Device, observe: &mut dyn FnMut(Event)) -> Result<Answer, RunError> {
        let (index, run, files) = self.prepare()?;
        files.kind().query(self, run, files, index, device, observe)
    }

    /// The index, the run whose queries are taken, and the model's files.
    pub(super) fn prepare(&self) -> Result<(IndexFolder, Run, ModelFiles), RunError> {
        let index = IndexFolder::open(&self.index)?;
        if let Method::Inverse { storage, .. } = &self.options.method
            && storage.needs_captures()
        {
            let reason = "its curvature is made of the layers' inputs and output gradients, and an index has their \
                          products alone";
            return Err(RunError::NotFromIndex { reason });
        }
        // Before the model is loaded.
        index.gradients()?;
        let settings = Settings::read(&index)?.index(&self.index, PathBuf::new());
        let mut run = Run {
            options: self.options.clone(),
            estimate: Estimate::Empirical,
            projection: self.projection,
            memory: self.memory,
            device_name: self.device_name.clone(),
            stop: self.stop.clone(),
            ..settings.run()
        };
        if let Some(model) = &self.model {
            run.model.clone_from(model);
        }
        run.adapter = self.adapter.clone().or(run.adapter);
        run.tokenizer = self.tokenizer.clone().or(run.tokenizer);
        run.read = match &self.asked {
            Asked::File(path) => {
                run.query.clone_from(path);
                ReadOptions { columns: over(&self.columns, run.read.columns), ..run.read }
            }
            Asked::Row(_) => ReadOptions { columns: ColumnOptions::default(), ..run.read },
        };
        run.read.skip_bad_rows = false;
        let mut files = ModelFiles::find(&run.model, run.tokenizer.as_deref(), run.adapter.as_deref())?;
        files.read_images(&run.read, None)?;
        files.set_diffusion(run.diffusion.as_ref())?;
        files.set_pairs(run.pairs)?;
        Ok((index, run, files))
    }
}

/// Columns of a question, else those of the index; ids are the question's own.
fn over(own: &ColumnOptions, of_index: ColumnOptions) -> ColumnOptions {
    let own = own.clone();
    ColumnOptions {
        text: own.text.or(of_index.text),
        pair: own.pair.or(of_index.pair),
        label: own.label.or(of_index.label),
        prompt: own.prompt.or(of_index.prompt),
        completion: own.completion.or(of_index.completion),
        messages: own.messages.or(of_index.messages),
        chosen: own.chosen.or(of_index.chosen),
        rejected: own.rejected.or(of_index.rejected),
        image: own.image.or(of_index.image),
        id: own.id,
    }
}

impl Answer {
    /// The ids of the scores' rows and columns.
    ///
    /// # Errors
    ///
    /// If a file of rows is damaged.
    pub fn ids(&self) -> Result<Ids, RunError> {
        let queries = match self.query_mode {
            QueryMode::Each => self.query.ids(),
            QueryMode::Mean => IdColumn::numbered(1),
        };
        let (mut names, mut numbers) = (Vec::new(), Vec::new());
        for leaf in 0..self.index.manifest().leaves.len() {
            for row in self.index.rows(leaf)? {
                numbers.push(row.row as i64);
                names.extend(row.id);
            }
        }
        let train = if names.len() == numbers.len() { IdColumn::Names(names) } else { IdColumn::Numbers(numbers) };
        Ok(Ids { queries, train, unit: Unit::Sample })
    }
}

/// The ends of each query's ranking, with the rows of the index that are there.
pub(super) fn answers(
    index: &IndexFolder,
    query: &Rows,
    all: &[Ends],
    mode: QueryMode,
) -> Result<Vec<AnsweredQuery>, RunError> {
    // Only the rows that are shown are parsed.
    let ends = all.iter().flat_map(|ends| [&ends.helpful, &ends.harmful, &ends.influential]);
    let mut shown: BTreeMap<usize, BTreeSet<usize>> = BTreeMap::new();
    for &(sample, _) in ends.flatten() {
        let (leaf, place) = index.locate(sample);
        shown.entry(leaf).or_default().insert(place);
    }
    let mut rows: HashMap<(usize, usize), StoredRow> = HashMap::new();
    for (leaf, places) in shown {
        let places: Vec<usize> = places.into_iter().collect();
        let found = index.rows_at(leaf, &places)?;
        rows.extend(places.into_iter().map(|place| (leaf, place)).zip(found));
    }
    let hit = |&(sample, score): &(usize, f64)| {
        let row = &rows[&index.locate(sample)];
        let train_id = row.id.clone().map_or(RowId::Number(row.row as i64), RowId::Name);
        Hit { train_id, score, text: row.text.clone(), label: row.label.clone(), loss: row.loss() }
    };
    let hits = |pairs: &[(usize, f64)]| -> Vec<Hit> { pairs.iter().map(hit).collect() };
    let mut answers = Vec::with_capacity(all.len());
    for (number, Ends { helpful, harmful, influential }) in all.iter().enumerate() {
        let (query_id, text, label) = match mode {
            QueryMode::Each => {
                let (text, label) = query.content(number);
                (Some(query.id(number)), Some(text.to_owned()), label.map(str::to_owned))
            }
            QueryMode::Mean => (None, None, None),
        };
        let (most_helpful, most_harmful, most_influential) = (hits(helpful), hits(harmful), hits(influential));
        answers.push(AnsweredQuery { query_id, text, label, most_helpful, most_harmful, most_influential });
    }
    Ok(answers)
}

/// Writes the one row of a question into a folder.
pub(super) fn write_row(folder: &Path, row: &str) -> std::io::Result<PathBuf> {
    let path = folder.join("query.jsonl");
    std::fs::write(&path, format!("{row}\n"))?;
    Ok(path)
}
