use std::fs::create_dir_all;
use std::path::{Path, PathBuf};

use super::{WriteError, check_output};
use crate::error::CliError;

/// A folder for the files of a result.
pub(crate) struct Folder {
    path: PathBuf,
}

impl Folder {
    /// The folder, which is made if it is not there, after every file of it was found to be writable and no input.
    pub(crate) fn new(path: &Path, files: &[&str], inputs: &[&Path]) -> Result<Self, CliError> {
        let error = |e| CliError::Output { path: path.to_owned(), source: WriteError::from(e) };
        create_dir_all(path).map_err(error)?;
        let folder = Self { path: path.to_owned() };
        files.iter().try_for_each(|name| check_output(&folder.file(name), inputs))?;
        Ok(folder)
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }
}
