//! Files of scores.

use std::collections::HashMap;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use hyperinf_scoring::{Scores, ranking};
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde_json::{Map, Value};

use crate::{Column, Ids, Staged, StoreError, Table, WriteError, check_output, table, write_json};

/// Rows of a table that are built and written at once, at least one query's.
const CHUNK: usize = 1 << 20;

/// The formats of scores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ScoreFormat {
    /// One tensor `scores`, `[q, n]` of F32, with metadata.
    Safetensors,
    /// Rows of query_id, train_id, score and rank, with metadata.
    Parquet,
    /// The same rows; the metadata in a second file, `FILE.json`.
    Csv,
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

/// A file that scores are written to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScoreFile {
    /// Where.
    pub path: PathBuf,
    /// Its format.
    pub format: ScoreFormat,
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
        let format = ending.and_then(|ending| ScoreFormat::of_ending(&ending));
        let format = format.ok_or_else(|| StoreError::Format { path: path.to_owned() })?;
        Ok(Self { path: path.to_owned(), format })
    }

    /// Every file that will be written.
    fn files(&self) -> Vec<PathBuf> {
        match self.format {
            ScoreFormat::Safetensors | ScoreFormat::Parquet => vec![self.path.clone()],
            ScoreFormat::Csv => vec![self.path.clone(), metadata_file(&self.path)],
        }
    }

    /// Writes scores with the ids of their samples and their metadata; error bars, which belong to the only row of
    /// scores, add three columns (or tensors).
    ///
    /// # Errors
    ///
    /// If a score does not fit `f32`, or the file cannot be written; then there is none.
    ///
    /// # Panics
    ///
    /// If there are fewer ids than samples, or error bars for another number of samples.
    pub fn write(
        &self,
        scores: &Scores,
        bars: Option<ErrorBars<'_>>,
        ids: &Ids,
        metadata: &Map<String, Value>,
    ) -> Result<(), StoreError> {
        check_range(scores)?;
        if let Some(ErrorBars { low, high, .. }) = bars {
            check_range(&Scores { rows: vec![low.to_vec(), high.to_vec()] })?;
        }
        let staged = Staged::new(&self.path, |file| match self.format {
            ScoreFormat::Safetensors => safetensors(file, scores, bars, ids, metadata),
            ScoreFormat::Parquet => table::parquet(file, tables(scores, bars, ids), metadata),
            ScoreFormat::Csv => table::csv(file, tables(scores, bars, ids)),
        })?;
        if self.format == ScoreFormat::Csv {
            write_json(&metadata_file(&self.path), metadata)?;
        }
        staged.place()
    }
}

impl ScoreFormat {
    /// Every format with the ending of its files.
    pub const ENDINGS: [(&'static str, Self); 3] =
        [("safetensors", Self::Safetensors), ("parquet", Self::Parquet), ("csv", Self::Csv)];

    fn of_ending(ending: &str) -> Option<Self> {
        Self::ENDINGS.into_iter().find(|(known, _)| *known == ending).map(|(_, format)| format)
    }
}

/// `FILE.json` for `FILE`: the metadata of a format that has no place for them.
fn metadata_file(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".json");
    PathBuf::from(name)
}

/// Fails if a score does not fit `f32`, the type of scores in files.
///
/// # Errors
///
/// [`StoreError::Range`].
pub fn check_range(scores: &Scores) -> Result<(), StoreError> {
    for (query, row) in scores.rows.iter().enumerate() {
        if let Some(sample) = row.iter().position(|&s| !(s as f32).is_finite()) {
            return Err(StoreError::Range { query, sample, value: row[sample] });
        }
    }
    Ok(())
}

/// The columns that error bars add.
fn bar_columns(bars: Option<ErrorBars<'_>>) -> impl Iterator<Item = (&'static str, &[f64])> {
    bars.into_iter().flat_map(|ErrorBars { std, low, high }| [("score_std", std), ("low", low), ("high", high)])
}

fn safetensors(
    file: &mut File,
    scores: &Scores,
    bars: Option<ErrorBars<'_>>,
    ids: &Ids,
    metadata: &Map<String, Value>,
) -> Result<(), WriteError> {
    let bytes = |values: &mut dyn Iterator<Item = &f64>| -> Vec<u8> {
        values.flat_map(|&s| (s as f32).to_le_bytes()).collect()
    };
    let mut tensors = vec![("scores", bytes(&mut scores.rows.iter().flatten()))];
    tensors.extend(bar_columns(bars).map(|(name, values)| (name, bytes(&mut values.iter()))));
    let views = tensors.iter().map(|(name, bytes)| {
        let shape = vec![scores.queries(), scores.samples()];
        TensorView::new(Dtype::F32, shape, bytes).map(|view| (*name, view))
    });
    let views = views.collect::<Result<Vec<_>, _>>()?;
    let mut metadata: HashMap<String, String> =
        metadata.iter().map(|(key, value)| (key.clone(), plain(value))).collect();
    let numbered = Ids::numbered(scores.queries(), scores.samples());
    for (key, ids, places) in [("query_ids", &ids.queries, numbered.queries), ("train_ids", &ids.train, numbered.train)]
    {
        if *ids != places {
            metadata.insert(key.to_owned(), serde_json::to_string(ids)?);
        }
    }
    Ok(file.write_all(&safetensors::serialize(views, Some(metadata))?)?)
}

/// A text as it is, anything else as JSON.
pub(crate) fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// The long form of scores, some queries at a time; rank 1 is the most helpful sample of its query.
fn tables<'a>(scores: &'a Scores, bars: Option<ErrorBars<'a>>, ids: &'a Ids) -> impl Iterator<Item = Table<'a>> {
    let queries = (CHUNK / scores.samples().max(1)).max(1);
    scores.rows.chunks(queries).enumerate().map(move |(chunk, rows)| {
        let n = scores.samples();
        let query = |place: usize| chunk * queries + place / n;
        let mut columns = vec![
            ("query_id", ids.queries.column((0..rows.len() * n).map(query))),
            ("train_id", ids.train.column((0..rows.len()).flat_map(|_| 0..n))),
            ("score", Column::Real(rows.iter().flatten().map(|&s| s as f32).collect())),
            ("rank", Column::Whole(rows.iter().flat_map(|row| ranks(row)).collect())),
        ];
        let real = |values: &[f64]| Column::Real(values.iter().map(|&s| s as f32).collect());
        columns.extend(bar_columns(bars).map(|(name, values)| (name, real(values))));
        Table::new(columns)
    })
}

/// The rank of each sample, 1 for the highest score.
pub fn ranks(scores: &[f64]) -> Vec<i64> {
    let mut ranks = vec![0; scores.len()];
    for (place, sample) in ranking(scores).into_iter().enumerate() {
        ranks[sample] = place as i64 + 1;
    }
    ranks
}
