use crate::{Limit, TextTokenizer, TokenizeError, TokenizedSample};

/// CLIP's tokenizer, as Stable Diffusion uses it: lower case, byte pairs, and prompts padded to one length.
#[derive(Clone, Debug)]
pub struct ClipTokenizer {
    tokenizer: TextTokenizer,
    start: u32,
    end: u32,
    padding: u32,
    length: usize,
}

impl ClipTokenizer {
    pub(crate) fn new(tokenizer: TextTokenizer, [start, end, padding]: [u32; 3], length: usize) -> Self {
        Self { tokenizer, start, end, padding, length }
    }

    /// The tokens of every prompt, with the first, the last and padding: 77 for published models.
    pub fn length(&self) -> usize {
        self.length
    }

    /// Its words' tokenizer, which spells tokens.
    pub fn words(&self) -> &TextTokenizer {
        &self.tokenizer
    }

    /// The tokens of a prompt, which may be empty: its first token, its words, the last token, padding.
    ///
    /// A smaller limit than [`length`](Self::length) leaves fewer words; the padding stays.
    ///
    /// # Errors
    ///
    /// If there are more words than fit and none may be cut, or the tokenizer fails.
    pub fn prompt(&self, text: &str, limit: Limit) -> Result<TokenizedSample<Vec<u32>>, TokenizeError> {
        let TokenizedSample { sample: mut tokens, cut } = self.unpadded(text, limit)?;
        tokens.resize(self.length.max(tokens.len()), self.padding);
        Ok(TokenizedSample { sample: tokens, cut })
    }

    /// [`prompt`](Self::prompt) without padding.
    ///
    /// # Errors
    ///
    /// As [`prompt`](Self::prompt).
    pub fn unpadded(&self, text: &str, limit: Limit) -> Result<TokenizedSample<Vec<u32>>, TokenizeError> {
        let words = self.tokenizer.tokens(text)?;
        let most = limit.tokens().min(self.length);
        let room = most.checked_sub(2).ok_or(TokenizeError::NoRoom { special: 2, limit: most })?;
        let cut = words.len().saturating_sub(room);
        if cut > 0 && matches!(limit, Limit::Refuse(_)) {
            return Err(TokenizeError::TooLong { tokens: words.len() + 2, limit: most });
        }
        let mut tokens = vec![self.start];
        tokens.extend(words.iter().take(room));
        tokens.push(self.end);
        Ok(TokenizedSample { sample: tokens, cut })
    }
}
