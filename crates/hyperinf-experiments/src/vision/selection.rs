//! Selection of training rows for a vision-language model: adapters are tuned on all rows of a pool, every method
//! scores the rows for the mean query, and adapters are tuned again on the best of them, always for as many steps.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::Args;
use hyperinf::burn::tensor::Device;
use hyperinf::data::{
    Dataset, Finetune, Illustrated, Kind, LargeBlocks, ModelFiles, ReadOptions, Recipe, Run, Samples, VisionLanguage,
};
use hyperinf::eval::auc;
use hyperinf::models::{Adapter, Limit, LoraConfig, RecordedParts};
use hyperinf::scoring::{Options, QueryMode, Set};
use rand::seq::SliceRandom;
use rand::{SeedableRng, rngs::StdRng};
use serde::{Deserialize, Serialize};

use super::answer::answered;
use crate::Failure;
use crate::judge::options;
use crate::results;

/// How adapters are tuned.
#[derive(Args, Clone)]
pub struct Tuning {
    /// The rank of the adapters.
    #[arg(long, default_value_t = 8)]
    pub rank: usize,
    /// Steps of every tuning, whatever the number of rows.
    #[arg(long, default_value_t = 150)]
    pub steps: usize,
    /// Rows per step.
    #[arg(long, default_value_t = 16)]
    pub batch_size: usize,
    /// The peak learning rate.
    #[arg(long, default_value_t = 3e-3)]
    pub learning_rate: f64,
    /// The shares of the pool that are selected; tables show .2 and .4.
    #[arg(long, value_delimiter = ',', default_value = "0.2,0.4")]
    pub shares: Vec<f64>,
    /// Methods of other layers than the adapters are left out.
    #[arg(long)]
    pub adapters_only: bool,
}

/// What is selected from, and for what.
pub struct Pool<'a> {
    /// The folder of the model, and that of everything that is made.
    pub model: &'a Path,
    pub folder: &'a Path,
    /// A folder of features that all runs share.
    pub features: &'a Path,
    /// Lines of JSON with `image`, `question` and `answer`.
    pub rows: Vec<String>,
    pub query: Vec<String>,
    pub test: Vec<String>,
    /// The rows of the pool that selection is to find.
    pub wanted: Vec<bool>,
    /// The adapted layers; empty for the program's choice.
    pub targets: &'a [&'a str],
    /// The methods on the adapters' gradients, and on those of other layers.
    pub methods: &'a [&'a str],
    pub others: &'a [(RecordedParts, &'a str)],
    /// The scores by which as many rows of each answer are selected, too.
    pub per_answer: &'a [&'a str],
    /// Whether the untuned model is measured.
    pub untuned: bool,
}

/// The settings of a result.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Setting {
    pub model: String,
    pub seed: u64,
    pub rows: usize,
    pub query: usize,
    pub test: usize,
    pub rank: usize,
    pub steps: usize,
    pub batch_size: usize,
    pub learning_rate: f64,
}

/// A tuning on selected rows.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Tuned {
    pub setting: Setting,
    pub method: String,
    /// The share of the pool; 0 is the untuned model, 1 the whole pool.
    pub share: f64,
    /// How well the scores tell wanted rows from others.
    pub auc: Option<f64>,
    /// The share of wanted rows among the selected.
    pub wanted: f64,
    /// How many equally frequent answers the selected rows would have: the exponential of the entropy of theirs.
    pub answers: Option<f64>,
    /// The share of test rows whose answer's tokens are the likeliest, one by one.
    pub accuracy: f64,
    pub seconds: f64,
}

const SHARES: [f64; 2] = [0.2, 0.4];
/// More than any row of these experiments has.
const LONGEST: usize = 250;

/// Runs everything of one seed that has no result in `path` yet.
pub fn run(path: &Path, setting: &Setting, pool: &Pool<'_>, tuning: &Tuning, device: &Device) -> Result<(), Failure> {
    fs::create_dir_all(pool.folder)?;
    let write = |name: &str, rows: &[String]| -> Result<PathBuf, Failure> {
        let file = pool.folder.join(name);
        fs::write(&file, rows.join("\n") + "\n")?;
        Ok(file)
    };
    let (rows, query) = (write("pool.jsonl", &pool.rows)?, write("query.jsonl", &pool.query)?);
    let test = write("test.jsonl", &pool.test)?;
    let answers = pool.rows.iter().map(|row| answer(row)).collect::<Result<Vec<_>, _>>()?;
    let unit = Unit { setting, pool, tuning, device, path, answers };
    if pool.untuned && unit.missing("untuned", 0.0)? {
        unit.note("untuned", 0.0, None, &BTreeSet::new(), unit.accuracy(None, &test)?, Instant::now())?;
    }
    let all: BTreeSet<usize> = (0..pool.rows.len()).collect();
    let full = pool.folder.join("full");
    if unit.missing("full", 1.0)? {
        let began = Instant::now();
        unit.tune(&rows, pool.rows.len(), &full)?;
        unit.note("full", 1.0, None, &all, unit.accuracy(Some(&full), &test)?, began)?;
    }
    let scores = pool.folder.join("scores.json");
    if !scores.exists() {
        let found = unit.scores(&rows, &query, &full)?;
        fs::write(&scores, serde_json::to_vec(&found)?)?;
    }
    let mut scores: Vec<(String, Vec<f64>)> = serde_json::from_slice(&fs::read(&scores)?)?;
    for &name in pool.per_answer {
        // Methods may have been left out.
        let Some((_, of)) = scores.iter().find(|scores| scores.0 == name) else { continue };
        scores.push((format!("{name}, per answer"), unit.per_answer(of)));
    }
    let data = Dataset::<Illustrated>::read(Set::Train, &rows, &ReadOptions::default())?;
    for &share in &tuning.shares {
        for (name, scores) in &scores {
            if !unit.missing(name, share)? {
                continue;
            }
            let began = Instant::now();
            let mut order: Vec<usize> = (0..scores.len()).collect();
            order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
            order.truncate((share * scores.len() as f64).round() as usize);
            let chosen: BTreeSet<usize> = order.into_iter().collect();
            let (file, adapter) = (pool.folder.join("selected.jsonl"), pool.folder.join("selected"));
            data.subset(chosen.clone())?.write(&mut File::create(&file)?)?;
            unit.tune(&file, chosen.len(), &adapter)?;
            let accuracy = unit.accuracy(Some(&adapter), &test)?;
            let auc = match name.ends_with("per answer") {
                true => None,
                false => Some(auc(scores, &pool.wanted)?),
            };
            unit.note(name, share, auc, &chosen, accuracy, began)?;
        }
    }
    Ok(())
}

struct Unit<'a> {
    setting: &'a Setting,
    pool: &'a Pool<'a>,
    tuning: &'a Tuning,
    device: &'a Device,
    path: &'a Path,
    /// Of the pool's rows.
    answers: Vec<String>,
}

/// The answer of a line.
fn answer(row: &str) -> Result<String, Failure> {
    let row: serde_json::Value = serde_json::from_str(row)?;
    Ok(row["answer"].as_str().ok_or("a row without an answer")?.to_owned())
}

impl Unit<'_> {
    /// Minus the place of each row among those of its answer, the best first.
    fn per_answer(&self, scores: &[f64]) -> Vec<f64> {
        let mut order: Vec<usize> = (0..scores.len()).collect();
        order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
        let mut seen: BTreeMap<&str, f64> = BTreeMap::new();
        let mut places = vec![0.0; scores.len()];
        for row in order {
            let place = seen.entry(&self.answers[row]).or_default();
            places[row] = -*place;
            *place += 1.0;
        }
        places
    }

    fn distinct(&self, chosen: &BTreeSet<usize>) -> Option<f64> {
        let mut counts: BTreeMap<&str, f64> = BTreeMap::new();
        chosen.iter().for_each(|&row| *counts.entry(&self.answers[row]).or_default() += 1.0);
        let shares = counts.values().map(|count| count / chosen.len() as f64);
        (!chosen.is_empty()).then(|| shares.map(|share| -share * share.ln()).sum::<f64>().exp())
    }

    fn missing(&self, method: &str, share: f64) -> Result<bool, Failure> {
        let same = |found: &Tuned| {
            found.setting == *self.setting && found.method == method && (found.share - share).abs() < 1e-9
        };
        Ok(!results::read::<Tuned>(self.path)?.iter().any(same))
    }

    fn note(
        &self,
        method: &str,
        share: f64,
        auc: Option<f64>,
        chosen: &BTreeSet<usize>,
        accuracy: f64,
        began: Instant,
    ) -> Result<(), Failure> {
        let wanted = chosen.iter().filter(|&&row| self.pool.wanted[row]).count() as f64 / chosen.len().max(1) as f64;
        let seconds = began.elapsed().as_secs_f64();
        println!(
            "seed {} {method} {share}: AUC {}, {wanted:.3} wanted, accuracy {accuracy:.3}; {seconds:.0} s",
            self.setting.seed,
            auc.map_or_else(|| "–".to_owned(), |auc| format!("{auc:.3}"))
        );
        let (setting, method) = (self.setting.clone(), method.to_owned());
        let answers = self.distinct(chosen);
        results::append(self.path, &Tuned { setting, method, share, auc, wanted, answers, accuracy, seconds })
    }

    fn read(&self) -> ReadOptions {
        ReadOptions { features: Some(self.pool.features.to_owned()), ..ReadOptions::default() }
    }

    fn tune(&self, rows: &Path, count: usize, out: &Path) -> Result<(), Failure> {
        let Tuning { rank, steps, batch_size, learning_rate, .. } = *self.tuning;
        let per_epoch = count.div_ceil(batch_size);
        if steps % per_epoch != 0 {
            return Err(format!("{count} rows make {per_epoch} steps an epoch, which do not divide {steps}").into());
        }
        let recipe = Recipe {
            learning_rate: Some(learning_rate),
            epochs: Some(steps / per_epoch),
            batch_size: Some(batch_size),
            seed: self.setting.seed,
            ..Recipe::default()
        };
        let run = Finetune {
            model: self.pool.model.display().to_string(),
            train: rows.to_owned(),
            out: out.to_owned(),
            overwrite: true,
            read: self.read(),
            lora: LoraConfig { rank, alpha: 2.0 * rank as f64, ..LoraConfig::default() },
            targets: self.pool.targets.iter().map(|&target| target.to_owned()).collect(),
            recipe,
            ..Finetune::default()
        };
        run.run(self.device, &mut |_| ())?;
        Ok(())
    }

    /// The scores of every method; the higher, the sooner a row is selected.
    fn scores(&self, rows: &Path, query: &Path, full: &Path) -> Result<Vec<(String, Vec<f64>)>, Failure> {
        let mut all = Vec::new();
        let adapters: Vec<(RecordedParts, &str)> =
            self.pool.methods.iter().map(|&method| (RecordedParts::Adapters, method)).collect();
        let others = if self.tuning.adapters_only { &[] } else { self.pool.others };
        let choices: Vec<(RecordedParts, &str)> = adapters.into_iter().chain(others.iter().copied()).collect();
        for group in choices.chunk_by(|a, b| a.0 == b.0) {
            let run = |method: &str| -> Result<Run, Failure> {
                Ok(Run {
                    model: self.pool.model.display().to_string(),
                    adapter: Some(full.to_owned()),
                    train: rows.to_owned(),
                    query: query.to_owned(),
                    read: self.read(),
                    options: Options { query: QueryMode::Mean, ..options(method, QueryMode::Mean)? },
                    layers: group[0].0,
                    large_blocks: LargeBlocks { above: 1 << 16, ..LargeBlocks::default() },
                    out: self.pool.folder.join("gradients"),
                    ..Run::default()
                })
            };
            let mut influence = run(group[0].1)?.attribute(self.device, &mut |_| ())?;
            for (place, (layers, method)) in group.iter().enumerate() {
                if place > 0 {
                    influence = run(method)?.attribute_again(influence, self.device, &mut |_| ())?;
                }
                let name = match layers {
                    RecordedParts::Adapters => (*method).to_owned(),
                    _ => format!("{method}, {}", layers.name()),
                };
                println!("seed {}: scores of {name}", self.setting.seed);
                all.push((name, influence.attribution.scores.rows[0].clone()));
            }
            if group[0].0 == RecordedParts::Adapters {
                let losses = influence.train.losses();
                all.push(("low loss".to_owned(), losses.iter().map(|loss| -loss).collect()));
                all.push(("high loss".to_owned(), losses));
            }
            influence.discard_gradients()?;
        }
        let random = |seed: u64| {
            let mut values: Vec<f64> = (0..self.pool.rows.len()).map(|row| row as f64).collect();
            values.shuffle(&mut StdRng::seed_from_u64(seed));
            values
        };
        let seed = self.setting.seed;
        all.push(("random".to_owned(), random(seed.wrapping_add(17))));
        let luck = random(seed.wrapping_add(18)).into_iter().zip(&self.pool.wanted);
        all.push(("oracle".to_owned(), luck.map(|(luck, &wanted)| if wanted { luck + 1e6 } else { luck }).collect()));
        Ok(all)
    }

    fn accuracy(&self, adapter: Option<&Path>, rows: &Path) -> Result<f64, Failure> {
        let mut files = ModelFiles::find(&self.pool.model.display().to_string(), None, adapter)?;
        files.features = Some(self.pool.features.to_owned());
        let data = Dataset::<Illustrated>::read(Set::Query, rows, &ReadOptions::default())?;
        let adapter = files.adapter.as_deref().map(Adapter::read).transpose()?;
        let prepared = VisionLanguage::load(&files, adapter.as_ref(), &data, self.device)?;
        let set = Samples::<VisionLanguage>::new(&prepared, data, Limit::Refuse(LONGEST), false)?;
        let mut right = 0;
        for samples in set.samples.chunks(50) {
            right += answered(&prepared.model, samples)?;
        }
        Ok(right as f64 / set.samples.len() as f64)
    }
}

impl Setting {
    /// The settings of a seed.
    pub fn new(model: String, seed: u64, pool: &Pool<'_>, tuning: &Tuning) -> Self {
        let Tuning { rank, steps, batch_size, learning_rate, .. } = *tuning;
        let (rows, query, test) = (pool.rows.len(), pool.query.len(), pool.test.len());
        Self { model, seed, rows, query, test, rank, steps, batch_size, learning_rate }
    }
}

/// Prints a table of a file of results: means over the seeds, with their spread.
pub fn print(path: &Path, wanted: &str) -> Result<(), Failure> {
    let all = results::read::<Tuned>(path)?;
    for (setting, all) in results::groups(all, |found| Setting { seed: 0, ..found.setting.clone() }) {
        let seeds: BTreeSet<u64> = all.iter().map(|found| found.setting.seed).collect();
        println!(
            "\n### {}: {} rows, {} steps, {} seeds\n\n| selected by | AUC of {wanted} | share of {wanted}, 20 % | 40 % | \
             answers, 20 % | accuracy, 20 % | 40 % |\n|---|---|---|---|---|---|---|",
            setting.model,
            setting.rows,
            setting.steps,
            seeds.len()
        );
        let mut methods: Vec<&str> = Vec::new();
        all.iter().for_each(|found| {
            if !methods.contains(&&*found.method) {
                methods.push(&found.method)
            }
        });
        for method in methods {
            let cell = |share: f64, figure: &dyn Fn(&Tuned) -> Option<f64>| {
                let of = |found: &&Tuned| found.method == method && (found.share - share).abs() < 1e-9;
                let values: Vec<f64> = all.iter().filter(of).filter_map(figure).collect();
                let (mean, spread) = crate::judge::mean_and_spread(&values);
                match values.len() {
                    0 => "–".to_owned(),
                    1 => format!("{mean:.3}"),
                    _ => format!("{mean:.3} ± {spread:.3}"),
                }
            };
            if let Some(whole) = [("untuned", 0.0), ("full", 1.0)].iter().find(|(name, _)| *name == method) {
                println!(
                    "| {method} | – | {} | – | {} | {} | – |",
                    cell(whole.1, &|f| Some(f.wanted)),
                    cell(whole.1, &|f| f.answers),
                    cell(whole.1, &|f| Some(f.accuracy))
                );
                continue;
            }
            println!(
                "| {method} | {} | {} | {} | {} | {} | {} |",
                cell(SHARES[0], &|f| f.auc),
                cell(SHARES[0], &|f| Some(f.wanted)),
                cell(SHARES[1], &|f| Some(f.wanted)),
                cell(SHARES[0], &|f| f.answers),
                cell(SHARES[0], &|f| Some(f.accuracy)),
                cell(SHARES[1], &|f| Some(f.accuracy))
            );
        }
    }
    Ok(())
}
