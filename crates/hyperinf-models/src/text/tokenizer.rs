use std::collections::BTreeSet;
use std::path::PathBuf;

use tokenizers::utils::truncation::{TruncationDirection, TruncationParams, TruncationStrategy, truncate_encodings};
use tokenizers::{Encoding, PostProcessor, PostProcessorWrapper, Token, Tokenizer};

use super::chat::{ChatSource, ChatTemplate, Conversation};
use super::tokenizer_growth::Growth;
use super::tokenizer_saved::Saved;
use super::tokenizer_searches::Searches;
use crate::files::panics::guarded;
use crate::{Json, LmSample, Sample, TokenizeError, TokenizerNotice};

/// The most tokens of a sample, including special tokens, and what happens to longer ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// Longer samples are an error.
    Refuse(usize),
    /// Longer samples are cut at the end.
    Cut(usize),
}

impl Limit {
    /// The number of tokens.
    pub fn tokens(self) -> usize {
        match self {
            Self::Refuse(tokens) | Self::Cut(tokens) => tokens,
        }
    }
}

/// A sample, and how much of it was cut off.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenizedSample<S> {
    /// The sample.
    pub sample: S,
    /// The number of tokens cut off.
    pub cut: usize,
}

/// The special tokens of a tokenizer, as far as it has them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SpecialTokens {
    /// The beginning of a sequence.
    pub bos: Option<u32>,
    /// The end of a sequence.
    pub eos: Option<u32>,
    /// Padding.
    pub pad: Option<u32>,
}

/// A tokenizer that makes samples from text, with special tokens and a chat template.
///
/// | samples from | tokens | loss over |
/// |---|---|---|
/// | [`classification`](Self::classification) | a text or a pair, with the special tokens of the tokenizer | – |
/// | [`completion`](Self::completion) | BOS if the model uses it, prompt, completion, EOS | completion and EOS |
/// | [`text`](Self::text) | the text, with the special tokens of the tokenizer | all but the first token |
/// | [`chat`](Self::chat) | the messages, written by the chat template | the assistant's messages |
///
/// EOS is added if the tokenizer has one and the completion does not end in it. Special tokens spelled out in a text
/// are recognised, as in Hugging Face's libraries.
#[derive(Clone, Debug)]
pub struct TextTokenizer {
    /// Without post-processor, truncation and padding, so that offsets refer to the text.
    pub(super) tokenizer: Tokenizer,
    pub(super) post_processor: Option<PostProcessorWrapper>,
    special: SpecialTokens,
    /// The tokens before a text for a language model.
    pub(super) prefix: Vec<u32>,
    /// The tokens after a text for a language model.
    pub(super) suffix: Vec<u32>,
    pub(super) segments: bool,
    pub(super) chat: Option<ChatTemplate>,
    growth: Growth,
    searches: Searches,
    /// The file to name in errors.
    pub(super) file: Option<PathBuf>,
    pub(super) notices: Vec<TokenizerNotice>,
    pub(super) saved: Saved,
}

/// Settings that come with a tokenizer.
#[derive(Clone, Debug, Default)]
pub struct TokenizerSettings {
    /// The special tokens.
    pub special: SpecialTokens,
    /// Whether a language model's text begins with BOS; by default, as the tokenizer's post-processor does.
    pub add_bos: Option<bool>,
    /// Whether all segments are 0, as for models without a segment embedding.
    pub no_segments: bool,
    /// The chat templates.
    pub chat_template: Option<ChatSource>,
    /// The special tokens that chat templates get, by name; by default those of `special`.
    pub named: Option<Vec<(String, String)>>,
    /// The file to name in errors.
    pub file: Option<PathBuf>,
    /// What was noticed when the files were read.
    pub notices: Vec<TokenizerNotice>,
    /// The settings of `tokenizer_config.json`, written again by [`TextTokenizer::to_files`].
    pub config: serde_json::Map<String, serde_json::Value>,
}

impl TextTokenizer {
    /// A tokenizer with its settings. The tokenizer's own truncation and padding are switched off.
    ///
    /// # Errors
    ///
    /// [`TokenizeError::ChatTemplate`] if the template cannot be parsed, [`TokenizeError::Tokenizer`] if the
    /// tokenizer fails.
    pub fn new(mut tokenizer: Tokenizer, settings: TokenizerSettings) -> Result<Self, TokenizeError> {
        let post_processor = tokenizer.get_post_processor().cloned();
        tokenizer.with_post_processor(None::<PostProcessorWrapper>);
        tokenizer.with_padding(None);
        tokenizer.with_truncation(None).map_err(TokenizeError::Tokenizer)?;
        let TokenizerSettings { special, add_bos, no_segments, chat_template, named, file, notices, config } = settings;
        let (mut prefix, suffix) = around(post_processor.as_ref())?;
        match (add_bos, special.bos) {
            (Some(true), Some(bos)) => prefix = vec![bos],
            (Some(false), _) => prefix.clear(),
            _ => {}
        }
        let template = chat_template.as_ref().map(|source| source.default.clone());
        let tool_use = chat_template.as_ref().and_then(|source| source.tool_use.clone());
        let tokens = [("bos_token", special.bos), ("eos_token", special.eos), ("pad_token", special.pad)];
        let text_of = |(name, token): (&str, Option<u32>)| Some((name.to_owned(), tokenizer.id_to_token(token?)?));
        let texts = named.clone().unwrap_or_else(|| tokens.into_iter().filter_map(text_of).collect());
        let texts = texts.into_iter().map(|(name, text)| (name, Json::String(text))).collect();
        let chat = chat_template.map(|source| ChatTemplate::new(&source, texts)).transpose()?;
        let saved = Saved { config, template, tool_use, named };
        let growth = Growth::new(tokenizer.get_normalizer());
        let searches = Searches::new(&tokenizer);
        let segments = !no_segments;
        Ok(Self {
            tokenizer,
            post_processor,
            special,
            prefix,
            suffix,
            segments,
            chat,
            growth,
            searches,
            file,
            notices,
            saved,
        })
    }

    /// The sample of a text, or a pair of texts, and its class.
    ///
    /// A pair is cut by taking tokens from the longer text until both have the same length, then from both.
    ///
    /// # Errors
    ///
    /// If there are too many tokens, or none.
    pub fn classification(
        &self,
        text: &str,
        pair: Option<&str>,
        label: usize,
        limit: Limit,
    ) -> Result<TokenizedSample<Sample>, TokenizeError> {
        let first = self.encode(text)?;
        let second = pair.map(|pair| self.encode(pair)).transpose()?;
        let special = self.post_processor.as_ref().map_or(0, |p| p.added_tokens(second.is_some()));
        let tokens = first.len() + second.as_ref().map_or(0, Encoding::len) + special;
        let cut = cut(tokens, limit)?;
        let room =
            limit.tokens().checked_sub(special).ok_or(TokenizeError::NoRoom { special, limit: limit.tokens() })?;
        let (mut first, mut second) = (first, second);
        if cut > 0 {
            if room == 0 {
                return Err(TokenizeError::NoRoom { special, limit: limit.tokens() });
            }
            let (strategy, direction) = (TruncationStrategy::LongestFirst, TruncationDirection::Right);
            let params = TruncationParams { max_length: room, strategy, stride: 0, direction };
            (first, second) = truncate_encodings(first, second, &params).map_err(TokenizeError::Tokenizer)?;
            first.take_overflowing();
            second.as_mut().map(Encoding::take_overflowing);
        }
        let (tokens, mut segments) = match &self.post_processor {
            Some(processor) => {
                let whole = self.run(|| processor.process(first, second, true).map_err(TokenizeError::Tokenizer))?;
                (whole.get_ids().to_vec(), whole.get_type_ids().to_vec())
            }
            None => {
                let second = second.unwrap_or_default();
                let segments = [vec![0; first.len()], vec![1; second.len()]].concat();
                ([first.get_ids(), second.get_ids()].concat(), segments)
            }
        };
        if tokens.is_empty() {
            return Err(TokenizeError::TooShort { tokens: 0, least: 1 });
        }
        if !self.segments {
            segments.fill(0);
        }
        Ok(TokenizedSample { sample: Sample { tokens, segments, label }, cut })
    }

    /// The sample of a prompt and its completion; the loss is over the completion and the EOS after it.
    ///
    /// Both are tokenized as one text, as the model sees them. A token with characters of both counts as completion.
    ///
    /// # Errors
    ///
    /// If the completion is empty, there are too many tokens, cutting leaves nothing of the completion, or no token
    /// comes before it.
    pub fn completion(
        &self,
        prompt: &str,
        completion: &str,
        limit: Limit,
    ) -> Result<TokenizedSample<LmSample>, TokenizeError> {
        if completion.is_empty() {
            return Err(TokenizeError::EmptyCompletion);
        }
        let encoding = self.encode(&format!("{prompt}{completion}"))?;
        let mut tokens = self.prefix.clone();
        tokens.extend(encoding.get_ids());
        let end = if self.suffix.is_empty() { self.special.eos.as_slice() } else { &self.suffix };
        if !tokens.ends_with(end) {
            tokens.extend(end);
        }
        let inside = encoding.get_offsets().iter().position(|&(_, end)| end > prompt.len());
        let first = self.prefix.len() + inside.unwrap_or(encoding.len());
        let scored = (0..tokens.len()).map(|at| at >= first).collect();
        finish(tokens, scored, limit)
    }

    /// The sample of a text; the loss is over every token but the first. EOS ends it only if the tokenizer's
    /// post-processor adds one.
    ///
    /// # Errors
    ///
    /// If there are too many tokens, or fewer than two.
    pub fn text(&self, text: &str, limit: Limit) -> Result<TokenizedSample<LmSample>, TokenizeError> {
        let mut tokens = self.prefix.clone();
        tokens.extend(self.encode(text)?.get_ids());
        tokens.extend(&self.suffix);
        let scored = vec![true; tokens.len()];
        finish(tokens, scored, limit)
    }

    /// The sample of a conversation, written by the chat template; the loss is over the assistant's messages.
    ///
    /// An assistant's message is what the template marks with `generation`. Without such marks it is the text between
    /// its prompt (`add_generation_prompt`) and the next message, including the marks that end it but not those that
    /// begin it. Messages of weight 0 are left out. Of a conversation with a prompt, all after the prompt is scored.
    /// No special tokens are added to the template's text.
    ///
    /// # Errors
    ///
    /// If there is no template, it fails, or it is not clear what it writes for a message; if no message is scored; if
    /// there are too many tokens, or cutting leaves nothing to predict.
    pub fn chat(&self, conversation: &Conversation, limit: Limit) -> Result<TokenizedSample<LmSample>, TokenizeError> {
        self.written(conversation, None, limit)
    }

    /// A conversation as the chat template writes it; with `prompt`, up to where an answer would begin.
    ///
    /// # Errors
    ///
    /// If there is no template, or it fails.
    pub fn chat_text(&self, conversation: &Conversation, prompt: bool) -> Result<String, TokenizeError> {
        self.chat.as_ref().ok_or(TokenizeError::NoChatTemplate)?.text(conversation, prompt)
    }

    /// The variables that the chat template reads and has not set by then; `None` without a template.
    pub fn chat_variables(&self) -> Option<BTreeSet<String>> {
        self.chat.as_ref().map(ChatTemplate::variables)
    }

    /// The tokens of a text, without special tokens.
    ///
    /// # Errors
    ///
    /// If the tokenizer fails.
    pub fn tokens(&self, text: &str) -> Result<Vec<u32>, TokenizeError> {
        Ok(self.encode(text)?.get_ids().to_vec())
    }

    /// The tokens of a prompt that a language model is to continue: BOS if the model uses it, then the text.
    ///
    /// # Errors
    ///
    /// If the tokenizer fails.
    pub fn prompt(&self, text: &str) -> Result<Vec<u32>, TokenizeError> {
        let mut tokens = self.prefix.clone();
        tokens.extend(self.encode(text)?.get_ids());
        Ok(tokens)
    }

    /// The text of tokens, without special tokens.
    ///
    /// # Errors
    ///
    /// If the tokenizer fails.
    pub fn decode(&self, tokens: &[u32]) -> Result<String, TokenizeError> {
        self.run(|| self.tokenizer.decode(tokens, true).map_err(TokenizeError::Tokenizer))
    }

    /// The text of tokens, with special tokens.
    ///
    /// # Errors
    ///
    /// If the tokenizer fails.
    pub fn spell(&self, tokens: &[u32]) -> Result<String, TokenizeError> {
        self.run(|| self.tokenizer.decode(tokens, false).map_err(TokenizeError::Tokenizer))
    }

    /// A token as it is spelled in the vocabulary.
    pub fn token(&self, id: u32) -> Option<String> {
        self.tokenizer.id_to_token(id)
    }

    /// The special tokens.
    pub fn special(&self) -> SpecialTokens {
        self.special
    }

    /// The number of tokens in the vocabulary, including added ones.
    pub fn vocabulary(&self) -> usize {
        self.tokenizer.get_vocab_size(true)
    }

    /// What should be known about how the tokenizer's files were read.
    pub fn notices(&self) -> &[TokenizerNotice] {
        &self.notices
    }

    /// Adds a notice about how the tokenizer was chosen.
    pub fn notice(&mut self, notice: TokenizerNotice) {
        self.notices.push(notice);
    }

    pub(super) fn encode(&self, text: &str) -> Result<Encoding, TokenizeError> {
        self.run(|| {
            self.growth.check(text)?;
            self.searches.check(&self.tokenizer, text)?;
            self.tokenizer.encode(text, false).map_err(TokenizeError::Tokenizer)
        })
    }

    /// Runs code that may panic, and names the file in its errors.
    fn run<T>(&self, work: impl FnOnce() -> Result<T, TokenizeError>) -> Result<T, TokenizeError> {
        guarded(work).map_err(panicked).flatten().map_err(|error| match &self.file {
            Some(path) => TokenizeError::InFile { path: path.clone(), source: Box::new(error) },
            None => error,
        })
    }
}

fn panicked(error: crate::Panicked) -> TokenizeError {
    TokenizeError::Tokenizer(Box::new(error))
}

/// The special tokens that a post-processor puts before and after a text.
pub(crate) fn around(post_processor: Option<&PostProcessorWrapper>) -> Result<(Vec<u32>, Vec<u32>), TokenizeError> {
    let Some(processor) = post_processor else {
        return Ok((Vec::new(), Vec::new()));
    };
    let text = Encoding::from_tokens(vec![Token::new(0, "a".to_owned(), (0, 1))], 0);
    let whole = guarded(|| processor.process(text, None, true)).map_err(panicked)?.map_err(TokenizeError::Tokenizer)?;
    let (ids, special) = (whole.get_ids(), whole.get_special_tokens_mask());
    let first = special.iter().take_while(|&&special| special == 1).count();
    let last = special[first..].iter().rev().take_while(|&&special| special == 1).count();
    Ok((ids[..first].to_vec(), ids[ids.len() - last..].to_vec()))
}

/// The number of tokens to cut off.
fn cut(tokens: usize, limit: Limit) -> Result<usize, TokenizeError> {
    match limit {
        Limit::Refuse(limit) if tokens > limit => Err(TokenizeError::TooLong { tokens, limit }),
        Limit::Refuse(_) => Ok(0),
        Limit::Cut(limit) => Ok(tokens.saturating_sub(limit)),
    }
}

/// A sample within the limit. Its first token is not scored, because nothing comes before it.
pub(super) fn finish(
    mut tokens: Vec<u32>,
    mut scored: Vec<bool>,
    limit: Limit,
) -> Result<TokenizedSample<LmSample>, TokenizeError> {
    if tokens.len() < 2 {
        return Err(TokenizeError::TooShort { tokens: tokens.len(), least: 2 });
    }
    scored[0] = false;
    let cut = cut(tokens.len(), limit)?;
    let before = scored.iter().position(|&scored| scored).unwrap_or(scored.len());
    tokens.truncate(limit.tokens());
    scored.truncate(limit.tokens());
    if !scored.contains(&true) {
        return Err(TokenizeError::CompletionCut { before, limit: limit.tokens() });
    }
    Ok(TokenizedSample { sample: LmSample { tokens, scored }, cut })
}
