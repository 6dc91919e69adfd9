use serde::Serialize;

use crate::Column;

/// The ids of the queries and training samples of scores.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ids {
    /// One per row of scores.
    pub queries: IdColumn,
    /// One per column of scores.
    pub train: IdColumn,
    /// What the columns of scores are.
    pub unit: Unit,
}

/// What is scored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Unit {
    /// Training samples.
    #[default]
    Sample,
    /// Groups of training samples.
    Group,
}

impl Unit {
    /// The name of the column of its ids.
    pub fn column(self) -> &'static str {
        match self {
            Self::Sample => "train_id",
            Self::Group => "group_id",
        }
    }
}

/// The ids of some samples.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum IdColumn {
    /// Their numbers.
    Numbers(Vec<i64>),
    /// Names from an id column.
    Names(Vec<String>),
}

impl Ids {
    /// Samples that are numbered from 0.
    pub fn numbered(queries: usize, samples: usize) -> Self {
        Self { queries: IdColumn::numbered(queries), train: IdColumn::numbered(samples), unit: Unit::Sample }
    }
}

impl IdColumn {
    /// The numbers from 0.
    pub fn numbered(count: usize) -> Self {
        Self::Numbers((0..count as i64).collect())
    }

    /// The id of a sample as text.
    ///
    /// # Panics
    ///
    /// If there is no such sample.
    pub fn text(&self, sample: usize) -> String {
        match self {
            Self::Numbers(numbers) => numbers[sample].to_string(),
            Self::Names(names) => names[sample].clone(),
        }
    }

    /// The ids of these samples.
    ///
    /// # Panics
    ///
    /// If there is no such sample.
    pub fn column(&self, samples: impl Iterator<Item = usize>) -> Column<'_> {
        match self {
            Self::Numbers(numbers) => Column::Whole(samples.map(|sample| numbers[sample]).collect()),
            Self::Names(names) => Column::Text(samples.map(|sample| names[sample].as_str()).collect()),
        }
    }
}
