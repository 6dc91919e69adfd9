//! The results of the experiments on emoji, and their tables.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::judge::mean_and_spread;
use crate::{Failure, results};

/// The name of the results file.
pub const FILE: &str = "emoji.jsonl";

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Question {
    /// Pictures of the query's style; the caption has its word.
    Style,
    /// The same; no caption says the style.
    StyleWithoutWord,
    /// As `Style`, for pictures that the tuned model draws.
    StyleOfGenerated,
    /// Pictures of the query's subject in other styles.
    Subject,
}

/// The settings of a result.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Setting {
    pub question: Question,
    pub rank: usize,
    pub seed: u64,
    /// Whether all rows have the same noise.
    pub shared_noise: bool,
    /// Whether the gradients of the timesteps are kept apart.
    pub stacked: bool,
    pub rows: usize,
    pub queries: usize,
    pub timesteps: usize,
    pub epochs: usize,
    pub batch_size: usize,
    pub learning_rate: f64,
}

/// The result of a unit.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Found {
    pub setting: Setting,
    /// Mean losses of the queries before and after tuning.
    pub loss_before: f64,
    pub loss_after: f64,
    pub methods: Vec<FoundMethod>,
}

/// A method's figures, means over the queries with standard deviations.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct FoundMethod {
    pub name: String,
    pub auc: f64,
    pub auc_spread: f64,
    /// Among as many rows as there are of the query's class.
    pub recall: f64,
    pub seconds: f64,
}

/// A method's scores `[queries, rows]`, with the seconds that they took.
pub type Scored = (String, Vec<Vec<f64>>, f64);

/// Where scores of a form are in a unit's folder.
pub fn scores_file(shared_noise: bool, stacked: bool) -> String {
    let (noise, form) = (if shared_noise { "shared" } else { "own" }, if stacked { "stacked" } else { "sum" });
    format!("scores-{noise}-{form}.json")
}

/// Prints a table for each question: means over the seeds, with their standard deviation.
pub fn print(path: &Path) -> Result<(), Failure> {
    let all = results::read::<Found>(path)?;
    for (setting, of) in results::groups(all, |found| Setting { seed: 0, ..found.setting.clone() }) {
        let [noise, form] = [
            if setting.shared_noise { "shared noise" } else { "own noise" },
            if setting.stacked { "stacked" } else { "summed" },
        ];
        let loss = |figure: &dyn Fn(&Found) -> f64| of.iter().map(figure).sum::<f64>() / of.len() as f64;
        println!(
            "\n### {:?}: rank {}, {} rows, {} queries, {noise}, {form}, {} seeds\n\nLoss of the queries {:.4} before, \
             {:.4} after.\n\n| method | AUC | recall |\n|---|---|---|",
            setting.question,
            setting.rank,
            setting.rows,
            setting.queries,
            of.len(),
            loss(&|found| found.loss_before),
            loss(&|found| found.loss_after)
        );
        for FoundMethod { name, .. } in &of[0].methods {
            let cell = |figure: &dyn Fn(&FoundMethod) -> f64| {
                let same = of.iter().flat_map(|found| &found.methods).filter(|method| method.name == *name);
                let (mean, spread) = mean_and_spread(&same.map(figure).collect::<Vec<_>>());
                if of.len() > 1 { format!("{mean:.3} ± {spread:.3}") } else { format!("{mean:.3}") }
            };
            println!("| {name} | {} | {} |", cell(&|m| m.auc), cell(&|m| m.recall));
        }
    }
    Ok(())
}
