use hyperinf_solvers::solvers;

use super::error::most_similar;
use super::{EstimateKind, MERGED, SCALES, SIDES, SpecError, scale_name, side_name};
use crate::{MethodInfo, methods};

/// A part of a specification after the name.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    Side,
    Scale,
    Merged,
    Solver,
    Estimate,
}

impl Part {
    /// The parts that may follow a separator.
    pub(super) fn after(separator: char) -> &'static [Self] {
        match separator {
            '/' => &[Self::Solver],
            '@' => &[Self::Estimate],
            _ => &[Self::Side, Self::Scale, Self::Merged],
        }
    }

    pub(super) fn separator(self) -> char {
        match self {
            Self::Side | Self::Scale | Self::Merged => ':',
            Self::Solver => '/',
            Self::Estimate => '@',
        }
    }

    pub(super) fn words(self) -> Vec<&'static str> {
        match self {
            Self::Side => SIDES.map(side_name).to_vec(),
            Self::Scale => SCALES.map(scale_name).to_vec(),
            Self::Merged => vec![MERGED],
            Self::Solver => solvers().iter().map(|solver| solver.name()).collect(),
            Self::Estimate => EstimateKind::ALL.map(EstimateKind::name).to_vec(),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Side => "side",
            Self::Scale => "scale",
            Self::Merged => "merged matrix",
            Self::Solver => "solver",
            Self::Estimate => "estimate",
        }
    }

    /// Fails unless the method has this part.
    pub(super) fn check(self, method: &MethodInfo, word: Word<'_>) -> Result<(), SpecError> {
        let curvature = (method.has_curvature(), "methods without curvature have none");
        let (has, reason) = match self {
            Self::Side => (method.has_side(), "only hyperinf and hyperinf-authors sum over one"),
            Self::Scale => (method.has_scale(), "only hyperinf has the choice"),
            Self::Merged | Self::Solver | Self::Estimate => curvature,
        };
        if has {
            return Ok(());
        }
        Err(SpecError::Unfit {
            spec: word.spec.to_owned(),
            word: word.word.to_owned(),
            position: word.position(),
            method: method.name,
            what: self.name(),
            reason,
        })
    }
}

/// A word of a specification.
#[derive(Clone, Copy)]
pub(super) struct Word<'a> {
    pub(super) spec: &'a str,
    /// Its first byte.
    pub(super) start: usize,
    pub(super) word: &'a str,
}

impl Word<'_> {
    fn position(self) -> usize {
        self.spec[..self.start].chars().count() + 1
    }

    pub(super) fn no_method(self) -> SpecError {
        let names = methods().iter().flat_map(|method| method.aliases.iter().chain([&method.name]));
        self.not_among("method", &names.copied().collect::<Vec<_>>())
    }

    /// It is not one of the words of these parts.
    pub(super) fn unknown(self, parts: &[Part]) -> SpecError {
        let words: Vec<&str> = parts.iter().flat_map(|part| part.words()).collect();
        let what = match parts {
            [part] => part.name(),
            _ => "side, scale or `merged`",
        };
        self.not_among(what, &words)
    }

    fn not_among(self, what: &'static str, words: &[&'static str]) -> SpecError {
        let (spec, word, position) = (self.spec.to_owned(), self.word.to_owned(), self.position());
        SpecError::Unknown { spec, word, position, what, nearest: most_similar(self.word, words) }
    }

    pub(super) fn repeated(self, part: Part) -> SpecError {
        let (spec, word, position) = (self.spec.to_owned(), self.word.to_owned(), self.position());
        SpecError::Repeated { spec, word, position, what: part.name() }
    }
}
