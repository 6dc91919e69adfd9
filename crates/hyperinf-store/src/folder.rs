use std::fs::create_dir_all;
use std::path::{Path, PathBuf};

use crate::{StoreError, check_output};

/// A folder for the files of a result.
pub struct OutputFolder {
    path: PathBuf,
}

impl OutputFolder {
    /// The folder, created if it is missing, once every one of its files is known to be writable and not an input.
    ///
    /// # Errors
    ///
    /// As [`check_output`], or if the folder cannot be created.
    pub fn new(path: &Path, files: &[&str], inputs: &[&Path]) -> Result<Self, StoreError> {
        create_dir_all(path).map_err(|e| StoreError::output(path, e))?;
        let folder = Self { path: path.to_owned() };
        files.iter().try_for_each(|name| check_output(&folder.file(name), inputs))?;
        Ok(folder)
    }

    /// The path of one of its files.
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }
}
