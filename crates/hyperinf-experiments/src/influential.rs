//! Training samples of the query's own class: LoRA-tuned SmolLM2 on ten kinds of tasks.

use std::time::Instant;

use clap::Args;
use hyperinf::burn::tensor::Device;
use hyperinf::eval::{auc, detection_rate};
use hyperinf::gradients::{Tape, Task as _};
use hyperinf::models::{
    CausalLm, FinetuneConfig, Limit, LmSample, LoraConfig, SampleModel, TextTokenizer, TrainConfig, adapt, finetune,
    load_causal_lm,
};
use hyperinf::scoring::QueryMode;

use crate::data::{self, Split, Task};
use crate::gradients::sample_gradients;
use crate::judge::{mean_and_spread, score_all};
use crate::results::{self, Influential, InfluentialMethod, InfluentialSetting};
use crate::{Failure, Places};

/// Finds training samples of the query's class.
#[derive(Args)]
pub struct Settings {
    #[command(flatten)]
    places: Places,
    /// The data sets: grammars (sentence transformations), math_with_reason.
    #[arg(long, value_delimiter = ',', default_value = "grammars,math_with_reason")]
    sets: Vec<String>,
    /// The rank of the adapters.
    #[arg(long, default_value_t = 8)]
    rank: usize,
    /// The seeds of new weights and order.
    #[arg(long, value_delimiter = ',', default_value = "0")]
    seeds: Vec<u64>,
    /// Training samples of each class.
    #[arg(long, default_value_t = 90)]
    train_per_class: usize,
    /// Queries of each class.
    #[arg(long, default_value_t = 10)]
    test_per_class: usize,
    /// The largest number of tokens; longer samples are cut.
    #[arg(long, default_value_t = 256)]
    max_tokens: usize,
    /// Passes over the training samples.
    #[arg(long, default_value_t = 25)]
    epochs: usize,
    /// Samples per step; small batches learn better, since samples of a class have similar lengths and share batches.
    #[arg(long, default_value_t = 4)]
    batch_size: usize,
    /// The peak learning rate.
    #[arg(long, default_value_t = 3e-4)]
    learning_rate: f64,
    /// Mixes lengths within a batch; by default a batch has samples of similar length, which here share a class.
    #[arg(long)]
    any_length: bool,
    /// A run of a few minutes: 6 samples and one query per class, one epoch.
    #[arg(long)]
    quick: bool,
}

/// The name of the results file.
pub const FILE: &str = "influential.jsonl";
/// Samples per pass through the model.
const BATCH: usize = 8;

/// Runs every unit that has no result yet.
pub fn run(settings: &Settings) -> Result<(), Failure> {
    let path = settings.places.out.join(FILE);
    let device = hyperinf::device(&settings.places.device)?;
    let quick = |full, quick| if settings.quick { quick } else { full };
    for name in &settings.sets {
        for &seed in &settings.seeds {
            let setting = InfluentialSetting {
                data: name.clone(),
                rank: settings.rank,
                seed,
                train_per_class: quick(settings.train_per_class, 6),
                test_per_class: quick(settings.test_per_class, 1),
                max_tokens: settings.max_tokens,
                epochs: quick(settings.epochs, 1),
                batch_size: settings.batch_size,
                learning_rate: settings.learning_rate,
                by_length: !settings.any_length,
            };
            let done = results::read::<Influential>(&path)?;
            if done.iter().any(|result| result.setting == setting) {
                continue;
            }
            let result = unit(&setting, &settings.places, &device)?;
            show(&result);
            results::append(&path, &result)?;
        }
    }
    Ok(())
}

fn unit(setting: &InfluentialSetting, places: &Places, device: &Device) -> Result<Influential, Failure> {
    let InfluentialSetting { rank, seed, max_tokens, epochs, batch_size, learning_rate, by_length, .. } = *setting;
    let file = places.assets.join("smollm2").join("SmolLM2-135M-Instruct.Q4_1.gguf");
    let tokenizer = TextTokenizer::read(&file)?;
    let Split { train, validation: test } =
        data::tasks(&setting.data, places, setting.train_per_class, setting.test_per_class)?;
    let tokenize = |tasks: &[Task]| -> Result<Vec<LmSample>, Failure> {
        let one =
            |task: &Task| Ok(tokenizer.completion(&task.prompt, &task.completion, Limit::Cut(max_tokens))?.sample);
        tasks.iter().map(one).collect()
    };
    let (train_samples, test_samples) = (tokenize(&train)?, tokenize(&test)?);
    let model = load_causal_lm(&file, device)?.model;
    let lora = LoraConfig { rank, alpha: 2.0 * rank as f64, ..LoraConfig::default() };
    let model = adapt(model, &["q_proj", "v_proj"], &lora, seed)?;
    let loss_before = mean_loss(&model, &test_samples)?;

    let schedule = TrainConfig { learning_rate, epochs, batch_size, by_length, seed, ..TrainConfig::default() };
    let config = FinetuneConfig { schedule, clip_norm: Some(1.0), ..FinetuneConfig::default() };
    let began = Instant::now();
    let model = finetune(model, &train_samples, None, &config, |p| {
        if (p.step + 1).is_multiple_of(10) {
            let seconds = p.elapsed.as_secs_f64();
            eprintln!("{}: step {} of {}, loss {:.4}, {seconds:.0} s", setting.data, p.step + 1, p.steps, p.loss);
        }
    })?
    .model;
    let tuning_seconds = began.elapsed().as_secs_f64();

    let began = Instant::now();
    let train_pass = sample_gradients(&model, &train_samples, BATCH)?;
    let query = sample_gradients(&model, &test_samples, BATCH)?;
    let gradient_seconds = began.elapsed().as_secs_f64();

    let mut methods = Vec::new();
    for found in score_all(&train_pass.gradients, &query.gradients, QueryMode::Each)? {
        let name = found.name;
        let (mut areas, mut recalls) = (Vec::new(), Vec::new());
        let (mut absolute_areas, mut absolute_recalls) = (Vec::new(), Vec::new());
        for (row, task) in found.rows.iter().zip(&test) {
            let same: Vec<bool> = train.iter().map(|other| other.class == task.class).collect();
            let share = same.iter().filter(|same| **same).count() as f64 / same.len() as f64;
            areas.push(auc(row, &same)?);
            recalls.push(detection_rate(row, &same, share)?);
            let sizes: Vec<f64> = row.iter().map(|score| score.abs()).collect();
            absolute_areas.push(auc(&sizes, &same)?);
            absolute_recalls.push(detection_rate(&sizes, &same, share)?);
        }
        let ((auc, auc_spread), (recall, recall_spread)) = (mean_and_spread(&areas), mean_and_spread(&recalls));
        methods.push(InfluentialMethod {
            name: name.to_owned(),
            auc,
            auc_spread,
            recall,
            recall_spread,
            absolute_auc: mean(&absolute_areas),
            absolute_recall: mean(&absolute_recalls),
            seconds: found.seconds,
            residual: found.residual,
            converged: found.converged,
        });
        eprintln!("{}: {name} in {:.1} s", setting.data, found.seconds);
    }
    Ok(Influential {
        setting: setting.clone(),
        loss_before,
        loss_after: mean(&query.losses),
        train_loss_after: mean(&train_pass.losses),
        tuning_seconds,
        gradient_seconds,
        methods,
    })
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

fn mean_loss(model: &CausalLm, samples: &[LmSample]) -> Result<f64, Failure> {
    let mut losses = Vec::new();
    for chunk in samples.chunks(BATCH) {
        let chosen: Vec<&LmSample> = chunk.iter().collect();
        let batch = model.collate(&chosen)?;
        losses.extend(hyperinf::linalg::host(model.loss(model.forward(&batch, &mut Tape::off()), &batch))?);
    }
    Ok(mean(&losses))
}

fn show(result: &Influential) {
    let Influential { setting, loss_before, loss_after, train_loss_after, tuning_seconds, gradient_seconds, .. } =
        result;
    println!(
        "{} r={} seed {}: loss of the tests {loss_before:.3}, then {loss_after:.3} (training samples \
         {train_loss_after:.3}); {tuning_seconds:.0} s tuning, {gradient_seconds:.0} s gradients",
        setting.data, setting.rank, setting.seed
    );
    for m in &result.methods {
        println!(
            "  {:17} AUC {:.3} ± {:.3}  recall {:.3} ± {:.3}  by size: {:.3}, {:.3}  {:6.1} s",
            m.name, m.auc, m.auc_spread, m.recall, m.recall_spread, m.absolute_auc, m.absolute_recall, m.seconds
        );
    }
}
