//! Wrong labels: LoRA-tuned MiniLM, 20 % of the training labels flipped, influence on clean validation samples.

use std::time::Instant;

use clap::Args;
use hyperinf::burn::tensor::Device;
use hyperinf::eval::{auc, detection_rate, flipped_labels, pearson, spearman};
use hyperinf::gradients::{Tape, Task};
use hyperinf::models::{
    ClassifierOptions, EncoderClassifier, FinetuneConfig, HeadKind, Limit, LoraConfig, RecordedLayers, Sample,
    SampleModel, TextTokenizer, TrainConfig, adapt, finetune, load_classifier,
};
use hyperinf::scoring::QueryMode;

use crate::data::{self, Labelled, Split};
use crate::gradients::{SampleGradients, sample_gradients};
use crate::judge::{score_all, self_influences};
use crate::results::{self, Detection, DetectionMethod, DetectionSetting};
use crate::{Failure, Places};

/// Finds wrong labels.
#[derive(Args)]
pub struct Settings {
    #[command(flatten)]
    places: Places,
    /// The data sets: mrpc, qqp, spamassassin.
    #[arg(long, value_delimiter = ',', default_value = "mrpc,qqp,spamassassin")]
    sets: Vec<String>,
    /// The ranks of the adapters.
    #[arg(long, value_delimiter = ',', default_value = "8,1,2,4,16")]
    ranks: Vec<usize>,
    /// The seeds of sampling, flips, new weights and order.
    #[arg(long, value_delimiter = ',', default_value = "0,1,2,3,4")]
    seeds: Vec<u64>,
    /// The largest number of training samples.
    #[arg(long, default_value_t = 4500)]
    train: usize,
    /// The largest number of validation samples.
    #[arg(long, default_value_t = 500)]
    validation: usize,
    /// The share of flipped labels.
    #[arg(long, default_value_t = 0.2)]
    noise: f64,
    /// The largest number of tokens; longer texts are cut.
    #[arg(long, default_value_t = 128)]
    max_tokens: usize,
    /// Passes over the training samples.
    #[arg(long, default_value_t = 10)]
    epochs: usize,
    /// Samples per step.
    #[arg(long, default_value_t = 16)]
    batch_size: usize,
    /// The peak learning rate.
    #[arg(long, default_value_t = 1e-3)]
    learning_rate: f64,
    /// A run of a few minutes: 200 training and 50 validation samples, one epoch, one seed, rank 8.
    #[arg(long)]
    quick: bool,
}

/// The name of the results file.
pub const FILE: &str = "detection.jsonl";
/// Samples per pass through the model.
pub const BATCH: usize = 32;

/// Runs every unit that has no result yet.
pub fn run(settings: &Settings) -> Result<(), Failure> {
    let path = settings.places.out.join(FILE);
    let device = hyperinf::device(&settings.places.device)?;
    let tokenizer = TextTokenizer::read(&settings.places.assets.join("minilm"))?;
    let (ranks, seeds) =
        if settings.quick { (&[8][..], &[0][..]) } else { (settings.ranks.as_slice(), settings.seeds.as_slice()) };
    for name in &settings.sets {
        // Seeds in the outer loop: an interrupted run has every rank.
        for &seed in seeds {
            for &rank in ranks {
                let setting = settings.unit(name, rank, seed);
                let done = results::read::<Detection>(&path)?;
                if done.iter().any(|result| result.setting == setting) {
                    continue;
                }
                let result = unit(&setting, &settings.places, &tokenizer, &device)?;
                show(&result);
                results::append(&path, &result)?;
            }
        }
    }
    Ok(())
}

impl Settings {
    fn unit(&self, data: &str, rank: usize, seed: u64) -> DetectionSetting {
        let quick = |full, quick| if self.quick { quick } else { full };
        DetectionSetting {
            data: data.to_owned(),
            rank,
            seed,
            train: quick(self.train, 200),
            validation: quick(self.validation, 50),
            noise: self.noise,
            max_tokens: self.max_tokens,
            epochs: quick(self.epochs, 1),
            batch_size: self.batch_size,
            learning_rate: self.learning_rate,
        }
    }
}

fn unit(
    setting: &DetectionSetting,
    places: &Places,
    tokenizer: &TextTokenizer,
    device: &Device,
) -> Result<Detection, Failure> {
    let DetectionSetting { rank, seed, noise, max_tokens, epochs, batch_size, learning_rate, .. } = *setting;
    let Split { train, validation } = data::labelled(&setting.data, places, setting.train, setting.validation, seed)?;
    let sample = |row: &Labelled, wrong: bool| -> Result<Sample, Failure> {
        let label = if wrong { 1 - row.label } else { row.label };
        Ok(tokenizer.classification(&row.text, row.pair.as_deref(), label, Limit::Cut(max_tokens))?.sample)
    };
    let flipped = flipped_labels(train.len(), noise, seed.wrapping_add(1));
    let noisy = train.iter().zip(&flipped).map(|(row, &wrong)| sample(row, wrong)).collect::<Result<Vec<_>, _>>()?;
    let clean = validation.iter().map(|row| sample(row, false)).collect::<Result<Vec<_>, _>>()?;

    let schedule = TrainConfig { learning_rate, epochs, batch_size, seed, ..TrainConfig::default() };
    let began = Instant::now();
    let model = tune(&noisy, rank, &schedule, &setting.data, places, device)?;
    let tuning_seconds = began.elapsed().as_secs_f64();

    let began = Instant::now();
    let train_pass = sample_gradients(&model, &noisy, BATCH)?;
    let query = sample_gradients(&model, &clean, BATCH)?.gradients;
    let gradient_seconds = began.elapsed().as_secs_f64();

    let methods = judge(&train_pass, &query, &flipped)?;
    let truth: Vec<usize> = train.iter().map(|row| row.label).collect();
    let labels: Vec<usize> = validation.iter().map(|row| row.label).collect();
    let ones = labels.iter().filter(|&&label| label == 1).count() as f64 / labels.len() as f64;
    Ok(Detection {
        setting: setting.clone(),
        accuracy_validation: accuracy(&model, &clean, &labels)?,
        accuracy_true_labels: accuracy(&model, &noisy, &truth)?,
        commonest_class: ones.max(1.0 - ones),
        tuning_seconds,
        gradient_seconds,
        methods,
    })
}

/// MiniLM with adapters on query and value and a head on the mean of the hidden states, tuned on samples.
pub fn tune(
    samples: &[Sample],
    rank: usize,
    schedule: &TrainConfig,
    name: &str,
    places: &Places,
    device: &Device,
) -> Result<EncoderClassifier, Failure> {
    let seed = schedule.seed;
    let options =
        ClassifierOptions { classes: Some(2), head: Some(HeadKind::Mean), seed, ..ClassifierOptions::default() };
    let mut model = load_classifier(&places.assets.join("minilm"), &options, device)?.model;
    model.recorded = RecordedLayers::Adapters;
    let lora = LoraConfig { rank, alpha: 2.0 * rank as f64, ..LoraConfig::default() };
    let model = adapt(model, &["query", "value"], &lora, seed)?;
    let config = FinetuneConfig { schedule: *schedule, clip_norm: Some(1.0), ..FinetuneConfig::default() };
    let tuned = finetune(model, samples, None, &config, |p| {
        if (p.step + 1).is_multiple_of(50) {
            eprintln!("{name} r={rank} seed {seed}: step {} of {}, loss {:.4}", p.step + 1, p.steps, p.loss);
        }
    })?;
    Ok(tuned.model)
}

fn judge(
    train: &SampleGradients,
    query: &hyperinf::gradients::Gradients,
    flipped: &[bool],
) -> Result<Vec<DetectionMethod>, Failure> {
    let mut methods = Vec::new();
    let mut add = |name: &str, suspicion: &[f64], seconds: f64| -> Result<(), Failure> {
        let curve =
            (1..=20).map(|i| detection_rate(suspicion, flipped, f64::from(i) / 20.0)).collect::<Result<_, _>>()?;
        methods.push(DetectionMethod {
            name: name.to_owned(),
            auc: auc(suspicion, flipped)?,
            curve,
            pearson: None,
            spearman: None,
            seconds,
            residual: None,
            converged: true,
        });
        Ok(())
    };
    add("training-loss", &train.losses, 0.0)?;
    let norms: Vec<f64> = train.gradients.squared_norms()?.into_iter().map(f64::sqrt).collect();
    add("gradient-norm", &norms, 0.0)?;
    let (own, seconds) = self_influences(&train.gradients)?;
    add("self-influence", &own, seconds)?;
    let scored = score_all(&train.gradients, query, QueryMode::Mean)?;
    let exact = &scored.iter().find(|s| s.name == "exact").ok_or("there is no exact method")?.rows[0];
    for found in &scored {
        let suspicion: Vec<f64> = found.rows[0].iter().map(|s| -s).collect();
        add(found.name, &suspicion, found.seconds)?;
    }
    for (method, found) in methods[3..].iter_mut().zip(&scored) {
        method.pearson = Some(pearson(&found.rows[0], exact)?);
        method.spearman = Some(spearman(&found.rows[0], exact)?);
        method.residual = found.residual;
        method.converged = found.converged;
    }
    Ok(methods)
}

/// The share of samples whose likeliest class is the given label.
pub fn accuracy(model: &EncoderClassifier, samples: &[Sample], labels: &[usize]) -> Result<f64, Failure> {
    let mut order: Vec<usize> = (0..samples.len()).collect();
    order.sort_by_key(|&row| samples[row].tokens.len());
    let mut right = 0;
    for rows in order.chunks(BATCH) {
        let chosen: Vec<&Sample> = rows.iter().map(|&row| &samples[row]).collect();
        let logits = hyperinf::linalg::host(model.forward(&model.collate(&chosen)?, &mut Tape::off()))?;
        let guesses = logits.chunks(2).map(|pair| usize::from(pair[1] > pair[0]));
        right += guesses.zip(rows).filter(|(guess, row)| *guess == labels[**row]).count();
    }
    Ok(right as f64 / samples.len() as f64)
}

fn show(result: &Detection) {
    let Detection { setting, accuracy_validation, accuracy_true_labels, tuning_seconds, gradient_seconds, .. } = result;
    println!(
        "{} r={} seed {}: accuracy {:.3} (validation), {:.3} (true labels of the training samples); {:.0} s tuning, \
         {:.0} s gradients",
        setting.data,
        setting.rank,
        setting.seed,
        accuracy_validation,
        accuracy_true_labels,
        tuning_seconds,
        gradient_seconds
    );
    for m in &result.methods {
        let correlations = m.pearson.zip(m.spearman).map_or(String::new(), |(p, s)| format!("  r {p:.3}  ρ {s:.3}"));
        println!("  {:17} AUC {:.3}  {:6.2} s{correlations}", m.name, m.auc, m.seconds);
    }
}
