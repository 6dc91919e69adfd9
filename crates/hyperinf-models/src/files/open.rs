//! The one place where files are opened for reading.

use std::fs::{self, File, FileType};
use std::io::{self, Read, Seek};
use std::path::{Path, PathBuf};

/// The beginning of a file that Git leaves in place of a large one.
const LFS: &[u8] = b"version https://git-lfs.github.com/spec/";
/// The path that a snapshot of the hub's cache gives for a file where links cannot be stored.
const BLOBS: &str = "../../blobs/";
/// Longer files are neither of the two.
const SHORT: u64 = 1024;

/// Opens a regular file for reading, or what a link to one leads to.
///
/// Reading a named pipe or a device could wait for ever or never end, so these are errors. So is a Git LFS pointer: it
/// stands for a file that was not downloaded. Inside the hub's cache a file may hold the path of its content
/// (`../../blobs/…`), as after a copy without links; the content is opened.
///
/// # Errors
///
/// If the file cannot be opened or is not of that kind.
pub fn open_regular(path: &Path) -> io::Result<File> {
    let mut file = open_kind(path)?;
    if file.metadata()?.len() > SHORT {
        return Ok(file);
    }
    let mut text = Vec::new();
    (&mut file).take(SHORT).read_to_end(&mut text)?;
    if text.starts_with(LFS) {
        return Err(invalid("it is a Git LFS pointer, not the file itself: run `git lfs pull`".to_owned()));
    }
    if let Some(content) = content(path, &text) {
        return open_kind(&content);
    }
    file.rewind()?;
    Ok(file)
}

/// The bytes of a regular file, opened as by [`open_regular`].
///
/// # Errors
///
/// If the file cannot be opened or read, or is not of that kind.
pub fn read_regular(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open_regular(path)?.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Opens a file after a look at what it is: opening a pipe would already wait.
fn open_kind(path: &Path) -> io::Result<File> {
    match kind(&fs::metadata(path)?.file_type()) {
        None => File::open(path),
        Some(kind) => Err(invalid(format!("it is {kind}, not a regular file"))),
    }
}

/// What is not a regular file.
fn kind(found: &FileType) -> Option<&'static str> {
    if found.is_file() {
        return None;
    }
    if found.is_dir() {
        return Some("a folder");
    }
    #[cfg(unix)]
    {
        use std::os::unix::fs::FileTypeExt;
        if found.is_fifo() {
            return Some("a named pipe");
        }
        if found.is_socket() {
            return Some("a socket");
        }
        if found.is_block_device() || found.is_char_device() {
            return Some("a device");
        }
    }
    Some("something else")
}

/// The file that holds the content of a file of a snapshot, if its text is the path of one.
fn content(path: &Path, text: &[u8]) -> Option<PathBuf> {
    let folder = path.parent()?;
    if folder.parent()?.file_name()? != "snapshots" {
        return None;
    }
    let name = std::str::from_utf8(text).ok()?.trim_end().strip_prefix(BLOBS)?;
    let plain = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric());
    plain.then(|| folder.join(BLOBS).join(name))
}

fn invalid(reason: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, reason)
}
