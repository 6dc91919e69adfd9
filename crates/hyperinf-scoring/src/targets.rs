use crate::{ScoreError, Set};

/// How the scores for several targets become one score.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Over {
    /// Their mean: samples that help the targets on average.
    #[default]
    Mean,
    /// The highest: samples that help one target much.
    Max,
    /// The lowest: samples that help every target.
    Worst,
}

impl Over {
    /// All, with their names.
    pub const NAMES: [(&'static str, Self); 3] = [("mean", Self::Mean), ("max", Self::Max), ("worst", Self::Worst)];

    /// The name, as in [`NAMES`](Self::NAMES).
    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(_, over)| *over == self).map_or("", |(name, _)| name)
    }

    /// One score per sample from one row of scores `[n]` per target, each over its root mean square: a target with larger
    /// gradients does not count more. One target's scores stay as they are.
    ///
    /// # Errors
    ///
    /// [`ScoreError::Empty`] without targets, [`ScoreError::SampleCount`] if the rows have different lengths.
    pub fn combine(self, targets: &[Vec<f64>]) -> Result<Vec<f64>, ScoreError> {
        let (first, others) = targets.split_first().ok_or(ScoreError::Empty { set: Set::Query, what: "targets" })?;
        if others.is_empty() {
            return Ok(first.clone());
        }
        let n = first.len();
        if let Some(other) = others.iter().find(|row| row.len() != n) {
            return Err(ScoreError::SampleCount { set: Set::Train, found: other.len(), expected: n });
        }
        // Of a row scaled by its largest score: squares of small scores are lost.
        let scale = |row: &Vec<f64>| {
            let largest = row.iter().fold(0.0_f64, |largest, score| largest.max(score.abs()));
            if largest == 0.0 {
                return 1.0;
            }
            largest * (row.iter().map(|score| (score / largest).powi(2)).sum::<f64>() / n as f64).sqrt()
        };
        let scales: Vec<f64> = targets.iter().map(scale).collect();
        let of = |sample: usize| {
            let scores = targets.iter().zip(&scales).map(|(row, scale)| row[sample] / scale);
            match self {
                Self::Mean => scores.sum::<f64>() / targets.len() as f64,
                Self::Max => scores.fold(f64::NEG_INFINITY, f64::max),
                Self::Worst => scores.fold(f64::INFINITY, f64::min),
            }
        };
        Ok((0..n).map(of).collect())
    }
}
