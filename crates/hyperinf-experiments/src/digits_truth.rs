//! The exact derivative and every method on the built-in digits: do they predict what *this* training would have led to
//! without some images? Training runs in f64 with AdamW and a schedule, by the library's own loop.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::Args;
use hyperinf::burn;
use hyperinf::burn::module::Module;
use hyperinf::burn::tensor::activation::log_softmax;
use hyperinf::burn::tensor::{DType, Device, Tensor};
use hyperinf::eval::digits::{DigitsConfig, Images, Labelled, PIXELS, Perceptron, PerceptronModule};
use hyperinf::eval::{Bootstrap, Candidate, LdsTruth};
use hyperinf::gradients::{Estimate, Likelihood, Tape, Task};
use hyperinf::linalg::host;
use hyperinf::models::{FinetuneConfig, ModelError, OptimizerChoice, Recording, SampleModel, TrainConfig, Unroll};
use hyperinf::scoring::{CurvatureFrom, TaskSource, attribute};
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use serde::{Deserialize, Serialize};

use crate::{Failure, results};

/// Compares scores with trainings in which some images have the weight 0.
#[derive(Args)]
pub struct Settings {
    /// The folder of results.
    #[arg(long, default_value = "target/experiments")]
    out: PathBuf,
    /// The name of the device; it needs f64.
    #[arg(long, default_value = "flex")]
    device: String,
    /// Shares of the images whose weight is 0.
    #[arg(long, value_delimiter = ',', default_value = "0.01,0.05,0.2,0.5")]
    drop: Vec<f64>,
    /// Trainings for each share.
    #[arg(long, default_value_t = 100)]
    subsets: usize,
    /// Training images and queries.
    #[arg(long, default_value_t = 1000)]
    train: usize,
    #[arg(long, default_value_t = 100)]
    queries: usize,
    /// Passes over the images.
    #[arg(long, default_value_t = 30)]
    epochs: usize,
    /// The peak learning rate.
    #[arg(long, default_value_t = 1e-3)]
    learning_rate: f64,
    /// Images per step.
    #[arg(long, default_value_t = 32)]
    batch_size: usize,
    /// Between the layers: relu, or tanh, which has no kinks.
    #[arg(long, default_value = "relu", value_parser = ["relu", "tanh"])]
    activation: String,
    /// What takes the steps: adamw, or sgd with the momentum .9.
    #[arg(long, default_value = "adamw", value_parser = ["adamw", "sgd"])]
    optimizer: String,
    /// Methods to leave out: `exact:merged@gauss-newton` takes half an hour for 1,000 images.
    #[arg(long, value_delimiter = ',')]
    without: Vec<String>,
}

/// The name of the results file.
pub const FILE: &str = "digits-truth.jsonl";

/// One method against the trainings without a share of the images.
#[derive(Debug, Serialize, Deserialize)]
pub struct Predicted {
    pub drop: f64,
    pub subsets: usize,
    pub train: usize,
    pub queries: usize,
    pub epochs: usize,
    pub learning_rate: f64,
    pub batch_size: usize,
    #[serde(default = "relu")]
    pub activation: String,
    #[serde(default = "adamw")]
    pub optimizer: String,
    pub method: String,
    pub lds: f64,
    /// Over subsets and queries.
    pub low: f64,
    pub high: f64,
    /// Over subsets alone.
    pub subsets_low: f64,
    pub subsets_high: f64,
    /// Of the scores, for all queries.
    pub seconds: f64,
}

fn relu() -> String {
    "relu".into()
}

fn adamw() -> String {
    "adamw".into()
}

/// An image with its label: pixels as in the file, 0 to 16.
#[derive(Clone, Hash)]
struct Digit {
    pixels: Vec<u8>,
    label: usize,
}

/// The perceptron as a model that can be fine-tuned.
#[derive(Module, Debug)]
struct Net {
    inner: PerceptronModule,
    smooth: bool,
}

impl Task for Net {
    type Batch = Labelled;

    fn forward(&self, batch: &Labelled, tape: &mut Tape) -> Tensor<2> {
        if !self.smooth {
            return self.inner.forward(batch, tape);
        }
        let layers = self.inner.layers.iter().enumerate();
        layers.fold(batch.pixels.clone(), |values, (place, layer)| {
            let input = if place > 0 { values.tanh() } else { values };
            tape.linear(&place.to_string(), layer, input)
        })
    }

    fn loss(&self, outputs: Tensor<2>, batch: &Labelled) -> Tensor<1> {
        (log_softmax(outputs, 1) * batch.labels.clone()).sum_dim(1).squeeze_dim::<1>(1).neg()
    }

    fn likelihood(&self, batch: &Labelled) -> Option<Likelihood> {
        self.inner.likelihood(batch)
    }
}

impl SampleModel for Net {
    type Sample = Digit;

    fn collate(&self, samples: &[&Digit]) -> Result<Labelled, ModelError> {
        let pixels = samples.iter().flat_map(|digit| &digit.pixels).map(|&value| f64::from(value) / 16.0).collect();
        let images = Images { pixels, labels: samples.iter().map(|digit| digit.label).collect() };
        let mut batches = images.batches(samples.len(), &self.device(), self.inner.layers[0].weight.val().dtype());
        batches.pop().ok_or(ModelError::Empty { what: "samples in a batch" })
    }

    fn length(_: &Digit) -> usize {
        1
    }

    fn device(&self) -> Device {
        self.inner.layers[0].weight.val().device()
    }
}

/// Trains, scores with every method, and compares, for each share that has no result yet.
pub fn run(settings: &Settings) -> Result<(), Failure> {
    let path = settings.out.join(FILE);
    let mut missing = settings.drop.clone();
    let known = |drop: f64, found: &Predicted| {
        let Settings { subsets, train, queries, epochs, learning_rate, batch_size, .. } = *settings;
        let same = (&found.activation, &found.optimizer) == (&settings.activation, &settings.optimizer);
        let numbers = (found.subsets, found.train, found.queries, found.epochs, found.batch_size);
        same && (found.drop, found.learning_rate) == (drop, learning_rate)
            && numbers == (subsets, train, queries, epochs, batch_size)
    };
    let earlier: Vec<Predicted> = results::read(&path)?;
    missing.retain(|&drop| !earlier.iter().any(|found| known(drop, found)));
    if !missing.is_empty() {
        compare(settings, &missing, &path)?;
    }
    let mut found: Vec<Predicted> = results::read(&path)?;
    found.retain(|found| known(found.drop, found));
    print(&found);
    Ok(())
}

fn compare(settings: &Settings, drops: &[f64], path: &Path) -> Result<(), Failure> {
    let device = hyperinf::device(&settings.device)?;
    let config = DigitsConfig { train: settings.train, queries: settings.queries, ..DigitsConfig::default() };
    let task = config.task()?;
    let [train, queries] = [&task.train, &task.queries].map(samples);
    let inner = Perceptron::new(&task.hidden, 0).module(&device, DType::F64);
    let net = Net { inner, smooth: settings.activation == "tanh" };
    let schedule = TrainConfig {
        learning_rate: settings.learning_rate,
        epochs: settings.epochs,
        batch_size: settings.batch_size,
        optimizer: match settings.optimizer.as_str() {
            "sgd" => OptimizerChoice::Sgd { momentum: 0.9 },
            _ => OptimizerChoice::AdamW,
        },
        ..TrainConfig::default()
    };
    let tuning = FinetuneConfig { schedule, ..FinetuneConfig::default() };
    let go_on = |_: usize| ControlFlow::Continue(());
    let steps = schedule.steps(train.len());
    let (began, every) = (Instant::now(), Recording::usual_spacing(steps));
    let recording = Recording::of_training(net.clone(), &train, &tuning, every, None, go_on)?;
    eprintln!("{steps} steps in {:.2} s", began.elapsed().as_secs_f64());
    let trained = recording.apply(net.clone())?;
    let base = losses(&trained, &queries)?;
    eprintln!("mean loss of the queries {:.4}", base.iter().sum::<f64>() / base.len() as f64);
    let scores = scores(settings, &task.train, &task.queries, (&net, &trained), &recording)?;

    for &drop in drops {
        let removed = subsets(train.len(), drop, settings.subsets);
        let mut found = Vec::new();
        for (number, rows) in removed.iter().enumerate() {
            let mut weights = vec![1.0; train.len()];
            rows.iter().for_each(|&row| weights[row] = 0.0);
            let again = recording.reweighted(&net, &train, weights, go_on)?;
            found.push(vec![losses(&again.apply(net.clone())?, &queries)?]);
            if number % 10 == 9 {
                eprintln!("drop {drop}: {} trainings", number + 1);
            }
        }
        let truth = LdsTruth::of_removals(train.len(), &removed, found)?;
        for (method, rows, seconds) in &scores {
            let spread = truth.spread(rows, &Bootstrap::default())?;
            let ends = |interval: hyperinf::eval::Interval| {
                (interval.low.unwrap_or(f64::NAN), interval.high.unwrap_or(f64::NAN))
            };
            let ((low, high), (subsets_low, subsets_high)) = (ends(spread.both), ends(spread.subsets));
            let Settings { subsets, train, queries, epochs, learning_rate, batch_size, .. } = *settings;
            let (method, seconds, lds) = (method.clone(), *seconds, spread.lds.mean.mean);
            let predicted = Predicted {
                drop,
                subsets,
                train,
                queries,
                epochs,
                learning_rate,
                batch_size,
                activation: settings.activation.clone(),
                optimizer: settings.optimizer.clone(),
                method,
                lds,
                low,
                high,
                subsets_low,
                subsets_high,
                seconds,
            };
            results::append(path, &predicted)?;
        }
    }
    Ok(())
}

/// A method's name, its scores and its seconds.
type Scored = (String, Vec<Vec<f64>>, f64);

/// The scores of every method for every query, and the seconds that they took.
fn scores(
    settings: &Settings,
    train: &Images,
    queries: &Images,
    (net, trained): (&Net, &Net),
    recording: &Recording,
) -> Result<Vec<Scored>, Failure> {
    let device = hyperinf::device(&settings.device)?;
    let batches = |images: &Images| images.batches(100, &device, DType::F64);
    let (train_batches, query_batches) = (batches(train), batches(queries));
    let mut all = Vec::new();
    for spec in Candidate::all()? {
        let Candidate { name, options, estimate, .. } = Candidate::new(&spec, 16, 0)?;
        if settings.without.contains(&name) {
            continue;
        }
        let began = Instant::now();
        let of_train = TaskSource::train(trained, &train_batches);
        let of_queries = TaskSource::query(trained, &query_batches);
        let drawn = TaskSource::curvature(trained, &train_batches, estimate);
        let from = match estimate {
            Estimate::Empirical => CurvatureFrom::Training,
            Estimate::Sampled { .. } | Estimate::GaussNewton { .. } => CurvatureFrom::Source(&drawn),
        };
        let found = attribute(&of_train, &of_queries, from, &options)?;
        let seconds = began.elapsed().as_secs_f64();
        eprintln!("{name}: {seconds:.2} s");
        all.push((name, found.scores.rows, seconds));
    }
    let (of_train, of_queries) = (samples(train), samples(queries));
    let began = Instant::now();
    let unroll = Unroll {
        model: net,
        measured: net,
        train: &of_train,
        queries: &of_queries,
        mean: false,
        recording,
        length: None,
    };
    let found = unroll.run(|_| ControlFlow::Continue(()))?;
    let seconds = began.elapsed().as_secs_f64();
    eprintln!("unrolled: {seconds:.2} s, error {:.1e}", found.error);
    all.push(("unrolled".into(), found.scores, seconds));

    let same = |row: Vec<f64>| vec![row; queries.len()];
    let began = Instant::now();
    let loss = losses(trained, &of_train)?.into_iter().map(|loss| -loss).collect();
    all.push(("loss".into(), same(loss), began.elapsed().as_secs_f64()));
    let began = Instant::now();
    let unit = |images: &Images, image: usize| {
        let pixels = images.image(image);
        let norm = pixels.iter().map(|value| value * value).sum::<f64>().sqrt();
        pixels.iter().map(|value| value / norm).collect::<Vec<f64>>()
    };
    let [units, of_query] = [train, queries].map(|all| (0..all.len()).map(|i| unit(all, i)).collect::<Vec<_>>());
    let product = |a: &Vec<f64>, b: &Vec<f64>| a.iter().zip(b).map(|(a, b)| a * b).sum();
    let cosines = of_query.iter().map(|query| units.iter().map(|image| product(query, image)).collect()).collect();
    all.push(("pixel-cosine".into(), cosines, began.elapsed().as_secs_f64()));
    let mut random = StdRng::seed_from_u64(0);
    all.push(("random".into(), same((0..train.len()).map(|_| random.random::<f64>()).collect()), 0.0));
    Ok(all)
}

/// Random images for each training; those of a training do not depend on how many there are.
fn subsets(samples: usize, share: f64, subsets: usize) -> Vec<Vec<usize>> {
    let count = ((share * samples as f64).round() as usize).max(1);
    let subset = |number: usize| {
        let mut all: Vec<usize> = (0..samples).collect();
        let (drawn, _) = all.partial_shuffle(&mut StdRng::seed_from_u64(number as u64), count);
        let mut drawn = drawn.to_vec();
        drawn.sort_unstable();
        drawn
    };
    (0..subsets).map(subset).collect()
}

fn samples(images: &Images) -> Vec<Digit> {
    let digit = |(pixels, &label): (&[f64], &usize)| Digit {
        pixels: pixels.iter().map(|value| (value * 16.0).round() as u8).collect(),
        label,
    };
    images.pixels.chunks(PIXELS).zip(&images.labels).map(digit).collect()
}

fn losses(net: &Net, samples: &[Digit]) -> Result<Vec<f64>, Failure> {
    let batch = net.collate(&samples.iter().collect::<Vec<_>>())?;
    Ok(host(net.loss(net.forward(&batch, &mut Tape::off()), &batch))?)
}

fn print(found: &[Predicted]) {
    let mut drops: Vec<f64> = found.iter().map(|found| found.drop).collect();
    drops.sort_by(f64::total_cmp);
    drops.dedup();
    let heads: String = drops.iter().map(|drop| format!(" {} % |", 100.0 * drop)).collect();
    println!("| method |{heads} seconds |\n|---|{}---|", "---|".repeat(drops.len()));
    let mut names: Vec<&str> = Vec::new();
    found.iter().for_each(|found| {
        if !names.contains(&found.method.as_str()) {
            names.push(&found.method);
        }
    });
    for name in names {
        let of = |drop: &f64| found.iter().find(|found| found.method == name && found.drop == *drop);
        let cells = drops.iter().map(|drop| {
            of(drop).map_or(" – |".into(), |at| format!(" {:.3} [{:.3}, {:.3}] |", at.lds, at.low, at.high))
        });
        let seconds = drops.iter().find_map(of).map_or(f64::NAN, |found| found.seconds);
        println!("| {name} |{} {seconds:.2} |", cells.collect::<String>());
    }
}
