use serde_json::json;

use super::fields::Fields;
use crate::{Activation, EncoderConfig, EncoderFamily, LoadError, NormPlacement};

/// The configuration of a BERT or RoBERTa in `config.json`; `pooler` says whether there are weights for a pooler.
///
/// Dropout probabilities are ignored: only adapters are trained, and they have their own.
pub(super) fn encoder_config(fields: &Fields, family: EncoderFamily, pooler: bool) -> Result<EncoderConfig, LoadError> {
    fields.only("position_embedding_type", &[json!("absolute")], "\"absolute\"")?;
    fields.only("is_decoder", &[json!(false)], "false")?;
    fields.only("add_cross_attention", &[json!(false)], "false")?;
    fields.only("pruned_heads", &[json!({})], "{}")?;
    let activation = match fields.text("hidden_act")? {
        None => Activation::Gelu,
        Some(name) => Activation::named(&name)
            .ok_or_else(|| fields.refuse("hidden_act", &json!(name), &Activation::NAMES.join(", ")))?,
    };
    let positions = fields.size("max_position_embeddings")?;
    // RoBERTa's first position is the padding token's id plus 1.
    let padding = match family {
        EncoderFamily::Bert => None,
        EncoderFamily::Roberta => Some(fields.optional_size("pad_token_id")?.unwrap_or(1)),
    };
    let first_position = padding.map_or(0, |padding| padding.saturating_add(1));
    let Some(max_tokens) = positions.checked_sub(first_position).filter(|&tokens| tokens > 0) else {
        let expected = format!("more than `pad_token_id` + 1 with `pad_token_id` = {}", padding.unwrap_or(0));
        return Err(fields.refuse("max_position_embeddings", &json!(positions), &expected));
    };
    let config = EncoderConfig {
        family,
        vocabulary: fields.size("vocab_size")?,
        max_tokens,
        first_position,
        segments: fields.optional_size("type_vocab_size")?.unwrap_or(2),
        width: fields.size("hidden_size")?,
        layers: fields.size("num_hidden_layers")?,
        heads: fields.size("num_attention_heads")?,
        feed_forward: fields.size("intermediate_size")?,
        norm: NormPlacement::Post,
        norm_epsilon: fields.number("layer_norm_eps")?.unwrap_or(1e-12),
        activation,
        pooler,
    };
    fields.checked(config.validate())?;
    Ok(config)
}
