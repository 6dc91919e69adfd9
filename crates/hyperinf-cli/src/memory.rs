//! What happens to memory that is no longer used.

/// How long it stays with the process, in milliseconds: longer than a batch takes. mimalloc's own second is not: the
/// next batch finds its pages cleared (measured: a fifth of the time of a U-Net's gradients).
const DELAY: &str = "10000";

/// The variable of the environment from which mimalloc takes the delay.
const NAME: &str = "MIMALLOC_PURGE_DELAY";

/// Starts the program again, as the same process, with a longer delay, unless the environment has one.
///
/// mimalloc reads its settings before `main` runs, and to change them later takes `unsafe`. Where the program cannot be
/// started again, it goes on as it is; so it does for help, which is to be there at once.
#[cfg(unix)]
pub fn keep() {
    use std::os::unix::process::CommandExt;

    if std::env::var_os(NAME).is_some() {
        return;
    }
    let mut words = std::env::args_os();
    let (Ok(path), Some(name)) = (std::env::current_exe(), words.next()) else { return };
    let words: Vec<_> = words.collect();
    if words.iter().any(|word| ["help", "-h", "--help", "-V", "--version"].iter().any(|quick| word == quick)) {
        return;
    }
    // It returns only if it fails.
    let _ = std::process::Command::new(path).arg0(name).args(words).env(NAME, DELAY).exec();
}

/// Elsewhere a process cannot become another one.
#[cfg(not(unix))]
pub fn keep() {}
