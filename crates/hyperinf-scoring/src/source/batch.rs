use std::sync::Arc;

use hyperinf_gradients::{Block, Capture, Gradients};

use crate::ScoreError;

/// Some samples of a [`Source`](crate::Source).
#[derive(Clone, Debug)]
pub struct Batch {
    /// The samples, block by block.
    pub samples: Samples,
    /// The blocks before a projection, in the same order; `None` without a projection.
    ///
    /// They decide which side of a block is the shorter one: after a projection both sides are often equal.
    pub unprojected: Option<Arc<[Block]>>,
}

/// The samples of a batch: gradients, or the captures that they are products of.
#[derive(Clone, Debug)]
pub enum Samples {
    /// `[n, rows, cols]` of each block.
    Gradients(Gradients),
    /// Inputs `[n, t, rows]` and output gradients `[n, t, cols]` of each block.
    Captures(Vec<Capture>),
}

impl Batch {
    /// The blocks.
    pub fn layout(&self) -> Vec<Block> {
        match &self.samples {
            Samples::Gradients(gradients) => gradients.layout.to_vec(),
            Samples::Captures(captures) => captures.iter().map(|capture| capture.block.clone()).collect(),
        }
    }

    /// `n`, the number of samples; 0 without blocks.
    pub fn samples(&self) -> usize {
        match &self.samples {
            Samples::Gradients(gradients) => gradients.samples(),
            Samples::Captures(captures) => captures.first().map_or(0, |capture| capture.input.dims()[0]),
        }
    }

    /// The per-sample gradients. Each capture is released as soon as it is multiplied out.
    pub fn into_gradients(self) -> Gradients {
        match self.samples {
            Samples::Gradients(gradients) => gradients,
            Samples::Captures(captures) => {
                let multiplied = captures.into_iter().map(|capture| (capture.gradients(), capture.block));
                let (blocks, layout): (Vec<_>, Vec<_>) = multiplied.unzip();
                Gradients { layout: layout.into(), blocks }
            }
        }
    }

    /// The captures.
    ///
    /// # Errors
    ///
    /// [`ScoreError::NoCaptures`] for gradients.
    pub fn into_captures(self) -> Result<Vec<Capture>, ScoreError> {
        match self.samples {
            Samples::Gradients(_) => Err(ScoreError::NoCaptures),
            Samples::Captures(captures) => Ok(captures),
        }
    }
}

impl From<Gradients> for Batch {
    fn from(gradients: Gradients) -> Self {
        Self { samples: Samples::Gradients(gradients), unprojected: None }
    }
}

impl From<Vec<Capture>> for Batch {
    fn from(captures: Vec<Capture>) -> Self {
        Self { samples: Samples::Captures(captures), unprojected: None }
    }
}
