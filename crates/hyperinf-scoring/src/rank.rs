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
    fn of(self, total: usize) -> Result<usize, ScoreError> {
        let error = |what, expected: String, value| Err(ScoreError::Amount { what, expected, value });
        match self {
            Self::Share(share) if (0.0..=1.0).contains(&share) => Ok((share * total as f64).round() as usize),
            Self::Share(share) => error("a share", "between 0 and 1".into(), share),
            Self::Count(count) if count <= total => Ok(count),
            Self::Count(count) => error("a count", format!("at most the {total} samples"), count as f64),
        }
    }
}

/// All samples, the highest score first; equal scores keep the order of the samples.
pub fn ranking(scores: &[f64]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
    order
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
    let count = keep.of(scores.len())?;
    let mut kept: Vec<usize> = ranking(scores).into_iter().take(count).collect();
    kept.sort_unstable();
    Ok(kept)
}
