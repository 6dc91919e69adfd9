//! What a report takes from a summary.

use std::collections::{BTreeMap, HashMap};

use hyperinf_data::{CrossCheck, RowMethod};
use serde::Deserialize;
use serde_json::Value;

use crate::report::{BlockFact, Fact};

/// `summary.json` of `attribute`, `detect` or `select`; a method of rows (a baseline, or the derivative
/// through the training) has no curvature and no device.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Summary {
    pub(crate) command: String,
    hyperinf_version: String,
    method: String,
    solver: Option<String>,
    pub(crate) sign: String,
    unit: String,
    #[serde(default)]
    normalisation: Option<String>,
    damping: Option<Damping>,
    pub(crate) query_mode: String,
    #[serde(default)]
    structure: Option<String>,
    #[serde(default)]
    projection: Value,
    #[serde(default)]
    rank_by: Option<String>,
    #[serde(default)]
    device: Option<String>,
    #[serde(default)]
    precision: Option<String>,
    residual: Option<f64>,
    #[serde(default)]
    blocks: Vec<Block>,
    #[serde(default)]
    shares: Vec<Share>,
    #[serde(default)]
    curvature: Option<Curvature>,
    /// Of random scores.
    seed: Option<u64>,
    pub(crate) task: String,
    model: Files,
    adapter: Option<Files>,
    max_length: usize,
    pub(crate) train: Input,
    pub(crate) query: Input,
    #[serde(default)]
    train_quality: Value,
    #[serde(default)]
    query_quality: Value,
    #[serde(default)]
    loss: Value,
    cross_check: Option<CrossCheck>,
    #[serde(default)]
    removed: Option<Vec<String>>,
    #[serde(default)]
    selected: Option<Vec<String>>,
    #[serde(default)]
    pub(crate) outputs: Vec<String>,
}

#[derive(Clone, Debug, Deserialize)]
struct Damping {
    kind: String,
    value: f64,
}

#[derive(Clone, Debug, Deserialize)]
struct Curvature {
    estimate: String,
    draws: Option<usize>,
}

#[derive(Clone, Debug, Deserialize)]
struct Files {
    path: String,
    xxh3_128: BTreeMap<String, String>,
}

/// A data set.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Input {
    pub(crate) file: String,
    pub(crate) xxh3_128: String,
    pub(crate) columns: BTreeMap<String, Option<String>>,
    pub(crate) rows: usize,
    pub(crate) used: usize,
    pub(crate) left_out: Vec<LeftOut>,
    cut: Vec<Value>,
}

/// A row that was not used.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct LeftOut {
    pub(crate) row: usize,
}

#[derive(Clone, Debug, Deserialize)]
struct Block {
    name: String,
    rows: usize,
    cols: usize,
    lambda: Option<f64>,
    residual: f64,
    tolerance: Option<f64>,
    converged: bool,
    #[serde(default)]
    chosen: String,
}

#[derive(Clone, Debug, Deserialize)]
struct Share {
    name: String,
    rows: usize,
    cols: usize,
    share: f64,
}

impl Summary {
    /// What a page of it is called.
    pub(crate) fn title(&self) -> String {
        let (train, query) = (counted(self.train.used, "training row"), counted(self.query.used, "query row"));
        match self.command.as_str() {
            "detect" => format!("Suspicious rows among {train}"),
            "select" => format!("Helpful rows among {train}"),
            _ => format!("Influence of {train} on {query}"),
        }
    }

    pub(crate) fn subtitle(&self) -> String {
        let adapter = self.adapter.as_ref().map(|adapter| format!(" with {}", adapter.path)).unwrap_or_default();
        let method = if self.is_baseline() { "baseline" } else { "method" };
        format!("{}{adapter} · {method} {}", self.model.path, self.method)
    }

    /// The query of scores for the mean of all.
    pub(crate) fn mean(&self) -> String {
        format!("The mean of {} in {}", counted(self.query.used, "query row"), self.query.file)
    }

    pub(crate) fn sign(&self) -> String {
        let meaning = "training on a row with a positive score lowered the loss of the query; a negative one raised it";
        format!("{}: {meaning}. Unit: {}.", capital(&self.sign), self.unit)
    }

    /// The figures at the top of a page.
    pub(crate) fn figures(&self) -> Vec<Fact> {
        let mut figures = vec![
            Fact::new("training rows", grouped(self.train.used)),
            Fact::new("query rows", grouped(self.query.used)),
        ];
        figures.push(Fact::new("method", &self.method));
        figures.extend(self.damping_text().map(|text| Fact::new("damping", text)));
        figures.extend(self.residual.map(|residual| Fact::new("largest residual", format!("{residual:.1e}"))));
        for (quality, of) in [(&self.train_quality, "training rows"), (&self.query_quality, "query rows")] {
            if let Some(accuracy) = quality["accuracy"].as_f64() {
                figures.push(Fact::new(format!("accuracy on the {of}"), format!("{:.1} %", 100.0 * accuracy)));
            } else if let Some(loss) = quality["loss"].as_f64() {
                figures.push(Fact::new(format!("loss on the {of}"), format!("{loss:.3}")));
            }
        }
        for (list, name) in [(&self.removed, "removed rows"), (&self.selected, "selected rows")] {
            figures
                .extend(list.as_ref().filter(|list| !list.is_empty()).map(|list| Fact::new(name, grouped(list.len()))));
        }
        figures
    }

    /// What the reader must know first.
    pub(crate) fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        if self.train_quality["verdict"] == "guessing" && !self.is_baseline() {
            notes.push(
                "The model is no better than guessing on its training rows: scores by its gradients say little.".into(),
            );
        }
        let missed: Vec<&Block> = self.blocks.iter().filter(|block| !block.converged).collect();
        if let Some(worst) = missed.iter().max_by(|a, b| a.residual.total_cmp(&b.residual)) {
            let tolerance =
                worst.tolerance.map_or(String::new(), |tolerance| format!(", expected at most {tolerance:.1e}"));
            notes.push(format!(
                "The solver missed its tolerance in {} of {} blocks; the largest residual is {:.1e}{tolerance}, in {}.",
                missed.len(),
                self.blocks.len(),
                worst.residual,
                worst.name
            ));
        }
        if let Some(CrossCheck { auc_score, auc_loss, .. }) = self.cross_check.filter(CrossCheck::prefers_loss) {
            notes.push(format!(
                "On validation rows with exchanged labels the loss finds more wrong labels (AUC {auc_loss:.3}) than the \
                 scores do ({auc_score:.3}): sort the table by the training loss as well."
            ));
        }
        for (input, what) in [(&self.train, "training"), (&self.query, "query")] {
            let (left_out, cut) = (input.left_out.len(), input.cut.len());
            if left_out > 0 {
                notes.push(format!("{left_out} of {} {what} rows could not be used and have no scores.", input.rows));
            }
            if cut > 0 {
                notes.push(format!(
                    "{} cut to {} tokens.",
                    counted(cut, &format!("{what} row")) + if cut == 1 { " was" } else { " were" },
                    self.max_length
                ));
            }
        }
        notes
    }

    /// Settings, inputs and fingerprints.
    pub(crate) fn facts(&self) -> Vec<Fact> {
        let solver = self.solver.as_ref().map(|solver| format!(", solver {solver}")).unwrap_or_default();
        let structure = self.structure.as_ref().map(|structure| format!(", {structure}")).unwrap_or_default();
        let name = if self.is_baseline() { "baseline" } else { "method" };
        let mut facts = vec![
            Fact::new("program", format!("hyperinf {}, {}", self.hyperinf_version, self.command)),
            Fact::new(name, format!("{}{solver}{structure}", self.method)),
        ];
        let mut add = |name: &str, value: Option<String>| facts.extend(value.map(|value| Fact::new(name, value)));
        add("damping", self.damping_text());
        let draws = |draws: usize| format!(", {draws} draws");
        let curvature = |Curvature { estimate, draws: drawn }: &Curvature| {
            format!("{estimate}{}", drawn.map(draws).unwrap_or_default())
        };
        add("curvature", self.curvature.as_ref().map(curvature));
        add("normalisation", self.normalisation.clone());
        add("seed", self.seed.map(|seed| seed.to_string()));
        add("projection", (!self.projection.is_null()).then(|| self.projection.to_string()));
        add("ranks by", self.rank_by.clone());
        add("queries", Some(if self.query_mode == "mean" { "their mean" } else { "each" }.to_owned()));
        add("sign", Some(self.sign.clone()));
        add("unit", Some(self.unit.clone()));
        let precision = self.precision.as_ref().map(|precision| format!(", {precision}")).unwrap_or_default();
        add("device", self.device.as_ref().map(|device| format!("{device}{precision}")));
        add("task", Some(format!("{}, rows of at most {} tokens", self.task, self.max_length)));
        add("loss", (!self.loss.is_null()).then(|| self.loss.to_string()));
        for (name, files) in [("model", Some(&self.model)), ("adapter", self.adapter.as_ref())] {
            add(name, files.map(Files::text));
        }
        for (name, input) in [("training rows", &self.train), ("query rows", &self.query)] {
            let Input { file, rows, used, xxh3_128, .. } = input;
            add(name, Some(format!("{file}: {used} of {rows} rows; XXH3 {xxh3_128}")));
        }
        facts
    }

    /// The blocks that were inverted; of methods that invert nothing, all.
    pub(crate) fn blocks(&self) -> Vec<BlockFact> {
        if self.blocks.is_empty() {
            let fact = |Share { name, rows, cols, share }: &Share| BlockFact {
                name: name.clone(),
                shape: [*rows, *cols],
                converged: true,
                share: Some(*share),
                ..BlockFact::default()
            };
            return self.shares.iter().map(fact).collect();
        }
        let shares: HashMap<&str, f64> = self.shares.iter().map(|found| (&*found.name, found.share)).collect();
        let fact = |block: &Block| BlockFact {
            name: block.name.clone(),
            shape: [block.rows, block.cols],
            lambda: block.lambda,
            residual: Some(block.residual),
            converged: block.converged,
            share: shares.get(&*block.name).copied(),
            plan: block.chosen.clone(),
        };
        self.blocks.iter().map(fact).collect()
    }

    /// Whether the scores are those of a baseline without gradients.
    fn is_baseline(&self) -> bool {
        self.curvature.is_none() && !RowMethod::named(&self.method).is_some_and(RowMethod::is_recorded)
    }

    fn damping_text(&self) -> Option<String> {
        self.damping.as_ref().map(|Damping { kind, value }| format!("{value} ({kind})"))
    }
}

impl Files {
    fn text(&self) -> String {
        let files: Vec<String> = self.xxh3_128.iter().map(|(name, hash)| format!("{name} {hash}")).collect();
        format!("{}; XXH3 {}", self.path, files.join(", "))
    }
}

/// A number with its noun.
fn counted(count: usize, noun: &str) -> String {
    if count == 1 { format!("1 {noun}") } else { format!("{} {noun}s", grouped(count)) }
}

/// A number with commas.
fn grouped(count: usize) -> String {
    let digits = count.to_string();
    let comma = |place: usize| place > 0 && (digits.len() - place).is_multiple_of(3);
    digits
        .chars()
        .enumerate()
        .flat_map(|(place, digit)| comma(place).then_some(',').into_iter().chain([digit]))
        .collect()
}

fn capital(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}
