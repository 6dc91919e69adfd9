//! Files of scores.

use std::borrow::Cow;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use hyperinf_scoring::{RankBy, Scores};
use serde_json::{Map, Value};

use crate::formats::{csv, jsonl, parquet, safetensors};
use crate::kept_scores::ScoreRows;
use crate::stored_scores::{ScoresFault, StoredScores};
use crate::{Column, Ids, Staged, StoreError, Table, WriteError, check_output, publish, stage_json};

/// Rows of a table that are built and written at once, at least one query's.
const CHUNK: usize = 1 << 20;

/// A format of scores.
#[derive(Debug)]
pub struct ScoreFormat {
    /// The ending of its files.
    pub ending: &'static str,
    /// Whether the file itself holds the metadata; else they are in a second file, `FILE.json`.
    pub holds_metadata: bool,
    write: WriteScores,
    pub(crate) read: ReadScores,
}

/// Writes scores with their metadata.
type WriteScores = fn(&mut File, &ScoreTable<'_>, &Map<String, Value>) -> Result<(), WriteError>;

/// Reads scores, one pair after the other.
type ReadScores = fn(File, &mut StoredScores) -> Result<(), ScoresFault>;

/// Every format of scores: one tensor `[q, n]` of F32 in safetensors; rows of query_id, train_id (of groups group_id),
/// score and rank in the others.
pub static SCORE_FORMATS: [ScoreFormat; 4] = [
    ScoreFormat {
        ending: "safetensors",
        holds_metadata: true,
        write: safetensors::write_scores,
        read: safetensors::read_scores,
    },
    ScoreFormat { ending: "parquet", holds_metadata: true, write: parquet::write_scores, read: parquet::read_scores },
    ScoreFormat { ending: "csv", holds_metadata: false, write: csv::write_scores, read: csv::read_scores },
    ScoreFormat { ending: "jsonl", holds_metadata: false, write: jsonl::write_scores, read: jsonl::read_scores },
];

/// Scores with all that is written with them.
pub(crate) struct ScoreTable<'a> {
    pub(crate) scores: &'a dyn ScoreRows,
    pub(crate) bars: Option<ErrorBars<'a>>,
    pub(crate) ids: &'a Ids,
    pub(crate) rank_by: RankBy,
}

/// Error bars of one row of scores, `[n]` each, in the unit of the scores.
#[derive(Clone, Copy, Debug)]
pub struct ErrorBars<'a> {
    /// The standard deviation of each score over the resamples.
    pub std: &'a [f64],
    /// The lower end of each score's interval.
    pub low: &'a [f64],
    /// Its upper end.
    pub high: &'a [f64],
}

/// The smallest size of a query's largest score: scores of a ten-millionth of it are still normal numbers of f32.
const LEAST: f64 = 1e-30;

/// A file that scores are written to.
#[derive(Clone, Debug)]
pub struct ScoreFile {
    /// Where.
    pub path: PathBuf,
    /// Its format.
    pub format: &'static ScoreFormat,
    /// What ranks are by.
    pub rank_by: RankBy,
}

impl ScoreFile {
    /// The file at `path`, in the format that its ending names.
    ///
    /// # Errors
    ///
    /// If no format has this ending, or the path is one of the inputs or cannot be written.
    pub fn new(path: &Path, inputs: &[&Path]) -> Result<Self, StoreError> {
        let file = Self::at(path)?;
        file.files().iter().try_for_each(|path| check_output(path, inputs))?;
        Ok(file)
    }

    /// [`ScoreFile::new`] without a look at the folder or the inputs.
    ///
    /// # Errors
    ///
    /// If no format has this ending.
    pub fn at(path: &Path) -> Result<Self, StoreError> {
        let ending = path.extension().and_then(|e| e.to_str()).map(str::to_ascii_lowercase);
        let format = SCORE_FORMATS.iter().find(|format| ending.as_deref() == Some(format.ending));
        let format = format.ok_or_else(|| StoreError::Format { path: path.to_owned() })?;
        Ok(Self { path: path.to_owned(), format, rank_by: RankBy::default() })
    }

    /// Every file that will be written.
    fn files(&self) -> Vec<PathBuf> {
        let mut files = vec![self.path.clone()];
        files.extend((!self.format.holds_metadata).then(|| metadata_file(&self.path)));
        files
    }

    /// Writes scores with the ids of their samples and their metadata; error bars, which belong to the only row of
    /// scores, add three columns (or tensors).
    ///
    /// # Errors
    ///
    /// If a score does not fit `f32`, the rows cannot be read or the file cannot be written; no file is then left behind.
    ///
    /// # Panics
    ///
    /// If there are fewer ids than samples, rows of unequal length, or error bars for another number of samples.
    pub fn write(
        &self,
        scores: &dyn ScoreRows,
        bars: Option<ErrorBars<'_>>,
        ids: &Ids,
        metadata: &Map<String, Value>,
    ) -> Result<(), StoreError> {
        let beside = self.metadata_file();
        publish(self.stage(&beside, scores, bars, ids, metadata)?, &[])
    }

    /// The file for the metadata, where the format has no place for them: `FILE.json` for `FILE`.
    pub fn metadata_file(&self) -> PathBuf {
        metadata_file(&self.path)
    }

    /// The files of [`ScoreFile::write`], not placed yet: the scores and, where needed, their metadata at `beside`.
    ///
    /// # Errors
    ///
    /// As [`ScoreFile::write`].
    ///
    /// # Panics
    ///
    /// As [`ScoreFile::write`].
    pub fn stage<'a>(
        &'a self,
        beside: &'a Path,
        scores: &dyn ScoreRows,
        bars: Option<ErrorBars<'_>>,
        ids: &Ids,
        metadata: &Map<String, Value>,
    ) -> Result<Vec<Staged<'a>>, StoreError> {
        for queries in chunks(scores) {
            let (first, rows) = (queries.start, scores.rows(queries).map_err(|e| StoreError::output(&self.path, e))?);
            check_rows(&rows, first)?;
        }
        if let Some(ErrorBars { std, low, high }) = bars {
            check_range(&Scores { rows: vec![std.to_vec(), low.to_vec(), high.to_vec()] })?;
        }
        let table = ScoreTable { scores, bars, ids, rank_by: self.rank_by };
        let mut staged = vec![Staged::new(&self.path, |file| (self.format.write)(file, &table, metadata))?];
        if !self.format.holds_metadata {
            staged.push(stage_json(beside, metadata)?);
        }
        Ok(staged)
    }
}

/// `FILE.json` for `FILE`: the metadata of a format that has no place for them.
fn metadata_file(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".json");
    PathBuf::from(name)
}

/// Fails if a score does not fit `f32`, the type of scores in files, or all of a query are so small that they lose their
/// digits in it.
///
/// # Errors
///
/// [`StoreError::Range`], [`StoreError::TooSmall`].
pub fn check_range(scores: &Scores) -> Result<(), StoreError> {
    check_rows(&scores.rows, 0)
}

/// [`check_range`] of the rows from a query on.
fn check_rows(rows: &[Vec<f64>], first: usize) -> Result<(), StoreError> {
    for (query, row) in (first..).zip(rows) {
        if let Some(sample) = row.iter().position(|&s| !(s as f32).is_finite()) {
            return Err(StoreError::Range { query, sample, value: row[sample] });
        }
        // Smaller ones next to such a score are rounded to it as to a zero.
        let largest = row.iter().fold(0.0_f64, |largest, score| largest.max(score.abs()));
        if largest > 0.0 && largest < LEAST {
            return Err(StoreError::TooSmall { query, largest, least: LEAST });
        }
    }
    Ok(())
}

impl<'a> ScoreTable<'a> {
    /// The columns that error bars add.
    pub(crate) fn bars(&self) -> impl Iterator<Item = (&'static str, &'a [f64])> + use<'a> {
        self.bars
            .into_iter()
            .flat_map(|ErrorBars { std, low, high }| [("score_std", std), ("low", low), ("high", high)])
    }

    /// The rows, some queries at a time.
    pub(crate) fn rows(&self) -> impl Iterator<Item = io::Result<Cow<'a, [Vec<f64>]>>> + use<'a> {
        let scores = self.scores;
        chunks(scores).map(|queries| scores.rows(queries))
    }

    /// The long form, some queries at a time; rank 1 is the most helpful sample of its query.
    pub(crate) fn tables(&self) -> impl Iterator<Item = io::Result<Table<'a>>> + use<'a> {
        let Self { scores, ids, rank_by, .. } = *self;
        let bars: Vec<_> = self.bars().collect();
        let n = scores.samples();
        chunks(scores).map(move |queries| {
            let rows = scores.rows(queries.clone())?;
            let query = |place: usize| queries.start + place / n;
            let mut columns = vec![
                ("query_id", ids.queries.column((0..rows.len() * n).map(query))),
                (ids.unit.column(), ids.train.column((0..rows.len()).flat_map(|_| 0..n))),
                ("score", Column::Real(rows.iter().flatten().map(|&s| s as f32).collect())),
                ("rank", Column::Whole(rows.iter().flat_map(|row| ranks_by(rank_by, row)).collect())),
            ];
            let real = |values: &[f64]| Column::Real(values.iter().map(|&s| s as f32).collect());
            columns.extend(bars.iter().map(|(name, values)| (*name, real(values))));
            Ok(Table::new(columns))
        })
    }
}

/// The queries, some at a time.
fn chunks(scores: &dyn ScoreRows) -> impl Iterator<Item = Range<usize>> + use<> {
    let (all, queries) = (scores.queries(), (CHUNK / scores.samples().max(1)).max(1));
    (0..all).step_by(queries).map(move |first| first..all.min(first + queries))
}

/// The rank of each sample, 1 for the highest score.
pub fn ranks(scores: &[f64]) -> Vec<i64> {
    ranks_by(RankBy::Score, scores)
}

/// The rank of each sample, 1 for the highest score or the largest.
fn ranks_by(by: RankBy, scores: &[f64]) -> Vec<i64> {
    let mut ranks = vec![0; scores.len()];
    for (place, sample) in by.ranking(scores).into_iter().enumerate() {
        ranks[sample] = place as i64 + 1;
    }
    ranks
}
