//! Files that get their names when they are complete and on disk.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// The ending of a file that is being written.
const ENDING: &str = ".partial";

/// Writes files of one folder; none gets its name before all are on disk. Nothing is left behind on a failure.
pub(crate) fn write_whole(files: &[(PathBuf, Vec<u8>)]) -> Result<(), (PathBuf, io::Error)> {
    let partials: Vec<PathBuf> = files.iter().map(|(path, _)| partial(path)).collect();
    let complete = files
        .iter()
        .zip(&partials)
        .try_for_each(|((path, bytes), partial)| create(partial, bytes).map_err(|e| (path.clone(), e)))
        .and_then(|()| {
            let mut all = files.iter().zip(&partials);
            all.try_for_each(|((path, _), partial)| fs::rename(partial, path).map_err(|e| (path.clone(), e)))
        });
    if complete.is_err() {
        for partial in &partials {
            // The error to report is that of writing; not all of them exist.
            let _ = fs::remove_file(partial);
        }
    } else if let Some(folder) = files.first().and_then(|(path, _)| path.parent()) {
        // Not every file system can make names durable; the files are on disk.
        let _ = File::open(folder).and_then(|folder| folder.sync_all());
    }
    complete
}

/// Removes half-written files of names with this beginning from a folder that one process at a time writes.
pub(crate) fn remove_partial(folder: &Path, beginning: &str) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        if name.to_str().is_some_and(|name| name.starts_with(&format!(".{beginning}")) && name.ends_with(ENDING)) {
            // What stays is removed by the next run.
            let _ = fs::remove_file(entry.path());
        }
    }
}

fn partial(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.{}{ENDING}", std::process::id()))
}

fn create(partial: &Path, bytes: &[u8]) -> io::Result<()> {
    let new = || OpenOptions::new().write(true).create_new(true).open(partial);
    let mut file = match new() {
        // Of a dead process with the same number, or a link: the name goes, not what is behind it.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => fs::remove_file(partial).and_then(|()| new())?,
        file => file?,
    };
    file.write_all(bytes)?;
    file.sync_all()
}
