//! A small text-to-image model, trained from nothing: emoji in four styles from their names.
//!
//! The run saves its state every few minutes and continues from there. Pictures that it draws are in `sheet-….png`, its
//! losses in `log.jsonl`, and the model with averaged weights as a folder of diffusers, which all commands of the program
//! take.

pub mod found;
pub mod influence;
mod looks;
mod pictures;
pub mod retrained;
mod rows;
mod sheet;
mod texts;

use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Args;
use hyperinf::burn::module::Module;
use hyperinf::burn::tensor::{Device, Distribution, Tensor, TensorData};
use hyperinf::gradients::Tape;
use hyperinf::models::{
    AveragedTraining, Denoiser, ModelError, NoisePairs, NoiseProcess, PixArt, PixArtConfig, Prediction, SamplerConfig,
    TextState, TextStates, TextToImage, TimestepsAs, sample_images, save_pipeline_index, save_pixart,
};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::{Failure, Places};
use pictures::{BASE_STYLES, Emoji, SIDE};
use texts::Texts;

/// Trains, and draws now and then.
#[derive(Args)]
pub struct Settings {
    #[command(flatten)]
    places: Places,
    /// The unpacked packages of emoji; `cargo xtask experiments` passes it.
    #[arg(long)]
    emoji: PathBuf,
    /// Samples to train on in all.
    #[arg(long, default_value_t = 1_200_000)]
    samples: usize,
    /// Samples per step.
    #[arg(long, default_value_t = 64)]
    batch_size: usize,
    /// The learning rate after the first 500 steps; it falls to a tenth over the last fifth of the run.
    #[arg(long, default_value_t = 6e-4)]
    learning_rate: f64,
    /// The number of heads of 32 channels.
    #[arg(long, default_value_t = 6)]
    heads: usize,
    /// The number of blocks.
    #[arg(long, default_value_t = 8)]
    layers: usize,
    /// The number of subjects: those of the sheets, and others spread evenly [default: all].
    #[arg(long)]
    subjects: Option<usize>,
    /// Minutes between saved states.
    #[arg(long, default_value_t = 5.0)]
    save_minutes: f64,
    /// Minutes between sheets of pictures.
    #[arg(long, default_value_t = 30.0)]
    sheet_minutes: f64,
    /// The seed of everything.
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

const STATE: &str = "state.safetensors";
/// Steps of a rising learning rate.
const WARM_UP: usize = 500;
const DECAY: f64 = 0.999;
/// What `cargo xtask experiments` calls the folder of this experiment in `--out`.
const FOLDER: &str = "emoji";
/// Shares of captions that are empty, or have no style.
const EMPTY: f64 = 0.1;
const WITHOUT_STYLE: f64 = 0.15;
/// One picture in this many is held out for the validation loss.
const HELD_OUT: usize = 32;
/// Pictures of the validation loss.
const VALIDATED: usize = 96;

/// Trains until the last sample.
pub fn run(settings: &Settings) -> Result<(), Failure> {
    let folder = settings.places.out.join(FOLDER);
    std::fs::create_dir_all(&folder)?;
    let device = hyperinf::device(&settings.places.device)?;
    let mut emoji = pictures::read(&settings.emoji)?;
    if let Some(count) = settings.subjects {
        emoji = fewer(emoji, count);
    }
    let texts = Texts::new(&settings.places.assets.join("minilm"), &emoji, &device)?;
    let rows = pictures::rows(&emoji);
    let held_out: Vec<_> = rows.iter().copied().step_by(HELD_OUT).take(VALIDATED).collect();
    let rows: Vec<_> =
        rows.iter().copied().enumerate().filter(|(i, _)| i % HELD_OUT != 0).map(|(_, row)| row).collect();
    println!("{} subjects, {} pictures to train on, {} held out", emoji.len(), rows.len(), held_out.len());

    let config = PixArtConfig {
        channels: 3,
        out_channels: 3,
        side: SIDE,
        patch: 4,
        layers: settings.layers,
        heads: settings.heads,
        head_size: 32,
        text_width: texts.width(),
        ..PixArtConfig::default()
    };
    let model = TextToImage {
        denoiser: Denoiser::PixArt(PixArt::new(config, settings.seed, &device)?),
        process: NoiseProcess { prediction: Prediction::Flow, ..NoiseProcess::default() },
        pairs: NoisePairs::evenly(10, 1000, settings.seed)?,
        timesteps_as: TimestepsAs::Sum,
        prompt_dropout: None,
    };
    println!("{} parameters", model.num_params());
    let mut run = AveragedTraining::new(model, 0.01, DECAY, 1.0);
    let state = folder.join(STATE);
    let described = format!("{config:?} batch {} seed {} subjects {}", settings.batch_size, settings.seed, emoji.len());
    if state.exists() {
        run.resume(&state, &described)?;
        println!("resumed after {} samples", run.steps() * settings.batch_size);
    }

    let steps = settings.samples.div_ceil(settings.batch_size);
    let (mut began, mut saved, mut drawn) = (Instant::now(), Instant::now(), Instant::now());
    let (mut sum, mut count) = (0.0, 0);
    while run.steps() < steps {
        let step = run.steps();
        let mut rng = StdRng::seed_from_u64(settings.seed.wrapping_mul(0x9e37_79b9).wrapping_add(step as u64 + 1));
        let chosen: Vec<Row> = (0..settings.batch_size).map(|_| rows[rng.random_range(0..rows.len())]).collect();
        let batch = Batch::training(&chosen, &emoji, &texts, &device, &mut rng)?;
        sum += run.step(settings.rate(step, steps), |model| batch.losses(model))?;
        count += 1;
        if count == 50 || run.steps() == steps {
            let speed = (count * settings.batch_size) as f64 / began.elapsed().as_secs_f64();
            let (samples, loss) = (run.steps() * settings.batch_size, sum / count as f64);
            note(&folder, &serde_json::json!({ "samples": samples, "loss": loss, "samples_per_second": speed }))?;
            println!("{samples} samples: loss {loss:.4}, {speed:.1} samples/s");
            (began, sum, count) = (Instant::now(), 0.0, 0);
        }
        let last = run.steps() == steps;
        if last || saved.elapsed() > Duration::from_secs_f64(60.0 * settings.save_minutes) {
            run.save(&state, &described)?;
            saved = Instant::now();
        }
        if last || drawn.elapsed() > Duration::from_secs_f64(60.0 * settings.sheet_minutes) {
            let pause = Instant::now();
            show(&run, &folder, settings, &emoji, &texts, &held_out, &device)?;
            (drawn, began) = (Instant::now(), began + pause.elapsed());
        }
    }
    Ok(())
}

impl Settings {
    fn rate(&self, step: usize, steps: usize) -> f64 {
        let rise = ((step + 1) as f64 / WARM_UP as f64).min(1.0);
        let fall = ((steps - step) as f64 / (0.2 * steps as f64)).min(1.0);
        self.learning_rate * rise * (0.1 + 0.9 * fall)
    }
}

/// The subjects of the sheets first, then others at even distances.
fn fewer(emoji: Vec<Emoji>, count: usize) -> Vec<Emoji> {
    let (mut chosen, others): (Vec<_>, Vec<_>) =
        emoji.into_iter().partition(|emoji| PROMPTS.contains(&emoji.name.as_str()));
    chosen.truncate(count);
    let wanted = count - chosen.len();
    let all = others.len();
    let spread = others.into_iter().enumerate().filter(|(i, _)| i * wanted / all != (i + 1) * wanted / all);
    chosen.extend(spread.map(|(_, emoji)| emoji).take(wanted));
    chosen
}

/// A subject's number and a style's.
pub type Row = (usize, usize);

/// Pictures with their noise, times and captions.
struct Batch {
    images: Tensor<4>,
    noise: Tensor<4>,
    times: Vec<f64>,
    text: TextStates,
}

impl Batch {
    /// Times of a logit-normal distribution (Esser et al. 2024), and captions some of which lack the style or are empty.
    fn training(
        rows: &[Row],
        emoji: &[Emoji],
        texts: &Texts,
        device: &Device,
        rng: &mut StdRng,
    ) -> Result<Self, Failure> {
        let n = rows.len();
        device.seed(rng.random());
        let noise = Tensor::random([n, 3, SIDE, SIDE], Distribution::Normal(0.0, 1.0), device);
        let drawn = Tensor::<1>::random([n], Distribution::Normal(0.0, 1.0), device).try_into_data();
        let drawn = drawn.map_err(|e| e.to_string())?;
        let times = drawn.iter::<f64>().map(|z| 1000.0 / (1.0 + (-z).exp())).collect();
        let caption = |&(subject, style): &Row| {
            let draw: f64 = rng.random();
            if draw < EMPTY {
                texts.empty()
            } else {
                texts.caption(subject, (draw >= EMPTY + WITHOUT_STYLE).then_some(style))
            }
        };
        let captions: Vec<&TextState> = rows.iter().map(caption).collect();
        let text = TextStates::new(&captions, texts.width(), device)?;
        Ok(Self { images: pictures::tensor(rows, emoji, device), noise, times, text })
    }

    /// Held-out pictures with fixed noise at times spread evenly.
    fn validation(rows: &[Row], emoji: &[Emoji], texts: &Texts, device: &Device) -> Result<Self, Failure> {
        let n = rows.len();
        let pairs = NoisePairs::evenly(n, 1000, 1)?;
        let noise: Vec<f32> = (0..n).flat_map(|k| pairs.noise(k, 3 * SIDE * SIDE, 0)).collect();
        // Neighbours in the list have one subject or style.
        let times = (0..n).map(|i| pairs.timesteps[i * 7 % n]).collect();
        let captions: Vec<&TextState> = rows.iter().map(|&(s, style)| texts.caption(s, Some(style))).collect();
        Ok(Self {
            images: pictures::tensor(rows, emoji, device),
            noise: Tensor::from_data(TensorData::new(noise, [n, 3, SIDE, SIDE]), device),
            times,
            text: TextStates::new(&captions, texts.width(), device)?,
        })
    }

    fn losses(&self, model: &TextToImage) -> Result<Tensor<1>, ModelError> {
        let [noisy, target] = model.process.noised(self.images.clone(), self.noise.clone(), &self.times)?;
        let predicted = model.denoiser.forward(noisy, &self.times, &self.text, &mut Tape::off());
        let [n, ..] = target.dims();
        Ok((predicted - target).square().reshape([n as i32, -1]).mean_dim(1).reshape([n]))
    }
}

/// Subjects of the sheets; the first ten are those of the acceptance.
const PROMPTS: [&str; 16] = [
    "pizza",
    "crab",
    "umbrella",
    "sunflower",
    "guitar",
    "red apple",
    "snowman",
    "rocket",
    "octopus",
    "cactus",
    "house",
    "tiger face",
    "bicycle",
    "hot beverage",
    "airplane",
    "birthday cake",
];

/// Draws a sheet with the averaged weights: a column for each prompt, a row for each style.
fn show(
    run: &AveragedTraining<TextToImage>,
    folder: &std::path::Path,
    settings: &Settings,
    emoji: &[Emoji],
    texts: &Texts,
    held_out: &[Row],
    device: &Device,
) -> Result<(), Failure> {
    let model = run.averaged()?;
    let batch = Batch::validation(held_out, emoji, texts, device)?;
    let loss = batch.losses(&model)?.mean().try_into_data().map_err(|e| e.to_string())?.iter::<f64>().next();
    let samples = run.steps() * settings.batch_size;
    note(folder, &serde_json::json!({ "samples": samples, "validation_loss": loss }))?;
    println!("{samples} samples: validation loss {:.4}", loss.unwrap_or(f64::NAN));
    let subjects: Vec<usize> =
        PROMPTS.iter().filter_map(|name| emoji.iter().position(|emoji| emoji.name == *name)).collect();
    let prompts: Vec<&TextState> = (0..BASE_STYLES)
        .flat_map(|style| subjects.iter().map(move |&subject| texts.caption(subject, Some(style))))
        .collect();
    let config = SamplerConfig { seed: settings.seed, ..SamplerConfig::default() };
    let drawn = sample_images(&model, &prompts, texts.empty(), &config)?;
    let values = drawn.try_into_data().map_err(|e| e.to_string())?.iter::<f32>().collect::<Vec<_>>();
    sheet::write(&folder.join(format!("sheet-{samples:08}.png")), &values, subjects.len())?;
    if let Denoiser::PixArt(denoiser) = &model.denoiser {
        save_pixart(denoiser, &folder.join("transformer"))?;
    }
    save_text_encoder(&settings.places.assets.join("minilm"), folder)?;
    save_pipeline_index(folder, &model.denoiser, &model.process, "BertModel")?;
    Ok(())
}

/// Copies the text encoder and its tokenizer to where diffusers has them.
fn save_text_encoder(from: &std::path::Path, folder: &std::path::Path) -> Result<(), Failure> {
    let parts = [
        ("text_encoder", &["config.json", "model.safetensors"][..]),
        ("tokenizer", &["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt"]),
    ];
    for (part, names) in parts {
        std::fs::create_dir_all(folder.join(part))?;
        for name in names.iter().filter(|name| from.join(name).exists() && !folder.join(part).join(name).exists()) {
            std::fs::copy(from.join(name), folder.join(part).join(name))?;
        }
    }
    Ok(())
}

fn note(folder: &std::path::Path, value: &serde_json::Value) -> Result<(), Failure> {
    let mut file = std::fs::OpenOptions::new().create(true).append(true).open(folder.join("log.jsonl"))?;
    writeln!(file, "{value}")?;
    Ok(())
}
