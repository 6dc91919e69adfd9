//! Diffusers' `unet/` folders.

use std::path::Path;

use burn::tensor::Device;
use serde_json::{Value, json};

use super::diffusers::{CONFIG, weights_file};
use super::fields::Fields;
use super::load::{LoadReport, LoadedModel};
use super::shards::Shards;
use super::tensors::{IgnoredTensors, pull};
use crate::{LoadError, UNet, UNetConfig, UNetLevel};

/// Loads the U-Net of Stable Diffusion 1.5 or 2 from diffusers' folder.
///
/// Every tensor must be used and every setting that changes the computation is followed or refused, as in
/// [`load_encoder`](crate::load_encoder). Numbers are converted to f32.
///
/// # Errors
///
/// If a file is missing, damaged or of another model, or a setting is not supported.
pub fn load_unet(folder: &Path, device: &Device) -> Result<LoadedModel<UNet>, LoadError> {
    let fields = Fields::read(&folder.join(CONFIG))?;
    let config = unet_config(&fields)?;
    let mut shards = Shards::open(&[weights_file(folder)?])?;
    let tensors = shards.names().count();
    let blocks = config.levels.iter().map(|level| level.depth).fold(config.layers, usize::saturating_add);
    if blocks > tensors {
        let expected = format!("fewer than the {tensors} tensors");
        return Err(fields.refuse("layers_per_block", &json!(config.layers), &expected));
    }
    let ignored = IgnoredTensors { prefixes: &[], suffixes: &[] };
    let mut report = LoadReport::default();
    let model =
        pull(&mut shards, folder, &ignored, &mut report, |weights| UNet::from_weights(config, device, weights))?;
    Ok(LoadedModel { model, report })
}

/// Settings with the only value that is followed; absent ones have it.
fn fixed() -> [(&'static str, Value); 25] {
    [
        ("_class_name", json!("UNet2DConditionModel")),
        ("act_fn", json!("silu")),
        ("attention_type", json!("default")),
        ("center_input_sample", json!(false)),
        ("class_embeddings_concat", json!(false)),
        ("conv_in_kernel", json!(3)),
        ("conv_out_kernel", json!(3)),
        ("downsample_padding", json!(1)),
        ("dual_cross_attention", json!(false)),
        ("flip_sin_to_cos", json!(true)),
        ("freq_shift", json!(0)),
        ("mid_block_scale_factor", json!(1)),
        ("mid_block_type", json!("UNetMidBlock2DCrossAttn")),
        ("only_cross_attention", json!(false)),
        ("resnet_out_scale_factor", json!(1.0)),
        ("resnet_skip_time_act", json!(false)),
        ("resnet_time_scale_shift", json!("default")),
        ("time_embedding_type", json!("positional")),
        ("upcast_attention", json!(false)),
        // Absent, or not a model of text states alone.
        ("addition_embed_type", Value::Null),
        ("class_embed_type", Value::Null),
        ("encoder_hid_dim_type", Value::Null),
        ("time_cond_proj_dim", Value::Null),
        ("timestep_post_act", Value::Null),
        ("time_embedding_act_fn", Value::Null),
    ]
}

/// More that must be absent.
const ABSENT: [&str; 8] = [
    "cross_attention_norm",
    "encoder_hid_dim",
    "mid_block_only_cross_attention",
    "num_class_embeds",
    "projection_class_embeddings_input_dim",
    "reverse_transformer_layers_per_block",
    "time_embedding_dim",
    "addition_time_embed_dim",
];

fn unet_config(fields: &Fields) -> Result<UNetConfig, LoadError> {
    for (name, value) in fixed() {
        // Numbers may be written with a fraction.
        let other = value.as_f64().map_or(value.clone(), |number| json!(number));
        let expected = if value.is_null() { "absent".to_owned() } else { value.to_string() };
        fields.only(name, &[value, other], &expected)?;
    }
    for name in ABSENT {
        fields.only(name, &[json!(false)], "absent, as nothing else is supported")?;
    }
    let channels = sizes(fields, "block_out_channels", 1)?;
    let count = channels.len();
    let heads = match fields.get("num_attention_heads") {
        Some(_) => sizes(fields, "num_attention_heads", count)?,
        // diffusers takes it for the number of heads.
        None => sizes(fields, "attention_head_dim", count)?,
    };
    let depths = match fields.get("transformer_layers_per_block") {
        Some(_) => sizes(fields, "transformer_layers_per_block", count)?,
        None => vec![1; count],
    };
    let down = kinds(fields, "down_block_types", ["CrossAttnDownBlock2D", "DownBlock2D"], count)?;
    let up = kinds(fields, "up_block_types", ["CrossAttnUpBlock2D", "UpBlock2D"], count)?;
    let levels = (0..count).map(|i| UNetLevel {
        channels: channels[i],
        heads: heads[i],
        depth: depths[i],
        attends_down: down[i],
        attends_up: up[count - 1 - i],
    });
    let config = UNetConfig {
        channels: fields.size("in_channels")?,
        out_channels: fields.size("out_channels")?,
        side: fields.size("sample_size")?,
        levels: levels.collect(),
        layers: fields.size("layers_per_block")?,
        text_width: fields.size("cross_attention_dim")?,
        groups: fields.size("norm_num_groups")?,
        norm_epsilon: fields.number("norm_eps")?.unwrap_or(1e-5),
        linear_projection: fields.flag("use_linear_projection", false)?,
    };
    fields.checked(config.validate())?;
    Ok(config)
}

/// Sizes for each level: a list, or one for all of `count`.
pub(super) fn sizes(fields: &Fields, name: &'static str, count: usize) -> Result<Vec<usize>, LoadError> {
    let value = fields.get(name).ok_or_else(|| fields.absent(name))?;
    let size = |value: &Value| value.as_u64().filter(|&size| size > 0).and_then(|size| usize::try_from(size).ok());
    let found = match value {
        Value::Array(values) => values.iter().map(size).collect::<Option<Vec<_>>>(),
        one => size(one).map(|size| vec![size; count]),
    };
    let fits = |sizes: &Vec<usize>| !sizes.is_empty() && (sizes.len() == count || name == "block_out_channels");
    found.filter(fits).ok_or_else(|| fields.refuse(name, value, "a size for each level"))
}

/// Whether each block is of the first kind rather than the second.
fn kinds(fields: &Fields, name: &'static str, known: [&str; 2], count: usize) -> Result<Vec<bool>, LoadError> {
    let value = fields.get(name).ok_or_else(|| fields.absent(name))?;
    let kind = |value: &Value| match value.as_str() {
        Some(name) if name == known[0] => Some(true),
        Some(name) if name == known[1] => Some(false),
        _ => None,
    };
    let found = value.as_array().and_then(|values| values.iter().map(kind).collect::<Option<Vec<_>>>());
    let expected = format!("{} or {} for each level", known[0], known[1]);
    found.filter(|kinds| kinds.len() == count).ok_or_else(|| fields.refuse(name, value, &expected))
}
