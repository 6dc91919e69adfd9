//! Cleaning: MiniLM is tuned on noisy labels, a method removes the most suspicious samples, and a model is tuned on the
//! rest. The accuracy on test samples says what the removal was worth.

use std::time::Instant;

use clap::Args;
use hyperinf::burn::tensor::Device;
use hyperinf::eval::{auc, flipped_labels};
use hyperinf::models::{Limit, Sample, TextTokenizer, TrainConfig};
use rand::seq::SliceRandom;
use rand::{SeedableRng, rngs::StdRng};

use crate::data::{self, Labelled, Split};
use crate::detection::{BATCH, accuracy, tune};
use crate::gradients::sample_gradients;
use crate::judge::{mean_and_spread, score_mean};
use crate::results::{self, Cleaning, CleaningMethod, CleaningSetting};
use crate::{Failure, Places};

/// Cleans and tunes again.
#[derive(Args)]
pub struct Settings {
    #[command(flatten)]
    places: Places,
    /// The data sets: spamassassin, or names of files in DIR/glue, such as sst2, qnli, mrpc, qqp.
    #[arg(long, value_delimiter = ',', default_value = "sst2,qnli,qqp,spamassassin")]
    sets: Vec<String>,
    /// The rank of the adapters.
    #[arg(long, default_value_t = 8)]
    rank: usize,
    /// The seeds of sampling, flips, new weights and order.
    #[arg(long, value_delimiter = ',', default_value = "0,1,2,3,4")]
    seeds: Vec<u64>,
    /// The largest number of training samples.
    #[arg(long, default_value_t = 1000)]
    train: usize,
    /// Clean samples that suspicion is measured with.
    #[arg(long, default_value_t = 200)]
    validation: usize,
    /// Samples that accuracy is measured on; they are seen by no method.
    #[arg(long, default_value_t = 600)]
    test: usize,
    /// The share of flipped labels.
    #[arg(long, default_value_t = 0.2)]
    noise: f64,
    /// The share of the training samples that is removed.
    #[arg(long, default_value_t = 0.2)]
    remove: f64,
    /// The largest number of tokens; longer texts are cut.
    #[arg(long, default_value_t = 128)]
    max_tokens: usize,
    /// Passes over the training samples.
    #[arg(long, default_value_t = 3)]
    epochs: usize,
    /// Samples per step.
    #[arg(long, default_value_t = 16)]
    batch_size: usize,
    /// The peak learning rate.
    #[arg(long, default_value_t = 2e-3)]
    learning_rate: f64,
    /// A run of a few minutes: 200 training samples, 50 validation and 100 test samples, one seed.
    #[arg(long)]
    quick: bool,
}

/// The name of the results file.
pub const FILE: &str = "cleaning.jsonl";
/// The methods that remove samples by their scores.
const SCORED: [&str; 4] = ["identity", "cosine", "datainf", "hyperinf"];

/// Runs every unit that has no result yet.
pub fn run(settings: &Settings) -> Result<(), Failure> {
    let path = settings.places.out.join(FILE);
    let device = hyperinf::device(&settings.places.device)?;
    let tokenizer = TextTokenizer::read(&settings.places.assets.join("minilm"))?;
    let seeds = if settings.quick { &[0][..] } else { settings.seeds.as_slice() };
    // Seeds in the outer loop: an interrupted run has every data set.
    for &seed in seeds {
        for name in &settings.sets {
            let setting = settings.unit(name, seed);
            let done = results::read::<Cleaning>(&path)?;
            if done.iter().any(|result| result.setting == setting) {
                continue;
            }
            let result = unit(&setting, &settings.places, &tokenizer, &device)?;
            show(&result);
            results::append(&path, &result)?;
        }
    }
    Ok(())
}

impl Settings {
    fn unit(&self, data: &str, seed: u64) -> CleaningSetting {
        let quick = |full, quick| if self.quick { quick } else { full };
        CleaningSetting {
            data: data.to_owned(),
            rank: self.rank,
            seed,
            train: quick(self.train, 200),
            validation: quick(self.validation, 50),
            test: quick(self.test, 100),
            noise: self.noise,
            remove: self.remove,
            max_tokens: self.max_tokens,
            epochs: self.epochs,
            batch_size: self.batch_size,
            learning_rate: self.learning_rate,
        }
    }
}

fn unit(
    setting: &CleaningSetting,
    places: &Places,
    tokenizer: &TextTokenizer,
    device: &Device,
) -> Result<Cleaning, Failure> {
    let began = Instant::now();
    let CleaningSetting { rank, seed, max_tokens, epochs, batch_size, learning_rate, .. } = *setting;
    let held_out = setting.validation + setting.test;
    let Split { train, validation: mut clean } = data::labelled(&setting.data, places, setting.train, held_out, seed)?;
    let test = clean.split_off(setting.validation.min(clean.len()));
    let sample = |row: &Labelled, wrong: bool| -> Result<Sample, Failure> {
        let label = if wrong { 1 - row.label } else { row.label };
        Ok(tokenizer.classification(&row.text, row.pair.as_deref(), label, Limit::Cut(max_tokens))?.sample)
    };
    let right = |rows: &[Labelled]| rows.iter().map(|row| sample(row, false)).collect::<Result<Vec<_>, _>>();
    let flipped = flipped_labels(train.len(), setting.noise, seed.wrapping_add(1));
    let noisy = train.iter().zip(&flipped).map(|(row, &wrong)| sample(row, wrong)).collect::<Result<Vec<_>, _>>()?;
    let (clean, test_samples) = (right(&clean)?, right(&test)?);
    let labels = |rows: &[Labelled]| rows.iter().map(|row| row.label).collect::<Vec<usize>>();
    let (truth, test) = (labels(&train), labels(&test));

    let schedule = TrainConfig { learning_rate, epochs, batch_size, seed, ..TrainConfig::default() };
    let model = tune(&noisy, rank, &schedule, &setting.data, places, device)?;
    let accuracy_test = accuracy(&model, &test_samples, &test)?;
    let pass = sample_gradients(&model, &noisy, BATCH)?;
    let query = sample_gradients(&model, &clean, BATCH)?.gradients;

    let mut suspicions = vec![("random", random(noisy.len(), seed)), ("training-loss", pass.losses.clone())];
    for name in SCORED {
        let scores = score_mean(name, &pass.gradients, &query)?;
        suspicions.push((name, scores.into_iter().map(|score| -score).collect()));
    }
    // What perfect knowledge would be worth.
    suspicions.push(("truth", flipped.iter().map(|&wrong| f64::from(u8::from(wrong))).collect()));
    let mut methods = Vec::new();
    for (name, suspicion) in suspicions {
        let mut order: Vec<usize> = (0..noisy.len()).collect();
        order.sort_by(|&a, &b| suspicion[b].total_cmp(&suspicion[a]));
        let count = (setting.remove * noisy.len() as f64).round() as usize;
        let mut kept = order.split_off(count);
        kept.sort_unstable();
        let rest: Vec<Sample> = kept.iter().map(|&row| noisy[row].clone()).collect();
        let again = tune(&rest, rank, &schedule, &format!("{} without {name}", setting.data), places, device)?;
        methods.push(CleaningMethod {
            name: name.to_owned(),
            auc: auc(&suspicion, &flipped)?,
            precision: order.iter().filter(|&&row| flipped[row]).count() as f64 / count.max(1) as f64,
            accuracy: accuracy(&again, &test_samples, &test)?,
        });
    }
    let ones = test.iter().filter(|&&label| label == 1).count() as f64 / test.len() as f64;
    Ok(Cleaning {
        setting: setting.clone(),
        commonest_class: ones.max(1.0 - ones),
        accuracy_test,
        accuracy_true_labels: accuracy(&model, &noisy, &truth)?,
        seconds: began.elapsed().as_secs_f64(),
        methods,
    })
}

/// Suspicions by chance.
fn random(count: usize, seed: u64) -> Vec<f64> {
    let mut values: Vec<f64> = (0..count).map(|value| value as f64).collect();
    values.shuffle(&mut StdRng::seed_from_u64(seed.wrapping_add(2)));
    values
}

fn show(result: &Cleaning) {
    let Cleaning { setting, accuracy_test, commonest_class, seconds, .. } = result;
    println!(
        "{} seed {}: accuracy {accuracy_test:.3} (guessing {commonest_class:.3}); {seconds:.0} s",
        setting.data, setting.seed
    );
    for CleaningMethod { name, auc, precision, accuracy } in &result.methods {
        println!("  without {name:14} AUC {auc:.3}  removed {precision:.3} wrong  accuracy {accuracy:.3}");
    }
}

/// Prints a table with one row per data set: the mean accuracy over the seeds, with its spread.
pub fn print(out: &std::path::Path) -> Result<(), Failure> {
    let all = results::read::<Cleaning>(&out.join(FILE))?;
    for (setting, group) in results::groups(all, |result| CleaningSetting { seed: 0, ..result.setting.clone() }) {
        let shown = |values: Vec<f64>| {
            let (mean, spread) = mean_and_spread(&values);
            format!("{mean:.3} ± {spread:.3}")
        };
        println!(
            "\n### {}: {} training samples, {} of them removed, {} seeds\n\n| removed by | AUC | wrong among the \
             removed | test accuracy | gain |\n|---|---|---|---|---|\n| nothing | – | – | {} | – |",
            setting.data,
            setting.train,
            (setting.remove * setting.train as f64).round(),
            group.len(),
            shown(group.iter().map(|result| result.accuracy_test).collect())
        );
        for name in group.iter().take(1).flat_map(|result| &result.methods).map(|method| &method.name) {
            let place = |result: &Cleaning| result.methods.iter().position(|method| method.name == *name);
            let found = group.iter().filter_map(|result| Some((result.accuracy_test, &result.methods[place(result)?])));
            let found: Vec<(f64, &CleaningMethod)> = found.collect();
            let of = |figure: fn(&(f64, &CleaningMethod)) -> f64| shown(found.iter().map(figure).collect());
            println!(
                "| {name} | {} | {} | {} | {} |",
                of(|(_, m)| m.auc),
                of(|(_, m)| m.precision),
                of(|(_, m)| m.accuracy),
                of(|(before, m)| m.accuracy - before)
            );
        }
    }
    Ok(())
}
