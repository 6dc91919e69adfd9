use std::collections::BTreeSet;
use std::path::Path;

use burn::tensor::{Device, TensorData};
use tokenizers::Tokenizer;

use crate::decoder::layout::{neighbour_of_half, transposed};
use crate::{CausalLm, ModelError};

mod config;
mod error;
mod names;
pub(crate) mod pieces;
mod reader;
mod vocabulary;

use config::Architecture;
pub use error::FormatError;
use reader::Reader;

/// The vocabulary in a GGUF file.
#[derive(Clone, Debug)]
pub struct GgufVocabulary {
    /// The tokenizer; asked for special tokens, it adds those of `add_bos` and `add_eos`.
    pub tokenizer: Tokenizer,
    /// The token that begins a text.
    pub bos: Option<u32>,
    /// The token that ends a text.
    pub eos: Option<u32>,
    /// Whether texts begin with `bos`.
    pub add_bos: bool,
    /// Whether texts end with `eos`.
    pub add_eos: bool,
    /// The template of conversations, in Jinja's language.
    pub chat_template: Option<String>,
}

/// Loads a model from a GGUF file of the architecture `llama` (Llama, Mistral, SmolLM2) or `qwen2`.
///
/// Values are converted to f32, whatever their storage: F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, or one of Q2_K
/// to Q6_K and Q8_K. Rows of query and key layers, which `llama` files keep in another order, are put back, so that
/// adapters of this model fit the checkpoint that the file was made from. Tensors are read one at a time: beside the
/// model, memory is needed for the largest of them.
///
/// # Errors
///
/// [`ModelError::Format`] if the file cannot be read, is of another architecture, is corrupt, or its tensors are not
/// the model's (all missing and all unused ones are listed).
pub fn load_gguf(path: &Path, device: &Device) -> Result<CausalLm, ModelError> {
    let failed = |source| ModelError::Format { path: path.to_owned(), source };
    let mut file = Reader::open(path).map_err(failed)?;
    let architecture = Architecture::of(&file).map_err(failed)?;
    let (config, head) = config::read(&mut file, architecture).map_err(failed)?;
    config.validate()?;
    check_names(&file, names::expected(&config, head)).map_err(failed)?;
    let head_size = config.head_size;
    CausalLm::from_weights(config, head, device, |name, shape| {
        let stored = names::in_file(name).unwrap_or_else(|| name.to_owned());
        let permuted = architecture == Architecture::Llama && (name.contains("q_proj") || name.contains("k_proj"));
        let row = |j| if permuted { neighbour_of_half(j, head_size) } else { j };
        let values = match *shape {
            // A table of tokens, not a product: it lies as we hold it.
            [tokens, width] if stored == names::EMBEDDING => file.tensor(&stored, &[width, tokens]),
            [d_input, d_output] => {
                file.tensor(&stored, &[d_input, d_output]).map(|values| transposed(&values, d_input, d_output, row))
            }
            _ => file.tensor(&stored, shape).map(|values| (0..values.len()).map(|j| values[row(j)]).collect()),
        };
        Ok(TensorData::new(values.map_err(failed)?, shape.to_vec()))
    })
}

/// Reads the vocabulary of a GGUF file: byte pairs on bytes (`gpt2`) or SentencePiece's pieces (`llama`).
///
/// Some vocabularies of byte pairs have no token for a few control characters and unused bytes (SmolLM2 lacks 21);
/// these are left out of a text, as Hugging Face's tokenizers do.
///
/// # Errors
///
/// [`ModelError::Format`] if the file cannot be read, the vocabulary is of another kind, splits text in a way that we
/// do not have, or is corrupt.
pub fn gguf_tokenizer(path: &Path) -> Result<GgufVocabulary, ModelError> {
    Reader::open(path)
        .and_then(|file| vocabulary::read(&file))
        .map_err(|source| ModelError::Format { path: path.to_owned(), source })
}

fn check_names(file: &Reader, expected: Vec<String>) -> Result<(), FormatError> {
    let found: BTreeSet<&str> = file.tensor_names().filter(|&name| name != names::DIVISORS).collect();
    let missing: Vec<String> = expected.iter().filter(|name| !found.contains(name.as_str())).cloned().collect();
    let known: BTreeSet<&str> = expected.iter().map(String::as_str).collect();
    let unused: Vec<String> = found.difference(&known).map(|&name| name.to_owned()).collect();
    if missing.is_empty() && unused.is_empty() { Ok(()) } else { Err(FormatError::Tensors { missing, unused }) }
}
