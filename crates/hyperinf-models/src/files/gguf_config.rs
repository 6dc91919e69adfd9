use super::gguf_names::{DIVISORS, EMBEDDING, HEAD};
use super::gguf_reader::{Reader, required, wrong};
use crate::{
    AttentionBias, DecoderConfig, FormatError, LmHead, RotaryConfig, RotaryPairing, RotaryScaling, SlidingWindow,
};

/// The architecture of the model in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Architecture {
    /// Llama, Mistral, SmolLM2: rows of query and key layers are ordered for neighbouring pairs.
    Llama,
    /// Qwen2: rows as in Hugging Face's checkpoints.
    Qwen2,
}

impl Architecture {
    pub(super) fn of(file: &Reader) -> Result<Self, FormatError> {
        let known = "`llama` and `qwen2`";
        match required("general.architecture", file.string("general.architecture")?, "a string")? {
            "llama" => Ok(Self::Llama),
            "qwen2" => Ok(Self::Qwen2),
            other => Err(FormatError::Architecture { found: other.to_owned(), known }),
        }
    }

    /// The entry of a setting of `config.json`.
    pub(super) fn key(self, setting: &str) -> String {
        let name = match setting {
            "hidden_size" => "embedding_length",
            "intermediate_size" => "feed_forward_length",
            "num_attention_heads" => "attention.head_count",
            "num_key_value_heads" => "attention.head_count_kv",
            "head_dim" => "attention.key_length",
            "vocab_size" => "vocab_size",
            other => other,
        };
        format!("{}.{name}", self.name())
    }

    fn name(self) -> &'static str {
        match self {
            Self::Llama => "llama",
            Self::Qwen2 => "qwen2",
        }
    }
}

/// The configuration in a file's entries, and its kind of head.
pub(super) fn read(file: &mut Reader, architecture: Architecture) -> Result<(DecoderConfig, LmHead), FormatError> {
    let key = |name: &str| format!("{}.{name}", architecture.name());
    let size = |name: &str| -> Result<usize, FormatError> {
        let (key, expected) = (key(name), "a number from 1");
        let value = required(&key, file.integer(&key)?, expected)?;
        if value >= 1 { Ok(value) } else { Err(wrong(&key, "0", expected)) }
    };
    let (width, layers, heads) = (size("embedding_length")?, size("block_count")?, size("attention.head_count")?);
    let head_size = match file.integer(&key("attention.key_length"))? {
        Some(head_size) => head_size,
        None if width.is_multiple_of(heads) => width / heads,
        None => return Err(wrong(&key("attention.head_count"), &heads.to_string(), "a divisor of the width")),
    };
    same(file, &key("attention.value_length"), head_size, "the same as `attention.key_length`")?;
    same(file, &key("rope.dimension_count"), head_size, "the size of a head")?;
    let epsilon = key("attention.layer_norm_rms_epsilon");
    let max_tokens = size("context_length")?;
    let (_, vocabulary) = match *file.shape(EMBEDDING)? {
        [found, vocabulary] if found == width => (found, vocabulary),
        ref other => {
            let (found, expected) = (other.to_vec(), vec![width, other.get(1).copied().unwrap_or(0)]);
            return Err(FormatError::Shape { name: EMBEDDING.to_owned(), found, expected });
        }
    };
    let bias = match (file.has_tensor("blk.0.attn_q.bias"), file.has_tensor("blk.0.attn_output.bias")) {
        (false, _) => AttentionBias::None,
        (true, false) => AttentionBias::QueryKeyValue,
        (true, true) => AttentionBias::All,
    };
    let window = file.integer(&key("attention.sliding_window"))?.filter(|&size| size > 0);
    let mut config = DecoderConfig {
        vocabulary,
        max_tokens,
        width,
        layers,
        heads,
        key_value_heads: file.integer(&key("attention.head_count_kv"))?.unwrap_or(heads),
        head_size,
        feed_forward: size("feed_forward_length")?,
        norm_epsilon: required(&epsilon, file.number(&epsilon)?, "a number")?,
        rotary: RotaryConfig {
            base: file.number(&key("rope.freq_base"))?.unwrap_or(1e4),
            scaling: scaling(file, &key("rope.scaling"), max_tokens)?,
            pairing: RotaryPairing::Halves,
        },
        attention_bias: bias,
        feed_forward_bias: file.has_tensor("blk.0.ffn_gate.bias"),
        sliding_window: window.map(|size| SlidingWindow { size, first_layer: 0 }),
    };
    let head = if file.has_tensor(HEAD) { LmHead::Separate } else { LmHead::Tied };
    let tensors = file.tensor_names().count();
    if layers > tensors {
        // Otherwise a corrupt number of layers would give an endless list of missing tensors.
        let found = format!("{layers} in a file of {tensors} tensors");
        return Err(FormatError::Entry {
            key: key("block_count"),
            found,
            expected: "the number of layers in the file",
        });
    }
    if file.has_tensor(DIVISORS) {
        read_divisors(file, &key("rope.scaling.type"), &mut config)?;
    }
    Ok((config, head))
}

fn same(file: &Reader, key: &str, value: usize, expected: &'static str) -> Result<(), FormatError> {
    match file.integer(key)? {
        Some(found) if found != value => {
            Err(FormatError::Entry { key: key.into(), found: found.to_string(), expected })
        }
        _ => Ok(()),
    }
}

/// The entries below `{architecture}.rope.scaling`.
fn scaling(file: &Reader, prefix: &str, max_tokens: usize) -> Result<RotaryScaling, FormatError> {
    let number = |name: &str| file.number(&format!("{prefix}.{name}"));
    let kind = format!("{prefix}.type");
    // A factor of 0 means no scaling.
    let factor = number("factor")?.filter(|&factor| factor != 0.0);
    match (file.string(&kind)?, factor) {
        (Some("none"), _) | (None | Some("linear"), None) => Ok(RotaryScaling::None),
        (None | Some("linear"), Some(factor)) => Ok(RotaryScaling::Linear { factor }),
        (Some("yarn"), Some(factor)) => Ok(RotaryScaling::Yarn {
            factor,
            attention_factor: number("attn_factor")?.unwrap_or(1.0) * (1.0 + 0.1 * factor.max(1.0).ln()),
            beta_fast: number("yarn_beta_fast")?.unwrap_or(32.0),
            beta_slow: number("yarn_beta_slow")?.unwrap_or(1.0),
            original_max_tokens: file.integer(&format!("{prefix}.original_context_length"))?.unwrap_or(max_tokens),
            whole_dimensions: true,
        }),
        (Some("yarn"), None) => Err(wrong(&format!("{prefix}.factor"), "absent", "a number above 0")),
        (Some(other), _) => Err(wrong(&kind, &format!("`{other}`"), "`none`, `linear` or `yarn`")),
    }
}

/// Reads the divisors of the frequencies from their tensor.
fn read_divisors(file: &mut Reader, kind: &str, config: &mut DecoderConfig) -> Result<(), FormatError> {
    let factor = match config.rotary.scaling {
        RotaryScaling::None => 1.0,
        RotaryScaling::Linear { factor } => factor,
        RotaryScaling::Llama3 { .. } | RotaryScaling::Yarn { .. } | RotaryScaling::Divided { .. } => {
            return Err(wrong(kind, "`yarn` with a tensor of divisors", "`none` or `linear`"));
        }
    };
    let divisors = file.tensor(DIVISORS, &[config.head_size / 2])?;
    let divisors = divisors.into_iter().map(|divisor| factor * f64::from(divisor)).collect();
    config.rotary.scaling = RotaryScaling::Divided { divisors };
    Ok(())
}
