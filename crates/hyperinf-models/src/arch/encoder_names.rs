//! The names of an encoder's parts in published checkpoints and in adapters.

/// Parts by their path in [`Encoder`](crate::Encoder) and their name below `bert.` or `roberta.`.
const PARTS: [(&str, &str); 5] = [
    ("token_embedding", "embeddings.word_embeddings"),
    ("position_embedding", "embeddings.position_embeddings"),
    ("segment_embedding", "embeddings.token_type_embeddings"),
    ("norm", "embeddings.LayerNorm"),
    ("pooler", "pooler.dense"),
];

/// The same for the parts of a layer.
const LAYER_PARTS: [(&str, &str); 8] = [
    ("q_proj", "attention.self.query"),
    ("k_proj", "attention.self.key"),
    ("v_proj", "attention.self.value"),
    ("out_proj", "attention.output.dense"),
    ("attention_norm", "attention.output.LayerNorm"),
    ("fc1", "intermediate.dense"),
    ("fc2", "output.dense"),
    ("feed_forward_norm", "output.LayerNorm"),
];

/// The published name of a path: `layers.0.q_proj.base.weight` becomes
/// `encoder.layer.0.attention.self.query.weight`. Parts without a published name keep their own.
pub(super) fn published(path: &str) -> String {
    let (part, leaf) = match path.strip_prefix("layers.").and_then(|rest| rest.split_once('.')) {
        Some((index, rest)) => {
            let (part, leaf) = rest.split_once('.').unwrap_or((rest, ""));
            (format!("encoder.layer.{index}.{}", translated(&LAYER_PARTS, part)), leaf)
        }
        None => {
            let (part, leaf) = path.split_once('.').unwrap_or((path, ""));
            (translated(&PARTS, part).to_owned(), leaf)
        }
    };
    let leaf = match leaf {
        "base.weight" | "gamma" => "weight",
        "base.bias" | "beta" => "bias",
        "lora_a.weight" => "lora_A.weight",
        "lora_b.weight" => "lora_B.weight",
        other => other,
    };
    if leaf.is_empty() { part } else { format!("{part}.{leaf}") }
}

fn translated<'a>(names: &[(&str, &'static str)], part: &'a str) -> &'a str {
    names.iter().find(|(own, _)| *own == part).map_or(part, |(_, published)| published)
}
