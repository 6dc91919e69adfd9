use tokenizers::normalizers::Replace;
use tokenizers::{NormalizedString, Normalizer, NormalizerWrapper};

use crate::TokenizeError;

/// How many times longer a normalizer may make a text, in bytes.
const TIMES: u64 = 16;
/// What it may add to a text in any case, in bytes.
const SLACK: u64 = 1 << 20;
/// Texts are normalized in pieces of this length where only their length is needed.
const PIECE: usize = 64;

/// A bound on the length of normalized text, checked before memory is taken.
///
/// A few replacements of one letter by two make any text longer than memory.
#[derive(Clone, Debug, Default)]
pub(crate) struct Growth {
    steps: Vec<Step>,
}

#[derive(Clone, Debug)]
struct Step {
    normalizer: NormalizerWrapper,
    /// A text of n bytes has at most `factor · n + added` bytes after the step.
    factor: u64,
    added: u64,
    /// The text that is replaced, unless it is a regular expression.
    pattern: Option<String>,
}

impl Growth {
    pub(crate) fn new(normalizer: Option<&NormalizerWrapper>) -> Self {
        let mut steps = Vec::new();
        normalizer.into_iter().for_each(|normalizer| flatten(normalizer, &mut steps));
        Self { steps }
    }

    /// Refuses a text that the normalizer makes too long.
    pub(crate) fn check(&self, text: &str) -> Result<(), TokenizeError> {
        let allowed = text.len() as u64 * TIMES + SLACK;
        let longest =
            self.steps.iter().fold(text.len() as u64, |len, s| len.saturating_mul(s.factor).saturating_add(s.added));
        if longest <= allowed {
            return Ok(());
        }
        let mut current = NormalizedString::from(text);
        for step in &self.steps {
            let longest = step.longest(current.get(), allowed);
            if longest > allowed {
                return Err(TokenizeError::Growth { bytes: text.len(), limit: allowed });
            }
            step.normalizer.normalize(&mut current).map_err(TokenizeError::Tokenizer)?;
        }
        Ok(())
    }
}

impl Step {
    /// A bound on the length of this text after the step; beyond `enough` it may be too small.
    fn longest(&self, text: &str, enough: u64) -> u64 {
        let len = text.len() as u64;
        match (&self.normalizer, &self.pattern) {
            (NormalizerWrapper::Precompiled(map), _) => {
                let mut length = 0;
                pieces(text)
                    .map(|piece| map.normalize_string(piece).len() as u64)
                    .take_while(|&more| {
                        length += more;
                        length <= enough
                    })
                    .for_each(drop);
                length
            }
            (NormalizerWrapper::Replace(replace), Some(pattern)) => {
                let matches = text.matches(pattern.as_str()).count() as u64;
                let kept = len - matches * pattern.len() as u64;
                kept.saturating_add(matches.saturating_mul(replace.content.len() as u64))
            }
            _ => len.saturating_mul(self.factor).saturating_add(self.added),
        }
    }
}

/// The text in pieces of whole characters.
fn pieces(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let (piece, after) = rest.split_at(rest.floor_char_boundary(PIECE));
        rest = after;
        (!piece.is_empty()).then_some(piece)
    })
}

/// The text that is replaced, unless it is a regular expression or empty.
fn plain_pattern(replace: &Replace) -> Option<String> {
    let value = serde_json::to_value(replace).ok()?;
    let pattern = value.get("pattern")?.get("String")?.as_str()?;
    (!pattern.is_empty()).then(|| pattern.to_owned())
}

fn flatten(normalizer: &NormalizerWrapper, steps: &mut Vec<Step>) {
    let mut pattern = None;
    let (factor, added) = match normalizer {
        NormalizerWrapper::Sequence(inner) => {
            inner.as_ref().iter().for_each(|normalizer| flatten(normalizer, steps));
            return;
        }
        // Blanks around Chinese characters, decomposition, lower case.
        NormalizerWrapper::BertNormalizer(_) => (16, 0),
        NormalizerWrapper::NFC(_) | NormalizerWrapper::NFD(_) => (4, 0),
        // One character, U+FDFA, becomes eighteen.
        NormalizerWrapper::NFKC(_) | NormalizerWrapper::NFKD(_) => (12, 0),
        NormalizerWrapper::Lowercase(_) | NormalizerWrapper::ByteLevel(_) => (2, 0),
        NormalizerWrapper::StripNormalizer(_) | NormalizerWrapper::StripAccents(_) | NormalizerWrapper::Nmt(_) => {
            (1, 0)
        }
        NormalizerWrapper::Prepend(prepend) => (1, prepend.prepend.len() as u64),
        NormalizerWrapper::Replace(replace) => {
            pattern = plain_pattern(replace);
            let content = replace.content.len() as u64;
            match &pattern {
                Some(pattern) => (content.div_ceil(pattern.len() as u64).max(1), 0),
                // It may match between any two bytes.
                None => (content.saturating_add(1), content),
            }
        }
        // Known only from the text.
        NormalizerWrapper::Precompiled(_) => (u64::MAX, 0),
    };
    steps.push(Step { normalizer: normalizer.clone(), factor, added, pattern });
}
