//! Files of scores: written beside their place and moved there when they are whole.

mod table;

use std::fs::{File, canonicalize};
use std::io::{self, BufWriter, Write};
use std::iter::once;
use std::path::{Path, PathBuf};

use hyperinf::scoring::{Scores, ranking};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensorError};
use serde::Serialize;
use serde_json::{Map, Value};
use tempfile::{Builder, NamedTempFile, PersistError};

use crate::data::DatasetError;
use crate::error::CliError;
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
        let kind = match path.extension().and_then(|e| e.to_str()).map(str::to_ascii_lowercase).as_deref() {
            Some("safetensors") => Kind::Safetensors,
            Some("parquet") => Kind::Parquet,
            Some("csv") => Kind::Csv,
            _ => return Err(CliError::OutputKind { path: path.to_owned() }),
        };
        let output = Self { path: path.to_owned(), kind };
        for path in output.files() {
            if let Ok(real) = canonicalize(&path)
                && inputs.iter().any(|input| canonicalize(input).is_ok_and(|input| input == real))
            {
                return Err(CliError::OutputIsInput { path });
            }
            check_writable(&path)?;
        }
        Ok(output)
    }

    /// Every file that will be written.
    fn files(&self) -> Vec<PathBuf> {
        match self.kind {
            Kind::Safetensors | Kind::Parquet => vec![self.path.clone()],
            Kind::Csv => vec![self.path.clone(), beside(&self.path)],
        }
    }

    /// Writes scores with their metadata.
    ///
    /// # Errors
    ///
    /// If a score does not fit f32, or the file cannot be written; then none is there.
    pub fn write(&self, scores: &Scores, metadata: &Map<String, Value>) -> Result<(), CliError> {
        check_range(scores)?;
        let scores_file = Staged::new(&self.path, |file| match self.kind {
            Kind::Safetensors => safetensors(file, scores, metadata),
            Kind::Parquet => table::parquet(file, tables(scores), metadata),
            Kind::Csv => table::csv(file, tables(scores)),
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
fn check_range(scores: &Scores) -> Result<(), CliError> {
    for (query, row) in scores.rows.iter().enumerate() {
        if let Some(sample) = row.iter().position(|&s| !(s as f32).is_finite()) {
            return Err(CliError::Range { query, sample, value: row[sample] });
        }
    }
    Ok(())
}

fn safetensors(file: &mut File, scores: &Scores, metadata: &Map<String, Value>) -> Result<(), WriteError> {
    let bytes: Vec<u8> = scores.rows.iter().flatten().flat_map(|&s| (s as f32).to_le_bytes()).collect();
    let view = TensorView::new(Dtype::F32, vec![scores.queries(), scores.samples()], &bytes)?;
    let metadata = metadata.iter().map(|(key, value)| (key.clone(), plain(value))).collect();
    Ok(file.write_all(&safetensors::serialize([("scores", view)], Some(metadata))?)?)
}

/// A text as it is, anything else as JSON.
fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// The long form of scores, some queries at a time; rank 1 is the most helpful sample of its query.
fn tables(scores: &Scores) -> impl Iterator<Item = Table<'static>> {
    let queries = (CHUNK / scores.samples().max(1)).max(1);
    scores.rows.chunks(queries).enumerate().map(move |(chunk, rows)| {
        let (mut query_id, mut train_id) = (Vec::new(), Vec::new());
        let (mut score, mut rank) = (Vec::new(), Vec::new());
        for (i, row) in rows.iter().enumerate() {
            query_id.extend(std::iter::repeat_n((chunk * queries + i) as i64, row.len()));
            train_id.extend(0..row.len() as i64);
            score.extend(row.iter().map(|&s| s as f32));
            rank.extend(ranks(row));
        }
        Table::new(vec![
            ("query_id", Column::Whole(query_id)),
            ("train_id", Column::Whole(train_id)),
            ("score", Column::Real(score)),
            ("rank", Column::Whole(rank)),
        ])
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
    let write = |file: &mut File| {
        let mut out = BufWriter::new(file);
        serde_json::to_writer_pretty(&mut out, value)?;
        writeln!(out)?;
        Ok(out.flush()?)
    };
    Staged::new(path, write)?.place()
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

/// Whether a file can be made there, found out by making one and taking it away again.
pub(crate) fn check_writable(path: &Path) -> Result<(), CliError> {
    let error = |source| CliError::Output { path: path.to_owned(), source };
    if path.is_dir() {
        return Err(error(WriteError::Folder));
    }
    temporary(path).map(drop).map_err(|e| error(e.into()))
}

/// A whole file beside its place; it vanishes unless it is moved there.
pub(crate) struct Staged<'a> {
    path: &'a Path,
    file: NamedTempFile,
}

impl<'a> Staged<'a> {
    pub(crate) fn new(path: &'a Path, write: impl FnOnce(&mut File) -> Result<(), WriteError>) -> Result<Self, CliError> {
        let error = |source| CliError::Output { path: path.to_owned(), source };
        let mut file = temporary(path).map_err(|e| error(e.into()))?;
        write(file.as_file_mut()).map_err(error)?;
        Ok(Self { path, file })
    }

    pub(crate) fn place(self) -> Result<(), CliError> {
        let error = |e: PersistError| CliError::Output { path: self.path.to_owned(), source: e.error.into() };
        self.file.persist(self.path).map(drop).map_err(error)
    }
}

fn temporary(path: &Path) -> io::Result<NamedTempFile> {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut builder = Builder::new();
    builder.prefix(".hyperinf-").suffix(".tmp");
    // As any new file, less what the user's umask takes away; temporary files are private otherwise.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    builder.tempfile_in(folder)
}
