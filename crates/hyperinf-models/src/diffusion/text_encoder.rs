use std::borrow::Borrow;

use hyperinf_gradients::Tape;

use super::text_states::TextState;
use crate::{
    ClipText, ClipTokenizer, Encoder, Limit, ModelError, TextTokenizer, TokenBatch, TokenizeError, TokenizedSample,
};

/// The frozen encoder of captions, with its tokenizer.
// A pipeline has one.
#[allow(clippy::large_enum_variant)]
#[derive(Clone, Debug)]
pub enum TextEncoder {
    /// BERT and its relatives: the last hidden states of a caption's tokens; padding is masked.
    Bert {
        /// The encoder.
        encoder: Encoder,
        /// Its tokenizer.
        tokenizer: TextTokenizer,
    },
    /// CLIP: the normalised last hidden states, padding included, which is seen as any other token.
    Clip {
        /// The encoder.
        encoder: ClipText,
        /// Its tokenizer.
        tokenizer: ClipTokenizer,
    },
}

/// The tokenizer of a [`TextEncoder`] alone.
// There is one of it.
#[allow(clippy::large_enum_variant)]
#[derive(Clone, Debug)]
pub enum CaptionTokenizer {
    /// That of BERT and its relatives.
    Bert(TextTokenizer),
    /// That of CLIP.
    Clip(ClipTokenizer),
}

impl CaptionTokenizer {
    /// The tokens of a caption, with special tokens but without padding. The encoder's limit may be smaller.
    ///
    /// # Errors
    ///
    /// As [`TextEncoder::tokens`].
    pub fn tokens(&self, caption: &str, limit: Limit) -> Result<TokenizedSample<Vec<u32>>, TokenizeError> {
        match self {
            Self::Bert(tokenizer) => bert_tokens(tokenizer, caption, limit),
            Self::Clip(tokenizer) => tokenizer.unpadded(caption, limit),
        }
    }
}

impl Borrow<TextTokenizer> for CaptionTokenizer {
    fn borrow(&self) -> &TextTokenizer {
        match self {
            Self::Bert(tokenizer) => tokenizer,
            Self::Clip(tokenizer) => tokenizer.words(),
        }
    }
}

fn bert_tokens(
    tokenizer: &TextTokenizer,
    caption: &str,
    limit: Limit,
) -> Result<TokenizedSample<Vec<u32>>, TokenizeError> {
    let found = tokenizer.classification(caption, None, 0, limit)?;
    Ok(TokenizedSample { sample: found.sample.tokens, cut: found.cut })
}

impl TextEncoder {
    /// The width of a state.
    pub fn width(&self) -> usize {
        match self {
            Self::Bert { encoder, .. } => encoder.config().width,
            Self::Clip { encoder, .. } => encoder.config().width,
        }
    }

    /// The most tokens of a caption.
    pub fn positions(&self) -> usize {
        match self {
            Self::Bert { encoder, .. } => encoder.config().max_tokens,
            Self::Clip { encoder, .. } => encoder.config().max_tokens,
        }
    }

    /// The tokens of a caption, which may be empty, with the tokenizer's special tokens. The limit is at most that of
    /// the encoder.
    ///
    /// # Errors
    ///
    /// If the caption is too long and longer ones are not cut, or the tokenizer fails.
    pub fn tokens(&self, caption: &str, limit: Limit) -> Result<TokenizedSample<Vec<u32>>, TokenizeError> {
        let limit = match limit {
            Limit::Refuse(tokens) => Limit::Refuse(tokens.min(self.positions())),
            Limit::Cut(tokens) => Limit::Cut(tokens.min(self.positions())),
        };
        match self {
            Self::Bert { tokenizer, .. } => bert_tokens(tokenizer, caption, limit),
            Self::Clip { tokenizer, .. } => tokenizer.prompt(caption, limit),
        }
    }

    /// The states of captions, by their tokens; those of a caption do not depend on the others.
    ///
    /// # Errors
    ///
    /// If there are no captions, one has no token or too many, or one outside the vocabulary, or the device fails.
    pub fn encode(&self, captions: &[&[u32]]) -> Result<Vec<TextState>, ModelError> {
        match self {
            Self::Bert { encoder, .. } => {
                let batch = TokenBatch::new(captions, encoder.config(), &encoder.device())?;
                let states = encoder.forward(&batch, &mut Tape::off());
                let [_, longest, width] = states.dims();
                let data = states.try_into_data().map_err(|e| ModelError::Read(e.to_string()))?;
                let values: Vec<f32> = data.iter().collect();
                let rows = values.chunks_exact(longest * width).zip(captions);
                let state = |(row, tokens): (&[f32], &&[u32])| row[..tokens.len() * width].to_vec();
                Ok(rows.map(|pair| TextState { width, values: state(pair) }).collect())
            }
            Self::Clip { encoder, .. } => encoder.encode(captions),
        }
    }
}
