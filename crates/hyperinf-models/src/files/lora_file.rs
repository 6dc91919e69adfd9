//! LoRA files of image generators: one file, and four ways to name the tensors of a layer.
//!
//! | naming | tensors of `blocks.0.attn1.to_q` |
//! |---|---|
//! | diffusers | `unet.blocks.0.attn1.to_q.lora_A.weight`, `….lora.down.weight`; also `transformer.` |
//! | diffusers before 0.21 | `blocks.0.attn1.processor.to_q_lora.down.weight`; `to_out_lora` is `to_out.0` |
//! | kohya | `lora_unet_blocks_0_attn1_to_q.lora_down.weight`, `….alpha` |
//! | PEFT | `base_model.model.blocks.0.attn1.to_q.lora_A.weight` |

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use burn::tensor::TensorData;
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde_json::{Map, Value, json};

use super::peft::{A, B, PREFIX};
use super::shards::Shards;
use super::whole::write_whole;
use crate::{Adaptable, Adapter, AdapterConfig, LoadError, LoraConfig, LoraScaling, TargetModules};

/// The header entry with the settings.
const METADATA: &str = "lora_adapter_metadata";
/// The beginnings of names that do not say anything about the layer.
const PREFIXES: [&str; 3] = [PREFIX, "unet.", "transformer."];
/// Kohya's, before a layer's name with `_` for each `.`.
const KOHYA: [&str; 2] = ["lora_unet_", "lora_transformer_"];

/// A tensor's part in a layer's adapter.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Factor {
    /// `[r, d_input]`.
    Down,
    /// `[d_output, r]`.
    Up,
    /// The numerator of the scale.
    Alpha,
}

/// The ends of names, and what they are.
const ENDS: [(&str, Factor); 12] = [
    (".lora_A.default.weight", Factor::Down),
    (".lora_B.default.weight", Factor::Up),
    (".lora_A.weight", Factor::Down),
    (".lora_B.weight", Factor::Up),
    (".lora.down.weight", Factor::Down),
    (".lora.up.weight", Factor::Up),
    (".lora_down.weight", Factor::Down),
    (".lora_up.weight", Factor::Up),
    ("_lora.down.weight", Factor::Down),
    ("_lora.up.weight", Factor::Up),
    (".lora.alpha", Factor::Alpha),
    (".alpha", Factor::Alpha),
];

/// Parts of names that belong to something that is not supported.
const REFUSED: [(&str, &str); 8] = [
    ("text_encoder", "LoRA on the text encoder"),
    ("lora_te", "LoRA on the text encoder"),
    ("dora_scale", "the magnitudes of DoRA"),
    ("lora_magnitude_vector", "the magnitudes of DoRA"),
    ("hada_", "LoHa"),
    ("lokr_", "LoKr"),
    ("lora_mid", "LoRA on a convolution"),
    ("lora_B.bias", "biases of LoRA"),
];

impl Adapter {
    /// The adapter in a LoRA file for an image generator, in any of the four namings (module documentation).
    ///
    /// Without an `alpha`, in the file's tensors or its header, a layer's `alpha` is its rank.
    ///
    /// # Errors
    ///
    /// If the file is damaged, or holds something that is not LoRA on the model's linear layers: adapters of the text
    /// encoder or of convolutions, DoRA, LoHa, LoKr, or names that are none of the model's (all are listed).
    pub fn read_lora_file<M: Adaptable>(path: &Path, model: &M) -> Result<Self, LoadError> {
        let mut layers = Vec::new();
        let mut copy = model.clone();
        copy.visit_layers(&mut |name, _| layers.push(name.strip_prefix(PREFIX).unwrap_or(name).to_owned()));
        let mut shards = Shards::open(&[path.to_owned()])?;
        let names: Vec<String> = shards.names().map(str::to_owned).collect();
        refuse(&names, &shards)?;
        let mut found: BTreeMap<String, BTreeMap<Factor, TensorData>> = BTreeMap::new();
        let mut unused = Vec::new();
        for name in names {
            let Some((layer, factor)) = place(&name, &layers) else {
                unused.push(name);
                continue;
            };
            let shape = shards.shape(&name).unwrap_or_default().to_vec();
            let Some(values) = shards.read(&name)? else { continue };
            if found.entry(layer).or_default().insert(factor, TensorData::new(values, shape)).is_some() {
                return Err(LoadError::Twice { name, first: path.to_owned(), second: path.to_owned() });
            }
        }
        let settings = shards.metadata(METADATA).and_then(|text| serde_json::from_str::<Map<String, Value>>(text).ok());
        gathered(found, unused, &Settings(settings.unwrap_or_default()))
    }

    /// The name of diffusers' LoRA file.
    pub const LORA_FILE: &'static str = "pytorch_lora_weights.safetensors";

    /// The adapter at a path: a LoRA file, or a folder with one called `pytorch_lora_weights.safetensors`, or PEFT's
    /// folder.
    ///
    /// # Errors
    ///
    /// As [`read_lora_file`](Self::read_lora_file) and [`read`](Self::read).
    pub fn read_any<M: Adaptable>(path: &Path, model: &M) -> Result<Self, LoadError> {
        let inside = path.join(Self::LORA_FILE);
        if path.is_file() {
            Self::read_lora_file(path, model)
        } else if inside.exists() && !path.join("adapter_config.json").exists() {
            Self::read_lora_file(&inside, model)
        } else {
            Self::read(path)
        }
    }

    /// Writes [`lora_file`](Self::lora_file) into a folder.
    ///
    /// # Errors
    ///
    /// If the file cannot be written.
    pub fn write_lora_file(&self, folder: &Path, denoiser: &str) -> Result<(), LoadError> {
        let path = folder.join(Self::LORA_FILE);
        let failed = |(path, source): (PathBuf, _)| LoadError::File { path, source };
        std::fs::create_dir_all(folder).map_err(|e| failed((folder.to_owned(), e)))?;
        write_whole(&[(path, self.lora_file(denoiser)?)]).map_err(failed)
    }

    /// The bytes of the adapter as diffusers writes it, for a denoiser that is diffusers' `unet` or `transformer`.
    ///
    /// # Errors
    ///
    /// If the tensors make no safetensors file.
    pub fn lora_file(&self, denoiser: &str) -> Result<Vec<u8>, LoadError> {
        let path = PathBuf::from(Self::LORA_FILE);
        let wrong =
            |source: safetensors::SafeTensorError| LoadError::Header { path: path.clone(), source: Box::new(source) };
        let bare = |name: &str| name.strip_prefix(PREFIX).unwrap_or(name).to_owned();
        let bytes = |data: &TensorData| data.iter::<f32>().flat_map(f32::to_le_bytes).collect::<Vec<u8>>();
        let tensors: Vec<(String, Vec<u8>, Vec<usize>)> = self
            .tensors
            .iter()
            .map(|(name, data)| (format!("{denoiser}.{}", bare(name)), bytes(data), data.shape().to_vec()))
            .collect();
        let views = tensors
            .iter()
            .map(|(name, bytes, shape)| Ok((name, TensorView::new(Dtype::F32, shape.clone(), bytes)?)))
            .collect::<Result<Vec<_>, _>>()
            .map_err(wrong)?;
        let layers: Vec<String> = self.tensors.keys().filter_map(|name| name.strip_suffix(A)).map(bare).collect();
        let LoraConfig { rank, alpha, scaling, .. } = self.config.lora;
        let mut settings = Map::new();
        for (key, value) in [
            ("r", json!(rank)),
            ("lora_alpha", json!(alpha)),
            ("target_modules", json!(layers)),
            ("rank_pattern", Value::Object(self.config.ranks.iter().map(|(n, r)| (n.clone(), json!(r))).collect())),
            ("alpha_pattern", Value::Object(self.config.alphas.iter().map(|(n, a)| (n.clone(), json!(a))).collect())),
            ("use_rslora", json!(scaling == LoraScaling::RankStabilized)),
        ] {
            settings.insert(format!("{denoiser}.{key}"), value);
        }
        let settings = Value::Object(settings).to_string();
        // One entry only: their order would be random.
        safetensors::serialize(views, Some(HashMap::from([(METADATA.to_owned(), settings)]))).map_err(wrong)
    }
}

/// Fails if there are tensors of a kind that is not supported.
fn refuse(names: &[String], shards: &Shards) -> Result<(), LoadError> {
    for (part, what) in REFUSED {
        let names: Vec<String> = names.iter().filter(|name| name.contains(part)).cloned().collect();
        if !names.is_empty() {
            return Err(LoadError::AdapterPart { what, names });
        }
    }
    let convolution = |name: &&String| shards.shape(name).is_some_and(|shape| shape.len() > 2);
    let names: Vec<String> = names.iter().filter(convolution).cloned().collect();
    if names.is_empty() { Ok(()) } else { Err(LoadError::AdapterPart { what: "LoRA on a convolution", names }) }
}

/// The layer and the factor that a name stands for.
fn place(name: &str, layers: &[String]) -> Option<(String, Factor)> {
    let (stem, factor) = ENDS.iter().find_map(|(end, factor)| Some((name.strip_suffix(end)?, *factor)))?;
    if let Some(flat) = KOHYA.iter().find_map(|prefix| stem.strip_prefix(prefix)) {
        return layers.iter().find(|layer| layer.replace('.', "_") == flat).map(|layer| (layer.clone(), factor));
    }
    let stem = PREFIXES.iter().find_map(|prefix| stem.strip_prefix(prefix)).unwrap_or(stem);
    let layer = match stem.split_once(".processor.") {
        Some((attention, "to_out")) => format!("{attention}.to_out.0"),
        Some((attention, part)) => format!("{attention}.{part}"),
        None => stem.to_owned(),
    };
    layers.contains(&layer).then_some((layer, factor))
}

/// The settings in the header; keys have the denoiser's name in front.
struct Settings(Map<String, Value>);

impl Settings {
    fn get(&self, key: &str) -> Option<&Value> {
        PREFIXES[1..].iter().find_map(|prefix| self.0.get(&format!("{prefix}{key}"))).or_else(|| self.0.get(key))
    }

    /// The `alpha` of a layer, if the header gives one.
    fn alpha(&self, layer: &str) -> Option<f64> {
        let own = self.get("alpha_pattern").and_then(Value::as_object);
        let own = own.and_then(|patterns| patterns.iter().find(|(end, _)| layer.ends_with(end.as_str())));
        own.map(|(_, value)| value).or_else(|| self.get("lora_alpha")).and_then(Value::as_f64)
    }
}

/// The adapter of all layers.
fn gathered(
    found: BTreeMap<String, BTreeMap<Factor, TensorData>>,
    unused: Vec<String>,
    settings: &Settings,
) -> Result<Adapter, LoadError> {
    let scaling = match settings.get("use_rslora") {
        Some(Value::Bool(true)) => LoraScaling::RankStabilized,
        _ => LoraScaling::Standard,
    };
    let (mut tensors, mut missing) = (BTreeMap::new(), Vec::new());
    let (mut ranks, mut alphas, mut targets) = (Vec::new(), Vec::new(), Vec::new());
    for (layer, mut factors) in found {
        let (Some(down), Some(up)) = (factors.remove(&Factor::Down), factors.remove(&Factor::Up)) else {
            missing.push(layer);
            continue;
        };
        let rank = down.shape().first().copied().unwrap_or(0);
        let own = factors.remove(&Factor::Alpha).and_then(|alpha| alpha.iter::<f64>().next());
        alphas.push((layer.clone(), own.or_else(|| settings.alpha(&layer)).unwrap_or(rank as f64)));
        ranks.push((layer.clone(), rank));
        tensors.insert(format!("{PREFIX}{layer}{A}"), down);
        tensors.insert(format!("{PREFIX}{layer}{B}"), up);
        targets.push(layer);
    }
    if !missing.is_empty() || !unused.is_empty() || tensors.is_empty() {
        return Err(LoadError::AdapterTensors { missing, unused });
    }
    let lora = LoraConfig { rank: ranks[0].1, alpha: alphas[0].1, scaling, dropout: 0.0 };
    ranks.retain(|(_, rank)| *rank != lora.rank);
    alphas.retain(|(_, alpha)| *alpha != lora.alpha);
    let target_modules = TargetModules::Names(targets);
    let config = AdapterConfig { lora, ranks, alphas, target_modules, ..AdapterConfig::default() };
    Ok(Adapter { config, tensors })
}
