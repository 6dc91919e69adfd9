use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// A request to stop, which long work looks at between two batches. Clones are one request.
///
/// A run that stops keeps its finished work and ends with [`RunError::Stopped`](crate::RunError::Stopped).
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<State>);

#[derive(Debug, Default)]
struct State {
    requested: AtomicBool,
    listening: AtomicUsize,
}

/// Work that looks at the request, until it is dropped.
pub(crate) struct Listening(Stop);

impl Stop {
    /// Requests that the work stops. Returns whether there is work that will stop soon; other work goes on.
    pub fn request(&self) -> bool {
        self.0.requested.store(true, Ordering::SeqCst);
        self.0.listening.load(Ordering::SeqCst) > 0
    }

    /// Whether it was requested.
    pub fn is_requested(&self) -> bool {
        self.0.requested.load(Ordering::SeqCst)
    }

    /// Says that work looks at the request from now on.
    pub(crate) fn listen(&self) -> Listening {
        self.0.listening.fetch_add(1, Ordering::SeqCst);
        Listening(self.clone())
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.0.0.listening.fetch_sub(1, Ordering::SeqCst);
    }
}
