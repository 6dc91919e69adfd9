//! Signals: a run that is interrupted keeps its finished work and says how to resume.
//!
//! The first SIGINT (Ctrl-C) or SIGTERM ends the batch or step in progress; where nothing can be kept, or with the
//! second one, the program ends at once. It never leaves temporary files. The exit code is 128 plus the signal's number.

use std::io::{Write, stderr};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{LazyLock, Mutex, PoisonError};

use hyperinf::data::Stop;

/// The request that all runs of the program look at.
static STOP: LazyLock<Stop> = LazyLock::new(Stop::default);
/// The signal that came, 0 if none did.
static SIGNAL: AtomicU8 = AtomicU8::new(0);
/// What to add if the program ends between two stages.
static HINT: Mutex<String> = Mutex::new(String::new());

/// The request that a run is to look at.
pub(crate) fn stop() -> Stop {
    STOP.clone()
}

/// Sets what is added to the message if the program is interrupted while nothing looks at [`stop`].
pub(crate) fn set_hint(hint: String) {
    *HINT.lock().unwrap_or_else(PoisonError::into_inner) = hint;
}

/// The exit code of a run that was stopped.
pub(crate) fn exit_code() -> u8 {
    128 + SIGNAL.load(Ordering::SeqCst)
}

/// Handles signals from now on, in a thread of its own.
#[cfg(unix)]
pub(crate) fn install() {
    use signal_hook::consts::{SIGINT, SIGTERM, SIGXFSZ};
    use signal_hook::iterator::Signals;

    // A file that becomes larger than the limit is an error of writing it; without a handler it is a signal that ends
    // the program. Nobody looks at the flag.
    let _ = signal_hook::flag::register(SIGXFSZ, std::sync::Arc::default());
    // Without handlers the system ends the program, and the next run removes what it leaves.
    let Ok(mut signals) = Signals::new([SIGINT, SIGTERM]) else { return };
    std::thread::spawn(move || {
        for signal in signals.forever() {
            let first = SIGNAL.swap(u8::try_from(signal).unwrap_or_default(), Ordering::SeqCst) == 0;
            if first && STOP.request() {
                say("stopping after what is in progress; again to stop at once");
                continue;
            }
            let published = hyperinf::store::abandon();
            let what = if published {
                "interrupted after results were written"
            } else {
                "interrupted: no results were written"
            };
            let hint = HINT.lock().unwrap_or_else(PoisonError::into_inner);
            say(&format!("{what}{hint}"));
            std::process::exit(exit_code().into());
        }
    });
}

/// Signals are the system's here.
#[cfg(not(unix))]
pub(crate) fn install() {}

#[cfg(unix)]
fn say(what: &str) {
    // Without standard error nobody reads it.
    let _ = writeln!(stderr(), "{what}");
}
