//! Files of scores: written beside their place and moved there when they are whole.

mod cells;
mod folder;
mod ids;
mod table;

use std::collections::HashMap;
use std::fs::{File, canonicalize};
use std::io::{self, BufWriter, Write};
use std::iter::once;
use std::path::{Path, PathBuf};

use hyperinf::eval::Spread;
use hyperinf::scoring::{Scores, ranking};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensorError};
use serde::Serialize;
use serde_json::{Map, Value};
use tempfile::{Builder, NamedTempFile, PersistError};

use crate::data::DatasetError;
use crate::error::CliError;
pub(crate) use cells::{Cells, cell};
pub(crate) use folder::Folder;
pub use ids::{IdColumn, Ids};
pub use table::{Column, Table};

/// Rows of a table that are made and written at once, at least one query's.
const CHUNK: usize = 1 << 20;

/// Why a file was not written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WriteError {
    /// There is a folder of that name.
    #[error("it is a folder")]
    Folder,
    /// The system refused.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The Parquet writer refused.
    #[error(transparent)]
    Parquet(#[from] parquet::errors::ParquetError),
    /// The CSV writer refused.
    #[error(transparent)]
    Csv(#[from] csv::Error),
    /// The safetensors writer refused.
    #[error(transparent)]
    Safetensors(#[from] SafeTensorError),
    /// The JSON writer refused.
    #[error(transparent)]
    Json(#[from] serde_json::Error),
    /// Arrow refused.
    #[error(transparent)]
    Arrow(#[from] arrow_schema::ArrowError),
    /// The file that it is made from cannot be read any more.
    #[error("the file that it is made from cannot be read any more")]
    Input(#[source] Box<DatasetError>),
    /// A figure cannot be drawn.
    #[error("the figure cannot be drawn")]
    Figure(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// The formats of scores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// One tensor `scores`, `[q, n]` of F32, with metadata.
    Safetensors,
    /// Rows of query_id, train_id, score and rank, with metadata.
    Parquet,
    /// The same rows; the metadata in a second file, `FILE.json`.
    Csv,
}

/// A file that scores are to be written to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// Where.
    pub path: PathBuf,
    /// Its format.
    pub kind: Kind,
}

impl Output {
    /// The output at that path, its format from its ending.
    ///
    /// # Errors
    ///
    /// If the ending is none of the formats, or the path is one of the inputs or cannot be written.
    pub fn new(path: &Path, inputs: &[&Path]) -> Result<Self, CliError> {
        let output = Self::at(path)?;
        output.files().iter().try_for_each(|path| check_output(path, inputs))?;
        Ok(output)
    }

    /// The output at that path, which is not looked at, its format from its ending.
    ///
    /// # Errors
    ///
    /// If the ending is none of the formats.
    pub fn at(path: &Path) -> Result<Self, CliError> {
        let kind = match path.extension().and_then(|e| e.to_str()).map(str::to_ascii_lowercase).as_deref() {
            Some("safetensors") => Kind::Safetensors,
            Some("parquet") => Kind::Parquet,
            Some("csv") => Kind::Csv,
            _ => return Err(CliError::OutputKind { path: path.to_owned() }),
        };
        Ok(Self { path: path.to_owned(), kind })
    }

    /// Every file that will be written.
    fn files(&self) -> Vec<PathBuf> {
        match self.kind {
            Kind::Safetensors | Kind::Parquet => vec![self.path.clone()],
            Kind::Csv => vec![self.path.clone(), beside(&self.path)],
        }
    }

    /// Writes scores with the ids of their samples and their metadata; with a spread, that of the one row there is,
    /// three columns (or tensors) more.
    ///
    /// # Errors
    ///
    /// If a score does not fit f32, or the file cannot be written; then none is there.
    ///
    /// # Panics
    ///
    /// If there are fewer ids than samples, or a spread of another number of samples.
    pub fn write(
        &self,
        scores: &Scores,
        spread: Option<&Spread>,
        ids: &Ids,
        metadata: &Map<String, Value>,
    ) -> Result<(), CliError> {
        check_range(scores)?;
        if let Some(Spread { low, high, .. }) = spread {
            check_range(&Scores { rows: vec![low.clone(), high.clone()] })?;
        }
        let scores_file = Staged::new(&self.path, |file| match self.kind {
            Kind::Safetensors => safetensors(file, scores, spread, ids, metadata),
            Kind::Parquet => table::parquet(file, tables(scores, spread, ids), metadata),
            Kind::Csv => table::csv(file, tables(scores, spread, ids)),
        })?;
        if self.kind == Kind::Csv {
            write_json(&beside(&self.path), metadata)?;
        }
        scores_file.place()
    }
}

/// `FILE.json` for `FILE`.
fn beside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".json");
    PathBuf::from(name)
}

/// Scores are written as f32.
pub(crate) fn check_range(scores: &Scores) -> Result<(), CliError> {
    for (query, row) in scores.rows.iter().enumerate() {
        if let Some(sample) = row.iter().position(|&s| !(s as f32).is_finite()) {
            return Err(CliError::Range { query, sample, value: row[sample] });
        }
    }
    Ok(())
}

/// What a spread adds to each score.
fn spreads(spread: Option<&Spread>) -> impl Iterator<Item = (&'static str, &[f64])> {
    spread.into_iter().flat_map(|Spread { std, low, high, .. }| {
        [("score_std", std.as_slice()), ("low", low.as_slice()), ("high", high.as_slice())]
    })
}

fn safetensors(
    file: &mut File,
    scores: &Scores,
    spread: Option<&Spread>,
    ids: &Ids,
    metadata: &Map<String, Value>,
) -> Result<(), WriteError> {
    let bytes = |values: &mut dyn Iterator<Item = &f64>| -> Vec<u8> {
        values.flat_map(|&s| (s as f32).to_le_bytes()).collect()
    };
    let mut tensors = vec![("scores", bytes(&mut scores.rows.iter().flatten()))];
    tensors.extend(spreads(spread).map(|(name, values)| (name, bytes(&mut values.iter()))));
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
fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// The long form of scores, some queries at a time; rank 1 is the most helpful sample of its query.
fn tables<'a>(scores: &'a Scores, spread: Option<&'a Spread>, ids: &'a Ids) -> impl Iterator<Item = Table<'a>> {
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
        columns.extend(spreads(spread).map(|(name, values)| (name, real(values))));
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

/// Writes JSON for people and machines.
///
/// # Errors
///
/// If the file cannot be written; then it is as it was before.
pub fn write_json(path: &Path, value: &impl Serialize) -> Result<(), CliError> {
    stage_json(path, value)?.place()
}

/// A file of JSON that is yet to be placed.
pub(crate) fn stage_json<'a>(path: &'a Path, value: &impl Serialize) -> Result<Staged<'a>, CliError> {
    let write = |file: &mut File| {
        let mut out = BufWriter::new(file);
        serde_json::to_writer_pretty(&mut out, value)?;
        writeln!(out)?;
        Ok(out.flush()?)
    };
    Staged::new(path, write)
}

/// Writes a table as Parquet and as CSV.
///
/// # Errors
///
/// If a file cannot be written; then it is as it was before.
pub fn write_table(
    parquet: &Path,
    csv: &Path,
    table: &Table<'_>,
    metadata: &Map<String, Value>,
) -> Result<(), CliError> {
    let first = Staged::new(parquet, |file| table::parquet(file, once(table), metadata))?;
    let second = Staged::new(csv, |file| table::csv(file, once(table)))?;
    first.place()?;
    second.place()
}

/// A CSV file of a table that is yet to be placed.
pub(crate) fn stage_csv<'a>(path: &'a Path, table: &Table<'_>) -> Result<Staged<'a>, CliError> {
    Staged::new(path, |file| table::csv(file, once(table)))
}

/// A Parquet file of tables with the same columns, one below the other, that is yet to be placed.
pub(crate) fn stage_parquet<'a, 't>(
    path: &'a Path,
    tables: impl Iterator<Item = Table<'t>>,
    metadata: &Map<String, Value>,
) -> Result<Staged<'a>, CliError> {
    Staged::new(path, |file| table::parquet(file, tables, metadata))
}

/// Fails if a file is one of the inputs or cannot be written.
pub(crate) fn check_output(path: &Path, inputs: &[&Path]) -> Result<(), CliError> {
    if let Ok(real) = canonicalize(path)
        && inputs.iter().any(|input| canonicalize(input).is_ok_and(|input| input == real))
    {
        return Err(CliError::OutputIsInput { path: path.to_owned() });
    }
    check_writable(path)
}

/// Whether a file can be made there, found out by making one and taking it away again.
pub(crate) fn check_writable(path: &Path) -> Result<(), CliError> {
    let error = |source| CliError::Output { path: path.to_owned(), source };
    if path.is_dir() {
        return Err(error(WriteError::Folder));
    }
    temporary(path, ".tmp").map(drop).map_err(|e| error(e.into()))
}

/// A whole file beside its place; it vanishes unless it is moved there.
pub(crate) struct Staged<'a> {
    path: &'a Path,
    file: NamedTempFile,
}

impl<'a> Staged<'a> {
    pub(crate) fn new(
        path: &'a Path,
        write: impl FnOnce(&mut File) -> Result<(), WriteError>,
    ) -> Result<Self, CliError> {
        let error = |source| CliError::Output { path: path.to_owned(), source };
        let mut file = temporary(path, ".tmp").map_err(|e| error(e.into()))?;
        write(file.as_file_mut()).map_err(error)?;
        Ok(Self { path, file })
    }

    /// A picture, whose writer opens the file itself and goes by the ending of its name.
    pub(crate) fn png(path: &'a Path, write: impl FnOnce(&Path) -> Result<(), WriteError>) -> Result<Self, CliError> {
        let error = |source| CliError::Output { path: path.to_owned(), source };
        let file = temporary(path, ".tmp.png").map_err(|e| error(e.into()))?;
        write(file.path()).map_err(error)?;
        Ok(Self { path, file })
    }

    pub(crate) fn place(self) -> Result<(), CliError> {
        let error = |e: PersistError| CliError::Output { path: self.path.to_owned(), source: e.error.into() };
        self.file.persist(self.path).map(drop).map_err(error)
    }
}

fn temporary(path: &Path, ending: &str) -> io::Result<NamedTempFile> {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut builder = Builder::new();
    builder.prefix(".hyperinf-").suffix(ending);
    // As any new file, less what the user's umask takes away; temporary files are private otherwise.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    builder.tempfile_in(folder)
}
