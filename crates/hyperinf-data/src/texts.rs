use std::path::Path;

use hyperinf_scoring::Set;

use crate::RunError;
use crate::dataset::{Dataset, ReadOptions};
use crate::influence::RowText;
use crate::kinds::KINDS;

/// The rows of a file as texts for people, read as models of a kind read them; no model is loaded.
///
/// `task` is the name of the kind, as [`Influence::kind`](crate::Influence::kind) and summaries have it.
///
/// # Errors
///
/// [`RunError::Task`] for another name, or [`RunError::Dataset`] if the rows cannot be read.
pub fn read_texts(task: &str, set: Set, path: &Path, options: &ReadOptions) -> Result<Dataset<RowText>, RunError> {
    let Some(kind) = KINDS.iter().find(|kind| kind.name() == task) else {
        return Err(RunError::Task { task: task.to_owned(), known: KINDS.map(|kind| kind.name().to_owned()).to_vec() });
    };
    kind.texts(set, path, options).map_err(RunError::of_rows(set, path))
}
