use std::collections::BTreeMap;
use std::path::Path;

use hyperinf_store::{Staged, StoreError};

use crate::detection::DetectionCurve;
use crate::page;
use crate::sweep::DampingLines;

/// What a page shows.
///
/// Only `rows` and `queries` are needed; sections without content are left out.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Report {
    /// The heading.
    pub title: String,
    /// A line below it.
    pub subtitle: String,
    /// What the reader must know before trusting the numbers.
    pub notes: Vec<String>,
    /// The figures at the top, few.
    pub figures: Vec<Fact>,
    /// What the sign of a score means.
    pub sign: String,
    /// The training rows.
    pub rows: Rows,
    /// The queries, at least one.
    pub queries: Vec<Query>,
    /// How well suspicion finds the rows that are known to be bad.
    pub detection: Vec<DetectionCurve>,
    /// How the scores depend on the damping.
    pub dampings: Vec<DampingLines>,
    /// The inversion of each block, and its share of the scores.
    pub blocks: Vec<BlockFact>,
    /// Scores of single tokens.
    pub heat: Vec<Heat>,
    /// Settings, inputs and their fingerprints.
    pub facts: Vec<Fact>,
    /// The SHA-256 of the summary that the page is of, by which [`is_stale`](crate::is_stale) knows later results.
    pub results: Option<String>,
    /// How much the page has.
    pub limits: Limits,
}

/// A name with its value.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fact {
    /// The name.
    pub name: String,
    /// The value, as text.
    pub value: String,
}

/// The training rows, by columns of equal length.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rows {
    /// Their ids.
    pub ids: Vec<String>,
    /// Their texts.
    pub texts: Vec<String>,
    /// More columns of the table. `label` and `predicted` are also shown next to rankings; the flags of `known bad` are
    /// also in the distribution.
    pub columns: Vec<Column>,
    /// Pictures of rows, PNG files by the rows' places.
    pub pictures: BTreeMap<usize, Vec<u8>>,
}

/// A column of the table.
#[derive(Clone, Debug, PartialEq)]
pub struct Column {
    /// Its heading.
    pub name: String,
    /// Its values.
    pub values: Values,
}

/// The values of a column, one per row.
#[derive(Clone, Debug, PartialEq)]
pub enum Values {
    /// Numbers.
    Numbers(Vec<f32>),
    /// Texts.
    Texts(Vec<String>),
    /// Truth values.
    Flags(Vec<bool>),
}

/// A query with its scores.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Query {
    /// Its id, if it is a row.
    pub id: Option<String>,
    /// Its text.
    pub text: String,
    /// Its label.
    pub label: Option<String>,
    /// Its picture, a PNG file.
    pub picture: Option<Vec<u8>>,
    /// The score of each training row; positive = helpful.
    pub scores: Vec<f32>,
}

/// The inversion of one block.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct BlockFact {
    /// Its name.
    pub name: String,
    /// Its shape, `rows × cols`.
    pub shape: [usize; 2],
    /// `λ`.
    pub lambda: Option<f64>,
    /// The relative residual of the preconditioned queries.
    pub residual: Option<f64>,
    /// Whether the solver's tolerance was met.
    pub converged: bool,
    /// Its share of the sum of all blocks' absolute scores, in [0, 1].
    pub share: Option<f64>,
    /// How it was inverted.
    pub plan: String,
}

/// The scores of the tokens of a row for a query.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Heat {
    /// The query's place.
    pub query: usize,
    /// The row's place.
    pub row: usize,
    /// The texts of the tokens, which make up the row's text.
    pub tokens: Vec<String>,
    /// Their scores; positive = helpful.
    pub scores: Vec<f32>,
}

/// How much a page has.
///
/// | field | default | purpose |
/// |---|---|---|
/// | `top` | 10 | rows at either end of a ranking |
/// | `text` | 2,000 | characters of a row's text in the table; fewer from 20,000 rows on |
/// | `shown` | 20,000 | characters of the texts of queries and of rows at the ends of rankings |
/// | `scores` | 4,000,000 | scores of all queries together; of further queries only the ends of the ranking |
/// | `pictures` | 500 | thumbnails, those at the ends of rankings first |
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Rows at either end of a ranking.
    pub top: usize,
    /// Characters of a row's text in the table.
    pub text: usize,
    /// Characters of the texts of queries and of rows at the ends of rankings.
    pub shown: usize,
    /// Scores of all queries together.
    pub scores: usize,
    /// Thumbnails.
    pub pictures: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { top: 10, text: 2_000, shown: 20_000, scores: 4_000_000, pictures: 500 }
    }
}

impl Limits {
    /// All texts of the table together, in characters.
    const TEXTS: usize = 40_000_000;

    /// The characters of each text in a table of `rows` rows.
    pub fn text_of(&self, rows: usize) -> usize {
        self.text.min((Self::TEXTS / rows.max(1)).max(100))
    }

    /// The queries whose scores are all in the page.
    pub fn queries(&self, rows: usize) -> usize {
        (self.scores / rows.max(1)).max(1)
    }
}

impl Fact {
    /// A fact.
    pub fn new(name: impl Into<String>, value: impl Into<String>) -> Self {
        Self { name: name.into(), value: value.into() }
    }
}

impl Values {
    /// The number of values.
    pub fn len(&self) -> usize {
        match self {
            Self::Numbers(values) => values.len(),
            Self::Texts(values) => values.len(),
            Self::Flags(values) => values.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Query {
    /// The `top` rows with the highest scores, and those with the lowest below 0, the outermost first.
    pub fn ends(&self, top: usize) -> [Vec<usize>; 2] {
        let scores = &self.scores;
        let mut order: Vec<usize> = (0..scores.len()).collect();
        order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
        let lowest = order.iter().rev().copied().take_while(|&row| scores[row] < 0.0);
        [order.iter().copied().take(top).collect(), lowest.take(top).collect()]
    }
}

impl Report {
    /// The page, one HTML file. Equal reports give equal pages.
    ///
    /// # Panics
    ///
    /// If there is no query, or a column or a query's scores are not of all rows.
    pub fn render(&self) -> String {
        page::render(self)
    }

    /// Stages the page as a file.
    ///
    /// # Errors
    ///
    /// If the file cannot be written.
    ///
    /// # Panics
    ///
    /// As [`Report::render`].
    pub fn stage<'a>(&self, path: &'a Path) -> Result<Staged<'a>, StoreError> {
        let page = self.render();
        Staged::new(path, |file| Ok(std::io::Write::write_all(file, page.as_bytes())?))
    }

    /// Writes the page to a file.
    ///
    /// # Errors
    ///
    /// As [`Report::stage`]; an earlier file of that name is then left as it was.
    ///
    /// # Panics
    ///
    /// As [`Report::render`].
    pub fn write(&self, path: &Path) -> Result<(), StoreError> {
        self.stage(path)?.place()
    }
}
