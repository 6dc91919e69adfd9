use crate::{AttentionBias, DecoderConfig, LmHead};

/// The tensor of the divisors of the rotary frequencies.
pub(super) const DIVISORS: &str = "rope_freqs.weight";
/// The tensor of the token embedding.
pub(super) const EMBEDDING: &str = "token_embd.weight";
/// The tensor of a separate head.
pub(super) const HEAD: &str = "output.weight";

/// Names outside layers: Hugging Face's and the file's.
const OUTSIDE: [(&str, &str); 3] =
    [("model.embed_tokens.weight", EMBEDDING), ("model.norm.weight", "output_norm.weight"), ("lm_head.weight", HEAD)];

/// Names inside a layer: Hugging Face's and the file's.
const WITHIN: [(&str, &str); 9] = [
    ("input_layernorm", "attn_norm"),
    ("self_attn.q_proj", "attn_q"),
    ("self_attn.k_proj", "attn_k"),
    ("self_attn.v_proj", "attn_v"),
    ("self_attn.o_proj", "attn_output"),
    ("post_attention_layernorm", "ffn_norm"),
    ("mlp.gate_proj", "ffn_gate"),
    ("mlp.up_proj", "ffn_up"),
    ("mlp.down_proj", "ffn_down"),
];

/// The file's name of a weight, from Hugging Face's: `model.layers.0.self_attn.q_proj.weight` is
/// `blk.0.attn_q.weight`.
pub(super) fn in_file(name: &str) -> Option<String> {
    if let Some((_, ours)) = OUTSIDE.iter().find(|(theirs, _)| *theirs == name) {
        return Some((*ours).to_owned());
    }
    let (layer, rest) = name.strip_prefix("model.layers.")?.split_once('.')?;
    let (part, kind) = rest.rsplit_once('.')?;
    let (_, ours) = WITHIN.iter().find(|(theirs, _)| *theirs == part)?;
    Some(format!("blk.{layer}.{ours}.{kind}"))
}

/// The names of all tensors that the file of a model must hold.
pub(super) fn expected(config: &DecoderConfig, head: LmHead) -> Vec<String> {
    let outside = OUTSIDE.iter().map(|(_, name)| *name).filter(|&name| name != HEAD || head == LmHead::Separate);
    let mut names: Vec<String> = outside.map(str::to_owned).collect();
    for layer in 0..config.layers {
        for (_, part) in WITHIN {
            names.push(format!("blk.{layer}.{part}.weight"));
            let bias = match part {
                "attn_q" | "attn_k" | "attn_v" => config.attention_bias != AttentionBias::None,
                "attn_output" => config.attention_bias == AttentionBias::All,
                "ffn_gate" | "ffn_up" | "ffn_down" => config.feed_forward_bias,
                _ => false,
            };
            if bias {
                names.push(format!("blk.{layer}.{part}.bias"));
            }
        }
    }
    names
}
