use std::fs::{File, canonicalize};
use std::io::{self, BufWriter, Write};
use std::iter::once;
use std::path::Path;

use serde::Serialize;
use serde_json::{Map, Value};

use crate::formats::{csv, jsonl, parquet};
use crate::own_file::{folder_of, sync_folder};
use crate::temporary::{Change, Temporary, published};
use crate::{StoreError, Table, WriteError};

/// The endings of files of [`stage_table`].
pub(crate) const TABLE_FORMATS: [&str; 3] = ["csv", "jsonl", "parquet"];

/// A whole file next to its place, on disk: [`Staged::place`] moves it there, dropping it removes it.
///
/// Several files of one result are moved together by [`publish`](crate::publish).
#[must_use = "a staged file is removed unless it is placed"]
pub struct Staged<'a> {
    path: &'a Path,
    temporary: Temporary,
}

impl<'a> Staged<'a> {
    /// Writes a file that is to be placed at `path`.
    ///
    /// # Errors
    ///
    /// [`StoreError::Output`] if the folder cannot be written or `write` fails; nothing is left behind.
    pub fn new(path: &'a Path, write: impl FnOnce(&mut File) -> Result<(), WriteError>) -> Result<Self, StoreError> {
        let error = |source| StoreError::output(path, source);
        let mut temporary = temporary(path, ".tmp").map_err(|e| error(e.into()))?;
        write(temporary.file.as_file_mut()).map_err(error)?;
        Self { path, temporary }.synced()
    }

    /// As [`Staged::new`] for a PNG picture: `write` opens the path itself, since image writers go by the ending.
    ///
    /// # Errors
    ///
    /// As [`Staged::new`].
    pub fn png(path: &'a Path, write: impl FnOnce(&Path) -> Result<(), WriteError>) -> Result<Self, StoreError> {
        let error = |source| StoreError::output(path, source);
        let temporary = temporary(path, ".tmp.png").map_err(|e| error(e.into()))?;
        write(temporary.file.path()).map_err(error)?;
        Self { path, temporary }.synced()
    }

    /// The file must be on disk before it gets its name: a machine may stop right after.
    fn synced(self) -> Result<Self, StoreError> {
        self.temporary.file.as_file().sync_all().map_err(|e| StoreError::output(self.path, e))?;
        Ok(self)
    }

    /// Where the file will be.
    pub fn path(&self) -> &'a Path {
        self.path
    }

    /// Where it is now.
    pub(crate) fn temporary(&self) -> &Path {
        self.temporary.file.path()
    }

    /// Moves the file to its place, over an earlier file of that name.
    ///
    /// # Errors
    ///
    /// [`StoreError::Output`] if it cannot be moved.
    pub fn place(self) -> Result<(), StoreError> {
        let folder = folder_of(self.path);
        let _change = Change::begin();
        self.persist()?;
        sync_folder(folder);
        published();
        Ok(())
    }

    pub(crate) fn persist(self) -> Result<(), StoreError> {
        self.temporary.file.persist(self.path).map(drop).map_err(|e| StoreError::output(self.path, e.error))
    }
}

/// Stages pretty-printed JSON.
///
/// # Errors
///
/// As [`Staged::new`].
pub fn stage_json<'a>(path: &'a Path, value: &impl Serialize) -> Result<Staged<'a>, StoreError> {
    let write = |file: &mut File| {
        let mut out = BufWriter::new(file);
        serde_json::to_writer_pretty(&mut out, value)?;
        writeln!(out)?;
        Ok(out.flush()?)
    };
    Staged::new(path, write)
}

/// Writes pretty-printed JSON.
///
/// # Errors
///
/// If the file cannot be written; an earlier file of that name is left as it was.
pub fn write_json(path: &Path, value: &impl Serialize) -> Result<(), StoreError> {
    stage_json(path, value)?.place()
}

/// Stages a table as CSV.
///
/// # Errors
///
/// As [`Staged::new`].
pub fn stage_csv<'a>(path: &'a Path, table: &Table<'_>) -> Result<Staged<'a>, StoreError> {
    Staged::new(path, |file| csv::write(file, once(Ok(table))))
}

/// Stages a table in the format that the file's ending names: `.csv`, `.jsonl` or `.parquet`, which alone holds the
/// metadata.
///
/// # Errors
///
/// [`StoreError::TableFormat`] for another ending, or as [`Staged::new`].
pub fn stage_table<'a>(
    path: &'a Path,
    table: &Table<'_>,
    metadata: &Map<String, Value>,
) -> Result<Staged<'a>, StoreError> {
    match table_ending(path)? {
        "parquet" => Staged::new(path, |file| parquet::write(file, once(Ok(table)), metadata)),
        "jsonl" => Staged::new(path, |file| {
            let mut out = BufWriter::new(file);
            jsonl::write(&mut out, table)?;
            Ok(out.flush()?)
        }),
        _ => stage_csv(path, table),
    }
}

/// The ending of a file of [`stage_table`].
///
/// # Errors
///
/// [`StoreError::TableFormat`].
pub fn table_ending(path: &Path) -> Result<&'static str, StoreError> {
    let ending = path.extension().and_then(|ending| ending.to_str()).map(str::to_ascii_lowercase);
    let known = TABLE_FORMATS.into_iter().find(|known| ending.as_deref() == Some(known));
    known.ok_or_else(|| StoreError::TableFormat { path: path.to_owned() })
}

/// Stages tables with the same columns, one below the other, as one Parquet file.
///
/// # Errors
///
/// As [`Staged::new`].
pub fn stage_parquet<'a, 't>(
    path: &'a Path,
    tables: impl Iterator<Item = Table<'t>>,
    metadata: &Map<String, Value>,
) -> Result<Staged<'a>, StoreError> {
    Staged::new(path, |file| parquet::write(file, tables.map(Ok), metadata))
}

/// Fails if `path` is one of the inputs or cannot be written.
///
/// # Errors
///
/// [`StoreError::OutputIsInput`], or as [`check_writable`].
pub fn check_output(path: &Path, inputs: &[&Path]) -> Result<(), StoreError> {
    if let Ok(real) = canonicalize(path)
        && inputs.iter().any(|input| canonicalize(input).is_ok_and(|input| input == real))
    {
        return Err(StoreError::OutputIsInput { path: path.to_owned() });
    }
    check_writable(path)
}

/// Fails if no file can be created in the folder of `path`, which is found out by creating one and removing it.
///
/// # Errors
///
/// [`StoreError::Output`].
pub fn check_writable(path: &Path) -> Result<(), StoreError> {
    if path.is_dir() {
        return Err(StoreError::output(path, WriteError::Folder));
    }
    temporary(path, ".tmp").map(drop).map_err(|e| StoreError::output(path, e))
}

fn temporary(path: &Path, ending: &str) -> io::Result<Temporary> {
    Temporary::new(folder_of(path), ending)
}
