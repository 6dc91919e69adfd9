use std::collections::BTreeSet;
use std::fs::remove_file;
use std::path::Path;

use hyperinf_curvature::BlockCurvature;
use hyperinf_gradients::{Block, Estimate};
use hyperinf_models::RecordedParts;
use hyperinf_scoring::{Attribution, Picks, QueryMode, RankBy};
use hyperinf_store::{GradientPair, GradientWriter, OutputFolder, StoreError};

use serde_json::Value;

use crate::dataset::{Content, Dataset};
use crate::ensemble::Member;
use crate::images::ImageSource;
use crate::kind::Kind;
use crate::labels::Labels;
use crate::metric::MetricUsed;
use crate::model_files::ModelFiles;
use crate::positions::TokenScores;
use crate::prediction::Prediction;
use crate::quality::Quality;
use crate::refined::Refinement;
use crate::run::GRADIENT_FILES;
use crate::samples::{CutRow, SampleFacts, Samples};
use crate::scored::OfModel;
use crate::{CrossCheck, RunError};

/// The scores of training rows for query rows, with their settings and residuals.
///
/// The gradients stay in hidden files of the run's folder, from which the same run resumes, until
/// [`Influence::keep_gradients`] or [`Influence::discard_gradients`].
#[must_use = "gradients stay in hidden files until they are kept or discarded"]
pub struct Influence {
    /// The kind of the model: `classification`, `language-model`, `vision-language`, `diffusion`.
    pub kind: &'static str,
    /// The training rows.
    pub train: Rows,
    /// The query rows.
    pub query: Rows,
    /// Scores `[queries, training rows]` and a report of each block's inverse; with seeds the first seed's scores, and
    /// of each block the worst report.
    pub attribution: Attribution,
    /// With [`seeds`](crate::Run::seeds): the scores of each seed, `[seeds, training rows]`. Otherwise empty.
    pub repeats: Vec<Vec<f64>>,
    /// The estimate of the curvature.
    pub estimate: Estimate,
    /// The curvature of each block, where the model was run for it.
    pub known: Option<Vec<BlockCurvature>>,
    /// With [`positions`](crate::Run::positions): the scores of tokens.
    pub positions: Vec<TokenScores>,
    /// With [`refine`](crate::Run::refine): what the refinement did. Of several targets with the queries of all.
    pub refinement: Option<Refinement>,
    /// Further adapters whose scores are in the mean.
    pub ensemble: Vec<Member>,
    /// The metric of the gradients, if the run has one.
    pub metric: Option<MetricUsed>,
    /// The layers whose gradients were taken.
    pub layers: RecordedParts,
    /// The loss of a diffusion model, or of pairs.
    pub settings: Option<Value>,
    /// Blocks that were projected when their gradients were taken, in their own size, and to which rank.
    pub projected: Option<(Vec<Block>, usize)>,
    /// The labels of a classifier.
    pub labels: Option<Labels>,
    /// The most tokens of a row.
    pub max_length: usize,
    /// The gradients that were scored.
    pub pair: GradientPair,
    /// The files of the model and its adapter.
    pub files: ModelFiles,
    /// Whether queries were scored one by one.
    pub query_mode: QueryMode,
    /// What rankings are by.
    pub rank_by: RankBy,
    /// Further files of query rows, of a selection.
    pub targets: Vec<Target>,
    /// Of the training rows, unless they are an index's, and of the queries.
    pub(crate) gradients: (Option<GradientWriter>, GradientWriter),
    /// The run's folder: no other run writes it as long as this result is there.
    pub(crate) _folder: OutputFolder,
    pub(crate) model: Box<dyn OfModel>,
}

/// The training rows, the most suspicious first.
#[must_use]
pub struct Detection {
    /// The scores for the mean query.
    pub influence: Influence,
    /// All training rows, the lowest score first.
    pub order: Vec<usize>,
    /// The influence of each training row on itself, by the inverse of each block.
    pub self_influence: Vec<f64>,
    /// The rows to remove, the most suspicious first; empty if no removal was requested.
    pub removed: Vec<usize>,
    /// Whether scores or losses find wrong labels among the validation rows; of classifiers of two classes, where no
    /// inverse is refined.
    pub cross_check: Option<CrossCheck>,
}

/// The training rows that help the queries most.
#[must_use]
pub struct Selection {
    /// The scores for the mean query; of several targets one score per row.
    pub influence: Influence,
    /// The selected rows in the order of their selection, and how many were passed over.
    pub picks: Picks,
    /// The rows whose gradients were compared with each other; 0 if none were.
    pub pool: usize,
    /// The scores of each target, `[targets, training rows]`; empty if there is one.
    pub targets: Vec<Vec<f64>>,
}

/// Query rows of a further file.
pub struct Target {
    /// The rows.
    pub rows: Rows,
    /// Their gradients and those of the training rows.
    pub pair: GradientPair,
    pub(crate) gradients: GradientWriter,
}

/// The rows of a file that were used.
pub struct Rows {
    /// The rows.
    pub data: Dataset<RowText>,
    /// Those that were cut.
    pub cut: Vec<CutRow>,
    /// What the model predicts for each row, with its loss.
    pub predictions: Vec<Prediction>,
    /// The length of each row's sample, in tokens.
    pub lengths: Vec<usize>,
    /// XXH3 of what the model gets of each row, 128 bits.
    pub digests: Vec<u128>,
}

/// The content of a row for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowText {
    /// All of it as one text.
    pub text: String,
    /// The label, if it has one.
    pub label: Option<String>,
    /// Its images.
    pub images: Vec<ImageSource>,
}

/// The file of the gradients of a further target.
pub(crate) fn target_file(target: usize) -> String {
    format!("query_gradients-{}.safetensors", target + 2)
}

impl Influence {
    /// Moves the gradients to [`GRADIENT_FILES`] in a folder, for [`hyperinf_store::score`]; those of an index stay there.
    ///
    /// # Errors
    ///
    /// If a file cannot be moved.
    pub fn keep_gradients(self, folder: &Path) -> Result<(), RunError> {
        let (train, query) = self.gradients;
        let mut writers: Vec<_> = [train, Some(query)]
            .into_iter()
            .zip(GRADIENT_FILES)
            .filter_map(|(w, name)| Some((w?, folder.join(name))))
            .collect();
        let targets = self.targets.into_iter().enumerate();
        writers.extend(targets.map(|(place, target)| (target.gradients, folder.join(target_file(place)))));
        // First, so that an interruption leaves no gradients of two runs side by side.
        for (writer, path) in &writers {
            if !writer.is_placed(path) && path.exists() {
                remove_file(path).map_err(|e| StoreError::output(path, e))?;
            }
        }
        for (writer, path) in writers {
            writer.place(&path).map_err(|e| StoreError::output(&path, e))?;
        }
        Ok(())
    }

    /// Removes the gradients.
    ///
    /// # Errors
    ///
    /// If a file cannot be removed.
    pub fn discard_gradients(self) -> Result<(), RunError> {
        let (train, query) = self.gradients;
        let targets = self.targets.into_iter().map(|target| target.gradients);
        for writer in train.into_iter().chain([query]).chain(targets) {
            let path = writer.path().to_owned();
            writer.discard().map_err(|e| StoreError::output(&path, e))?;
        }
        Ok(())
    }
}

impl Detection {
    /// The rows of the file that remain, by their numbers in it. Bad rows were never scored, and do not remain.
    pub fn kept(&self) -> BTreeSet<usize> {
        let rows = &self.influence.train.data.rows;
        let mut kept: BTreeSet<usize> = rows.iter().map(|row| row.row).collect();
        for &sample in &self.removed {
            kept.remove(&rows[sample].row);
        }
        kept
    }
}

impl Selection {
    /// The selected rows by their numbers in the file.
    pub fn kept(&self) -> BTreeSet<usize> {
        self.picks.order.iter().map(|&sample| self.influence.train.data.rows[sample].row).collect()
    }
}

impl Rows {
    /// The loss of each row.
    pub fn losses(&self) -> Vec<f64> {
        self.predictions.iter().map(|prediction| prediction.loss).collect()
    }

    /// How well the model predicts the rows; `labels` are those of a classifier.
    ///
    /// # Panics
    ///
    /// If a classifier's labels are missing.
    pub fn quality(&self, labels: Option<&Labels>) -> Quality {
        Quality::new(&self.predictions, labels)
    }

    /// `of` is what is left of the samples.
    pub(crate) fn new<K: Kind>(set: Samples<K>, of: SampleFacts, predictions: Vec<Prediction>) -> Self {
        let SampleFacts { lengths, digests } = of;
        Self { data: set.data.map(|content| RowText::new(&content)), cut: set.cut, predictions, lengths, digests }
    }
}

impl RowText {
    pub(crate) fn new(content: &impl Content) -> Self {
        let (label, images) = (content.label().map(str::to_owned), content.images().to_vec());
        Self { text: content.text(), label, images }
    }
}
