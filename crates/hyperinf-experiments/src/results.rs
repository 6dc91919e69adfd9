//! Results as JSON lines.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::Path;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::Failure;

/// The result of one unit (data set, rank, seed) of the experiment on wrong labels.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Detection {
    pub setting: DetectionSetting,
    /// Accuracy on clean validation labels, and on the true labels of the training samples.
    pub accuracy_validation: f64,
    pub accuracy_true_labels: f64,
    /// The share of the most frequent class in the validation samples.
    pub commonest_class: f64,
    pub tuning_seconds: f64,
    pub gradient_seconds: f64,
    pub methods: Vec<DetectionMethod>,
}

/// The identity of a unit: the line with an equal setting is its result.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DetectionSetting {
    pub data: String,
    pub rank: usize,
    pub seed: u64,
    pub train: usize,
    pub validation: usize,
    pub noise: f64,
    pub max_tokens: usize,
    pub epochs: usize,
    pub batch_size: usize,
    pub learning_rate: f64,
}

/// The result of one method.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DetectionMethod {
    pub name: String,
    pub auc: f64,
    /// The share of all wrong labels among the first 5 %, 10 %, … 100 %.
    pub curve: Vec<f64>,
    /// Correlations with the exact scores.
    pub pearson: Option<f64>,
    pub spearman: Option<f64>,
    pub seconds: f64,
    pub residual: Option<f64>,
    pub converged: bool,
}

/// The result of one unit (data set, seed) of the experiment on cleaning.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Cleaning {
    pub setting: CleaningSetting,
    /// The share of the most frequent class in the test samples.
    pub commonest_class: f64,
    /// Accuracy of the first model on the test samples, and on the true labels of the training samples.
    pub accuracy_test: f64,
    pub accuracy_true_labels: f64,
    pub seconds: f64,
    pub methods: Vec<CleaningMethod>,
}

/// The identity of a unit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CleaningSetting {
    pub data: String,
    pub rank: usize,
    pub seed: u64,
    pub train: usize,
    pub validation: usize,
    pub test: usize,
    pub noise: f64,
    pub remove: f64,
    pub max_tokens: usize,
    pub epochs: usize,
    pub batch_size: usize,
    pub learning_rate: f64,
}

/// A model that was tuned without the samples that a method removed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CleaningMethod {
    pub name: String,
    /// The area under the ROC curve of wrong labels.
    pub auc: f64,
    /// The share of the removed samples whose label was wrong.
    pub precision: f64,
    /// Accuracy on the test samples.
    pub accuracy: f64,
}

/// The result of one unit (data set, seed) of the experiment on classes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Influential {
    pub setting: InfluentialSetting,
    /// Mean losses of the test samples, before and after tuning, and of the training samples after it.
    pub loss_before: f64,
    pub loss_after: f64,
    pub train_loss_after: f64,
    pub tuning_seconds: f64,
    pub gradient_seconds: f64,
    pub methods: Vec<InfluentialMethod>,
}

/// The identity of a unit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct InfluentialSetting {
    pub data: String,
    pub rank: usize,
    pub seed: u64,
    pub train_per_class: usize,
    pub test_per_class: usize,
    pub max_tokens: usize,
    pub epochs: usize,
    pub batch_size: usize,
    pub learning_rate: f64,
    /// Whether a batch had samples of similar length; results without this field had.
    #[serde(default = "by_length")]
    pub by_length: bool,
}

fn by_length() -> bool {
    true
}

/// The result of one method: means over the queries, with standard deviations.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct InfluentialMethod {
    pub name: String,
    pub auc: f64,
    pub auc_spread: f64,
    pub recall: f64,
    pub recall_spread: f64,
    /// The same by absolute score: a sample that harms a query is of its class as well.
    pub absolute_auc: f64,
    pub absolute_recall: f64,
    pub seconds: f64,
    pub residual: Option<f64>,
    pub converged: bool,
}

/// All results in a file; empty if it does not exist.
pub fn read<T: DeserializeOwned>(path: &Path) -> Result<Vec<T>, Failure> {
    if !path.exists() {
        return Ok(Vec::new());
    }
    let text = fs::read_to_string(path)?;
    let parse = |(number, line)| {
        serde_json::from_str(line).map_err(|e| format!("{}, line {}: {e}", path.display(), number + 1).into())
    };
    text.lines().enumerate().map(parse).collect()
}

/// Appends a result as one line.
pub fn append<T: Serialize>(path: &Path, result: &T) -> Result<(), Failure> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let line = serde_json::to_string(result)? + "\n";
    OpenOptions::new().create(true).append(true).open(path)?.write_all(line.as_bytes())?;
    Ok(())
}

/// Groups of results with one setting each, in the order of their first result.
pub fn groups<T, S: PartialEq>(results: Vec<T>, setting: impl Fn(&T) -> S) -> Vec<(S, Vec<T>)> {
    let mut groups: Vec<(S, Vec<T>)> = Vec::new();
    for result in results {
        let setting = setting(&result);
        match groups.iter_mut().find(|(other, _)| *other == setting) {
            Some((_, group)) => group.push(result),
            None => groups.push((setting, vec![result])),
        }
    }
    groups
}
