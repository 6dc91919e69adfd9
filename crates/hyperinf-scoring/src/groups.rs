use std::collections::HashMap;

use crate::{ScoreError, Scores, Set};

/// Samples that belong together: chunks of a document, documents of an author.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Groups {
    /// The groups' ids, in order of their first sample.
    pub ids: Vec<String>,
    /// The group of each sample, as a place in `ids`.
    pub of: Vec<usize>,
}

/// Why a text does not give the groups of samples.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GroupError {
    /// A line without an id.
    #[error("line {line} has no id: every line is the id of one training sample")]
    Empty {
        /// The line's number, from 1.
        line: usize,
    },
    /// Not one id per sample.
    #[error("{found} lines, but there are {expected} training samples: every line is the id of one training sample")]
    Count {
        /// Lines found.
        found: usize,
        /// Training samples.
        expected: usize,
    },
}

/// How a group's scores are combined.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pool {
    /// Their sum: to first order, the effect of leaving the whole group out.
    #[default]
    Sum,
    /// Their mean: groups of different sizes on one scale.
    Mean,
}

impl Pool {
    /// Its word: `sum` or `mean`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sum => "sum",
            Self::Mean => "mean",
        }
    }
}

impl Groups {
    /// Groups of samples by their ids, one per sample; samples with the same id need not follow each other.
    pub fn new<S: Into<String>>(ids: impl IntoIterator<Item = S>) -> Self {
        let (mut groups, mut places) = (Self { ids: Vec::new(), of: Vec::new() }, HashMap::new());
        for id in ids {
            let id = id.into();
            let place = *places.entry(id.clone()).or_insert(groups.ids.len());
            if place == groups.ids.len() {
                groups.ids.push(id);
            }
            groups.of.push(place);
        }
        groups
    }

    /// Groups of `samples` samples from a text with one id per line.
    ///
    /// # Errors
    ///
    /// [`GroupError`] if a line has no id, or there are not as many lines as samples.
    pub fn parse(text: &str, samples: usize) -> Result<Self, GroupError> {
        if let Some(line) = text.lines().position(|line| line.trim().is_empty()) {
            return Err(GroupError::Empty { line: line + 1 });
        }
        let groups = Self::new(text.lines());
        match groups.of.len() {
            found if found == samples => Ok(groups),
            found => Err(GroupError::Count { found, expected: samples }),
        }
    }

    /// The scores of groups of training samples, `[q, groups]`.
    ///
    /// # Errors
    ///
    /// If there are not as many samples as ids.
    pub fn of_train(&self, scores: &Scores, pool: Pool) -> Result<Scores, ScoreError> {
        self.check(Set::Train, scores.samples())?;
        Ok(Scores { rows: scores.rows.iter().map(|row| self.pooled(row, pool)).collect() })
    }

    /// The scores for groups of queries, `[groups, n]`.
    ///
    /// # Errors
    ///
    /// If there are not as many queries as ids.
    pub fn of_queries(&self, scores: &Scores, pool: Pool) -> Result<Scores, ScoreError> {
        self.check(Set::Query, scores.queries())?;
        let mut rows = vec![vec![0.0; scores.samples()]; self.ids.len()];
        let divisors = self.divisors(pool);
        for (row, &group) in scores.rows.iter().zip(&self.of) {
            rows[group].iter_mut().zip(row).for_each(|(sum, score)| *sum += score / divisors[group]);
        }
        Ok(Scores { rows })
    }

    fn pooled(&self, row: &[f64], pool: Pool) -> Vec<f64> {
        let mut sums = vec![0.0; self.ids.len()];
        for (&group, score) in self.of.iter().zip(row) {
            sums[group] += score;
        }
        sums.iter().zip(self.divisors(pool)).map(|(sum, divisor)| sum / divisor).collect()
    }

    fn divisors(&self, pool: Pool) -> Vec<f64> {
        let mut counts = vec![0.0; self.ids.len()];
        self.of.iter().for_each(|&group| counts[group] += 1.0);
        match pool {
            Pool::Sum => vec![1.0; counts.len()],
            Pool::Mean => counts,
        }
    }

    fn check(&self, set: Set, found: usize) -> Result<(), ScoreError> {
        let expected = self.of.len();
        if found == expected { Ok(()) } else { Err(ScoreError::SampleCount { set, found, expected }) }
    }
}
