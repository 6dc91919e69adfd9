//! Scores of many queries, in memory or in a file.

use std::borrow::Cow;
use std::fs::File;
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use hyperinf_scoring::Scores;
use tempfile::tempfile_in;

/// Bytes of a score.
const BYTES: usize = size_of::<f64>();

/// Scores whose rows are read a few queries at a time, so that they need not all be in memory.
pub trait ScoreRows {
    /// `q`, the number of queries.
    fn queries(&self) -> usize;

    /// `n`, the number of training samples.
    fn samples(&self) -> usize;

    /// The rows of some queries.
    ///
    /// # Errors
    ///
    /// If they cannot be read.
    ///
    /// # Panics
    ///
    /// If there are fewer queries.
    fn rows(&self, queries: Range<usize>) -> io::Result<Cow<'_, [Vec<f64>]>>;
}

impl ScoreRows for Scores {
    fn queries(&self) -> usize {
        self.queries()
    }

    fn samples(&self) -> usize {
        self.samples()
    }

    fn rows(&self, queries: Range<usize>) -> io::Result<Cow<'_, [Vec<f64>]>> {
        Ok(Cow::Borrowed(&self.rows[queries]))
    }
}

/// Scores that arrive some queries at a time: kept in memory up to a number of them, beyond it in a temporary file of
/// f64 without a name, of which nothing is left when it is dropped or the process ends.
pub struct KeptScores(Kept);

enum Kept {
    Held(Scores),
    Spilled { file: Mutex<File>, queries: usize, samples: usize },
}

impl KeptScores {
    /// Room for `queries` rows of `samples` scores: in memory if they are `most` at most, else in a file in `folder`.
    ///
    /// # Errors
    ///
    /// If the file cannot be created.
    pub fn new([queries, samples]: [usize; 2], most: usize, folder: &Path) -> io::Result<Self> {
        Ok(Self(match queries.saturating_mul(samples) <= most {
            true => Kept::Held(Scores::default()),
            false => Kept::Spilled { file: Mutex::new(tempfile_in(folder)?), queries: 0, samples },
        }))
    }

    /// Whether they are in a file.
    pub fn is_spilled(&self) -> bool {
        matches!(self.0, Kept::Spilled { .. })
    }

    /// Adds the rows of the next queries.
    ///
    /// # Errors
    ///
    /// If they cannot be written, such as on a full disk.
    ///
    /// # Panics
    ///
    /// If a row has another length than was said.
    pub fn push(&mut self, more: Scores) -> io::Result<()> {
        match &mut self.0 {
            Kept::Held(scores) => scores.rows.extend(more.rows),
            Kept::Spilled { file, queries, samples } => {
                let file = file.get_mut().unwrap_or_else(PoisonError::into_inner);
                // Reading has moved the place, and so has a write that failed.
                file.seek(SeekFrom::Start((*queries * *samples * BYTES) as u64))?;
                let mut out = BufWriter::new(&*file);
                for row in &more.rows {
                    assert_eq!(row.len(), *samples, "the length of a row of scores");
                    row.iter().try_for_each(|score| out.write_all(&score.to_le_bytes()))?;
                }
                out.flush()?;
                *queries += more.rows.len();
            }
        }
        Ok(())
    }
}

impl From<Scores> for KeptScores {
    /// In memory.
    fn from(scores: Scores) -> Self {
        Self(Kept::Held(scores))
    }
}

impl ScoreRows for KeptScores {
    fn queries(&self) -> usize {
        match &self.0 {
            Kept::Held(scores) => scores.queries(),
            Kept::Spilled { queries, .. } => *queries,
        }
    }

    fn samples(&self) -> usize {
        match &self.0 {
            Kept::Held(scores) => scores.samples(),
            Kept::Spilled { samples, .. } => *samples,
        }
    }

    fn rows(&self, queries: Range<usize>) -> io::Result<Cow<'_, [Vec<f64>]>> {
        match &self.0 {
            Kept::Held(scores) => scores.rows(queries),
            Kept::Spilled { file, queries: all, samples } => {
                assert!(queries.end <= *all, "rows of {} queries of {all}", queries.end);
                let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
                let mut bytes = vec![0; samples * BYTES];
                file.seek(SeekFrom::Start((queries.start * bytes.len()) as u64))?;
                let mut row = |_| {
                    file.read_exact(&mut bytes)?;
                    Ok(bytes.as_chunks().0.iter().map(|bytes| f64::from_le_bytes(*bytes)).collect())
                };
                Ok(Cow::Owned(queries.map(&mut row).collect::<io::Result<_>>()?))
            }
        }
    }
}
