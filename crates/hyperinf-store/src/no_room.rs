use std::fmt;
use std::io::{self, ErrorKind};
use std::path::Path;

use crate::free_space;

/// A disk that has no room for a file: what the file still needs, and what there is.
#[derive(Debug, thiserror::Error)]
pub struct NoRoom {
    /// Bytes that the file still needs; `None` where its length is not known before it is written.
    pub needed: Option<u64>,
    /// Bytes that are free; `None` where the system does not say.
    pub free: Option<u64>,
    /// What the system said.
    pub said: io::Error,
}

impl fmt::Display for NoRoom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.said)?;
        let needed = self.needed.map(|needed| format!("{needed} more bytes are needed"));
        let free = self.free.map(|free| format!("{free} are free"));
        match (needed, free) {
            (Some(needed), Some(free)) => write!(f, ": {needed}, {free}"),
            (Some(needed), None) => write!(f, ": {needed}"),
            (None, Some(free)) => write!(f, ": of the disk's bytes {free}"),
            (None, None) => Ok(()),
        }
    }
}

/// Whether a disk, or a user's part of it, is full.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded)
}

/// The same error; that of a full disk with what is needed and free.
pub(crate) fn with_room(error: io::Error, path: &Path, needed: Option<u64>) -> io::Error {
    let told = error.get_ref().is_some_and(|inner| inner.is::<NoRoom>());
    if told || !is_full(&error) {
        return error;
    }
    io::Error::new(error.kind(), NoRoom { needed, free: free_space(path), said: error })
}
