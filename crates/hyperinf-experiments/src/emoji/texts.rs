//! The states of all captions, computed once.

use std::path::Path;

use hyperinf::burn::tensor::Device;
use hyperinf::gradients::Tape;
use hyperinf::models::{Encoder, Limit, TextState, TextTokenizer, TokenBatch, load_encoder};

use super::pictures::{Emoji, STYLES};
use crate::Failure;

/// Captions in one batch of the encoder.
const BATCH: usize = 64;
/// The longest caption in tokens.
const LONGEST: usize = 32;

/// The states of every caption: without a style and with each, subject after subject; then of the empty text.
pub struct Texts(Vec<TextState>);

impl Texts {
    /// Reads the encoder and runs it on all captions.
    pub fn new(folder: &Path, emoji: &[Emoji], device: &Device) -> Result<Self, Failure> {
        let encoder = load_encoder(folder, device)?.model;
        let tokenizer = TextTokenizer::read(folder)?;
        let mut captions = Vec::new();
        for emoji in emoji {
            captions.push(caption(&emoji.name, None));
            captions.extend((0..STYLES.len()).map(|style| caption(&emoji.name, Some(STYLES[style].1))));
        }
        captions.push(String::new());
        let states = captions.chunks(BATCH).map(|some| encode(some, &encoder, &tokenizer, device));
        Ok(Self(states.collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect()))
    }

    /// The width of a state.
    pub fn width(&self) -> usize {
        self.empty().width
    }

    /// The states of the empty text.
    pub fn empty(&self) -> &TextState {
        &self.0[self.0.len() - 1]
    }

    /// The states of a subject's caption.
    pub fn caption(&self, subject: usize, style: Option<usize>) -> &TextState {
        &self.0[subject * (STYLES.len() + 1) + style.map_or(0, |style| style + 1)]
    }
}

/// "a crab, flat style".
pub fn caption(name: &str, style: Option<&str>) -> String {
    let article = if name.starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" };
    style.map_or_else(|| format!("{article} {name}"), |style| format!("{article} {name}, {style} style"))
}

fn encode(
    captions: &[String],
    encoder: &Encoder,
    tokenizer: &TextTokenizer,
    device: &Device,
) -> Result<Vec<TextState>, Failure> {
    let tokens =
        captions.iter().map(|text| Ok(tokenizer.classification(text, None, 0, Limit::Cut(LONGEST))?.sample.tokens));
    let tokens = tokens.collect::<Result<Vec<Vec<u32>>, Failure>>()?;
    let sequences: Vec<&[u32]> = tokens.iter().map(Vec::as_slice).collect();
    let batch = TokenBatch::new(&sequences, encoder.config(), device)?;
    let states = encoder.forward(&batch, &mut Tape::off());
    let [_, longest, width] = states.dims();
    let values = states.try_into_data().map_err(|e| e.to_string())?.iter::<f32>().collect::<Vec<_>>();
    let rows = values.chunks_exact(longest * width).zip(&tokens);
    Ok(rows.map(|(row, tokens)| TextState { width, values: row[..tokens.len() * width].to_vec() }).collect())
}
