//! The embedded assets: mails, a tokenizer and a base model (see `assets/README.md`).

use std::collections::BTreeMap;
use std::io::Read;

use burn::tensor::{DType, Device, TensorData};
use flate2::read::GzDecoder;
use hyperinf::models::{Encoder, EncoderConfig, ModelError, NormPlacement, load_weights};
use safetensors::{Dtype, SafeTensors};
use serde::Deserialize;
use tokenizers::Tokenizer;

use crate::error::{CliError, Library};

const MAILS: &[u8] = include_bytes!("../../assets/mails.json.gz");
const TOKENIZER: &[u8] = include_bytes!("../../assets/tokenizer.json.gz");
const BASE: &[u8] = include_bytes!("../../assets/base.safetensors.gz");

/// The demo's data, unpacked.
pub(crate) struct DemoData {
    /// 1,500 mails for fine-tuning, a third of them spam.
    pub train: Vec<Mail>,
    /// 400 mails for validation, a third of them spam.
    pub validation: Vec<Mail>,
    /// Byte-pair encoding trained on other mails.
    pub tokenizer: Tokenizer,
    base: Vec<u8>,
}

/// An e-mail without its headers.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(crate) struct Mail {
    /// The first 700 characters that its reader sees, on one line.
    pub text: String,
    /// The true label.
    pub spam: bool,
}

/// An embedded file is damaged.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DataError {
    /// The file is not gzip.
    #[error("the embedded {file} cannot be unpacked")]
    Unpack {
        /// The file.
        file: &'static str,
        /// The cause.
        source: std::io::Error,
    },
    /// The mails are not the expected JSON.
    #[error("the embedded mails cannot be read")]
    Mails(#[source] serde_json::Error),
    /// The questions about shapes are not the expected JSON.
    #[error("the embedded questions cannot be read")]
    Shapes(#[source] serde_json::Error),
    /// The tokenizer is not the expected JSON, or fails on a text.
    #[error("the embedded tokenizer fails")]
    Tokenizer(#[source] tokenizers::Error),
    /// The base model is not a safetensors file.
    #[error("the embedded base model cannot be read")]
    Base(#[from] safetensors::SafeTensorError),
    /// The base model lacks its sizes.
    #[error("the embedded base model has no sizes in its metadata: {0}")]
    Sizes(String),
    /// The base model's weights do not fit its sizes.
    #[error("the embedded base model does not fit its sizes")]
    Model(#[from] ModelError),
}

impl From<DataError> for CliError {
    fn from(error: DataError) -> Self {
        Library::Demo(Box::new(error)).into()
    }
}

/// Unpacks the embedded files.
///
/// # Errors
///
/// If the embedded assets are damaged.
pub(crate) fn load() -> Result<DemoData, DataError> {
    #[derive(Deserialize)]
    struct Mails {
        train: Vec<Mail>,
        validation: Vec<Mail>,
    }
    let Mails { train, validation } = serde_json::from_slice(&unpack("mails", MAILS)?).map_err(DataError::Mails)?;
    let tokenizer = Tokenizer::from_bytes(unpack("tokenizer", TOKENIZER)?).map_err(DataError::Tokenizer)?;
    Ok(DemoData { train, validation, tokenizer, base: unpack("base model", BASE)? })
}

impl DemoData {
    /// The base model, trained on other mails without labels.
    ///
    /// # Errors
    ///
    /// If the embedded assets are damaged.
    pub(crate) fn base(&self, device: &Device) -> Result<Encoder, DataError> {
        let (_, header) = SafeTensors::read_metadata(&self.base)?;
        let sizes = header.metadata().as_ref().and_then(|m| m.get("encoder"));
        let sizes = sizes.ok_or_else(|| DataError::Sizes("the key `encoder` is missing".into()))?;
        let config = encoder_config(sizes).map_err(|e| DataError::Sizes(e.to_string()))?;
        let file = SafeTensors::deserialize(&self.base)?;
        let mut weights = BTreeMap::new();
        for (name, view) in file.tensors() {
            if view.dtype() != Dtype::F16 {
                return Err(DataError::Sizes(format!("`{name}` is {:?} instead of F16", view.dtype())));
            }
            let bytes = burn::tensor::Bytes::from_bytes_vec(view.data().to_vec());
            weights.insert(name, TensorData::from_bytes(bytes, view.shape().to_vec(), DType::F16));
        }
        Ok(load_weights(Encoder::new(config, 0, device)?, weights)?)
    }

    /// The tokens of a text, at most `longest`.
    ///
    /// # Errors
    ///
    /// If the tokenizer fails.
    pub(crate) fn tokens(&self, text: &str, longest: usize) -> Result<Vec<u32>, DataError> {
        let encoding = self.tokenizer.encode_fast(text, false).map_err(DataError::Tokenizer)?;
        let ids = encoding.get_ids();
        Ok(ids[..ids.len().min(longest)].to_vec())
    }
}

pub(super) fn unpack(file: &'static str, packed: &[u8]) -> Result<Vec<u8>, DataError> {
    let mut content = Vec::new();
    GzDecoder::new(packed).read_to_end(&mut content).map_err(|source| DataError::Unpack { file, source })?;
    Ok(content)
}

fn encoder_config(json: &str) -> Result<EncoderConfig, serde_json::Error> {
    #[derive(Deserialize)]
    struct Sizes {
        vocabulary: usize,
        max_tokens: usize,
        width: usize,
        layers: usize,
        heads: usize,
        feed_forward: usize,
    }
    let Sizes { vocabulary, max_tokens, width, layers, heads, feed_forward } = serde_json::from_str(json)?;
    Ok(EncoderConfig {
        vocabulary,
        max_tokens,
        width,
        layers,
        heads,
        feed_forward,
        segments: 0,
        norm: NormPlacement::Pre,
        norm_epsilon: 1e-5,
        pooler: false,
        ..EncoderConfig::default()
    })
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::{BASE, MAILS, TOKENIZER, load};

    #[test]
    fn a_third_is_spam_and_no_mail_is_there_twice() {
        let data = load().expect("the assets are whole");
        let spam = |mails: &[super::Mail]| mails.iter().filter(|mail| mail.spam).count();
        assert_eq!((data.train.len(), spam(&data.train)), (1500, 500));
        assert_eq!((data.validation.len(), spam(&data.validation)), (400, 133));
        let mut seen = HashSet::new();
        for mail in data.train.iter().chain(&data.validation) {
            let start: String = mail.text.chars().filter(char::is_ascii_alphabetic).take(150).collect();
            assert!(seen.insert(start.to_ascii_lowercase()), "twice: {}", mail.text);
            assert!((60..=700).contains(&mail.text.chars().count()), "{}", mail.text);
        }
    }

    #[test]
    fn no_header_and_no_markup_is_left() {
        let data = load().expect("the assets are whole");
        for mail in data.train.iter().chain(&data.validation) {
            let text = mail.text.to_ascii_lowercase();
            for mark in
                ["return-path:", "received: from", "delivered-to:", "message-id:", "<html", "<br", "&nbsp", "=3d"]
            {
                assert!(!text.contains(mark), "{mark} in {text}");
            }
        }
    }

    #[test]
    fn tokenizer_and_base_fit_every_mail() {
        let data = load().expect("the assets are whole");
        for name in hyperinf::compiled_devices().iter().filter(|name| ["flex", "ndarray"].contains(name)) {
            let device = hyperinf::device(name).expect("a processor is always there");
            let config = *data.base(&device).expect("the weights fit the sizes").config();
            assert_eq!(config.vocabulary, data.tokenizer.get_vocab_size(true));
            for mail in data.train.iter().chain(&data.validation) {
                let tokens = data.tokens(&mail.text, config.max_tokens).expect("the tokenizer takes any text");
                assert!((1..=config.max_tokens).contains(&tokens.len()), "{}", mail.text);
                assert!(tokens.iter().all(|&token| (token as usize) < config.vocabulary));
            }
        }
    }

    #[test]
    fn the_program_stays_small() {
        assert!(MAILS.len() < 1_500_000, "{}", MAILS.len());
        assert!(TOKENIZER.len() + BASE.len() < 1_200_000, "{}", TOKENIZER.len() + BASE.len());
    }
}
