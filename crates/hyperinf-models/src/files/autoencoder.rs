//! Diffusers' `vae/` folders.

use std::path::Path;

use burn::tensor::Device;
use serde_json::{Value, json};

use super::diffusers::{CONFIG, weights_file};
use super::fields::Fields;
use super::load::{LoadReport, LoadedModel};
use super::shards::Shards;
use super::tensors::{IgnoredTensors, pull};
use super::unet::sizes;
use crate::{Autoencoder, AutoencoderConfig, LoadError};

/// Loads an autoencoder from diffusers' folder of an `AutoencoderKL`.
///
/// Every tensor must be used and every setting that changes the computation is followed or refused, as in
/// [`load_encoder`](crate::load_encoder). Numbers are converted to f32.
///
/// # Errors
///
/// If a file is missing, damaged or of another model, or a setting is not supported.
pub fn load_autoencoder(folder: &Path, device: &Device) -> Result<LoadedModel<Autoencoder>, LoadError> {
    let fields = Fields::read(&folder.join(CONFIG))?;
    let config = autoencoder_config(&fields)?;
    let mut shards = Shards::open(&[weights_file(folder)?])?;
    let tensors = shards.names().count();
    if config.layers > tensors {
        let expected = format!("fewer than the {tensors} tensors");
        return Err(fields.refuse("layers_per_block", &json!(config.layers), &expected));
    }
    let ignored = IgnoredTensors { prefixes: &[], suffixes: &[] };
    let mut report = LoadReport::default();
    let model =
        pull(&mut shards, folder, &ignored, &mut report, |source| Autoencoder::from_weights(config, device, source))?;
    Ok(LoadedModel { model, report })
}

fn autoencoder_config(fields: &Fields) -> Result<AutoencoderConfig, LoadError> {
    fields.only("_class_name", &[json!("AutoencoderKL")], "\"AutoencoderKL\"")?;
    fields.only("act_fn", &[json!("silu")], "\"silu\"")?;
    for name in ["latents_mean", "latents_std"] {
        fields.only(name, &[], "absent: `scaling_factor` is followed")?;
    }
    let widths = sizes(fields, "block_out_channels", 1)?;
    for (name, block) in [("down_block_types", "DownEncoderBlock2D"), ("up_block_types", "UpDecoderBlock2D")] {
        let blocks = Value::Array(vec![json!(block); widths.len()]);
        fields.only(name, &[blocks], &format!("{block} for each level"))?;
    }
    let default = AutoencoderConfig::default();
    let channels = fields.size("in_channels")?;
    fields.only("out_channels", &[json!(channels)], "`in_channels`")?;
    let config = AutoencoderConfig {
        channels,
        latent_channels: fields.optional_size("latent_channels")?.unwrap_or(default.latent_channels),
        widths,
        layers: fields.optional_size("layers_per_block")?.unwrap_or(1),
        groups: fields.optional_size("norm_num_groups")?.unwrap_or(default.groups),
        scale: fields.number("scaling_factor")?.unwrap_or(default.scale),
        shift: fields.number("shift_factor")?.unwrap_or(0.0),
        attention: fields.flag("mid_block_add_attention", true)?,
        quant: fields.flag("use_quant_conv", true)?,
        post_quant: fields.flag("use_post_quant_conv", true)?,
    };
    fields.checked(config.validate())?;
    Ok(config)
}
