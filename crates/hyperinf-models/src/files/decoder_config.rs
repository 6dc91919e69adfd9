use serde_json::json;

use super::fields::Fields;
use crate::{
    AttentionBias, DecoderConfig, LmHead, LoadError, RotaryConfig, RotaryPairing, RotaryScaling, SlidingWindow,
};

/// The model types of the Llama family, which differ in their defaults.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DecoderFamily {
    Llama,
    Mistral,
    Qwen2,
}

/// The configuration and the kind of head in `config.json`, with the defaults of Hugging Face's libraries.
///
/// Dropout probabilities are ignored: only adapters are trained, and they have their own.
pub(super) fn decoder_config(fields: &Fields, family: DecoderFamily) -> Result<(DecoderConfig, LmHead), LoadError> {
    fields.only("hidden_act", &[json!("silu"), json!("swish")], "\"silu\"")?;
    fields.only("partial_rotary_factor", &[json!(1.0), json!(1)], "1")?;
    let width = fields.size("hidden_size")?;
    let heads = fields.size("num_attention_heads")?;
    let layers = fields.size("num_hidden_layers")?;
    let attention_bias = match family {
        DecoderFamily::Qwen2 => AttentionBias::QueryKeyValue,
        DecoderFamily::Llama if fields.flag("attention_bias", false)? => AttentionBias::All,
        DecoderFamily::Llama | DecoderFamily::Mistral => AttentionBias::None,
    };
    let feed_forward_bias = family == DecoderFamily::Llama && fields.flag("mlp_bias", false)?;
    if family != DecoderFamily::Llama {
        // Hugging Face's models of these types have no such setting, so a file with it means something else.
        fields.only("mlp_bias", &[json!(false)], "false")?;
    }
    if family == DecoderFamily::Mistral {
        fields.only("attention_bias", &[json!(false)], "false")?;
    }
    let max_tokens = fields.size("max_position_embeddings")?;
    let (rotary, max_tokens) = rotary(fields, max_tokens)?;
    let config = DecoderConfig {
        vocabulary: fields.size("vocab_size")?,
        max_tokens,
        width,
        layers,
        heads,
        key_value_heads: fields.optional_size("num_key_value_heads")?.unwrap_or(match family {
            DecoderFamily::Llama => heads,
            // An absent number has a default; `null` means the number of query heads.
            _ if fields.is_null("num_key_value_heads") => heads,
            DecoderFamily::Mistral => 8,
            DecoderFamily::Qwen2 => 32,
        }),
        head_size: match fields.optional_size("head_dim")? {
            Some(size) => size,
            None => width.checked_div(heads).unwrap_or(0),
        },
        feed_forward: fields.size("intermediate_size")?,
        norm_epsilon: fields.number("rms_norm_eps")?.unwrap_or(1e-6),
        rotary,
        attention_bias,
        feed_forward_bias,
        sliding_window: window(fields, family, layers)?,
    };
    fields.checked(config.validate())?;
    let head = if fields.flag("tie_word_embeddings", false)? { LmHead::Tied } else { LmHead::Separate };
    Ok((config, head))
}

/// The window of attention. If there is a `layer_types`, it must agree with the other settings.
fn window(fields: &Fields, family: DecoderFamily, layers: usize) -> Result<Option<SlidingWindow>, LoadError> {
    let (size, first_layer) = match family {
        DecoderFamily::Llama => (None, 0),
        // An absent window has a default; `null` means no window.
        DecoderFamily::Mistral if fields.is_null("sliding_window") => (None, 0),
        DecoderFamily::Mistral => (Some(fields.optional_size("sliding_window")?.unwrap_or(4096)), 0),
        DecoderFamily::Qwen2 if !fields.flag("use_sliding_window", false)? => (None, 0),
        DecoderFamily::Qwen2 if fields.is_null("sliding_window") => (None, 0),
        DecoderFamily::Qwen2 => {
            let first = fields.optional_size("max_window_layers")?.unwrap_or(28);
            (Some(fields.optional_size("sliding_window")?.unwrap_or(4096)), first)
        }
    };
    let window = size.map(|size| SlidingWindow { size, first_layer });
    let expected = |layer| match window {
        Some(SlidingWindow { first_layer, .. }) if layer >= first_layer => "sliding_attention",
        _ => "full_attention",
    };
    if let Some(value) = fields.get("layer_types") {
        let types = value.as_array().map(Vec::as_slice).unwrap_or_default();
        let same = types.iter().enumerate().all(|(layer, found)| *found == json!(expected(layer)));
        if types.len() != layers || !same {
            let list: Vec<&str> = (0..types.len()).map(expected).collect();
            return Err(fields.refuse("layer_types", value, &format!("{} for {layers} layers", json!(list))));
        }
    }
    Ok(window)
}

/// The rotary positions and their number, from `rope_parameters` (newer files) or from `rope_scaling` and `rope_theta`
/// (older ones).
fn rotary(fields: &Fields, max_tokens: usize) -> Result<(RotaryConfig, usize), LoadError> {
    let newer = fields.within("rope_parameters", "rope_parameters.")?;
    if let Some(value) = fields.get("rope_parameters") {
        fields.only("rope_scaling", std::slice::from_ref(value), "the same as `rope_parameters`")?;
    }
    let rope = match newer {
        Some(newer) => Some(newer),
        None => fields.within("rope_scaling", "rope_scaling.")?,
    };
    let base = match rope.as_ref().map(|rope| rope.number("rope_theta")).transpose()?.flatten() {
        Some(base) => base,
        None => fields.number("rope_theta")?.unwrap_or(1e4),
    };
    let (scaling, max_tokens) = match &rope {
        None => (RotaryScaling::None, max_tokens),
        Some(rope) => scaling(rope, max_tokens)?,
    };
    // Some libraries let a length outside these settings override the one inside.
    if let RotaryScaling::Yarn { original_max_tokens, .. } | RotaryScaling::Llama3 { original_max_tokens, .. } = scaling
    {
        let name = "original_max_position_embeddings";
        fields.only(name, &[json!(original_max_tokens)], &original_max_tokens.to_string())?;
    }
    Ok((RotaryConfig { base, scaling, pairing: RotaryPairing::Halves }, max_tokens))
}

fn scaling(rope: &Fields, max_tokens: usize) -> Result<(RotaryScaling, usize), LoadError> {
    rope.only("partial_rotary_factor", &[json!(1.0), json!(1)], "1")?;
    let kind = match rope.text("rope_type")? {
        Some(kind) => Some(kind),
        None => rope.text("type")?,
    };
    for (name, value) in rope.entries() {
        if value.is_object() {
            return Err(rope.refuse(name, value, "one set of positions for all layers"));
        }
        if kind.is_none() && name != "rope_theta" {
            return Err(rope.absent("rope_type"));
        }
    }
    let original = rope.optional_size("original_max_position_embeddings")?;
    let scaling = match kind.as_deref() {
        None | Some("default") => RotaryScaling::None,
        Some("linear") => RotaryScaling::Linear { factor: rope.needed_number("factor")? },
        // The angles change only beyond the original length, which is therefore taken as the longest.
        Some("dynamic") => return Ok((RotaryScaling::None, original.unwrap_or(max_tokens).min(max_tokens))),
        Some("llama3") => RotaryScaling::Llama3 {
            factor: rope.needed_number("factor")?,
            low_frequency_factor: rope.needed_number("low_freq_factor")?,
            high_frequency_factor: rope.needed_number("high_freq_factor")?,
            original_max_tokens: rope.size("original_max_position_embeddings")?,
        },
        Some("yarn") => {
            let factor = rope.needed_number("factor")?;
            RotaryScaling::Yarn {
                factor,
                attention_factor: match rope.number("attention_factor")? {
                    Some(given) => given,
                    None => yarn_attention(factor, rope.number("mscale")?, rope.number("mscale_all_dim")?),
                },
                beta_fast: rope.number("beta_fast")?.unwrap_or(32.0),
                beta_slow: rope.number("beta_slow")?.unwrap_or(1.0),
                original_max_tokens: original.unwrap_or(max_tokens),
                whole_dimensions: rope.flag("truncate", true)?,
            }
        }
        Some(other) => {
            let known = "\"default\", \"linear\", \"dynamic\", \"llama3\" or \"yarn\"";
            return Err(rope.refuse("rope_type", &json!(other), known));
        }
    };
    Ok((scaling, max_tokens))
}

/// YaRN's factor of sine and cosine: `1 + ln(factor)/10`, or the ratio of two such terms, each with its weight.
fn yarn_attention(factor: f64, weight: Option<f64>, weight_of_all: Option<f64>) -> f64 {
    let magnitude = |weight: f64| if factor <= 1.0 { 1.0 } else { 1.0 + 0.1 * weight * factor.ln() };
    match (weight, weight_of_all) {
        (Some(weight), Some(all)) if weight != 0.0 && all != 0.0 => magnitude(weight) / magnitude(all),
        _ => magnitude(1.0),
    }
}
