use std::fs::File;
use std::io;
use std::path::Path;

use crate::{ScoreFile, StoreError};

/// Scores as a file of [`SCORE_FORMATS`](crate::SCORE_FORMATS) holds them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StoredScores {
    /// The ids of the queries, as texts.
    pub queries: Vec<String>,
    /// The ids of the training samples or groups, as texts, in the order of the columns.
    pub train: Vec<String>,
    /// The scores, `[queries, samples]`.
    pub rows: Vec<Vec<f32>>,
    /// The standard deviation of each score, `[samples]`, of scores with error bars.
    pub std: Option<Vec<f32>>,
}

/// Why a file of scores cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ScoresFault {
    /// The system refused.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// It is not CSV.
    #[error(transparent)]
    Csv(#[from] csv::Error),
    /// It is not JSON, or not of scores.
    #[error(transparent)]
    Json(#[from] serde_json::Error),
    /// It is not Parquet.
    #[error(transparent)]
    Parquet(#[from] parquet::errors::ParquetError),
    /// It is not safetensors.
    #[error(transparent)]
    Safetensors(#[from] safetensors::SafeTensorError),
    /// A column is missing.
    #[error("it has no column `{column}`")]
    Column {
        /// The column.
        column: &'static str,
    },
    /// A column is of another type.
    #[error("the column `{column}` must hold {expected}")]
    Type {
        /// The column.
        column: &'static str,
        /// What it must hold.
        expected: &'static str,
    },
    /// The tensor `scores` is another one.
    #[error("the tensor `scores` is {dtype} of the shape {shape:?}; expected F32 of [queries, samples]")]
    Tensor {
        /// Its type.
        dtype: String,
        /// Its shape.
        shape: Vec<usize>,
    },
    /// More or fewer ids than scores.
    #[error("{found} values stand next to {expected} others")]
    Ids {
        /// Their number.
        found: usize,
        /// The number of the others.
        expected: usize,
    },
    /// The pairs are not in the order of queries and samples.
    #[error(
        "pair {pair} is of the sample `{found}`; expected {expected}: every query has the same samples in one order"
    )]
    Order {
        /// The pair, from 0.
        pair: usize,
        /// The sample's id.
        found: String,
        /// The id that the first query has there.
        expected: String,
    },
    /// A score that is no finite number.
    #[error("the score of pair {pair} is {value}; expected a finite number")]
    Value {
        /// The pair, from 0.
        pair: usize,
        /// The score.
        value: f32,
    },
    /// A query with fewer samples than the first.
    #[error("the query `{query}` has {found} scores; the first one has {expected}")]
    Short {
        /// The query's id.
        query: String,
        /// Its scores.
        found: usize,
        /// Those of the first query.
        expected: usize,
    },
    /// There are no scores.
    #[error("it has no scores")]
    Empty,
}

impl StoredScores {
    /// Reads a file of scores, in the format that its ending names.
    ///
    /// # Errors
    ///
    /// [`StoreError::Format`] for another ending, or [`StoreError::Scores`].
    pub fn read(path: &Path) -> Result<Self, StoreError> {
        let format = ScoreFile::at(path)?.format;
        let failed = |source| StoreError::Scores { path: path.to_owned(), source };
        let mut found = Self::default();
        let file = File::open(path).map_err(|error| failed(error.into()))?;
        (format.read)(file, &mut found).map_err(failed)?;
        found.check_last().map_err(failed)?;
        if found.train.is_empty() { Err(failed(ScoresFault::Empty)) } else { Ok(found) }
    }

    /// Adds a pair; those of a query follow each other, and are of the same samples in the same order for all of them.
    pub(crate) fn push(&mut self, query: &str, train: &str, score: f32, std: Option<f32>) -> Result<(), ScoresFault> {
        let pair = self.rows.len().saturating_sub(1) * self.train.len() + self.rows.last().map_or(0, Vec::len);
        if !score.is_finite() {
            return Err(ScoresFault::Value { pair, value: score });
        }
        if self.queries.last().is_none_or(|last| last != query) {
            self.check_last()?;
            self.queries.push(query.to_owned());
            self.rows.push(Vec::with_capacity(self.train.len()));
        }
        let first = self.rows.len() == 1;
        let Some(row) = self.rows.last_mut() else { return Err(ScoresFault::Empty) };
        if first {
            self.train.push(train.to_owned());
            if let Some(std) = std {
                self.std.get_or_insert_default().push(std);
            }
        } else if self.train.get(row.len()).is_none_or(|expected| expected != train) {
            let expected = self.train.get(row.len()).map_or("another query".to_owned(), |id| format!("`{id}`"));
            return Err(ScoresFault::Order { pair, found: train.to_owned(), expected });
        }
        row.push(score);
        Ok(())
    }

    /// Fails if the last query has fewer samples than the first.
    fn check_last(&self) -> Result<(), ScoresFault> {
        match (self.queries.last(), self.rows.last()) {
            (Some(query), Some(row)) if row.len() != self.train.len() => {
                let (found, expected) = (row.len(), self.train.len());
                Err(ScoresFault::Short { query: query.clone(), found, expected })
            }
            _ => Ok(()),
        }
    }
}
