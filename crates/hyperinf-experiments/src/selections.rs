//! Selections: rows of a pool with copies and wrong labels are chosen by scores, by rules, or without gradients, and a
//! model is tuned on each choice with equally many steps. The accuracy on test samples says what the choice was worth.

use std::collections::HashMap;
use std::path::Path;
use std::time::Instant;

use clap::Args;
use hyperinf::burn::tensor::Device;
use hyperinf::data::Bm25;
use hyperinf::eval::flipped_labels;
use hyperinf::gradients::{Gradients, Tape};
use hyperinf::linalg::host;
use hyperinf::models::{EncoderClassifier, Limit, Sample, SampleModel, TextTokenizer, TrainConfig};
use hyperinf::scoring::{
    Amount, Budget, CurvatureFrom, Over, Products, QueryMode, RankBy, Rules, choose, choose_diverse, products,
};
use rand::seq::SliceRandom;
use rand::{SeedableRng, rngs::StdRng};
use serde::{Deserialize, Serialize};

use crate::data::{self, Labelled, Split};
use crate::detection::{BATCH, accuracy, tune};
use crate::gradients::sample_gradients;
use crate::judge::{mean_and_spread, options, score_mean};
use crate::{Failure, Places, results};

/// Selects and tunes.
#[derive(Args)]
pub struct Settings {
    #[command(flatten)]
    places: Places,
    /// The data sets: spamassassin, or names of files in DIR/glue.
    #[arg(long, value_delimiter = ',', default_value = "movie,spamassassin")]
    sets: Vec<String>,
    /// The seeds of sampling, flips, copies, new weights and order.
    #[arg(long, value_delimiter = ',', default_value = "0,1,2")]
    seeds: Vec<u64>,
    /// Different rows of the pool.
    #[arg(long, default_value_t = 500)]
    pool: usize,
    /// Rows of the pool that are there a second time.
    #[arg(long, default_value_t = 100)]
    copies: usize,
    /// The share of wrong labels.
    #[arg(long, default_value_t = 0.2)]
    noise: f64,
    /// Rows to choose.
    #[arg(long, default_value_t = 96)]
    keep: usize,
    /// Clean samples of the target.
    #[arg(long, default_value_t = 100)]
    validation: usize,
    /// Samples that accuracy is measured on.
    #[arg(long, default_value_t = 400)]
    test: usize,
    /// Steps of 16 samples on each choice; its rows are repeated as often as needed.
    #[arg(long, default_value_t = 36)]
    steps: usize,
    /// The largest number of tokens; longer texts are cut.
    #[arg(long, default_value_t = 48)]
    max_tokens: usize,
    /// The peak learning rate.
    #[arg(long, default_value_t = 3e-3)]
    learning_rate: f64,
}

/// The name of the results file.
pub const FILE: &str = "selections.jsonl";
const RANK: usize = 8;
const STEP: usize = 16;
/// Rows drawn for the model that scores, and its epochs.
const SCORER: (usize, usize) = (256, 3);
const METHOD: &str = "hyperinf";

/// The result of one unit (data set, seed).
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Unit {
    setting: Setting,
    /// The accuracy of the model that scores, and that of the commonest class.
    scorer: f64,
    commonest_class: f64,
    seconds: f64,
    choices: Vec<Choice>,
}

/// The identity of a unit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Setting {
    data: String,
    seed: u64,
    pool: usize,
    copies: usize,
    noise: f64,
    keep: usize,
    validation: usize,
    test: usize,
    steps: usize,
    max_tokens: usize,
    learning_rate: f64,
}

/// Chosen rows, and the model tuned on them.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Choice {
    name: String,
    rows: usize,
    tokens: usize,
    /// Shares of wrong labels, of rows that are in the choice twice, and of the more frequent class.
    wrong: f64,
    copied: f64,
    larger_class: f64,
    accuracy: f64,
}

/// The rows to choose from.
struct Pool {
    texts: Vec<String>,
    samples: Vec<Sample>,
    wrong: Vec<bool>,
    /// Equal for rows that are the same to the model.
    keys: Vec<u128>,
}

/// Runs every unit that has no result yet.
pub fn run(settings: &Settings) -> Result<(), Failure> {
    let path = settings.places.out.join(FILE);
    let device = hyperinf::device(&settings.places.device)?;
    let tokenizer = TextTokenizer::read(&settings.places.assets.join("minilm"))?;
    for &seed in &settings.seeds {
        for name in &settings.sets {
            let setting = settings.unit(name, seed);
            if results::read::<Unit>(&path)?.iter().any(|unit| unit.setting == setting) {
                continue;
            }
            let found = unit(&setting, &settings.places, &tokenizer, &device)?;
            println!("{name} seed {seed}: the scorer's accuracy {:.3}; {:.0} s", found.scorer, found.seconds);
            results::append(&path, &found)?;
        }
    }
    Ok(())
}

impl Settings {
    fn unit(&self, data: &str, seed: u64) -> Setting {
        Setting {
            data: data.to_owned(),
            seed,
            pool: self.pool,
            copies: self.copies,
            noise: self.noise,
            keep: self.keep,
            validation: self.validation,
            test: self.test,
            steps: self.steps,
            max_tokens: self.max_tokens,
            learning_rate: self.learning_rate,
        }
    }
}

fn unit(setting: &Setting, places: &Places, tokenizer: &TextTokenizer, device: &Device) -> Result<Unit, Failure> {
    let (began, seed) = (Instant::now(), setting.seed);
    let held_out = setting.validation + setting.test;
    let Split { train, validation: mut clean } = data::labelled(&setting.data, places, setting.pool, held_out, seed)?;
    let test = clean.split_off(setting.validation.min(clean.len()));
    let sample = |row: &Labelled, wrong: bool| -> Result<Sample, Failure> {
        let label = if wrong { 1 - row.label } else { row.label };
        let limit = Limit::Cut(setting.max_tokens);
        Ok(tokenizer.classification(&row.text, row.pair.as_deref(), label, limit)?.sample)
    };
    let right = |rows: &[Labelled]| rows.iter().map(|row| sample(row, false)).collect::<Result<Vec<_>, _>>();
    let (clean_samples, test_samples) = (right(&clean)?, right(&test)?);
    let test: Vec<usize> = test.iter().map(|row| row.label).collect();
    let mut rng = StdRng::seed_from_u64(seed.wrapping_add(3));
    let flipped = flipped_labels(train.len(), setting.noise, seed.wrapping_add(1));
    let mut order: Vec<usize> = (0..train.len()).collect();
    order.shuffle(&mut rng);
    let mut places_of: Vec<usize> = (0..train.len()).chain(order.into_iter().take(setting.copies)).collect();
    places_of.shuffle(&mut rng);
    let pool = Pool::new(&train, &flipped, &places_of, sample)?;

    let schedule = TrainConfig {
        learning_rate: setting.learning_rate,
        epochs: SCORER.1,
        batch_size: STEP,
        seed,
        ..TrainConfig::default()
    };
    let mut drawn: Vec<usize> = (0..pool.samples.len()).collect();
    drawn.shuffle(&mut rng);
    let of_scorer: Vec<Sample> = drawn.iter().take(SCORER.0).map(|&row| pool.samples[row].clone()).collect();
    let scorer = tune(&of_scorer, RANK, &schedule, &setting.data, places, device)?;
    drawn.shuffle(&mut rng);

    let mut choices = Vec::new();
    for (name, rows) in pool.choices(setting, &scorer, &clean, &clean_samples, &drawn)? {
        // Every choice is seen as often: rows in turn, in an order by the seed.
        let once = TrainConfig { epochs: 1, ..schedule };
        let repeated = rows.iter().cycle().take(setting.steps * STEP);
        let samples: Vec<Sample> = repeated.map(|&row| pool.samples[row].clone()).collect();
        let model = tune(&samples, RANK, &once, &format!("{} {name}", setting.data), places, device)?;
        let choice = pool.choice(name, &rows, accuracy(&model, &test_samples, &test)?);
        println!("  {choice:?}");
        choices.push(choice);
    }
    let ones = test.iter().filter(|&&label| label == 1).count() as f64 / test.len() as f64;
    Ok(Unit {
        setting: setting.clone(),
        scorer: accuracy(&scorer, &test_samples, &test)?,
        commonest_class: ones.max(1.0 - ones),
        seconds: began.elapsed().as_secs_f64(),
        choices,
    })
}

impl Pool {
    fn new(
        train: &[Labelled],
        flipped: &[bool],
        rows: &[usize],
        sample: impl Fn(&Labelled, bool) -> Result<Sample, Failure>,
    ) -> Result<Self, Failure> {
        let (mut samples, mut texts, mut wrong, mut keys) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let mut known: HashMap<(Vec<u32>, usize), u128> = HashMap::new();
        for &row in rows {
            let found = sample(&train[row], flipped[row])?;
            let next = known.len() as u128;
            keys.push(*known.entry((found.tokens.clone(), found.label)).or_insert(next));
            samples.push(found);
            texts.push(train[row].words());
            wrong.push(flipped[row]);
        }
        Ok(Self { texts, samples, wrong, keys })
    }

    /// The rows of each choice; `drawn` are all rows in an order by chance.
    fn choices(
        &self,
        setting: &Setting,
        scorer: &EncoderClassifier,
        clean: &[Labelled],
        clean_samples: &[Sample],
        drawn: &[usize],
    ) -> Result<Vec<(&'static str, Vec<usize>)>, Failure> {
        let n = self.samples.len();
        let pass = sample_gradients(scorer, &self.samples, BATCH)?;
        let of_query = |samples: &[Sample]| -> Result<Gradients, Failure> {
            Ok(sample_gradients(scorer, samples, BATCH)?.gradients)
        };
        let scores = score_mean(METHOD, &pass.gradients, &of_query(clean_samples)?)?;
        let mut of_class = Vec::new();
        for class in 0..2 {
            let rows: Vec<Sample> = clean_samples.iter().filter(|sample| sample.label == class).cloned().collect();
            of_class.push(score_mean(METHOD, &pass.gradients, &of_query(&rows)?)?);
        }
        let all: Vec<usize> = (0..n).collect();
        let between = products(&pass.gradients, &all, CurvatureFrom::Training, &options(METHOD, QueryMode::Mean)?)?;
        let lengths: Vec<usize> = self.samples.iter().map(|sample| sample.tokens.len()).collect();
        let labels: Vec<usize> = self.samples.iter().map(|sample| sample.label).collect();
        let (budget, keep) = (Budget::Samples(Amount::Count(setting.keep)), setting.keep);
        let plain = Rules { budget, lengths: &lengths, ..Rules::default() };
        let random: Vec<usize> = drawn.iter().copied().take(keep).collect();
        let tokens: usize = random.iter().map(|&row| lengths[row]).sum();
        let by = |scores: &[f64], rules: &Rules<'_>| -> Result<Vec<usize>, Failure> {
            Ok(choose(scores, RankBy::Score, rules)?.order)
        };
        let diverse = |rules: &Rules<'_>, between: &Products| -> Result<Vec<usize>, Failure> {
            Ok(choose_diverse(&scores, between, 1.0, rules)?.order)
        };
        let distinct = Rules { copies: Some(&self.keys), ..plain };
        let losses: Vec<f64> = pass.losses.iter().map(|loss| -loss).collect();
        let lexical = Bm25::new(&self.texts);
        let lexical = mean_of(clean.iter().map(|row| lexical.scores(&row.words())), n);
        let long: Vec<f64> = lengths.iter().map(|&length| length as f64).collect();
        Ok(vec![
            ("random", random),
            ("top", by(&scores, &plain)?),
            ("drop-duplicates", by(&scores, &distinct)?),
            ("diverse", diverse(&plain, &between)?),
            ("diverse, drop-duplicates", diverse(&distinct, &between)?),
            ("per-group", by(&scores, &Rules { groups: Some((&labels, keep.div_ceil(2))), ..plain })?),
            ("targets mean", by(&Over::Mean.combine(&of_class)?, &plain)?),
            ("targets max", by(&Over::Max.combine(&of_class)?, &plain)?),
            ("targets worst", by(&Over::Worst.combine(&of_class)?, &plain)?),
            ("tokens", by(&scores, &Rules { budget: Budget::Length(tokens), ..plain })?),
            ("length", by(&long, &plain)?),
            ("loss", by(&losses, &plain)?),
            ("bm25", by(&lexical, &plain)?),
            ("hidden-cosine", by(&cosines(scorer, &self.samples, clean_samples)?, &plain)?),
        ])
    }

    fn choice(&self, name: &str, rows: &[usize], accuracy: f64) -> Choice {
        let share = |count: usize| count as f64 / rows.len().max(1) as f64;
        let distinct: std::collections::HashSet<u128> = rows.iter().map(|&row| self.keys[row]).collect();
        let ones = share(rows.iter().filter(|&&row| self.samples[row].label == 1).count());
        Choice {
            name: name.to_owned(),
            rows: rows.len(),
            tokens: rows.iter().map(|&row| self.samples[row].tokens.len()).sum(),
            wrong: share(rows.iter().filter(|&&row| self.wrong[row]).count()),
            copied: share(rows.len() - distinct.len()),
            larger_class: ones.max(1.0 - ones),
            accuracy,
        }
    }
}

/// The mean of several rows of scores.
fn mean_of(rows: impl Iterator<Item = Vec<f64>>, n: usize) -> Vec<f64> {
    rows.fold(vec![0.0; n], |sum, row| sum.iter().zip(row).map(|(a, b)| a + b).collect())
}

/// The sum of the cosines of each row's mean hidden state with those of the queries.
fn cosines(model: &EncoderClassifier, rows: &[Sample], queries: &[Sample]) -> Result<Vec<f64>, Failure> {
    let states = |samples: &[Sample]| -> Result<Vec<Vec<f64>>, Failure> {
        let mut found = Vec::with_capacity(samples.len());
        for batch in samples.chunks(BATCH) {
            let batch: Vec<&Sample> = batch.iter().collect();
            let states = model.encoder.pooled(&model.collate(&batch)?.tokens, &mut Tape::off());
            let width = states.dims()[1];
            found.extend(host(states)?.chunks(width).map(|state| {
                let norm = state.iter().map(|value| value * value).sum::<f64>().sqrt();
                state.iter().map(|value| value / norm).collect::<Vec<f64>>()
            }));
        }
        Ok(found)
    };
    let (rows, queries) = (states(rows)?, states(queries)?);
    let sum = queries.into_iter().reduce(|a, b| a.iter().zip(b).map(|(a, b)| a + b).collect()).unwrap_or_default();
    Ok(rows.iter().map(|row| row.iter().zip(&sum).map(|(a, b)| a * b).sum()).collect())
}

/// Prints a table per data set: means over the seeds with their spread.
pub fn print(out: &Path) -> Result<(), Failure> {
    let all = results::read::<Unit>(&out.join(FILE))?;
    for (setting, group) in results::groups(all, |unit| Setting { seed: 0, ..unit.setting.clone() }) {
        let shown = |values: Vec<f64>| {
            let (mean, spread) = mean_and_spread(&values);
            format!("{mean:.3} ± {spread:.3}")
        };
        let of = |figure: fn(&Unit) -> f64| shown(group.iter().map(figure).collect());
        println!(
            "\n### {}: {} rows and {} copies, {} chosen, {} seeds\n\nThe scorer's accuracy {}, the commonest class {}\n\n\
             | choice | rows | tokens | wrong labels | copies | larger class | accuracy | over random |\n\
             |---|---|---|---|---|---|---|---|",
            setting.data,
            setting.pool,
            setting.copies,
            setting.keep,
            group.len(),
            of(|unit| unit.scorer),
            of(|unit| unit.commonest_class)
        );
        for (place, first) in group[0].choices.iter().enumerate() {
            let mean = |figure: fn(&Choice) -> f64| {
                mean_and_spread(&group.iter().map(|unit| figure(&unit.choices[place])).collect::<Vec<_>>()).0
            };
            let over = |unit: &Unit| unit.choices[place].accuracy - unit.choices[0].accuracy;
            println!(
                "| {} | {:.0} | {:.0} | {:.3} | {:.3} | {:.3} | {} | {} |",
                first.name,
                mean(|c| c.rows as f64),
                mean(|c| c.tokens as f64),
                mean(|c| c.wrong),
                mean(|c| c.copied),
                mean(|c| c.larger_class),
                shown(group.iter().map(|unit| unit.choices[place].accuracy).collect()),
                shown(group.iter().map(over).collect())
            );
        }
    }
    Ok(())
}
