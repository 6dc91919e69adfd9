//! Several files of one result get their names together.
//!
//! A name can be given to one file at a time, so a run that ends between two of them would leave its scores next to the
//! summary of an earlier run. Where there are earlier results, all names therefore become links into a hidden folder
//! first, through one link `current`; replacing that link replaces all files at once. Then the names become files
//! again. Whoever reads at any moment, or after an interruption at any moment, finds the files of one run.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs::{
    self, DirEntry, File, TryLockError, hard_link, remove_dir, remove_dir_all, remove_file, rename, symlink_metadata,
};
use std::io;
use std::path::{Path, PathBuf};

use crate::own_file::{folder_of, same_file, sync_folder};
use crate::temporary::{Change, abandoned, published};
use crate::{Staged, StoreError};

/// The beginning of the names of folders in which results are exchanged.
pub(crate) const PREFIX: &str = ".hyperinf-results-";
const LOCK: &str = "lock";
const CURRENT: &str = "current";
const OLD: &str = "old";
const NEW: &str = "new";
const NEXT: &str = "next";
const LINK: &str = "link";

/// Places files of one folder together, and removes files of an earlier result that the new one lacks.
///
/// Processes that publish in one folder wait for each other, where the system can lock folders.
///
/// The last file is the one that says that the result is complete. After an interruption at any moment the names
/// belong to one result, the earlier one or the new one; where the file system has no links, the last file may be
/// missing instead.
///
/// # Errors
///
/// [`StoreError::Output`] if a file cannot be moved or removed.
///
/// # Panics
///
/// If the files are not of one folder.
pub fn publish(staged: Vec<Staged<'_>>, stale: &[PathBuf]) -> Result<(), StoreError> {
    let Some(last) = staged.last() else { return Ok(()) };
    let (last, folder) = (last.path().to_owned(), folder_of(last.path()).to_owned());
    let of_folder = |path: &Path| folder_of(path) == folder;
    assert!(staged.iter().map(Staged::path).chain(stale.iter().map(PathBuf::as_path)).all(of_folder), "one folder");
    let names: BTreeSet<OsString> = staged.iter().map(Staged::path).filter_map(name).collect();
    let turn = File::open(&folder).and_then(|turn| turn.lock().map(|()| turn));
    // A signal comes before all of it or after it.
    let _change = Change::begin();
    if turn.is_ok() {
        // That of a process that was killed in its turn: its names are links still.
        settle_all(&folder);
    }
    let gone: BTreeSet<OsString> = stale.iter().filter_map(|path| name(path)).collect();
    let all: Vec<&OsString> = names.union(&gone).collect();
    let earlier = all.iter().filter(|name| symlink_metadata(folder.join(name)).is_ok()).count();
    let exchange = if staged.len() + gone.len() > 1 && earlier > 0 {
        // A file system without links, or files that are links themselves.
        Exchange::new(&folder, &all, &staged).ok()
    } else {
        None
    };
    if exchange.is_none() && earlier > 0 && staged.len() > 1 {
        // Without its summary no earlier result can be taken for whole.
        absent(remove_file(&last)).map_err(|e| StoreError::output(&last, e))?;
        sync_folder(&folder);
    }
    for path in stale {
        absent(remove_file(path)).map_err(|e| StoreError::output(path, e))?;
    }
    for file in staged {
        file.persist()?;
    }
    sync_folder(&folder);
    drop(exchange);
    published();
    Ok(())
}

fn name(path: &Path) -> Option<OsString> {
    path.file_name().map(OsStr::to_owned)
}

fn absent(removed: io::Result<()>) -> io::Result<()> {
    removed.or_else(|error| if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) })
}

/// A hidden folder through which the names lead to the files of one result.
struct Exchange {
    folder: PathBuf,
    path: PathBuf,
    _lock: File,
}

impl Exchange {
    /// Exchanges the files behind all names; afterwards the names are links to the new files.
    fn new(folder: &Path, names: &[&OsString], staged: &[Staged<'_>]) -> io::Result<Self> {
        let path = tempfile::Builder::new().prefix(PREFIX).tempdir_in(folder)?.keep();
        let lock = File::create_new(path.join(LOCK))?;
        let _ = lock.lock();
        // Where folders have no locks, another process may have removed it before it was locked.
        if !same_file(&symlink_metadata(path.join(LOCK))?, &lock.metadata()?) {
            return Err(io::ErrorKind::NotFound.into());
        }
        // Dropping it on any failure gives the names their earlier files.
        let exchange = Self { folder: folder.to_owned(), path: path.clone(), _lock: lock };
        for side in [OLD, NEW] {
            fs::create_dir(path.join(side))?;
        }
        for name in names {
            let named = folder.join(name);
            match symlink_metadata(&named) {
                Ok(metadata) if metadata.is_file() => hard_link(&named, path.join(OLD).join(name))?,
                Ok(_) => return Err(io::ErrorKind::Unsupported.into()),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        for file in staged {
            if let Some(name) = file.path().file_name() {
                hard_link(file.temporary(), path.join(NEW).join(name))?;
            }
        }
        link(Path::new(OLD), &path.join(CURRENT))?;
        for side in [OLD, NEW] {
            sync_folder(&path.join(side));
        }
        sync_folder(&path);
        for name in names {
            let made = path.join(LINK);
            link(&target(&path, name), &made)?;
            rename(made, folder.join(name))?;
        }
        sync_folder(folder);
        let next = path.join(NEXT);
        link(Path::new(NEW), &next)?;
        rename(next, path.join(CURRENT))?;
        sync_folder(&path);
        Ok(exchange)
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        finish(&self.folder, &self.path);
    }
}

/// Where a name leads while results are exchanged.
fn target(exchange: &Path, name: &OsStr) -> PathBuf {
    Path::new(exchange.file_name().unwrap_or_default()).join(CURRENT).join(name)
}

/// Whether an entry of a folder is an exchange.
pub(crate) fn is_exchange(entry: &DirEntry) -> bool {
    entry.file_type().is_ok_and(|kind| kind.is_dir())
        && entry.file_name().to_str().is_some_and(|name| name.starts_with(PREFIX))
}

/// Ends the exchanges of dead processes in a folder, unless a process is publishing there: it has ended them.
pub(crate) fn settle(folder: &Path) {
    let turn = File::open(folder);
    let taken = |turn: &File| matches!(turn.try_lock(), Err(TryLockError::WouldBlock));
    if !turn.as_ref().is_ok_and(taken) {
        settle_all(folder);
    }
}

fn settle_all(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten().filter(is_exchange) {
        let exchange = entry.path();
        if let Some(_lock) = abandoned(&exchange.join(LOCK)) {
            finish(folder, &exchange);
        } else {
            // The lock is the first thing in the folder and the last one: without it there is nothing to settle. A
            // folder with anything in it stays.
            let _ = remove_dir(exchange);
        }
    }
}

/// Turns names that lead into an exchange into the files that they lead to, and removes the exchange.
fn finish(folder: &Path, exchange: &Path) {
    // Only what an exchange makes: anybody may have put a link there.
    let current = if fs::read_link(exchange.join(CURRENT)).is_ok_and(|to| to == Path::new(NEW)) { NEW } else { OLD };
    let is_folder = |side: &&str| symlink_metadata(exchange.join(side)).is_ok_and(|found| found.is_dir());
    let mut whole = true;
    for side in [OLD, NEW].into_iter().filter(is_folder) {
        for entry in fs::read_dir(exchange.join(side)).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let named = folder.join(&name);
            if fs::read_link(&named).is_ok_and(|found| found == target(exchange, &name)) {
                let file = exchange.join(current).join(&name);
                let there = is_folder(&current) && file.is_file();
                whole &= if there { rename(file, named) } else { remove_file(named) }.is_ok();
            }
        }
    }
    sync_folder(folder);
    // What could not be done now is done by the next run.
    if whole {
        for part in [OLD, NEW] {
            let _ = remove_dir_all(exchange.join(part));
        }
        for part in [CURRENT, NEXT, LINK, LOCK] {
            let _ = remove_file(exchange.join(part));
        }
        let _ = remove_dir(exchange);
    }
}

#[cfg(unix)]
fn link(target: &Path, path: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(target, path)
}

#[cfg(not(unix))]
fn link(_: &Path, _: &Path) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}
