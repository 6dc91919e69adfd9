use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use burn::tensor::Device;
use hyperinf_linalg::host;
use hyperinf_models::SampleModel;
use hyperinf_scoring::{Amount, Picks, QueryMode, RankBy, Scores, Set, detect};
use hyperinf_store::Staged;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::Value;

use crate::bm25::Bm25;
use crate::dataset::Dataset;
use crate::ensemble::{self, Member};
use crate::event::{Detail, Event, Progress};
use crate::influence::Rows;
use crate::kind::Kind;
use crate::labels::Labels;
use crate::model_files::ModelFiles;
use crate::prediction::predict;
use crate::ranking::Board;
use crate::run::{Run, unchanged};
use crate::samples::{Samples, notify};
use crate::select::{Duplicates, Select, select_rows};
use crate::selected::check_amount;
use crate::stage::Stage;
use crate::trajectory::{FollowedStates, Trajectory};
use crate::unrolled::Derivative;
use crate::{Choice, RunError};

/// Scores without gradients, to compare methods with. High scores are kept, low ones suspicious, as those of methods.
///
/// | name | score of a training row for a query | needs |
/// |---|---|---|
/// | `random` | a number in [0, 1) from a seed | |
/// | `length` | its tokens | the tokenizer |
/// | `loss` | minus its own loss, whatever the query | a forward pass |
/// | `bm25` | [`Bm25`] of its text for the query's | the texts |
/// | `hidden-cosine` | the cosine of the means of both rows' last hidden states | a forward pass |
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Baseline {
    /// Numbers from a seed.
    Random,
    /// The tokens of the row.
    Length,
    /// Minus the row's loss.
    Loss,
    /// BM25 of the texts.
    Bm25,
    /// The cosine of mean hidden states.
    HiddenCosine,
}

impl Baseline {
    /// All, with their names.
    pub const NAMES: [(&'static str, Self); 5] = [
        ("random", Self::Random),
        ("length", Self::Length),
        ("loss", Self::Loss),
        ("bm25", Self::Bm25),
        ("hidden-cosine", Self::HiddenCosine),
    ];

    /// The baseline of that name.
    pub fn named(name: &str) -> Option<Self> {
        Self::NAMES.iter().find(|(known, _)| *known == name).map(|(_, baseline)| *baseline)
    }

    /// The name, as in [`NAMES`](Self::NAMES).
    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(_, baseline)| *baseline == self).map_or("", |(name, _)| name)
    }

    /// What a score is, in one line.
    pub fn summary(self) -> &'static str {
        match self {
            Self::Random => "numbers in [0, 1) from --seed",
            Self::Length => "the tokens of the row",
            Self::Loss => "minus the row's own loss",
            Self::Bm25 => "BM25 of the row's text for the query's",
            Self::HiddenCosine => "cosine of the mean last hidden states of row and query",
        }
    }
}

/// What scores rows without stored gradients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowMethod {
    /// A baseline.
    Baseline(Baseline),
    /// The exact derivative through the recorded training: [`Run::unrolled`].
    Unrolled,
    /// Sums over the recorded states of the training: [`Run::trajectory`].
    Trajectory(Trajectory),
}

impl RowMethod {
    /// The name of [`Unrolled`](Self::Unrolled).
    pub const UNROLLED: &'static str = "unrolled";

    /// That of this name.
    pub fn named(name: &str) -> Option<Self> {
        match name {
            Self::UNROLLED => Some(Self::Unrolled),
            _ => {
                let traced = Trajectory::named(name).map(Self::Trajectory);
                traced.or_else(|| Baseline::named(name).map(Self::Baseline))
            }
        }
    }

    /// The name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Baseline(baseline) => baseline.name(),
            Self::Unrolled => Self::UNROLLED,
            Self::Trajectory(trajectory) => trajectory.name(),
        }
    }

    /// What a score is, in one line.
    pub fn summary(self) -> &'static str {
        match self {
            Self::Baseline(baseline) => baseline.summary(),
            Self::Unrolled => "how the query's loss rises if training ignores the row",
            Self::Trajectory(trajectory) => trajectory.summary(),
        }
    }

    /// Whether it follows a recorded training.
    pub fn is_recorded(self) -> bool {
        !matches!(self, Self::Baseline(_))
    }

    pub(crate) fn choice(self) -> Choice {
        match self {
            Self::Baseline(_) => Choice::Baseline,
            Self::Unrolled => Choice::Unrolled,
            Self::Trajectory(_) => Choice::Trajectory,
        }
    }
}

/// Training rows scored by a [`RowMethod`].
#[must_use]
pub struct Ranked {
    /// What scored them.
    pub method: RowMethod,
    /// What is known of the derivative, if that scored them.
    pub derivative: Option<Derivative>,
    /// The states that were followed, if a [`Trajectory`] scored them.
    pub trajectory: Option<FollowedStates>,
    /// Further adapters whose scores are in the mean.
    pub ensemble: Vec<Member>,
    /// The kind of the model.
    pub kind: &'static str,
    /// The training rows.
    pub train: Rows,
    /// The query rows.
    pub query: Rows,
    /// `[queries, training rows]`, or one row for their mean.
    pub scores: Scores,
    /// Whether queries were scored one by one.
    pub query_mode: QueryMode,
    /// The labels of a classifier.
    pub labels: Option<Labels>,
    /// The most tokens of a row.
    pub max_length: usize,
    /// The loss of a diffusion model, or of pairs.
    pub settings: Option<Value>,
    /// The files of the model and its adapter.
    pub files: ModelFiles,
}

impl Run {
    /// Scores every training row for every query row, or for their mean (the mean of the queries' scores), without
    /// gradients. Of the run's settings those of gradients and curvature are not used; `seed` is for
    /// [`Baseline::Random`]. The model runs forward once over all rows, for their losses and quality.
    ///
    /// # Errors
    ///
    /// As [`Run::attribute`]; [`RunError::NoStates`] for the hidden states of a kind of model that has none.
    pub fn baseline(
        &self,
        baseline: Baseline,
        seed: u64,
        device: &Device,
        observe: &mut dyn FnMut(Event),
    ) -> Result<Ranked, RunError> {
        let files = self.files()?;
        let kind = files.kind();
        ensemble::check(self)?;
        let found = kind.baseline(self, Asked { baseline, seed, files }, device, observe)?;
        self.averaged(found, |run| run.baseline(baseline, seed, device, observe))
    }
}

impl Ranked {
    /// The rows that `select` selects by these scores for the mean query, in the order of their selection.
    ///
    /// # Errors
    ///
    /// [`RunError::Conflict`] for choices that compare gradients, or several targets.
    pub fn select(&self, select: &Select, run: &Run) -> Result<Picks, RunError> {
        select.validate(&run.options, RankBy::Score)?;
        check_amount(select.amount(), self.train.data.rows.len())?;
        let second = self.method.choice();
        let refused = |first, reason| Err(RunError::Conflict { first, second, reason });
        if select.diverse.is_some() {
            return refused(Choice::Diverse, "its gains compare gradients");
        }
        if matches!(select.duplicates, Duplicates::Near(_)) {
            return refused(Choice::NearDuplicates, "they are found by their gradients");
        }
        if !select.targets.is_empty() {
            return refused(Choice::Targets, "it takes one file of queries");
        }
        select_rows(&self.train, &self.scores.rows[0], select, &run.read)
    }
}

impl Ranked {
    /// The scores with the rows.
    pub fn board(&self) -> Board<'_> {
        let Self { train, query, scores, query_mode, labels, .. } = self;
        Board { train, query, scores, query_mode: *query_mode, rank_by: RankBy::Score, labels: labels.as_ref() }
    }

    /// Stages all training rows as CSV, the lowest score first, as [`Detection::stage_table`](crate::Detection).
    ///
    /// # Errors
    ///
    /// If the file cannot be written.
    pub fn stage_suspicious<'a>(&self, path: &'a Path) -> Result<Staged<'a>, RunError> {
        self.board().stage_suspicious(&self.suspicious()?, None, path)
    }

    /// All training rows, the lowest score first.
    ///
    /// # Errors
    ///
    /// If a score is not finite.
    pub fn suspicious(&self) -> Result<Vec<usize>, RunError> {
        Ok(detect(&self.scores.rows[0], Amount::Share(1.0))?)
    }

    /// Stages all training rows as CSV, the highest score first, with those that were picked.
    ///
    /// # Errors
    ///
    /// If the file cannot be written.
    pub fn stage_selection<'a>(&self, picks: &Picks, path: &'a Path) -> Result<Staged<'a>, RunError> {
        self.board().stage_selection(picks, &[], path)
    }

    /// The numbers in the file of all rows but those of the lowest scores, and of these; bad rows are in neither.
    ///
    /// # Errors
    ///
    /// [`RunError::Amount`].
    pub fn without(&self, remove: Amount) -> Result<(BTreeSet<usize>, Vec<usize>), RunError> {
        check_amount(Some(remove), self.train.data.rows.len())?;
        let removed = detect(&self.scores.rows[0], remove)?;
        let rows = &self.train.data.rows;
        let mut kept: BTreeSet<usize> = rows.iter().map(|row| row.row).collect();
        for &sample in &removed {
            kept.remove(&rows[sample].row);
        }
        Ok((kept, removed))
    }
}

/// What is asked of a kind.
pub(crate) struct Asked {
    pub(crate) baseline: Baseline,
    pub(crate) seed: u64,
    pub(crate) files: ModelFiles,
}

/// [`Run::baseline`] of one kind of model.
pub(crate) fn baseline<K: Kind>(
    run: &Run,
    asked: Asked,
    device: &Device,
    observe: &mut dyn FnMut(Event),
) -> Result<Ranked, RunError> {
    let Asked { baseline, seed, files } = asked;
    let read = |set, path: &PathBuf| {
        unchanged(path, || Dataset::<K::Content>::read(set, path, &run.read).map_err(RunError::of_rows(set, path)))
    };
    let (train, query) = (read(Set::Train, &run.train)?, read(Set::Query, &run.query)?);
    let adapter = files.read_adapter()?.map(|mut adapter| {
        adapter.config.lora.dropout = 0.0;
        adapter
    });
    let prepared = K::load(&files, adapter.as_ref(), &train, device)?;
    files.check_unchanged()?;
    prepared.notify_of_tokenizer(observe);
    let limit = run.length.limit::<K>(&prepared.model, files.note().map(|note| note.max_length))?;
    let samples = |data| Samples::<K>::new(&prepared, data, limit, run.read.skip_bad_rows);
    let (train, query) = (samples(train)?, samples(query)?);
    notify(&prepared.processor, &train, observe);
    notify(&prepared.processor, &query, observe);
    let model = &prepared.model;
    let mut predictions = |set: &Samples<K>| {
        predict(model, set, &(0..set.samples.len()).collect::<Vec<_>>(), run.batch_size, None, observe)
    };
    let (of_train, of_query) = (predictions(&train)?, predictions(&query)?);
    let states = match baseline {
        Baseline::HiddenCosine => {
            Some([unit_states(run, model, &train, observe)?, unit_states(run, model, &query, observe)?])
        }
        _ => None,
    };
    let (facts, query_facts) = (train.facts(), query.facts());
    let train = Rows::new(train, facts, of_train);
    let query = Rows::new(query, query_facts, of_query);
    let same = |row: Vec<f64>| vec![row; query.data.rows.len()];
    let rows = match (baseline, states) {
        (_, Some([train, query])) => {
            let product = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
            query.iter().map(|query| train.iter().map(|row| product(query, row)).collect()).collect()
        }
        (Baseline::Length, _) => same(train.lengths.iter().map(|&length| length as f64).collect()),
        (Baseline::Loss, _) => same(train.losses().into_iter().map(|loss| -loss).collect()),
        (Baseline::Bm25, _) => {
            let index = Bm25::new(train.data.rows.iter().map(|row| &row.content.text));
            query.data.rows.iter().map(|row| index.scores(&row.content.text)).collect()
        }
        (Baseline::Random | Baseline::HiddenCosine, _) => {
            let mut random = StdRng::seed_from_u64(seed);
            same((0..train.data.rows.len()).map(|_| random.random::<f64>()).collect())
        }
    };
    let scores = Scores { rows: if run.options.query == QueryMode::Mean { vec![mean(&rows)] } else { rows } };
    let (labels, query_mode) = (K::labels(&prepared.processor).cloned(), run.options.query);
    let (max_length, settings) = (limit.tokens(), K::settings(model));
    let (method, kind) = (RowMethod::Baseline(baseline), K::NAME);
    let (derivative, trajectory, ensemble) = (None, None, Vec::new());
    Ok(Ranked {
        method,
        derivative,
        trajectory,
        ensemble,
        kind,
        train,
        query,
        scores,
        query_mode,
        labels,
        max_length,
        settings,
        files,
    })
}

fn mean(rows: &[Vec<f64>]) -> Vec<f64> {
    let n = rows.first().map_or(0, Vec::len);
    (0..n).map(|sample| rows.iter().map(|row| row[sample]).sum::<f64>() / rows.len() as f64).collect()
}

/// The mean hidden state of each sample, of length 1.
fn unit_states<K: Kind>(
    run: &Run,
    model: &K::Model,
    set: &Samples<K>,
    observe: &mut dyn FnMut(Event),
) -> Result<Vec<Vec<f64>>, RunError> {
    let (mut order, total) = (set.by_length(), set.samples.len());
    order.reverse();
    let (mut found, mut done) = (vec![Vec::new(); total], 0);
    let (began, mut tokens) = (std::time::Instant::now(), 0);
    for batch in order.chunks(run.batch_size) {
        let samples: Vec<_> = batch.iter().map(|&sample| &set.samples[sample]).collect();
        let states = K::states(model, &samples)?;
        let width = states.dims()[1];
        for (&sample, state) in batch.iter().zip(host(states)?.chunks(width)) {
            let norm = state.iter().map(|value| value * value).sum::<f64>().sqrt();
            if !norm.is_finite() {
                let (set, row) = (&set.data, set.data.rows[sample].row);
                let (path, what) = (set.path.clone(), "mean hidden state's norm".to_owned());
                return Err(RunError::NotFinite { set: set.set, path, row, what, value: norm });
            }
            found[sample] = state.iter().map(|value| if norm > 0.0 { value / norm } else { 0.0 }).collect();
        }
        done += batch.len();
        tokens += samples.iter().map(|sample| K::Model::length(sample)).sum::<usize>();
        let detail = Detail::Speed(tokens as f64 / began.elapsed().as_secs_f64().max(1e-9), K::UNIT);
        observe(Event::Progress(Progress { stage: Stage::Evaluation, done, total, detail }));
    }
    Ok(found)
}
