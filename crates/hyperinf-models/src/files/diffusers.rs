//! Diffusers' `transformer/` folders: `config.json` and `diffusion_pytorch_model.safetensors`.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use burn::tensor::Device;
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde_json::json;

use super::fields::Fields;
use super::layout::transposed;
use super::load::{LoadReport, LoadedModel};
use super::shards::Shards;
use super::sizes;
use super::tensors::{IgnoredTensors, check, pull};
use super::whole::write_whole;
use crate::arch::parameters::visit_parameters;
use crate::{CheckpointNames, LoadError, PixArt, PixArtConfig};

pub(super) const CONFIG: &str = "config.json";
const CLASS: &str = "PixArtTransformer2DModel";
/// The weights, in the order of preference.
const WEIGHTS: [&str; 2] = ["diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.fp16.safetensors"];

/// Loads a PixArt transformer from diffusers' folder.
///
/// Every tensor must be used and every setting that changes the computation is followed or refused, as in
/// [`load_encoder`](crate::load_encoder). Numbers are converted to f32.
///
/// # Errors
///
/// If a file is missing, damaged or of another model, or a setting is not supported.
pub fn load_pixart(folder: &Path, device: &Device) -> Result<LoadedModel<PixArt>, LoadError> {
    let fields = Fields::read(&folder.join(CONFIG))?;
    let config = pixart_config(&fields)?;
    let mut shards = Shards::open(&[weights_file(folder)?])?;
    let tensors = shards.names().count();
    if config.layers > tensors {
        return Err(fields.refuse("num_layers", &json!(config.layers), &format!("fewer than the {tensors} tensors")));
    }
    let ignored = IgnoredTensors { prefixes: &["pos_embed.pos_embed"], suffixes: &[] };
    check(&shards, folder, &sizes::of_pixart(&config), &ignored)?;
    let mut report = LoadReport::default();
    let model =
        pull(&mut shards, folder, &ignored, &mut report, |weights| PixArt::from_weights(config, device, weights))?;
    Ok(LoadedModel { model, report })
}

pub(super) fn weights_file(folder: &Path) -> Result<PathBuf, LoadError> {
    if let Some(path) = WEIGHTS.iter().map(|name| folder.join(name)).find(|path| path.exists()) {
        return Ok(path);
    }
    let looked_for = "`diffusion_pytorch_model.safetensors`; a `.bin` must be converted first";
    Err(LoadError::Missing { path: folder.to_owned(), what: "weights", looked_for })
}

fn pixart_config(fields: &Fields) -> Result<PixArtConfig, LoadError> {
    fields.only("_class_name", &[json!(CLASS)], CLASS)?;
    let absent = "absent, as nothing else is supported";
    fields.only("activation_fn", &[json!("gelu-approximate")], "\"gelu-approximate\"")?;
    fields.only("norm_type", &[json!("ada_norm_single")], "\"ada_norm_single\"")?;
    fields.only("norm_elementwise_affine", &[json!(false)], "false")?;
    fields.only("attention_type", &[json!("default")], "\"default\"")?;
    fields.only("use_additional_conditions", &[json!(false)], absent)?;
    fields.only("upcast_attention", &[json!(false)], "false")?;
    fields.only("double_self_attention", &[json!(false)], absent)?;
    fields.only("only_cross_attention", &[json!(false)], absent)?;
    let side = fields.size("sample_size")?;
    if side == 128 && fields.get("use_additional_conditions").is_none() {
        // diffusers then takes it as true.
        return Err(fields.refuse("use_additional_conditions", &json!(null), "false, given explicitly"));
    }
    let default = PixArtConfig::default();
    let or = |value: Option<usize>, default: usize| value.unwrap_or(default);
    let channels = or(fields.optional_size("in_channels")?, default.channels);
    let config = PixArtConfig {
        channels,
        out_channels: or(fields.optional_size("out_channels")?, channels),
        side,
        patch: or(fields.optional_size("patch_size")?, default.patch),
        layers: fields.size("num_layers")?,
        heads: fields.size("num_attention_heads")?,
        head_size: fields.size("attention_head_dim")?,
        text_width: fields.size("caption_channels")?,
        attention_bias: fields.flag("attention_bias", default.attention_bias)?,
        norm_epsilon: fields.number("norm_eps")?.unwrap_or(default.norm_epsilon),
        position_scale: fields.number("interpolation_scale")?.unwrap_or((side / 64).max(1) as f64),
    };
    let width = config.width();
    fields.only("cross_attention_dim", &[json!(width)], "the width, `num_attention_heads` · `attention_head_dim`")?;
    fields.checked(config.validate())?;
    Ok(config)
}

/// Writes a PixArt transformer into a folder as diffusers does; `PixArtTransformer2DModel.from_pretrained` reads it.
/// Adapters are left out.
///
/// # Errors
///
/// If a file cannot be written.
pub fn save_pixart(model: &PixArt, folder: &Path) -> Result<(), LoadError> {
    let path = folder.join(WEIGHTS[0]);
    let wrong =
        |source: safetensors::SafeTensorError| LoadError::Header { path: path.clone(), source: Box::new(source) };
    let config = model.config();
    let mut tensors: Vec<(String, Vec<usize>, Vec<u8>)> = Vec::new();
    let mut failed = None;
    visit_parameters(model, |parameter| {
        if parameter.path.contains(".lora_") || failed.is_some() {
            return;
        }
        let data = match parameter.data() {
            Ok(data) => data,
            Err(error) => {
                failed = Some(error);
                return;
            }
        };
        let (mut shape, mut values) = (data.shape().to_vec(), data.iter::<f32>().collect::<Vec<_>>());
        if parameter.is_linear_weight {
            values = transposed(&values, shape[0], shape[1]);
            shape.reverse();
        }
        let name = model.checkpoint_name(&parameter.path);
        if name == "pos_embed.proj.weight" {
            shape = vec![config.width(), config.channels, config.patch, config.patch];
        }
        tensors.push((name, shape, values.into_iter().flat_map(f32::to_le_bytes).collect()));
    });
    if let Some(error) = failed {
        return Err(error.into());
    }
    let views = tensors
        .iter()
        .map(|(name, shape, bytes)| Ok((name, TensorView::new(Dtype::F32, shape.clone(), bytes)?)))
        .collect::<Result<Vec<_>, _>>()
        .map_err(wrong)?;
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let bytes = safetensors::serialize(views, Some(metadata)).map_err(wrong)?;
    let settings = json!({
        "_class_name": CLASS,
        "activation_fn": "gelu-approximate",
        "attention_bias": config.attention_bias,
        "attention_head_dim": config.head_size,
        "attention_type": "default",
        "caption_channels": config.text_width,
        "cross_attention_dim": config.width(),
        "dropout": 0.0,
        "in_channels": config.channels,
        "interpolation_scale": config.position_scale,
        "norm_elementwise_affine": false,
        "norm_eps": config.norm_epsilon,
        "norm_num_groups": 32,
        "norm_type": "ada_norm_single",
        "num_attention_heads": config.heads,
        "num_embeds_ada_norm": 1000,
        "num_layers": config.layers,
        "out_channels": config.out_channels,
        "patch_size": config.patch,
        "sample_size": config.side,
        "upcast_attention": false,
        "use_additional_conditions": false,
    });
    let file = folder.join(CONFIG);
    let mut text =
        serde_json::to_vec_pretty(&settings).map_err(|source| LoadError::Json { path: file.clone(), source })?;
    text.push(b'\n');
    let failed = |(path, source): (PathBuf, _)| LoadError::File { path, source };
    std::fs::create_dir_all(folder).map_err(|e| failed((folder.to_owned(), e)))?;
    write_whole(&[(path.clone(), bytes), (file, text)]).map_err(failed)
}
