/// Why a [`MethodSpec`](crate::MethodSpec) cannot be read or used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SpecError {
    /// A word is not one of those that may stand there.
    #[error("there is no {what} `{word}`{}{}", place(.spec, .word, *.position), suggestion(.nearest))]
    Unknown {
        /// The whole specification.
        spec: String,
        /// The word.
        word: String,
        /// Its first character's number in the specification, from 1.
        position: usize,
        /// The part that is expected there.
        what: &'static str,
        /// The most similar word that may stand there, if one is similar.
        nearest: Option<&'static str>,
    },
    /// A part is given twice.
    #[error("`{word}`, character {position} of `{spec}`: the {what} is given twice")]
    Repeated {
        /// The whole specification.
        spec: String,
        /// The second word.
        word: String,
        /// Its first character's number in the specification, from 1.
        position: usize,
        /// The part.
        what: &'static str,
    },
    /// The method does not have this choice.
    #[error("`{word}`, character {position} of `{spec}`: {method} has no {what}; {reason}")]
    Unfit {
        /// The whole specification.
        spec: String,
        /// The word.
        word: String,
        /// Its first character's number in the specification, from 1.
        position: usize,
        /// The method.
        method: &'static str,
        /// The part.
        what: &'static str,
        /// Which methods have it.
        reason: &'static str,
    },
    /// An estimate where only a method is meant.
    #[error("`@{estimate}` in `{spec}`: options hold no estimate; the source of the curvature decides it")]
    Estimate {
        /// The whole specification.
        spec: String,
        /// The estimate.
        estimate: &'static str,
    },
}

fn place(spec: &str, word: &str, position: usize) -> String {
    if spec == word { String::new() } else { format!(" (character {position} of `{spec}`)") }
}

fn suggestion(nearest: &Option<&'static str>) -> String {
    nearest.map_or_else(String::new, |nearest| format!("; did you mean `{nearest}`?"))
}

/// The most similar of the candidates, if one is similar.
pub(super) fn most_similar(word: &str, candidates: &[&'static str]) -> Option<&'static str> {
    let word = word.to_lowercase();
    let likeness = |other: &str| strsim::jaro_winkler(&word, other);
    let nearest = candidates.iter().copied().max_by(|a, b| likeness(a).total_cmp(&likeness(b)));
    nearest.filter(|other| likeness(other) > 0.7)
}
