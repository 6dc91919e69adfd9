use fancy_regex::Regex;
use tokenizers::pre_tokenizers::split::SplitPattern;
use tokenizers::{
    NormalizedString, Normalizer, NormalizerWrapper, OffsetReferential, OffsetType, PreTokenizer, PreTokenizerWrapper,
    Tokenizer,
};

use crate::TokenizeError;
use crate::files::QWEN2;

/// The pattern of `ByteLevel`.
const BYTE_LEVEL: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
/// Texts of fewer bytes need no search of the two patterns that most tokenizers have: only blanks in a row cost them
/// steps, a few each, and a search gives up after a million.
const SHORT: usize = 100_000;
/// What only a search with steps backwards finds.
const BACKWARDS: [&str; 14] =
    ["(?=", "(?!", "(?<", "(?>", "(?(", "(?P", "(?&", "++", "*+", "?+", "}+", "\\K", "\\G", "\\k"];

/// The searches of a tokenizer that may give up: the library then takes the rest of the text as one piece and says
/// nothing.
#[derive(Clone, Debug, Default)]
pub(crate) struct Searches {
    normalizers: Vec<(NormalizerWrapper, Option<Search>)>,
    steps: Vec<(PreTokenizerWrapper, Option<Search>)>,
}

#[derive(Clone, Debug)]
struct Search {
    pattern: String,
    regex: Regex,
}

impl Searches {
    /// Those of a tokenizer; none if all its patterns are found without steps backwards.
    pub(crate) fn new(tokenizer: &Tokenizer) -> Self {
        let (mut normalizers, mut steps) = (Vec::new(), Vec::new());
        tokenizer.get_normalizer().into_iter().for_each(|part| flatten_normalizer(part, &mut normalizers));
        tokenizer.get_pre_tokenizer().into_iter().for_each(|part| flatten(part, &mut steps));
        // What comes after the last search is not needed.
        let last = |kept: Option<usize>| kept.map_or(0, |at| at + 1);
        normalizers.truncate(last(normalizers.iter().rposition(|(_, search)| search.is_some())));
        steps.truncate(last(steps.iter().rposition(|(_, search)| search.is_some())));
        Self { normalizers, steps }
    }

    /// Fails if a search in this text gives up.
    pub(crate) fn check(&self, tokenizer: &Tokenizer, text: &str) -> Result<(), TokenizeError> {
        let mut normalized = NormalizedString::from(text);
        for (normalizer, search) in &self.normalizers {
            search.iter().try_for_each(|search| search.check(normalized.get()))?;
            normalizer.normalize(&mut normalized).map_err(TokenizeError::Tokenizer)?;
        }
        let needed = |search: &Option<Search>| search.as_ref().is_some_and(|search| search.is_needed(text));
        if !self.steps.iter().any(|(_, search)| needed(search)) {
            return Ok(());
        }
        let mut pieces = tokenizer.get_added_vocabulary().extract_and_normalize(tokenizer.get_normalizer(), text);
        for (step, search) in &self.steps {
            if let Some(search) = search {
                let found = pieces.get_splits(OffsetReferential::Normalized, OffsetType::None);
                let texts = found.into_iter().filter(|(_, _, tokens)| tokens.is_none());
                texts.map(|(text, ..)| text).try_for_each(|text| search.check(text))?;
            }
            step.pre_tokenize(&mut pieces).map_err(TokenizeError::Tokenizer)?;
        }
        Ok(())
    }
}

impl Search {
    fn new(pattern: &str) -> Option<Self> {
        let digit = |at: usize| pattern[at + 1..].starts_with(|c: char| c.is_ascii_digit());
        let backwards =
            BACKWARDS.iter().any(|part| pattern.contains(part)) || pattern.match_indices('\\').any(|(at, _)| digit(at));
        let regex = backwards.then(|| Regex::new(pattern).ok()).flatten()?;
        Some(Self { pattern: pattern.to_owned(), regex })
    }

    fn is_needed(&self, text: &str) -> bool {
        text.len() >= SHORT || ![BYTE_LEVEL, QWEN2].contains(&self.pattern.as_str())
    }

    fn check(&self, text: &str) -> Result<(), TokenizeError> {
        match self.regex.find_iter(text).find_map(Result::err) {
            None => Ok(()),
            Some(source) => Err(TokenizeError::Search {
                pattern: self.pattern.clone(),
                bytes: text.len(),
                source: Box::new(source),
            }),
        }
    }
}

fn flatten_normalizer(part: &NormalizerWrapper, steps: &mut Vec<(NormalizerWrapper, Option<Search>)>) {
    let search = match part {
        NormalizerWrapper::Sequence(inner) => {
            return inner.as_ref().iter().for_each(|part| flatten_normalizer(part, steps));
        }
        NormalizerWrapper::Replace(replace) => {
            let value = serde_json::to_value(replace).unwrap_or_default();
            value.pointer("/pattern/Regex").and_then(|pattern| Search::new(pattern.as_str()?))
        }
        _ => None,
    };
    steps.push((part.clone(), search));
}

fn flatten(part: &PreTokenizerWrapper, steps: &mut Vec<(PreTokenizerWrapper, Option<Search>)>) {
    let search = match part {
        PreTokenizerWrapper::Sequence(inner) => return inner.as_ref().iter().for_each(|part| flatten(part, steps)),
        PreTokenizerWrapper::ByteLevel(level) if level.use_regex => Search::new(BYTE_LEVEL),
        PreTokenizerWrapper::Split(split) => match &split.pattern {
            SplitPattern::Regex(pattern) => Search::new(pattern),
            SplitPattern::String(_) => None,
        },
        _ => None,
    };
    steps.push((part.clone(), search));
}
