//! Temporary files next to the files that they become, and what is left of them after an interruption.

use std::collections::BTreeSet;
use std::fs::{self, File, TryLockError, read_dir, remove_dir, remove_dir_all, remove_file, symlink_metadata};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tempfile::{Builder, NamedTempFile, TempDir};

use crate::own_file::{open_own, same_file};
use crate::publish;

/// The beginning of the names of temporary files and folders.
pub(crate) const PREFIX: &str = ".hyperinf-";
/// The endings of temporary files.
const ENDINGS: [&str; 2] = [".tmp", ".tmp.png"];
/// Attempts to create a file that another process removes before it is locked.
const ATTEMPTS: usize = 8;

/// How long [`abandon`] waits for files that are being created or published: a file system that hangs must not keep a
/// process alive.
const PATIENCE: Duration = Duration::from_secs(10);

/// What this process would leave behind if it ended now.
static LEFT: Mutex<Left> = Mutex::new(Left { paths: BTreeSet::new(), changes: 0, published: false, ended: false });
/// Notified when no change is in progress.
static QUIET: Condvar = Condvar::new();

struct Left {
    /// Files and folders that nobody needs if this process ends now.
    paths: BTreeSet<PathBuf>,
    /// Files that are being created, and results that are being published.
    changes: usize,
    /// Whether results have got their names.
    published: bool,
    /// Whether [`abandon`] has begun to remove files.
    ended: bool,
}

fn left() -> MutexGuard<'static, Left> {
    LEFT.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A moment in which the list and the files differ: [`abandon`] waits until it is dropped.
pub(crate) struct Change(());

impl Change {
    pub(crate) fn begin() -> Self {
        let mut left = left();
        while left.ended {
            // The process is about to end, and its other thread has the last word.
            drop(left);
            std::thread::park();
            left = self::left();
        }
        left.changes += 1;
        Self(())
    }
}

impl Drop for Change {
    fn drop(&mut self) {
        let mut left = left();
        left.changes -= 1;
        if left.changes == 0 {
            QUIET.notify_all();
        }
    }
}

/// Notes that results have got their names.
pub(crate) fn published() {
    left().published = true;
}

/// An entry of the list of files that nobody needs if this process ends now, until it is dropped.
pub(crate) struct Live(PathBuf);

impl Live {
    /// Enters a path that was made during a [`Change`].
    pub(crate) fn new(path: &Path, _: &Change) -> Self {
        left().paths.insert(path.to_owned());
        Self(path.to_owned())
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        left().paths.remove(&self.0);
    }
}

/// Removes the temporary files of this process and the folders that it created and left empty, for a program that is
/// about to end by a signal. Half-made gradients and checkpoints stay.
///
/// Results that are being published get their names first. A thread that would create or publish another file
/// afterwards sleeps until the process ends. Returns whether this process has published results.
pub fn abandon() -> bool {
    let waiting = QUIET.wait_timeout_while(left(), PATIENCE, |left| left.changes > 0);
    let (mut left, _) = waiting.unwrap_or_else(PoisonError::into_inner);
    left.ended = true;
    // Folders come after what is in them: there is nobody left to report a failure to.
    for path in left.paths.iter().rev() {
        let own = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(PREFIX));
        let _ = match path.is_dir() {
            true if own => remove_dir_all(path),
            true => remove_dir(path),
            false => remove_file(path),
        };
    }
    left.published
}

/// A temporary file in a folder, locked while its process lives.
pub(crate) struct Temporary {
    pub(crate) file: NamedTempFile,
    _live: Live,
}

impl Temporary {
    /// Creates a file with a name of its own; what dead processes left in the folder is removed first.
    pub(crate) fn new(folder: &Path, ending: &str) -> io::Result<Self> {
        remove_abandoned(folder);
        let mut last = None;
        for _ in 0..ATTEMPTS {
            let mut builder = Builder::new();
            builder.prefix(PREFIX).suffix(ending);
            // As any new file, minus the permissions that the user's umask removes; temporary files are private
            // otherwise.
            #[cfg(unix)]
            builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
            let change = Change::begin();
            let file = builder.tempfile_in(folder)?;
            let live = Live::new(file.path(), &change);
            drop(change);
            // Some file systems have no locks; their files are not removed by others either.
            let _ = file.as_file().lock();
            // Another process may have taken it for abandoned before it was locked.
            let there =
                symlink_metadata(file.path()).and_then(|named| Ok(same_file(&named, &file.as_file().metadata()?)));
            match there {
                Ok(true) => return Ok(Self { file, _live: live }),
                Ok(false) => {}
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or_else(|| io::ErrorKind::AlreadyExists.into()))
    }
}

/// A folder for what is needed for a moment, removed with everything in it when it is dropped.
pub struct TemporaryFolder {
    folder: TempDir,
    _live: Live,
}

impl TemporaryFolder {
    /// A folder among the system's temporary files.
    ///
    /// # Errors
    ///
    /// If it cannot be created.
    pub fn new() -> io::Result<Self> {
        let change = Change::begin();
        let folder = Builder::new().prefix(PREFIX).tempdir()?;
        let _live = Live::new(folder.path(), &change);
        Ok(Self { folder, _live })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }
}

/// Removes the temporary files that dead processes left in a folder, and ends what they were publishing.
///
/// A process locks its files, and the system unlocks them when it ends, however it ends.
pub(crate) fn remove_abandoned(folder: &Path) {
    // If the folder cannot be read, or a file not be removed, the next run tries again.
    let Ok(entries) = read_dir(folder) else { return };
    let mut exchanges = false;
    for entry in entries.flatten() {
        let name = entry.file_name();
        let Some(name) = name.to_str().filter(|name| name.starts_with(PREFIX)) else { continue };
        exchanges |= publish::is_exchange(&entry);
        if ENDINGS.iter().any(|ending| name.ends_with(ending))
            && let Some(_lock) = abandoned(&entry.path())
        {
            let _ = remove_file(entry.path());
        }
    }
    if exchanges {
        publish::settle(folder);
    }
}

/// A file that is nobody's, because no process had its lock: the caller has it now. Never a link.
pub(crate) fn abandoned(path: &Path) -> Option<File> {
    if !symlink_metadata(path).is_ok_and(|metadata| metadata.is_file()) {
        return None;
    }
    let file = File::open(path).ok()?;
    file.try_lock().is_ok().then_some(file)
}

/// A file that is locked while a run writes a folder, so that two runs never mix.
pub(crate) struct FolderLock {
    path: PathBuf,
    _file: File,
    _live: Live,
}

/// The name of the lock.
const LOCK: &str = ".hyperinf.lock";

impl FolderLock {
    /// Locks a folder; the error says who has it.
    pub(crate) fn new(folder: &Path) -> io::Result<Self> {
        let path = folder.join(LOCK);
        for _ in 0..ATTEMPTS {
            let change = Change::begin();
            let file = open_own(&path)?;
            match file.try_lock() {
                Err(TryLockError::WouldBlock) => {
                    let owner = fs::read_to_string(&path).unwrap_or_default();
                    let owner = owner.lines().next().unwrap_or_default();
                    let age =
                        file.metadata().and_then(|entry| entry.modified()).ok().and_then(|time| time.elapsed().ok());
                    let age = age.map_or_else(String::new, |age| format!(", for {} s", age.as_secs()));
                    let who = if owner.is_empty() { String::new() } else { format!(": {owner}{age}") };
                    let message = format!("another run is writing it{who}");
                    return Err(io::Error::new(io::ErrorKind::ResourceBusy, message));
                }
                // Without locks of the file system, two runs are the user's to keep apart.
                Err(TryLockError::Error(_)) | Ok(()) => {}
            }
            // The run that had it may have removed it in between.
            let named = symlink_metadata(&path);
            if named.is_ok_and(|named| file.metadata().is_ok_and(|opened| same_file(&named, &opened))) {
                file.set_len(0)?;
                let owner = owner();
                io::Write::write_all(&mut &file, owner.as_bytes())?;
                let live = Live::new(&path, &change);
                return Ok(Self { path, _file: file, _live: live });
            }
        }
        Err(io::Error::new(io::ErrorKind::ResourceBusy, "other runs are writing it"))
    }
}

impl Drop for FolderLock {
    fn drop(&mut self) {
        // A lock that stays is nobody's: the next run takes it.
        let _ = remove_file(&self.path);
    }
}

/// This process, for the message of another.
fn owner() -> String {
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host = host.trim();
    let on = if host.is_empty() { String::new() } else { format!(" on {host}") };
    format!("process {}{on}\n", std::process::id())
}
