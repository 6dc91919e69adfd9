use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};

thread_local! {
    static GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// A panic of a library that reads files or text, turned into an error.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the library that reads it failed: {message}")]
pub struct Panicked {
    /// The panic's message.
    pub message: String,
}

/// Whether this thread is inside work whose panics become errors.
///
/// A panic writes its message to standard error before it can be caught. Only a program may change that, with a hook
/// that stays silent while this is true:
///
/// ```
/// let usual = std::panic::take_hook();
/// std::panic::set_hook(Box::new(move |info| {
///     if !hyperinf_models::panics_are_errors() {
///         usual(info);
///     }
/// }));
/// ```
pub fn panics_are_errors() -> bool {
    GUARDED.get()
}

/// Runs code of a library that may panic on bad input.
///
/// What `work` changes must not be used again after an error.
pub(crate) fn guarded<T>(work: impl FnOnce() -> T) -> Result<T, Panicked> {
    let outside = GUARDED.replace(true);
    let outcome = catch_unwind(AssertUnwindSafe(work));
    GUARDED.set(outside);
    outcome.map_err(|payload| {
        let text = payload.downcast_ref::<&str>().map(|text| (*text).to_owned());
        let message = text.or_else(|| payload.downcast_ref::<String>().cloned());
        Panicked { message: message.unwrap_or_else(|| "no reason given".to_owned()) }
    })
}
