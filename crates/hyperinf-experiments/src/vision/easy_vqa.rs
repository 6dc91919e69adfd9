//! V2: which rows of a mixed pool teach a model to name colours? A small model in SmolVLM's layout is trained from
//! nothing on easy-VQA (PyPI `easy-vqa`, MIT), with few questions that ask for a colour; then rows are selected from a
//! pool of all kinds for such questions.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use clap::Args;
use hyperinf::burn::module::Module;
use hyperinf::burn::tensor::Device;
use hyperinf::gradients::{Tape, Task};
use hyperinf::models::{
    Activation, AttentionBias, AveragedTraining, ConnectorConfig, DecoderConfig, ImageProcessor, Images, LmHead,
    Picture, PictureLimits, RecordedParts, RotaryConfig, SampleModel, TextTokenizer, VisionConfig, VisionForm,
    VisionLanguage, VisionLanguageConfig, VlmSample,
};
use rand::rngs::StdRng;
use rand::seq::{IndexedRandom, SliceRandom};
use rand::{RngExt, SeedableRng};
use tokenizers::Tokenizer;
use tokenizers::models::wordlevel::WordLevel;
use tokenizers::pre_tokenizers::whitespace::Whitespace;

use super::folder::{MARKS, Pixels, save_model, save_tokenizer};
use super::question::asked;
use super::selection::{self, Pool, Setting, Tuning};
use crate::{Failure, Places};

/// Selects rows for questions about colours.
#[derive(Args)]
pub struct Settings {
    #[command(flatten)]
    places: Places,
    #[command(flatten)]
    tuning: Tuning,
    /// The seeds of the pool, the adapters and the order of rows; the base model is the same.
    #[arg(long, value_delimiter = ',', default_value = "0,1,2")]
    seeds: Vec<u64>,
    /// Rows of each of the four kinds of questions in the pool.
    #[arg(long, default_value_t = 300)]
    each: usize,
    /// Questions for a colour that rows are selected for.
    #[arg(long, default_value_t = 100)]
    query: usize,
    /// Questions for a colour that the accuracy is measured on.
    #[arg(long, default_value_t = 400)]
    test: usize,
    /// Steps of the base model's training.
    #[arg(long, default_value_t = 1500)]
    base_steps: usize,
    /// Rows per step of the base model's training.
    #[arg(long, default_value_t = 64)]
    base_batch: usize,
    /// The peak learning rate of the base model's training.
    #[arg(long, default_value_t = 2e-3)]
    base_rate: f64,
    /// The share of questions for a colour in the base model's training.
    #[arg(long, default_value_t = 0.04)]
    base_colours: f64,
}

/// The name of the results file.
pub const FILE: &str = "easy-vqa.jsonl";
/// The colours of shapes.
pub const COLOURS: [&str; 8] = ["black", "gray", "red", "blue", "green", "yellow", "teal", "brown"];
const SHAPES: [&str; 3] = ["circle", "rectangle", "triangle"];
/// Pictures of the training part that the base model sees; the others are the pool's.
pub const BASE: usize = 2500;
/// Pictures of the test part for the queries; the others are for the accuracy.
const QUERIES: usize = 300;

/// What a question asks for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Asks {
    Colour,
    Shape,
    WhetherColour,
    WhetherShape,
}

const KINDS: [Asks; 4] = [Asks::Colour, Asks::Shape, Asks::WhetherColour, Asks::WhetherShape];

/// A question about a picture.
pub struct Question {
    pub text: String,
    pub answer: String,
    /// The number of the picture.
    pub image: usize,
    pub asks: Asks,
}

/// How a base model is trained.
pub struct Base {
    /// Optimiser steps, and questions per step.
    pub steps: usize,
    pub batch: usize,
    /// The peak learning rate.
    pub rate: f64,
    /// The share of questions for a colour.
    pub colours: f64,
    /// Colours that no picture and no question has.
    pub unseen: &'static [(&'static str, [u8; 3])],
}

/// Trains the base model and runs every seed, as far as there are no results.
pub fn run(settings: &Settings) -> Result<(), Failure> {
    let device = hyperinf::device(&settings.places.device)?;
    let folder = std::path::absolute(settings.places.out.join("easy-vqa"))?;
    let data = std::path::absolute(settings.places.assets.join("easy-vqa"))?;
    let (train, test) = (questions(&data.join("train"))?, questions(&data.join("test"))?);
    let base = folder.join("base");
    if !base.join("config.json").exists() {
        let partial = folder.join("base.partial");
        settings.base().train(&train, &data, &partial, &device)?;
        fs::rename(&partial, &base)?;
    }
    for &seed in &settings.seeds {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut pool: Vec<&Question> = Vec::new();
        for asks in KINDS {
            let of = |question: &&Question| question.asks == asks && question.image >= BASE;
            let mut all: Vec<&Question> = train.iter().filter(of).collect();
            all.shuffle(&mut rng);
            pool.extend(all.into_iter().take(settings.each));
        }
        pool.shuffle(&mut rng);
        let mut colours: Vec<&Question> = test.iter().filter(|question| question.asks == Asks::Colour).collect();
        colours.shuffle(&mut rng);
        let (query, held_out): (Vec<&Question>, Vec<&Question>) =
            colours.into_iter().partition(|question| question.image < QUERIES);
        let rows = |questions: &[&Question], part: &str, most: usize| -> Vec<String> {
            let images = data.join(part).join("images");
            questions.iter().take(most).map(|question| question.row(&images)).collect()
        };
        let unit = Pool {
            model: &base,
            folder: &folder.join(format!("seed-{seed}")),
            features: &folder.join("features"),
            rows: rows(&pool, "train", pool.len()),
            query: rows(&query, "test", settings.query),
            test: rows(&held_out, "test", settings.test),
            wanted: pool.iter().map(|question| question.asks == Asks::Colour).collect(),
            targets: &[],
            methods: &["identity", "cosine", "datainf", "lissa", "hyperinf", "hyperinf-authors", "exact"],
            others: &[
                (RecordedParts::Connector, "identity"),
                (RecordedParts::Connector, "datainf"),
                (RecordedParts::Connector, "hyperinf"),
                (RecordedParts::LastLayer, "identity"),
                (RecordedParts::LastLayer, "datainf"),
                (RecordedParts::LastLayer, "hyperinf"),
            ],
            per_answer: &[],
            untuned: true,
        };
        let setting = Setting::new("easy-VQA".to_owned(), seed, &unit, &settings.tuning);
        selection::run(&settings.places.out.join(FILE), &setting, &unit, &settings.tuning, &device)?;
    }
    Ok(())
}

impl Question {
    fn row(&self, images: &Path) -> String {
        let image = images.join(format!("{}.png", self.image));
        serde_json::json!({ "image": image, "question": self.text, "answer": self.answer }).to_string()
    }
}

/// The questions of a part of the data.
pub fn questions(folder: &Path) -> Result<Vec<Question>, Failure> {
    let path = folder.join("questions.json");
    let text = fs::read(&path).map_err(|e| format!("{}: {e}", path.display()))?;
    let rows: Vec<(String, String, usize)> = serde_json::from_slice(&text)?;
    let question = |(text, answer, image): (String, String, usize)| {
        let names = |words: &[&str]| words.iter().any(|word| text.contains(word));
        let asks = match &*answer {
            "yes" | "no" if names(&COLOURS) => Asks::WhetherColour,
            "yes" | "no" => Asks::WhetherShape,
            answer if COLOURS.contains(&answer) => Asks::Colour,
            _ => Asks::Shape,
        };
        Question { text, answer, image, asks }
    };
    Ok(rows.into_iter().map(question).collect())
}

/// A token for each word and punctuation mark.
fn tokenizer(questions: &[Question]) -> Result<Tokenizer, Failure> {
    let text: String = questions.iter().map(|question| format!("{} ", question.text.replace('?', " ?"))).collect();
    let mut words: Vec<&str> = text.split_whitespace().chain(COLOURS).chain(SHAPES).collect();
    words.extend(["yes", "no", "User", "Assistant", ":"]);
    words.sort_unstable();
    words.dedup();
    let words = std::iter::once("<unk>").chain(words).map(str::to_owned);
    let vocabulary = words.zip(0..).collect::<BTreeMap<String, u32>>().into_iter().collect();
    let model = WordLevel::builder().vocab(vocabulary).unk_token("<unk>".to_owned()).build()?;
    let mut tokenizer = Tokenizer::new(model);
    tokenizer.with_pre_tokenizer(Some(Whitespace));
    Ok(tokenizer)
}

fn config(vocabulary: usize, image_token: u32) -> VisionLanguageConfig {
    VisionLanguageConfig {
        vision: VisionConfig {
            form: VisionForm::Siglip,
            image_size: 32,
            patch_size: 4,
            channels: 3,
            width: 64,
            layers: 3,
            used_layers: 3,
            heads: 4,
            feed_forward: 128,
            activation: Activation::GeluTanh,
            norm_epsilon: 1e-6,
        },
        connector: ConnectorConfig::PixelShuffle { scale: 2 },
        text: DecoderConfig {
            vocabulary,
            max_tokens: 128,
            width: 64,
            layers: 3,
            heads: 4,
            key_value_heads: 4,
            head_size: 16,
            feed_forward: 160,
            norm_epsilon: 1e-5,
            rotary: RotaryConfig::default(),
            attention_bias: AttentionBias::None,
            feed_forward_bias: false,
            sliding_window: None,
        },
        head: LmHead::Separate,
        image_token,
    }
}

impl Settings {
    fn base(&self) -> Base {
        let Self { base_steps: steps, base_batch: batch, base_rate: rate, base_colours: colours, .. } = *self;
        Base { steps, batch, rate, colours, unseen: &[] }
    }
}

impl Base {
    /// Trains all weights of a new model on questions about the first [`BASE`] pictures, and writes its folder.
    pub fn train(&self, train: &[Question], data: &Path, folder: &Path, device: &Device) -> Result<(), Failure> {
        let pixels = Pixels { mean: [0.5; 3], deviation: [0.5; 3] };
        let made = save_tokenizer(tokenizer(train)?, folder)?;
        let token = made.token_to_id(MARKS[0]).ok_or("the image token was added")?;
        let config = config(made.get_vocab_size(true), token);
        let model = VisionLanguage::new(config.clone(), 0, device)?;
        println!("{} parameters", model.num_params());
        save_model(&model, &pixels, folder)?;
        let (processor, tokenizer) = (ImageProcessor::load(folder)?, TextTokenizer::read(folder)?);
        let image = |image: usize| -> Result<Option<Images>, Failure> {
            let path = data.join("train/images").join(format!("{image}.png"));
            let picture = Picture::decode(&fs::read(path)?, &PictureLimits::default())?;
            if picture.pixels().chunks(3).any(|pixel| self.unseen.iter().any(|(_, colour)| pixel == colour)) {
                return Ok(None);
            }
            let tile = processor.process(&picture)?.tiles.swap_remove(0);
            Ok(Some(Images::Pixels(Arc::new(tile.values))))
        };
        let images = (0..BASE).map(image).collect::<Result<Vec<_>, _>>()?;
        let sample = |question: &Question| -> Result<VlmSample, Failure> {
            let images = images[question.image].clone().ok_or("the picture was left out")?;
            asked(&tokenizer, &config, &question.text, &question.answer, images)
        };
        let mut of_kinds: BTreeMap<Asks, Vec<&Question>> = BTreeMap::new();
        let seen = |question: &&Question| {
            images.get(question.image).is_some_and(Option::is_some)
                && !self.unseen.iter().any(|(colour, _)| question.text.contains(colour))
        };
        for question in train.iter().filter(seen) {
            of_kinds.entry(question.asks).or_default().push(question);
        }
        let Self { steps, batch, rate, colours, unseen } = *self;
        let others = (1.0 - colours) / 3.0;
        let mut training = AveragedTraining::new(model, 0.01, 0.99, 1.0);
        let mut described = format!("{steps} steps of {batch} at {rate}, {colours} for a colour");
        unseen.iter().for_each(|(colour, _)| described += &format!(", without {colour}"));
        let state = folder.with_file_name("base-state.safetensors");
        if state.exists() {
            training.resume(&state, &described)?;
            println!("resumed after {} steps", training.steps());
        }
        let (mut began, mut sum) = (Instant::now(), 0.0);
        for step in training.steps()..steps {
            let mut rng = StdRng::seed_from_u64(step as u64);
            let mut samples = Vec::with_capacity(batch);
            for _ in 0..batch {
                let draw: f64 = rng.random();
                let kind = if draw < colours { 0 } else { 1 + ((draw - colours) / others) as usize };
                let chosen = of_kinds[&KINDS[kind.min(3)]].choose(&mut rng);
                samples.push(sample(chosen.ok_or("every kind has questions")?)?);
            }
            let share = step as f64 / steps as f64;
            let rate = rate * (share / 0.05).min(1.0) * (1.0 - share).max(0.02);
            let batch: Vec<&VlmSample> = samples.iter().collect();
            sum += training.step(rate, |model| {
                let batch = model.collate(&batch)?;
                Ok(model.loss(model.forward(&batch, &mut Tape::off()), &batch))
            })?;
            if (step + 1) % 100 == 0 {
                let seconds = began.elapsed().as_secs_f64();
                println!("step {}: loss {:.4}, {seconds:.0} s", step + 1, sum / 100.0);
                (began, sum) = (Instant::now(), 0.0);
                training.save(&state, &described)?;
            }
        }
        save_model(&training.averaged()?, &pixels, folder)
    }
}
