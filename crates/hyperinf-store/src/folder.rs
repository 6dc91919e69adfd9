use std::fs::{DirBuilder, create_dir_all, read, read_dir, remove_dir};
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::temporary::{Change, FolderLock, Live, remove_abandoned};
use crate::{StoreError, check_output};

/// A folder for the files of a result, which one run at a time writes.
///
/// It is locked until it is dropped. A folder that was created for the result, and is empty then, is removed again.
pub struct OutputFolder {
    path: PathBuf,
    // The order matters: the lock is a file in the folder.
    _lock: FolderLock,
    _created: Created,
}

/// Folders that were created, the innermost last; those that are empty are removed.
struct Created(Vec<(PathBuf, Live)>);

impl OutputFolder {
    /// The folder, created if it is missing, once every one of its files is known to be writable and not an input.
    ///
    /// What an interrupted run left half-written in it is removed.
    ///
    /// # Errors
    ///
    /// As [`check_output`], or if the folder cannot be created, or another run is writing it.
    pub fn new(path: &Path, files: &[&str], inputs: &[&Path]) -> Result<Self, StoreError> {
        let created = Created::new(path).map_err(|e| StoreError::output(path, e))?;
        let lock = FolderLock::new(path).map_err(|e| StoreError::output(path, e))?;
        remove_abandoned(path);
        let folder = Self { path: path.to_owned(), _lock: lock, _created: created };
        files.iter().try_for_each(|name| check_output(&folder.file(name), inputs))?;
        Ok(folder)
    }

    /// [`OutputFolder::new`] for a command whose summary is the last of the files.
    ///
    /// # Errors
    ///
    /// As [`OutputFolder::new`], or [`StoreError::OtherSummary`] if a file of that name names another command.
    pub fn of_command(command: &str, path: &Path, files: &[&str], inputs: &[&Path]) -> Result<Self, StoreError> {
        let folder = Self::new(path, files, inputs)?;
        if let Some(path) = files.last().map(|name| folder.file(name))
            // Reading a named pipe would wait for its other end.
            && path.is_file()
            && let Ok(bytes) = read(&path)
            && let Ok(summary) = serde_json::from_slice::<Value>(&bytes)
            && let Some(found) = summary.get("command").and_then(Value::as_str)
            && found != command
        {
            return Err(StoreError::OtherSummary { path, command: found.to_owned() });
        }
        Ok(folder)
    }

    /// Files of an earlier result whose names differ from these in their numbers only, if its summary, the last of
    /// them, is there.
    pub fn earlier(&self, files: &[&str]) -> Vec<PathBuf> {
        let known = files.last().is_some_and(|name| self.file(name).is_file());
        let entries = known.then(|| read_dir(&self.path).ok()).flatten().into_iter().flatten().flatten();
        let like = |name: &str| !files.contains(&name) && files.iter().any(|file| shape(file) == shape(name));
        let stale = |path: &PathBuf| path.file_name().and_then(|name| name.to_str()).is_some_and(like);
        let mut found: Vec<PathBuf> =
            entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_file())).map(|e| e.path()).collect();
        found.retain(stale);
        found.sort();
        found
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The path of one of its files.
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }
}

/// A name with every number as one `0`.
fn shape(name: &str) -> String {
    let mut shape = String::with_capacity(name.len());
    for c in name.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }) {
        if c != '0' || !shape.ends_with('0') {
            shape.push(c);
        }
    }
    shape
}

impl Created {
    fn new(path: &Path) -> std::io::Result<Self> {
        let mut created = Self(Vec::new());
        let missing: Vec<&Path> =
            path.ancestors().take_while(|folder| !folder.as_os_str().is_empty() && !folder.exists()).collect();
        for folder in missing.into_iter().rev() {
            let change = Change::begin();
            // Another run may create it at the same moment.
            if DirBuilder::new().create(folder).is_ok() {
                created.0.push((folder.to_owned(), Live::new(folder, &change)));
            }
        }
        create_dir_all(path)?;
        Ok(created)
    }
}

impl Drop for Created {
    fn drop(&mut self) {
        for (folder, _) in self.0.iter().rev() {
            // A folder with files in it stays.
            let _ = remove_dir(folder);
        }
    }
}
