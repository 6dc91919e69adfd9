//! Files that belong to a run alone: never a link, never another's.

use std::fs::{File, Metadata, OpenOptions, symlink_metadata};
use std::io::{Error, ErrorKind, Result};
use std::path::Path;
use std::time::SystemTime;

/// Opens a run's own file for reading and writing, or creates it; it keeps its contents.
///
/// Hidden files have fixed names, and anybody may have put a link there: what it leads to is not opened.
///
/// # Errors
///
/// If the file cannot be opened, or is a link, a folder, a pipe, or has a second name.
pub fn open_own(path: &Path) -> Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true);
    match options.clone().create_new(true).open(path) {
        // A link counts as existing, whether or not there is something behind it.
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
        created => return created,
    }
    let foreign = |what| Error::new(ErrorKind::InvalidInput, format!("it is {what}, which no run makes: remove it"));
    let named = symlink_metadata(path)?;
    if named.is_symlink() {
        return Err(foreign("a symbolic link"));
    }
    if !named.is_file() {
        return Err(foreign("not a regular file"));
    }
    let file = options.open(path)?;
    let opened = file.metadata()?;
    if !same_file(&named, &opened) {
        return Err(foreign("a file that was replaced just now"));
    }
    if names(&opened) > 1 {
        return Err(foreign("a file with a second name (a hard link)"));
    }
    Ok(file)
}

/// The state of a file by which a change is noticed: which file it is, its length, and when it was last written.
///
/// The time of the last change of its entry is included: a program may set the other one back, but not this one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileStamp {
    length: u64,
    modified: Option<SystemTime>,
    /// Device, number, and time of the last change.
    identity: [i64; 4],
}

impl FileStamp {
    /// The state that metadata describe.
    pub fn of(metadata: &Metadata) -> Self {
        Self { length: metadata.len(), modified: metadata.modified().ok(), identity: identity(metadata) }
    }

    /// The current state of the file at a path.
    ///
    /// # Errors
    ///
    /// If the file does not exist or cannot be examined.
    pub fn at(path: &Path) -> Result<Self> {
        path.metadata().map(|metadata| Self::of(&metadata))
    }
}

#[cfg(unix)]
fn identity(metadata: &Metadata) -> [i64; 4] {
    use std::os::unix::fs::MetadataExt;
    [metadata.dev().cast_signed(), metadata.ino().cast_signed(), metadata.ctime(), metadata.ctime_nsec()]
}

#[cfg(not(unix))]
fn identity(_: &Metadata) -> [i64; 4] {
    [0; 4]
}

/// Whether two metadata are of one file.
pub(crate) fn same_file(one: &Metadata, other: &Metadata) -> bool {
    identity(one)[..2] == identity(other)[..2]
}

#[cfg(unix)]
fn names(metadata: &Metadata) -> u64 {
    std::os::unix::fs::MetadataExt::nlink(metadata)
}

#[cfg(not(unix))]
fn names(_: &Metadata) -> u64 {
    1
}

/// Makes the names in a folder durable, where the system can.
pub fn sync_folder(folder: &Path) {
    // Not every file system can; the files themselves are on disk by then.
    if cfg!(unix) {
        let _ = File::open(folder).and_then(|folder| folder.sync_all());
    }
}

/// The folder of a path; the current one if it is a bare name.
pub(crate) fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}
