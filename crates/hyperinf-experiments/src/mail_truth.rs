//! Wrong labels and selections by methods that follow the training, next to all others: MiniLM with LoRA on e-mails.

use std::fs;
use std::path::{Path, PathBuf};

use clap::Args;
use hyperinf::burn::tensor::Device;
use hyperinf::data::Baseline;
use hyperinf::data::{
    AnyMethod, Evaluate, Finetune, LengthOptions, NamedMethod, Quality, Recipe, RowMethod, Run, Trajectory,
};
use hyperinf::eval::{Interval, auc};
use hyperinf::models::LoraConfig;
use hyperinf::scoring::{MethodSpec, Options, QueryMode};
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::data::{Labelled, Split, labelled};
use crate::{Failure, Places, results};

/// Finds wrong labels and selects rows of e-mails by the training that happened.
#[derive(Args)]
pub struct Settings {
    #[command(flatten)]
    places: Places,
    /// The seeds of sampling, wrong labels, new weights and order.
    #[arg(long, value_delimiter = ',', default_value = "0,1,2,3,4")]
    seeds: Vec<u64>,
    /// Training rows.
    #[arg(long, default_value_t = 160)]
    train: usize,
    /// Rows with right labels that scores are for.
    #[arg(long, default_value_t = 40)]
    validation: usize,
    /// Rows that selections are tested on.
    #[arg(long, default_value_t = 400)]
    test: usize,
    /// The share of training rows with the other label.
    #[arg(long, default_value_t = 0.2)]
    noise: f64,
    /// The share of rows that a selection keeps.
    #[arg(long, default_value_t = 0.5)]
    keep: f64,
    /// Passes over the rows.
    #[arg(long, default_value_t = 5)]
    epochs: usize,
    /// Rows per step.
    #[arg(long, default_value_t = 12)]
    batch_size: usize,
    /// The peak learning rate.
    #[arg(long, default_value_t = 3e-3)]
    learning_rate: f64,
    /// The largest number of tokens; longer texts are cut.
    #[arg(long, default_value_t = 32)]
    max_tokens: usize,
}

/// The name of the results file.
pub const FILE: &str = "mail-truth.jsonl";
const CLASSES: [&str; 2] = ["ham", "spam"];
const METHODS: [&str; 5] = ["identity", "ekfac", "datainf", "hyperinf", "exact"];

/// The identity of a unit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Unit {
    seed: u64,
    train: usize,
    validation: usize,
    test: usize,
    noise: f64,
    keep: f64,
    epochs: usize,
    batch_size: usize,
    learning_rate: f64,
    max_tokens: usize,
}

/// The result of a seed.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Found {
    unit: Unit,
    /// Loss and accuracy on the test rows after training on all rows, and on those with right labels.
    all: Tested,
    right: Tested,
    methods: Vec<MethodFound>,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Tested {
    loss: f64,
    accuracy: f64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct MethodFound {
    name: String,
    /// Of low scores as a sign of a wrong label.
    auc: f64,
    /// After training on the rows with the highest scores; `None` if these have one label, which no classifier is trained
    /// on.
    selected: Option<Tested>,
    /// Of these, the share with wrong labels.
    wrong: f64,
    seconds: f64,
}

/// Runs every seed that has no result yet, and prints the means.
pub fn run(settings: &Settings) -> Result<(), Failure> {
    let path = settings.places.out.join(FILE);
    let device = hyperinf::device(&settings.places.device)?;
    for &seed in &settings.seeds {
        let unit = settings.unit(seed);
        if results::read::<Found>(&path)?.iter().all(|found| found.unit != unit) {
            let work = settings.places.out.join(format!("mail-truth-{seed}"));
            let found = one(&unit, settings, &work, &device)?;
            results::append(&path, &found)?;
            fs::remove_dir_all(&work)?;
        }
    }
    let all: Vec<Found> = results::read(&path)?;
    let wanted: Vec<Unit> = settings.seeds.iter().map(|&seed| settings.unit(seed)).collect();
    show(&all.into_iter().filter(|found| wanted.contains(&found.unit)).collect::<Vec<_>>());
    Ok(())
}

impl Settings {
    fn unit(&self, seed: u64) -> Unit {
        let Self { train, validation, test, noise, keep, epochs, batch_size, learning_rate, max_tokens, .. } = *self;
        Unit { seed, train, validation, test, noise, keep, epochs, batch_size, learning_rate, max_tokens }
    }
}

fn one(unit: &Unit, settings: &Settings, work: &Path, device: &Device) -> Result<Found, Failure> {
    let split = labelled("spamassassin", &settings.places, unit.train, unit.validation + unit.test, unit.seed)?;
    let Split { mut train, mut validation } = split;
    let test = validation.split_off(unit.validation);
    let mut order: Vec<usize> = (0..train.len()).collect();
    let count = (unit.noise * train.len() as f64).round() as usize;
    let (flipped, _) = order.partial_shuffle(&mut StdRng::seed_from_u64(unit.seed), count);
    let mut wrong = vec![false; train.len()];
    for &mut row in flipped {
        (wrong[row], train[row].label) = (true, 1 - train[row].label);
    }
    fs::create_dir_all(work)?;
    let rows = Files { unit, settings, work, device };
    let [of_train, of_validation, of_test] = [("train", &train), ("validation", &validation), ("test", &test)]
        .map(|(name, rows)| write(work, name, rows.iter()));
    let (train_file, validation_file, test_file) = (of_train?, of_validation?, of_test?);
    let adapter = rows.tuned(&train_file, "all", true)?;
    let length = rows.length();
    let run = Run {
        model: rows.model(),
        adapter: Some(adapter.clone()),
        train: train_file,
        query: validation_file,
        length,
        options: Options { query: QueryMode::Mean, ..Options::default() },
        out: work.join("gradients"),
        ..Run::default()
    };
    let all = rows.tested(&adapter, &test_file)?;
    let kept = |name: &str, keep: &dyn Fn(usize) -> bool| -> Result<Option<Tested>, Failure> {
        let chosen: Vec<&Labelled> =
            train.iter().enumerate().filter(|(row, _)| keep(*row)).map(|(_, mail)| mail).collect();
        if chosen.iter().all(|mail| mail.label == chosen[0].label) {
            return Ok(None);
        }
        let file = write(work, &format!("kept-{name}"), chosen.into_iter())?;
        let adapter = rows.tuned(&file, name, false)?;
        rows.tested(&adapter, &test_file).map(Some)
    };
    let right = kept("right", &|row| !wrong[row])?.ok_or("all rows have one label")?;
    let count = (unit.keep * train.len() as f64).round() as usize;
    let mut methods = Vec::new();
    for found in run.scores_by(&named()?, unit.seed, None, device, &mut |_| ())? {
        let scores = found.scores?.remove(0);
        let suspicion: Vec<f64> = scores.iter().map(|score| -score).collect();
        let mut order: Vec<usize> = (0..scores.len()).collect();
        order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]).then(a.cmp(&b)));
        let chosen = &order[..count];
        let share = chosen.iter().filter(|&&row| wrong[row]).count() as f64 / count as f64;
        let selected = kept(&found.name, &|row| chosen.contains(&row))?;
        let auc = auc(&suspicion, &wrong)?;
        let (name, seconds) = (found.name, found.seconds);
        let accuracy = selected.map_or("– (one label)".to_owned(), |found| format!("{:.3}", found.accuracy));
        println!("seed {}: {name:<12} auc {auc:.3}, accuracy of its rows {accuracy}", unit.seed);
        methods.push(MethodFound { name, auc, selected, wrong: share, seconds });
    }
    Ok(Found { unit: unit.clone(), all, right, methods })
}

/// A seed's files, and how models are trained on them.
struct Files<'a> {
    unit: &'a Unit,
    settings: &'a Settings,
    work: &'a Path,
    device: &'a Device,
}

impl Files<'_> {
    fn model(&self) -> String {
        self.settings.places.assets.join("minilm").display().to_string()
    }

    fn length(&self) -> LengthOptions {
        LengthOptions { max: Some(self.unit.max_tokens), truncate: true }
    }

    fn tuned(&self, train: &Path, name: &str, record: bool) -> Result<PathBuf, Failure> {
        let out = self.work.join(format!("adapter-{name}"));
        let Unit { seed, epochs, batch_size, learning_rate, .. } = *self.unit;
        let recipe = Recipe {
            learning_rate: Some(learning_rate),
            epochs: Some(epochs),
            batch_size: Some(batch_size),
            seed,
            ..Recipe::default()
        };
        let lora = LoraConfig { rank: 4, ..LoraConfig::default() };
        let run = Finetune {
            model: self.model(),
            train: train.to_owned(),
            out: out.clone(),
            overwrite: true,
            length: self.length(),
            lora,
            recipe,
            record,
            ..Finetune::default()
        };
        run.run(self.device, &mut |_| ())?;
        Ok(out)
    }

    fn tested(&self, adapter: &Path, rows: &Path) -> Result<Tested, Failure> {
        let evaluate = Evaluate {
            model: self.model(),
            adapter: Some(adapter.to_owned()),
            rows: rows.to_owned(),
            length: self.length(),
            ..Evaluate::default()
        };
        match evaluate.run(self.device, &mut |_| ())?.quality {
            Quality::Classes(found) => Ok(Tested { loss: found.loss, accuracy: found.accuracy }),
            _ => Err("the model is no classifier".into()),
        }
    }
}

/// Methods of gradients, those that follow the training, and baselines.
fn named() -> Result<Vec<NamedMethod>, Failure> {
    let mut all = Vec::new();
    for name in METHODS {
        let spec: MethodSpec = name.parse()?;
        let options = Box::new(spec.options()?);
        let estimate = hyperinf::gradients::Estimate::Empirical;
        all.push(NamedMethod {
            name: name.to_owned(),
            method: AnyMethod::Gradients { options, estimate, refine: None },
        });
    }
    let trajectories = Trajectory::NAMES.map(|(_, trajectory)| RowMethod::Trajectory(trajectory));
    let baselines = [Baseline::Loss, Baseline::Random].map(RowMethod::Baseline);
    for rows in std::iter::once(RowMethod::Unrolled).chain(trajectories).chain(baselines) {
        all.push(NamedMethod { name: rows.name().to_owned(), method: AnyMethod::Rows(rows) });
    }
    Ok(all)
}

fn write<'a>(folder: &Path, name: &str, rows: impl Iterator<Item = &'a Labelled>) -> Result<PathBuf, Failure> {
    let path = folder.join(format!("{name}.jsonl"));
    let line = |mail: &Labelled| format!("{}\n", json!({ "text": mail.text, "label": CLASSES[mail.label] }));
    fs::write(&path, rows.map(line).collect::<String>())?;
    Ok(path)
}

fn show(all: &[Found]) {
    let of = |values: Vec<f64>| Interval::of(&values).map_or_else(String::new, |at| at.to_string());
    let tested = |of_found: &dyn Fn(&Found) -> Tested| {
        let loss = all.iter().map(|found| of_found(found).loss).collect();
        (of(loss), of(all.iter().map(|found| of_found(found).accuracy).collect()))
    };
    println!(
        "\n| rows | AUC | wrong among selected | test loss | test accuracy | seconds |\n|---|---|---|---|---|---|"
    );
    for (name, found) in [("all", tested(&|found| found.all)), ("right labels", tested(&|found| found.right))] {
        println!("| {name} | – | – | {} | {} | – |", found.0, found.1);
    }
    let Some(first) = all.first() else { return };
    for (place, MethodFound { name, .. }) in first.methods.iter().enumerate() {
        let each = |value: fn(&MethodFound) -> Option<f64>| {
            of(all.iter().filter_map(|found| value(&found.methods[place])).collect())
        };
        let trained = all.iter().filter(|found| found.methods[place].selected.is_some()).count();
        println!(
            "| {name} | {} | {} | {} | {} ({trained}) | {} |",
            each(|found| Some(found.auc)),
            each(|found| Some(found.wrong)),
            each(|found| Some(found.selected?.loss)),
            each(|found| Some(found.selected?.accuracy)),
            each(|found| Some(found.seconds))
        );
    }
}
