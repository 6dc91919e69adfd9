use std::collections::BTreeSet;
use std::fmt;
use std::io::{BufWriter, Write};
use std::path::Path;

use hyperinf_scoring::{QueryMode, RankBy, Scores, ranking};
use hyperinf_store::{Column, IdColumn, Ids, Staged, Table, Unit, WriteError, stage_csv};
use serde::Serialize;

use crate::influence::{Detection, Influence, Rows};
use crate::{Guess, Labels, Prediction, RunError, SubsetError};

/// The ends of one query's ranking of the training rows.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Ranking<'a> {
    /// The query.
    #[serde(flatten)]
    pub query: RankedQuery<'a>,
    /// The highest scores, the highest first.
    pub most_helpful: Vec<ScoredRow<'a>>,
    /// The lowest scores, the lowest first: those below 0.
    pub most_harmful: Vec<ScoredRow<'a>>,
    /// The lowest scores where none is below 0, the lowest first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub least_helpful: Vec<ScoredRow<'a>>,
    /// The largest scores of either sign, the largest first: where ranks are by magnitude.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub most_influential: Vec<ScoredRow<'a>>,
}

/// The query that training rows are ranked for.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum RankedQuery<'a> {
    /// A query row.
    Each {
        /// Its id.
        query_id: RowId,
        /// Its text.
        text: &'a str,
        /// Its label, if it has one.
        #[serde(skip_serializing_if = "Option::is_none")]
        label: Option<&'a str>,
    },
    /// The mean of the query rows.
    Mean {
        /// The number 0.
        query_id: RowId,
        /// The number of query rows.
        mean_of: usize,
    },
}

/// A training row with its score for a query.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ScoredRow<'a> {
    /// Its id.
    pub train_id: RowId,
    /// Its score; positive = helpful.
    pub score: f64,
    /// Its text.
    pub text: &'a str,
    /// Its label, if it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label: Option<&'a str>,
}

/// The id of a row: its number in the file, or its value in the id column.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum RowId {
    /// A number.
    Number(i64),
    /// A value of the id column.
    Name(String),
}

/// Scores with the rows that they are for.
#[derive(Clone, Copy)]
pub struct Board<'a> {
    /// The training rows.
    pub train: &'a Rows,
    /// The query rows.
    pub query: &'a Rows,
    /// `[queries, training rows]`, or one row for the mean query.
    pub scores: &'a Scores,
    /// Whether queries were scored one by one.
    pub query_mode: QueryMode,
    /// What rankings are by.
    pub rank_by: RankBy,
    /// The labels of a classifier.
    pub labels: Option<&'a Labels>,
}

impl<'a> Board<'a> {
    /// The ids of the scores' rows and columns; the mean query has the number 0.
    pub fn ids(&self) -> Ids {
        let queries = match self.query_mode {
            QueryMode::Each => self.query.ids(),
            QueryMode::Mean => IdColumn::numbered(1),
        };
        Ids { queries, train: self.train.ids(), unit: Unit::Sample }
    }

    /// The `k` most helpful and the `k` most harmful training rows for a query; with ranks by magnitude also the `k` most
    /// influential.
    ///
    /// # Panics
    ///
    /// If there is no such query.
    pub fn ranking(&self, query: usize, k: usize) -> Ranking<'a> {
        let order = ranking(&self.scores.rows[query]);
        let query_row = match self.query_mode {
            QueryMode::Each => {
                let (text, label) = self.query.content(query);
                RankedQuery::Each { query_id: self.query.id(query), text, label }
            }
            QueryMode::Mean => RankedQuery::Mean { query_id: RowId::Number(0), mean_of: self.query.data.rows.len() },
        };
        let scored = |sample| self.scored(query, sample);
        let lowest: Vec<ScoredRow<'a>> = order.iter().rev().copied().take(k).map(scored).collect();
        let harms = lowest.first().is_some_and(|lowest| lowest.score < 0.0);
        let (most_harmful, least_helpful) =
            if harms { (lowest.into_iter().filter(|row| row.score < 0.0).collect(), vec![]) } else { (vec![], lowest) };
        let influential = match self.rank_by {
            RankBy::Score => Vec::new(),
            RankBy::Magnitude => self.rank_by.ranking(&self.scores.rows[query]),
        };
        Ranking {
            query: query_row,
            most_helpful: order.iter().copied().take(k).map(scored).collect(),
            most_harmful,
            least_helpful,
            most_influential: influential.into_iter().take(k).map(scored).collect(),
        }
    }

    /// Stages [`Board::ranking`] of all queries as JSON lines.
    ///
    /// # Errors
    ///
    /// If the file cannot be written.
    pub fn stage_rankings<'p>(&self, path: &'p Path, k: usize) -> Result<Staged<'p>, RunError> {
        let staged = Staged::new(path, |file| {
            let mut out = BufWriter::new(file);
            for query in 0..self.scores.queries() {
                serde_json::to_writer(&mut out, &self.ranking(query, k))?;
                writeln!(out)?;
            }
            Ok(out.flush()?)
        });
        Ok(staged?)
    }

    /// Stages all training rows as CSV in an order: rank, id, text, label, the model's label and its probability (of
    /// classifiers), score, training loss and, where there is one, self-influence.
    pub(crate) fn stage_suspicious<'p>(
        &self,
        order: &[usize],
        self_influence: Option<&[f64]>,
        path: &'p Path,
    ) -> Result<Staged<'p>, RunError> {
        let Self { train, scores, labels, .. } = *self;
        let ids = train.ids();
        let real = |values: &[f64]| Column::Real(order.iter().map(|&sample| values[sample] as f32).collect());
        let mut columns = vec![
            ("rank", Column::Whole((1..=order.len() as i64).collect())),
            ("id", ids.column(order.iter().copied())),
            ("text", Column::Text(order.iter().map(|&sample| train.content(sample).0).collect())),
        ];
        if labels.is_some() {
            let labels = order.iter().map(|&sample| train.content(sample).1.unwrap_or_default());
            columns.push(("label", Column::Text(labels.collect())));
        }
        let guesses: Option<Vec<Guess>> = order.iter().map(|&sample| train.predictions[sample].guess()).collect();
        if let (Some(labels), Some(guesses)) = (labels, &guesses) {
            let predicted = guesses.iter().map(|guess| labels.names[guess.class].as_str());
            columns.push(("predicted", Column::Text(predicted.collect())));
            let probabilities = guesses.iter().map(|guess| guess.probability as f32);
            columns.push(("probability", Column::Real(probabilities.collect())));
        }
        let margins: Option<Vec<f64>> = train.predictions.iter().map(Prediction::margin).collect();
        columns.extend(margins.as_ref().map(|margins| ("margin", real(margins))));
        columns.push(("score", real(&scores.rows[0])));
        columns.push(("training_loss", real(&train.losses())));
        columns.extend(self_influence.map(|values| ("self_influence", real(values))));
        Ok(stage_csv(path, &Table::new(columns))?)
    }

    pub(crate) fn scored(&self, query: usize, sample: usize) -> ScoredRow<'a> {
        let (text, label) = self.train.content(sample);
        let score = self.scores.rows[query][sample];
        ScoredRow { train_id: self.train.id(sample), score, text, label }
    }
}

impl Influence {
    /// The scores with the rows.
    pub fn board(&self) -> Board<'_> {
        let Self { train, query, attribution, query_mode, rank_by, labels, .. } = self;
        let (scores, query_mode, rank_by) = (&attribution.scores, *query_mode, *rank_by);
        Board { train, query, scores, query_mode, rank_by, labels: labels.as_ref() }
    }

    /// The `k` most helpful and the `k` most harmful training rows for a query; with ranks by magnitude also the `k` most
    /// influential.
    ///
    /// # Panics
    ///
    /// If there is no such query.
    pub fn ranking(&self, query: usize, k: usize) -> Ranking<'_> {
        self.board().ranking(query, k)
    }

    /// The ids of the scores' rows and columns; the mean query has the number 0.
    pub fn ids(&self) -> Ids {
        self.board().ids()
    }

    /// Stages [`Influence::ranking`] of all queries as JSON lines.
    ///
    /// # Errors
    ///
    /// If the file cannot be written.
    pub fn stage_rankings<'a>(&self, path: &'a Path, k: usize) -> Result<Staged<'a>, RunError> {
        self.board().stage_rankings(path, k)
    }

    /// The `k` training rows with the highest scores for a query, the highest first.
    ///
    /// # Panics
    ///
    /// If there is no such query.
    pub fn most_helpful(&self, query: usize, k: usize) -> Vec<ScoredRow<'_>> {
        self.ranking(query, k).most_helpful
    }

    /// The `k` training rows with the lowest scores for a query, those below 0, the lowest first.
    ///
    /// # Panics
    ///
    /// If there is no such query.
    pub fn most_harmful(&self, query: usize, k: usize) -> Vec<ScoredRow<'_>> {
        self.ranking(query, k).most_harmful
    }
}

impl Detection {
    /// The training row at a place of the ranking, 0 for the most suspicious, with what the model predicts for it.
    ///
    /// # Panics
    ///
    /// If there is no such place.
    pub fn suspect(&self, place: usize) -> (ScoredRow<'_>, Prediction) {
        let sample = self.order[place];
        (self.influence.board().scored(0, sample), self.influence.train.predictions[sample])
    }

    /// A classifier's label for the training row at a place of the ranking, with its probability.
    ///
    /// # Panics
    ///
    /// If there is no such place.
    pub fn guess(&self, place: usize) -> Option<(&str, f64)> {
        let Influence { train, labels, .. } = &self.influence;
        let (labels, guess) = (labels.as_ref()?, train.predictions[self.order[place]].guess()?);
        Some((&labels.names[guess.class], guess.probability))
    }

    /// Stages all training rows as CSV, the most suspicious first: rank, id, text, label, the model's label and its
    /// probability (of classifiers), score, training loss and self-influence.
    ///
    /// # Errors
    ///
    /// If the file cannot be written.
    pub fn stage_table<'a>(&self, path: &'a Path) -> Result<Staged<'a>, RunError> {
        self.influence.board().stage_suspicious(&self.order, Some(&self.self_influence), path)
    }
}

impl Rows {
    /// The rows' ids: of the id column, or their numbers in the file.
    pub fn ids(&self) -> IdColumn {
        let rows = &self.data.rows;
        match &self.data.columns.id {
            Some(_) => IdColumn::Names(rows.iter().filter_map(|row| row.id.clone()).collect()),
            None => IdColumn::Numbers(rows.iter().map(|row| row.row as i64).collect()),
        }
    }

    /// The id of a row by its position among those that were used.
    ///
    /// # Panics
    ///
    /// If there is no such row.
    pub fn id(&self, position: usize) -> RowId {
        let row = &self.data.rows[position];
        row.id.clone().map_or(RowId::Number(row.row as i64), RowId::Name)
    }

    /// The text and label of a row.
    pub(crate) fn content(&self, position: usize) -> (&str, Option<&str>) {
        let content = &self.data.rows[position].content;
        (&content.text, content.label.as_deref())
    }

    /// Stages some of the rows, by their numbers in the file, in the file's own format and order.
    ///
    /// # Errors
    ///
    /// If the file was changed since it was read, or the output cannot be written.
    pub fn stage<'a>(&self, rows: &BTreeSet<usize>, path: &'a Path) -> Result<Staged<'a>, RunError> {
        let subset = self.data.subset(rows.clone()).map_err(RunError::data(&self.data))?;
        let content =
            |source: SubsetError| WriteError::Content { what: "the rows cannot be written", source: Box::new(source) };
        Ok(Staged::new(path, |file| subset.write(file).map_err(content))?)
    }
}

impl fmt::Display for RowId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => number.fmt(f),
            Self::Name(name) => name.fmt(f),
        }
    }
}

impl fmt::Display for ScoredRow<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:>+10.3e}  {}", self.score, self.train_id)?;
        if let Some(label) = self.label {
            write!(f, " ({label})")?;
        }
        write!(f, ": {}", self.text)
    }
}
