//! D3: the linear datamodelling score. Adapters are tuned again on random halves of the rows.

use std::fs;
use std::path::Path;
use std::time::Instant;

use hyperinf::eval::{Bank, Interval, LdsConfig, LdsTruth, Retrain, TruthError, random_subsets};
use serde::{Deserialize, Serialize};

use super::found::{Scored, Setting, scores_file};
use super::influence::Unit;
use super::rows;
use crate::{Failure, results};

/// The name of the results file.
pub const FILE: &str = "emoji-lds.jsonl";

/// How well scores predict the losses after training again.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Predicted {
    pub setting: Setting,
    pub method: String,
    pub subsets: usize,
    /// Means over the queries, with the interval of the mean.
    pub lds: f64,
    pub low: Option<f64>,
    pub high: Option<f64>,
}

struct Halves<'a, 'b> {
    unit: &'a Unit<'b>,
    queries: usize,
}

impl Retrain for Halves<'_, '_> {
    fn samples(&self) -> usize {
        self.unit.split.train.len()
    }

    fn queries(&self) -> usize {
        self.queries
    }

    fn fingerprint(&self) -> String {
        format!("emoji {:?}", self.unit.described(self.queries))
    }

    fn query_losses(&self, subset: &[usize], seed: u64) -> Result<Vec<f64>, TruthError> {
        let samples = subset.len();
        self.losses(subset, seed).map_err(|source| TruthError::Retrain { samples, seed, source })
    }
}

impl Halves<'_, '_> {
    fn losses(&self, subset: &[usize], seed: u64) -> Result<Vec<f64>, Failure> {
        let folder = &self.unit.folder;
        let (train, query, adapter) = (folder.join("half.jsonl"), folder.join("measured.jsonl"), folder.join("half"));
        rows::write(&train, subset.iter().map(|&row| &self.unit.split.train[row]))?;
        rows::write(&query, &self.unit.split.query[..self.queries])?;
        self.unit.tune(&train, seed, &adapter)?;
        self.unit.losses(Some(&adapter), &query)
    }
}

/// Trains again, and compares every score of the unit.
pub fn run(unit: &Unit<'_>, subsets: usize) -> Result<(), Failure> {
    let queries = unit.settings.measured.min(unit.split.query.len());
    let task = Halves { unit, queries };
    let config = LdsConfig { subsets, share: 0.5, seeds: vec![unit.seed], draw: unit.seed };
    let mut bank = Bank::open(&unit.folder.join("bank.jsonl"), &task)?;
    let began = Instant::now();
    // One after the other: trainings share the device's generator, and one uses all cores.
    for (done, subset) in random_subsets(task.samples(), config.share, subsets, config.draw)?.into_iter().enumerate() {
        bank.outcomes(&task, &[(subset, unit.seed)], &|_, _| ())?;
        println!("trained on {} of {subsets} halves, {:.0?}", done + 1, began.elapsed());
    }
    let truth = LdsTruth::retrain(&task, &config, &mut bank, &|_, _| ())?;
    let path = unit.settings.places.out.join(FILE);
    for (shared_noise, stacked) in super::influence::FORMS {
        let setting = Setting { shared_noise, stacked, ..unit.described(queries) };
        let done = results::read::<Predicted>(&path)?;
        if done.iter().any(|found| found.setting == setting && found.subsets == subsets) {
            continue;
        }
        let scores = fs::read(unit.folder.join(scores_file(shared_noise, stacked)))?;
        let scores: Vec<Scored> = serde_json::from_slice(&scores)?;
        for (method, rows, _) in scores {
            let Interval { mean, low, high } = truth.lds(&rows[..queries])?.mean;
            println!("{} {method}: LDS {mean:.3}, {}", scores_file(shared_noise, stacked), between(low, high));
            results::append(&path, &Predicted { setting: setting.clone(), method, subsets, lds: mean, low, high })?;
        }
    }
    Ok(())
}

fn between(low: Option<f64>, high: Option<f64>) -> String {
    low.zip(high).map_or_else(|| "–".to_owned(), |(low, high)| format!("{low:.3} to {high:.3}"))
}

/// Prints a table of all methods and forms.
pub fn print(path: &Path) -> Result<(), Failure> {
    let all = results::read::<Predicted>(path)?;
    let Some(first) = all.first() else { return Ok(()) };
    println!(
        "\n### LDS: {} random halves of {} rows, {} queries\n\n| noise | timesteps | method | LDS | 95 % |\n|---|---|---|---|---|",
        first.subsets, first.setting.rows, first.setting.queries
    );
    for Predicted { setting, method, lds, low, high, .. } in &all {
        let noise = if setting.shared_noise { "shared" } else { "own" };
        let form = if setting.stacked { "stacked" } else { "summed" };
        println!("| {noise} | {form} | {method} | {lds:.3} | {} |", between(*low, *high));
    }
    Ok(())
}
