//! Selections: rows of a pool with copies and wrong labels are chosen by scores, by rules, or without gradients, and a
//! model is trained on each choice with equally many steps. The accuracy on test samples says what the choice was worth.
//!
//! The model is a linear head on MiniLM's mean hidden states, which are computed once: hundreds of trainings take seconds.

mod head;

use std::collections::HashMap;
use std::path::Path;
use std::time::Instant;

use clap::Args;
use hyperinf::burn::tensor::Device;
use hyperinf::data::Bm25;
use hyperinf::eval::flipped_labels;
use hyperinf::models::{ClassifierOptions, EncoderClassifier, HeadKind, Limit, Sample, TextTokenizer, load_classifier};
use hyperinf::scoring::{
    Amount, Budget, CurvatureFrom, MethodSpec, Options, Over, Products, QueryMode, RankBy, Rules, attribute, choose,
    choose_diverse, products,
};
use rand::seq::SliceRandom;
use rand::{SeedableRng, rngs::StdRng};
use serde::{Deserialize, Serialize};

use crate::data::{self, Labelled, Split};
use crate::judge::mean_and_spread;
use crate::{Failure, Places, results};
use head::{Features, Head, cosines, sum_of};

/// Selects and trains.
#[derive(Args)]
pub struct Settings {
    #[command(flatten)]
    places: Places,
    /// The data sets: spamassassin, or names of files in DIR/glue.
    #[arg(long, value_delimiter = ',', default_value = "movie,spamassassin")]
    sets: Vec<String>,
    /// The seeds of sampling, flips, copies, new weights and order.
    #[arg(long, value_delimiter = ',', default_value = "0,1,2,3,4")]
    seeds: Vec<u64>,
    /// Different rows of the pool.
    #[arg(long, default_value_t = 800)]
    pool: usize,
    /// Rows of the pool that are there a second time.
    #[arg(long, default_value_t = 160)]
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
    #[arg(long, default_value_t = 600)]
    test: usize,
    /// Steps of 16 samples on each choice; its rows are repeated as often as needed.
    #[arg(long, default_value_t = 240)]
    steps: usize,
    /// The largest number of tokens; longer texts are cut.
    #[arg(long, default_value_t = 48)]
    max_tokens: usize,
    /// The first learning rate, which falls to 0.
    #[arg(long, default_value_t = 1e-3)]
    learning_rate: f64,
}

/// The name of the results file.
pub const FILE: &str = "selections.jsonl";
/// Rows drawn for the model that scores.
const SCORER: usize = 256;
/// Trainings on each choice, with other orders; the accuracy is their mean.
const TRAININGS: usize = 5;
const METHOD: &str = "hyperinf:cols";

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

/// Chosen rows, and the models trained on them.
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
    lengths: Vec<usize>,
    features: Features,
    wrong: Vec<bool>,
    /// Equal for rows that are the same to the model.
    keys: Vec<u128>,
}

/// Runs every unit that has no result yet.
pub fn run(settings: &Settings) -> Result<(), Failure> {
    let path = settings.places.out.join(FILE);
    let device = hyperinf::device(&settings.places.device)?;
    let minilm = settings.places.assets.join("minilm");
    let tokenizer = TextTokenizer::read(&minilm)?;
    let options = ClassifierOptions { classes: Some(2), head: Some(HeadKind::Mean), ..ClassifierOptions::default() };
    let model = load_classifier(&minilm, &options, &device)?.model;
    for &seed in &settings.seeds {
        for name in &settings.sets {
            let setting = settings.unit(name, seed);
            if results::read::<Unit>(&path)?.iter().any(|unit| unit.setting == setting) {
                continue;
            }
            let found = unit(&setting, &settings.places, &tokenizer, (&model, &device))?;
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

fn unit(
    setting: &Setting,
    places: &Places,
    tokenizer: &TextTokenizer,
    (model, device): (&EncoderClassifier, &Device),
) -> Result<Unit, Failure> {
    let (began, seed) = (Instant::now(), setting.seed);
    let held_out = setting.validation + setting.test;
    let Split { train, validation: mut clean } = data::labelled(&setting.data, places, setting.pool, held_out, seed)?;
    let test = clean.split_off(setting.validation.min(clean.len()));
    let samples = |rows: &[Labelled]| -> Result<Vec<Sample>, Failure> {
        let limit = Limit::Cut(setting.max_tokens);
        let sample =
            |row: &Labelled| Ok(tokenizer.classification(&row.text, row.pair.as_deref(), row.label, limit)?.sample);
        rows.iter().map(sample).collect()
    };
    let mut rng = StdRng::seed_from_u64(seed.wrapping_add(3));
    let flipped = flipped_labels(train.len(), setting.noise, seed.wrapping_add(1));
    let mut order: Vec<usize> = (0..train.len()).collect();
    order.shuffle(&mut rng);
    let mut rows: Vec<usize> = (0..train.len()).chain(order.into_iter().take(setting.copies)).collect();
    rows.shuffle(&mut rng);
    let train_samples = samples(&train)?;
    let mut features = Features::of(model, &train_samples)?;
    let scale = features.standardise(None);
    let held_out = |rows: &[Labelled]| -> Result<Features, Failure> {
        let mut found = Features::of(model, &samples(rows)?)?;
        found.standardise(Some(&scale));
        Ok(found)
    };
    let (query, test) = (held_out(&clean)?, held_out(&test)?);
    let pool = Pool::new(&train, &train_samples, &features, &flipped, &rows);

    let mut drawn: Vec<usize> = (0..rows.len()).collect();
    drawn.shuffle(&mut rng);
    let scorer = pool.features.train(&drawn[..SCORER.min(drawn.len())], setting.steps, setting.learning_rate, seed);
    drawn.shuffle(&mut rng);
    let mut choices = Vec::new();
    for (name, rows) in pool.choices(setting, &scorer, (&clean, &query), &drawn, device)? {
        let train = |more: u64| pool.features.train(&rows, setting.steps, setting.learning_rate, seed + 1000 * more);
        let trained = (0..TRAININGS as u64).map(train);
        let accuracy = trained.map(|head| test.accuracy(&head)).sum::<f64>() / TRAININGS as f64;
        choices.push(pool.choice(name, &rows, accuracy));
    }
    let ones = test.labels.iter().filter(|&&label| label == 1).count() as f64 / test.labels.len() as f64;
    Ok(Unit {
        setting: setting.clone(),
        scorer: test.accuracy(&scorer),
        commonest_class: ones.max(1.0 - ones),
        seconds: began.elapsed().as_secs_f64(),
        choices,
    })
}

impl Pool {
    fn new(train: &[Labelled], samples: &[Sample], features: &Features, flipped: &[bool], rows: &[usize]) -> Self {
        let mut known: HashMap<(&[u32], usize), u128> = HashMap::new();
        let mut pool = Self {
            texts: Vec::new(),
            lengths: Vec::new(),
            features: Features::default(),
            wrong: Vec::new(),
            keys: Vec::new(),
        };
        for &row in rows {
            let label = if flipped[row] { 1 - train[row].label } else { train[row].label };
            let next = known.len() as u128;
            pool.keys.push(*known.entry((samples[row].tokens.as_slice(), label)).or_insert(next));
            pool.texts.push(train[row].words());
            pool.lengths.push(samples[row].tokens.len());
            pool.features.states.push(features.states[row].clone());
            pool.features.labels.push(label);
            pool.wrong.push(flipped[row]);
        }
        pool
    }

    /// The rows of each choice; `drawn` are all rows in an order by chance.
    fn choices(
        &self,
        setting: &Setting,
        scorer: &Head,
        (clean, query): (&[Labelled], &Features),
        drawn: &[usize],
        device: &Device,
    ) -> Result<Vec<(&'static str, Vec<usize>)>, Failure> {
        let (n, features) = (self.keys.len(), &self.features);
        let own = features.gradients(scorer, &(0..n).collect::<Vec<_>>(), device)?;
        let options = Options { query: QueryMode::Mean, ..METHOD.parse::<MethodSpec>()?.options()? };
        let score = |rows: Vec<usize>| -> Result<Vec<f64>, Failure> {
            let of_query = query.gradients(scorer, &rows, device)?;
            Ok(attribute(&own, &of_query, CurvatureFrom::Training, &options)?.scores.rows.remove(0))
        };
        let scores = score((0..query.labels.len()).collect())?;
        let class = |class| (0..query.labels.len()).filter(|&row| query.labels[row] == class).collect();
        let of_class = [score(class(0))?, score(class(1))?];
        let all: Vec<usize> = (0..n).collect();
        let between = products(&own, &all, CurvatureFrom::Training, &options)?;
        let (lengths, labels) = (&self.lengths, &features.labels);
        let (budget, keep) = (Budget::Samples(Amount::Count(setting.keep)), setting.keep);
        let plain = Rules { budget, lengths, ..Rules::default() };
        let random: Vec<usize> = drawn.iter().copied().take(keep).collect();
        let tokens: usize = random.iter().map(|&row| lengths[row]).sum();
        let by = |scores: &[f64], rules: &Rules<'_>| -> Result<Vec<usize>, Failure> {
            Ok(choose(scores, RankBy::Score, rules)?.order)
        };
        let diverse = |rules: &Rules<'_>, between: &Products| -> Result<Vec<usize>, Failure> {
            Ok(choose_diverse(&scores, between, 1.0, rules)?.order)
        };
        let distinct = Rules { copies: Some(&self.keys), ..plain };
        let losses: Vec<f64> = (0..n).map(|row| features.guess(row, scorer)[labels[row]].ln()).collect();
        let lexical = Bm25::new(&self.texts);
        let lexical = sum_of(clean.iter().map(|row| lexical.scores(&row.words())), n);
        let long: Vec<f64> = lengths.iter().map(|&length| length as f64).collect();
        Ok(vec![
            ("random", random),
            ("top", by(&scores, &plain)?),
            ("drop-duplicates", by(&scores, &distinct)?),
            ("diverse", diverse(&plain, &between)?),
            ("diverse, drop-duplicates", diverse(&distinct, &between)?),
            ("per-group", by(&scores, &Rules { groups: Some((labels, keep.div_ceil(2))), ..plain })?),
            ("targets mean", by(&Over::Mean.combine(&of_class)?, &plain)?),
            ("targets max", by(&Over::Max.combine(&of_class)?, &plain)?),
            ("targets worst", by(&Over::Worst.combine(&of_class)?, &plain)?),
            ("tokens", by(&scores, &Rules { budget: Budget::Length(tokens), ..plain })?),
            ("length", by(&long, &plain)?),
            ("loss", by(&losses, &plain)?),
            ("bm25", by(&lexical, &plain)?),
            ("hidden-cosine", by(&cosines(features, query), &plain)?),
        ])
    }

    fn choice(&self, name: &str, rows: &[usize], accuracy: f64) -> Choice {
        let share = |count: usize| count as f64 / rows.len().max(1) as f64;
        let distinct: std::collections::HashSet<u128> = rows.iter().map(|&row| self.keys[row]).collect();
        let ones = share(rows.iter().filter(|&&row| self.features.labels[row] == 1).count());
        Choice {
            name: name.to_owned(),
            rows: rows.len(),
            tokens: rows.iter().map(|&row| self.lengths[row]).sum(),
            wrong: share(rows.iter().filter(|&&row| self.wrong[row]).count()),
            copied: share(rows.len() - distinct.len()),
            larger_class: ones.max(1.0 - ones),
            accuracy,
        }
    }
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
