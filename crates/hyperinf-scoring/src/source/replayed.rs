use std::cell::RefCell;

use crate::{Batch, Samples, ScoreError, Source};

/// Bytes of captures that are kept.
const MOST: usize = 256 << 20;

/// A source whose captures are kept in its first pass, so that the model does not compute them again in the next one:
/// as long as they fit into 256 MiB, which those of adapters and of layers with one position mostly do. Gradients are
/// never kept.
pub(crate) struct Replayed<'a> {
    source: &'a dyn Source,
    most: usize,
    kept: RefCell<Kept>,
}

enum Kept {
    /// Before the first pass.
    Nothing,
    All(Vec<Batch>),
    /// They do not fit, or are gradients.
    Never,
}

impl<'a> Replayed<'a> {
    pub(crate) fn new(source: &'a dyn Source) -> Self {
        Self::within(source, MOST)
    }

    fn within(source: &'a dyn Source, most: usize) -> Self {
        Self { source, most, kept: RefCell::new(Kept::Nothing) }
    }
}

impl Source for Replayed<'_> {
    fn pass(&self, visit: &mut dyn FnMut(Batch) -> Result<(), ScoreError>) -> Result<(), ScoreError> {
        let batches = match &*self.kept.borrow() {
            Kept::Nothing => None,
            Kept::All(batches) => Some(batches.clone()),
            Kept::Never => return self.source.pass(visit),
        };
        if let Some(batches) = batches {
            return batches.into_iter().try_for_each(visit);
        }
        let (mut bytes, mut kept) = (0, Some(Vec::new()));
        self.source.pass(&mut |batch| {
            bytes = size(&batch).map_or(usize::MAX, |more| more.saturating_add(bytes));
            if bytes > self.most {
                kept = None;
            }
            if let Some(kept) = &mut kept {
                kept.push(batch.clone());
            }
            visit(batch)
        })?;
        *self.kept.borrow_mut() = kept.map_or(Kept::Never, Kept::All);
        Ok(())
    }
}

/// The bytes of captures.
fn size(batch: &Batch) -> Option<usize> {
    match &batch.samples {
        Samples::Gradients(_) => None,
        Samples::Captures(captures) => Some(
            captures
                .iter()
                .map(|capture| {
                    let numbers = capture.samples() * capture.positions() * (capture.block.rows + capture.block.cols);
                    numbers * capture.delta.dtype().size()
                })
                .sum(),
        ),
    }
}
