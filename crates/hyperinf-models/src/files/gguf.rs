use std::collections::BTreeSet;
use std::path::Path;

use burn::tensor::{Device, TensorData};
use tokenizers::Tokenizer;

use super::gguf_config::{self, Architecture};
use super::gguf_names as names;
use super::gguf_reader::Reader;
use super::gguf_vocabulary;
use super::layout::{neighbour_of_half, transposed_rows};
use super::sizes::{self, Disagreement};
use crate::{CausalLm, DecoderConfig, FormatError, LmHead, ModelError};

/// The vocabulary in a GGUF file.
#[derive(Clone, Debug)]
pub struct GgufVocabulary {
    /// The tokenizer. With special tokens, it adds those of `add_bos` and `add_eos`.
    pub tokenizer: Tokenizer,
    /// The token that begins a text.
    pub bos: Option<u32>,
    /// The token that ends a text.
    pub eos: Option<u32>,
    /// Whether texts begin with `bos`.
    pub add_bos: bool,
    /// Whether texts end with `eos`.
    pub add_eos: bool,
    /// The chat template, in Jinja.
    pub chat_template: Option<String>,
}

/// Loads a model from a GGUF file of the architecture `llama` (Llama, Mistral, SmolLM2) or `qwen2`.
///
/// Values are converted to f32 from any of F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K to Q6_K and Q8_K.
/// `llama` files reorder the rows of query and key layers; the original order is restored, so that adapters of this
/// model fit the checkpoint that the file was made from. Tensors are read one at a time: memory holds the model and
/// the largest tensor.
///
/// # Errors
///
/// [`ModelError::Format`] if the file cannot be read, has another architecture, is corrupt, or its tensors are not the
/// model's (all missing and all unused ones are listed).
pub fn load_gguf(path: &Path, device: &Device) -> Result<CausalLm, ModelError> {
    let failed = |source| ModelError::Format { path: path.to_owned(), source: Box::new(source) };
    let mut file = Reader::open(path).map_err(failed)?;
    let architecture = Architecture::of(&file).map_err(failed)?;
    let (config, head) = gguf_config::read(&mut file, architecture).map_err(failed)?;
    config.validate()?;
    check_names(&file, names::expected(&config, head)).map_err(failed)?;
    check_sizes(&file, &config, head, architecture).map_err(failed)?;
    let head_size = config.head_size;
    CausalLm::from_weights(config, head, device, |name, shape| {
        let stored = names::in_file(name).unwrap_or_else(|| name.to_owned());
        let permuted = architecture == Architecture::Llama && (name.contains("q_proj") || name.contains("k_proj"));
        let row = |j| if permuted { neighbour_of_half(j, head_size) } else { j };
        let values = match *shape {
            // A table of tokens has the same layout here and in the file.
            [tokens, width] if stored == names::EMBEDDING => file.tensor(&stored, &[width, tokens]),
            [d_input, d_output] => file
                .tensor(&stored, &[d_input, d_output])
                .map(|values| transposed_rows(&values, d_output, d_input, row)),
            _ => file.tensor(&stored, shape).map(|values| (0..values.len()).map(|j| values[row(j)]).collect()),
        };
        Ok(TensorData::new(values.map_err(failed)?, shape.to_vec()))
    })
}

/// Reads the vocabulary of a GGUF file: byte pairs on bytes (`gpt2`) or SentencePiece's pieces (`llama`).
///
/// Some byte-pair vocabularies have no token for a few control characters and unused bytes (SmolLM2 lacks 21). Such
/// bytes are dropped from a text, as by Hugging Face's tokenizers.
///
/// # Errors
///
/// [`ModelError::Format`] if the file cannot be read, or the vocabulary is of another kind, splits text in an
/// unsupported way or is corrupt.
pub fn gguf_tokenizer(path: &Path) -> Result<GgufVocabulary, ModelError> {
    Reader::open(path)
        .and_then(|file| gguf_vocabulary::read(&file))
        .map_err(|source| ModelError::Format { path: path.to_owned(), source: Box::new(source) })
}

/// Fails unless every tensor has the shape that the entries call for.
fn check_sizes(
    file: &Reader,
    config: &DecoderConfig,
    head: LmHead,
    architecture: Architecture,
) -> Result<(), FormatError> {
    for tensor in sizes::of_decoder(config, head) {
        let Some(name) = names::in_file(&tensor.name) else { continue };
        let found = file.shape(&name)?.to_vec();
        let outputs_first: Vec<usize> = found.iter().rev().copied().collect();
        let key = |setting: &str| architecture.key(setting);
        if let Err(Disagreement { settings, mut expected }) = tensor.agrees(&outputs_first, key) {
            expected.reverse();
            return Err(FormatError::Size { name, found, settings, expected: format!("[{}]", expected.join(", ")) });
        }
    }
    Ok(())
}

fn check_names(file: &Reader, expected: Vec<String>) -> Result<(), FormatError> {
    let found: BTreeSet<&str> = file.tensor_names().filter(|&name| name != names::DIVISORS).collect();
    let missing: Vec<String> = expected.iter().filter(|name| !found.contains(name.as_str())).cloned().collect();
    let known: BTreeSet<&str> = expected.iter().map(String::as_str).collect();
    let unused: Vec<String> = found.difference(&known).map(|&name| name.to_owned()).collect();
    if missing.is_empty() && unused.is_empty() { Ok(()) } else { Err(FormatError::Tensors { missing, unused }) }
}
