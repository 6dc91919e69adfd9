use hyperinf_models::Picture;
use hyperinf_scoring::{QueryMode, ranking};

use crate::influence::Rows;
use crate::ranking::Board;
use crate::reason::BadRow;
use crate::{DataError, RunError};

/// A query with its picture, and the training rows that helped and harmed it most with theirs, for a contact sheet.
#[derive(Clone, Debug, PartialEq)]
pub struct Contact {
    /// The query; without a picture if it is the mean of all.
    pub query: ShownRow,
    /// The highest scores, the highest first.
    pub helpful: Vec<ShownRow>,
    /// The lowest scores, the lowest first: those below 0.
    pub harmful: Vec<ShownRow>,
}

/// A row as people see it.
#[derive(Clone, Debug, PartialEq)]
pub struct ShownRow {
    /// Its place among the training rows or the queries; `None` for the mean of all.
    pub place: Option<usize>,
    /// Its first picture, with edges of at most [`ShownRow::EDGE`].
    pub picture: Option<Picture>,
    /// Its text.
    pub text: String,
    /// Its score, of a training row.
    pub score: Option<f64>,
}

impl ShownRow {
    /// The longest edge of a picture.
    pub const EDGE: usize = 128;

    fn new(rows: &Rows, position: usize, score: Option<f64>) -> Result<Self, RunError> {
        let row = &rows.data.rows[position];
        let failed = |reason| {
            let bad = vec![BadRow { row: row.row, line: row.line, reason }];
            RunError::data(&rows.data)(DataError::bad_rows(bad, rows.data.total, false))
        };
        let picture = row.content.images.first().map(|image| image.thumbnail(Self::EDGE));
        let picture = picture.transpose().map_err(failed)?;
        Ok(Self { place: Some(position), picture, text: row.content.text.clone(), score })
    }
}

fn illustrated(rows: &Rows) -> bool {
    rows.data.rows.iter().any(|row| !row.content.images.is_empty())
}

impl Board<'_> {
    /// The first `queries` queries with `k` training rows at either end; none if no row has an image.
    ///
    /// # Errors
    ///
    /// If an image can no longer be read.
    pub fn contacts(&self, queries: usize, k: usize) -> Result<Vec<Contact>, RunError> {
        if !illustrated(self.train) && !illustrated(self.query) {
            return Ok(Vec::new());
        }
        (0..self.scores.queries().min(queries)).map(|query| self.contact(query, k)).collect()
    }

    /// The first `k` of some training rows with their scores for the first query; none if no training row has an image.
    ///
    /// # Errors
    ///
    /// If an image can no longer be read.
    pub fn shown(&self, order: &[usize], k: usize) -> Result<Vec<ShownRow>, RunError> {
        if !illustrated(self.train) {
            return Ok(Vec::new());
        }
        let scores = &self.scores.rows[0];
        order.iter().take(k).map(|&sample| ShownRow::new(self.train, sample, Some(scores[sample]))).collect()
    }

    fn contact(&self, query: usize, k: usize) -> Result<Contact, RunError> {
        let scores = &self.scores.rows[query];
        let order = ranking(scores);
        let shown = |&sample: &usize| ShownRow::new(self.train, sample, Some(scores[sample]));
        let of_query = match self.query_mode {
            QueryMode::Each => ShownRow::new(self.query, query, None)?,
            QueryMode::Mean => {
                let text = format!("the mean of {} queries", self.query.data.rows.len());
                ShownRow { place: None, picture: None, text, score: None }
            }
        };
        let lowest = order.iter().rev().take_while(|&&sample| scores[sample] < 0.0);
        Ok(Contact {
            query: of_query,
            helpful: order.iter().take(k).map(shown).collect::<Result<_, _>>()?,
            harmful: lowest.take(k).map(shown).collect::<Result<_, _>>()?,
        })
    }
}
