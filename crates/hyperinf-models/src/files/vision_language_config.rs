use serde_json::{Value, json};

use super::decoder_config::{DecoderFamily, decoder_config};
use super::fields::Fields;
use crate::{Activation, ConnectorConfig, LmHead, LoadError, VisionConfig, VisionForm, VisionLanguageConfig};

/// The families of vision-language models.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum VisionFamily {
    Idefics3,
    Llava,
}

type Defaults<'a> = [(&'a str, Value)];

/// The configuration in `config.json`, with the defaults of Hugging Face's libraries. `has_head` says whether there
/// are weights of an output layer.
pub(super) fn vision_language_config(
    fields: &Fields,
    family: VisionFamily,
    has_head: bool,
) -> Result<VisionLanguageConfig, LoadError> {
    let (text_fields, text_family) = text_fields(fields, family)?;
    let (text, own_head) = decoder_config(&text_fields, text_family)?;
    // Versions of the library differ in which of the two decides: then the weights do.
    let tied = fields.flag("tie_word_embeddings", false)?;
    let head = match (tied, own_head) {
        (true, LmHead::Tied) => LmHead::Tied,
        (false, LmHead::Separate) => LmHead::Separate,
        _ if has_head => LmHead::Separate,
        _ => LmHead::Tied,
    };
    let (vision, connector, image_token) = match family {
        VisionFamily::Idefics3 => idefics3(fields, &text_fields)?,
        VisionFamily::Llava => llava(fields)?,
    };
    fields.checked(vision.validate())?;
    if let ConnectorConfig::PixelShuffle { scale } = connector
        && (scale == 0 || !vision.side().is_multiple_of(scale))
    {
        let expected = format!("a divisor of the {} patches along an image's side", vision.side());
        return Err(fields.refuse("scale_factor", &json!(scale), &expected));
    }
    if image_token >= text.vocabulary {
        let expected = format!("a token of the vocabulary of {}", text.vocabulary);
        return Err(fields.refuse("image_token_id", &json!(image_token), &expected));
    }
    Ok(VisionLanguageConfig { vision, connector, text, head, image_token: image_token as u32 })
}

/// The settings of the language model, for its sizes.
pub(super) fn text_fields(fields: &Fields, family: VisionFamily) -> Result<(Fields, DecoderFamily), LoadError> {
    let given = fields.within("text_config", "text_config.")?;
    let epsilon = if given.is_none() && family == VisionFamily::Idefics3 { 1e-5 } else { 1e-6 };
    let given = given.unwrap_or_else(|| Fields::none(fields.path(), "text_config."));
    let kind = given.text("model_type")?.unwrap_or_else(|| "llama".to_owned());
    let (family, [inner, positions, vocabulary]) = match kind.as_str() {
        "llama" => (DecoderFamily::Llama, [11008, 2048, 32000]),
        "mistral" => (DecoderFamily::Mistral, [14336, 131_072, 32000]),
        "qwen2" => (DecoderFamily::Qwen2, [22016, 32768, 151_936]),
        _ => return Err(given.refuse("model_type", &json!(kind), "\"llama\", \"mistral\" or \"qwen2\"")),
    };
    for name in ["qk_layer_norms", "use_resampler"] {
        given.only(name, &[json!(false)], "false")?;
    }
    let defaults = [
        ("hidden_size", json!(4096)),
        ("intermediate_size", json!(inner)),
        ("num_hidden_layers", json!(32)),
        ("num_attention_heads", json!(32)),
        ("max_position_embeddings", json!(positions)),
        ("vocab_size", json!(vocabulary)),
        ("rms_norm_eps", json!(epsilon)),
    ];
    Ok((given.or(&defaults), family))
}

fn idefics3(fields: &Fields, text: &Fields) -> Result<(VisionConfig, ConnectorConfig, usize), LoadError> {
    let scale = fields.optional_size("scale_factor")?.unwrap_or(2);
    let factor = text.optional_size("pixel_shuffle_factor")?;
    if let Some(factor) = factor.filter(|factor| *factor != scale) {
        return Err(text.refuse("pixel_shuffle_factor", &json!(factor), &format!("{scale}, the `scale_factor`")));
    }
    let defaults = [
        ("hidden_size", json!(1152)),
        ("intermediate_size", json!(3072)),
        ("num_hidden_layers", json!(12)),
        ("num_attention_heads", json!(16)),
        ("image_size", json!(224)),
        ("patch_size", json!(32)),
        ("hidden_act", json!("gelu_pytorch_tanh")),
        ("layer_norm_eps", json!(1e-6)),
    ];
    let kinds = ["idefics3", "idefics3_vision", "smolvlm", "smolvlm_vision"].map(|kind| json!(kind));
    let vision = vision_fields(fields, &defaults, &kinds)?;
    let layers = vision.size("num_hidden_layers")?;
    let config = vision_config(&vision, VisionForm::Siglip, layers)?;
    let token = fields.optional_size("image_token_id")?.unwrap_or(128_257);
    Ok((config, ConnectorConfig::PixelShuffle { scale }, token))
}

fn llava(fields: &Fields) -> Result<(VisionConfig, ConnectorConfig, usize), LoadError> {
    let absent = fields.get("vision_config").is_none();
    let of = |large: usize, base: usize| json!(if absent { large } else { base });
    let defaults = [
        ("hidden_size", of(1024, 768)),
        ("intermediate_size", of(4096, 3072)),
        ("num_hidden_layers", of(24, 12)),
        ("num_attention_heads", of(16, 12)),
        ("image_size", of(336, 224)),
        ("patch_size", of(14, 32)),
        ("hidden_act", json!("quick_gelu")),
        ("layer_norm_eps", json!(1e-5)),
    ];
    let vision = vision_fields(fields, &defaults, &[json!("clip_vision_model")])?;
    let strategy = fields.text("vision_feature_select_strategy")?.unwrap_or_else(|| "default".to_owned());
    let class_feature = match strategy.as_str() {
        "default" => false,
        "full" => true,
        _ => {
            let known = "\"default\" or \"full\"";
            return Err(fields.refuse("vision_feature_select_strategy", &json!(strategy), known));
        }
    };
    let layers = vision.size("num_hidden_layers")?;
    let used = match fields.get("vision_feature_layer") {
        None => layers.saturating_sub(1),
        Some(value) => {
            // Hidden state 0 comes before the first layer.
            let layer = value.as_i64().map(|layer| if layer < 0 { layer + layers as i64 + 1 } else { layer });
            let used = layer.and_then(|layer| usize::try_from(layer).ok()).filter(|layer| *layer <= layers);
            let expected = format!("one layer of {layers}");
            used.ok_or_else(|| fields.refuse("vision_feature_layer", value, &expected))?
        }
    };
    let activation = activation(fields, "projector_hidden_act", "gelu")?;
    let bias = fields.flag("multimodal_projector_bias", true)?;
    let token = match fields.optional_size("image_token_index")? {
        Some(token) => token,
        None => fields.optional_size("image_token_id")?.unwrap_or(32000),
    };
    let config = vision_config(&vision, VisionForm::Clip { class_feature }, used)?;
    Ok((config, ConnectorConfig::Projector { activation, bias }, token))
}

fn vision_fields(fields: &Fields, defaults: &Defaults<'_>, kinds: &[Value]) -> Result<Fields, LoadError> {
    let given = fields.within("vision_config", "vision_config.")?;
    let given = given.unwrap_or_else(|| Fields::none(fields.path(), "vision_config."));
    let known: Vec<String> = kinds.iter().map(Value::to_string).collect();
    given.only("model_type", kinds, &known.join(", "))?;
    Ok(given.or(defaults))
}

fn vision_config(vision: &Fields, form: VisionForm, used_layers: usize) -> Result<VisionConfig, LoadError> {
    Ok(VisionConfig {
        form,
        image_size: vision.size("image_size")?,
        patch_size: vision.size("patch_size")?,
        channels: vision.optional_size("num_channels")?.unwrap_or(3),
        width: vision.size("hidden_size")?,
        layers: vision.size("num_hidden_layers")?,
        used_layers,
        heads: vision.size("num_attention_heads")?,
        feed_forward: vision.size("intermediate_size")?,
        activation: activation(vision, "hidden_act", "gelu")?,
        norm_epsilon: vision.needed_number("layer_norm_eps")?,
    })
}

fn activation(fields: &Fields, name: &str, usual: &str) -> Result<Activation, LoadError> {
    let found = fields.text(name)?.unwrap_or_else(|| usual.to_owned());
    Activation::named(&found).ok_or_else(|| fields.refuse(name, &json!(found), &Activation::NAMES.join(", ")))
}
