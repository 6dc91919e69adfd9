use crate::ScoreError;

/// An amount of samples: a share of all, or a number.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Amount {
    /// A share in [0, 1], rounded to the nearest whole number of samples.
    Share(f64),
    /// A number of samples.
    Count(usize),
}

impl Amount {
    pub(crate) fn of(self, total: usize) -> Result<usize, ScoreError> {
        let error = |what, expected: String, value| Err(ScoreError::Amount { what, expected, value });
        match self {
            Self::Share(share) if (0.0..=1.0).contains(&share) => Ok((share * total as f64).round() as usize),
            Self::Share(share) => error("a share", "between 0 and 1".into(), share),
            Self::Count(count) if count <= total => Ok(count),
            Self::Count(count) => error("a count", format!("at most the {total} samples"), count as f64),
        }
    }
}

/// What samples are ranked by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RankBy {
    /// The score: the most helpful first, the most harmful last.
    #[default]
    Score,
    /// The size of the score: the most influential first, helpful or harmful.
    ///
    /// Samples of a query's own kind are both the most helpful and the most harmful to it: where the question is which
    /// samples a query is *about*, the size finds more of them.
    Magnitude,
}

impl RankBy {
    /// Its word: `score` or `magnitude`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Score => "score",
            Self::Magnitude => "magnitude",
        }
    }

    /// What is compared: the score or its size.
    pub fn value(self, score: f64) -> f64 {
        match self {
            Self::Score => score,
            Self::Magnitude => score.abs(),
        }
    }

    /// All samples, the highest value first; equal values keep the order of the samples.
    pub fn ranking(self, scores: &[f64]) -> Vec<usize> {
        let mut order: Vec<usize> = (0..scores.len()).collect();
        order.sort_by(|&a, &b| self.value(scores[b]).total_cmp(&self.value(scores[a])));
        order
    }

    /// The samples worth keeping, in the order of the data.
    ///
    /// # Errors
    ///
    /// If the amount is out of range.
    pub fn select(self, scores: &[f64], keep: Amount) -> Result<Vec<usize>, ScoreError> {
        let count = keep.of(scores.len())?;
        let mut kept: Vec<usize> = self.ranking(scores).into_iter().take(count).collect();
        kept.sort_unstable();
        Ok(kept)
    }
}

/// All samples, the highest score first; equal scores keep the order of the samples.
pub fn ranking(scores: &[f64]) -> Vec<usize> {
    RankBy::Score.ranking(scores)
}

/// The `k` most helpful samples, best first.
///
/// # Errors
///
/// If there are fewer samples.
pub fn top_k(scores: &[f64], k: usize) -> Result<Vec<usize>, ScoreError> {
    let k = Amount::Count(k).of(scores.len())?;
    Ok(ranking(scores).into_iter().take(k).collect())
}

/// The samples flagged as harmful, the most negative score first: where mislabelled samples are.
///
/// # Errors
///
/// If the amount is out of range.
pub fn detect(scores: &[f64], flag: Amount) -> Result<Vec<usize>, ScoreError> {
    let count = flag.of(scores.len())?;
    let harm: Vec<f64> = scores.iter().map(|s| -s).collect();
    Ok(ranking(&harm).into_iter().take(count).collect())
}

/// The samples worth keeping, in the order of the data.
///
/// # Errors
///
/// If the amount is out of range.
pub fn select(scores: &[f64], keep: Amount) -> Result<Vec<usize>, ScoreError> {
    RankBy::Score.select(scores, keep)
}
