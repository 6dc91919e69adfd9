use std::cell::Cell;

use super::error::{Fail, Outcome};

/// The most steps of one rendering: expressions, statements, entries of lists, and 64 bytes of text that are read.
pub(super) const STEPS: u64 = 10_000_000;
/// The most bytes of values that one rendering makes, on top of [`BYTES_PER_BYTE`] times the conversation.
pub(super) const BYTES: u64 = 1 << 26;
/// See [`BYTES`].
pub(super) const BYTES_PER_BYTE: u64 = 32;
/// The most values inside of values.
pub(super) const VALUE_DEPTH: u32 = 500;
/// The most expressions, statements and calls inside of each other while a template runs.
pub(super) const RUN_DEPTH: usize = 4_000;

/// What one rendering may still use. A template that needs more ends in an error: neither time nor memory depends on
/// what a file says.
#[derive(Debug)]
pub(super) struct Budget {
    steps: Cell<u64>,
    bytes: Cell<u64>,
    all_bytes: u64,
    depth: Cell<usize>,
}

impl Budget {
    pub(super) fn new(input: usize) -> Self {
        let all_bytes = BYTES + BYTES_PER_BYTE * input as u64;
        Self { steps: Cell::new(STEPS), bytes: Cell::new(all_bytes), all_bytes, depth: Cell::new(0) }
    }

    /// Pays for a number of steps.
    pub(super) fn steps(&self, count: u64) -> Outcome<()> {
        let left = self.steps.get().checked_sub(count).ok_or(Fail::Limit { limit: STEPS, what: "steps" })?;
        self.steps.set(left);
        Ok(())
    }

    /// Pays for reading a text.
    pub(super) fn read(&self, bytes: usize) -> Outcome<()> {
        self.steps(1 + bytes as u64 / 64)
    }

    /// Pays for a text or a list of this size, before it is made.
    pub(super) fn make(&self, bytes: usize) -> Outcome<()> {
        let over = Fail::Limit { limit: self.all_bytes, what: "bytes of values" };
        self.bytes.set(self.bytes.get().checked_sub(bytes as u64).ok_or(over)?);
        self.read(bytes)
    }

    /// Pays for as many copies of a text.
    pub(super) fn make_times(&self, bytes: usize, count: usize) -> Outcome<()> {
        self.make(bytes.saturating_mul(count))
    }

    /// Runs something one level deeper.
    pub(super) fn deeper<T>(&self, run: impl FnOnce() -> Outcome<T>) -> Outcome<T> {
        let depth = self.depth.get() + 1;
        if depth > RUN_DEPTH {
            return Err(Fail::Limit { limit: RUN_DEPTH as u64, what: "expressions and calls inside of each other" });
        }
        self.steps(1)?;
        self.depth.set(depth);
        let result = run();
        self.depth.set(depth - 1);
        result
    }
}
