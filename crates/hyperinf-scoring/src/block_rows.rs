//! The gradients of a batch, block by block, formed only where that is needed.

use burn::tensor::{DType, Tensor};
use hyperinf_curvature::{SamplePart, SampleRows};
use hyperinf_gradients::{Block, Capture, Gradients};
use hyperinf_linalg::{dots, dots_precise, largest, least_square, precise, squared_norms_each};

use crate::passes::{read_rows, rows_of};
use crate::{Batch, Samples, ScoreError, Scores, Set};

/// The samples of a batch, block by block.
pub(crate) struct BatchRows {
    pub(crate) layout: Vec<Block>,
    pub(crate) blocks: Vec<BlockRows>,
}

/// A batch's gradients of one block.
#[allow(clippy::large_enum_variant, reason = "there is one per block of a batch, and its tensors are handles")]
pub(crate) enum BlockRows {
    /// `[n, D]`.
    Formed(Tensor<2>),
    /// As the capture that they are products of.
    Captured(Capture),
    /// All training samples, as the curvature holds them.
    Held(SampleRows),
}

impl BatchRows {
    /// Of a batch, merged on request; `None` without samples.
    pub(crate) fn new(batch: Batch, merged: bool, set: Set) -> Result<Option<Self>, ScoreError> {
        let layout = batch.layout();
        if layout.is_empty() {
            return Err(ScoreError::Empty { set, what: "blocks" });
        }
        if batch.samples() == 0 {
            return Ok(None);
        }
        if merged {
            return Ok(Some(Self::formed(batch.into_gradients().merged())));
        }
        Ok(Some(match batch.samples {
            Samples::Gradients(gradients) => Self::formed(gradients),
            Samples::Captures(captures) => {
                Self { layout, blocks: captures.into_iter().map(BlockRows::Captured).collect() }
            }
        }))
    }

    fn formed(gradients: Gradients) -> Self {
        let blocks = gradients.blocks.into_iter().map(|block| BlockRows::Formed(block.flatten(1, 2))).collect();
        Self { layout: gradients.layout.to_vec(), blocks }
    }

    /// The number of samples.
    pub(crate) fn samples(&self) -> usize {
        self.blocks.first().map_or(0, BlockRows::samples)
    }

    /// `‖g‖²` of each sample over all blocks, of a batch that begins at sample `seen`; fails at the first sample whose
    /// gradient is not finite.
    pub(crate) fn squared_norms(&self, seen: usize, set: Set) -> Result<Vec<f64>, ScoreError> {
        let mut total = vec![0.0; self.samples()];
        let blocks: Vec<&BlockRows> = self.blocks.iter().collect();
        for (block, squares) in self.layout.iter().zip(BlockRows::squared_norms_each(&blocks)?) {
            for (i, (sum, value)) in total.iter_mut().zip(squares).enumerate() {
                if !value.is_finite() {
                    return Err(ScoreError::NonFinite { set, block: block.name.clone(), sample: seen + i, value });
                }
                *sum += value;
            }
        }
        Ok(total)
    }

    /// The sum of the gradients of each block, `[1, rows, cols]`.
    pub(crate) fn sum(self) -> Gradients {
        let sum = |(rows, block): (BlockRows, &Block)| match rows {
            BlockRows::Formed(rows) => rows.sum_dim(0).reshape([1, block.rows, block.cols]),
            BlockRows::Captured(capture) => capture.sum(),
            BlockRows::Held(rows) => rows.rows().sum_dim(0).reshape([1, block.rows, block.cols]),
        };
        let blocks = self.blocks.into_iter().zip(&self.layout).map(sum).collect();
        Gradients { layout: self.layout.into(), blocks }
    }
}

impl BlockRows {
    fn samples(&self) -> usize {
        match self {
            Self::Formed(rows) => rows.dims()[0],
            Self::Captured(capture) => capture.samples(),
            Self::Held(rows) => rows.dims()[0],
        }
    }

    /// The gradients, `[n, D]`.
    pub(crate) fn rows(&self) -> Tensor<2> {
        match self {
            Self::Formed(rows) => rows.clone(),
            Self::Captured(capture) => capture.gradients().flatten(1, 2),
            Self::Held(rows) => rows.rows(),
        }
    }

    /// The samples, at most so many at a time, so that the gradients of captures need not all be formed at once.
    pub(crate) fn pieces(&self, most: usize) -> Vec<Self> {
        match self {
            Self::Formed(rows) => rows.clone().split(most, 0).into_iter().map(Self::Formed).collect(),
            Self::Captured(capture) => capture.batches(most).map(Self::Captured).collect(),
            Self::Held(SampleRows::Formed(rows)) => Self::Formed(rows.clone()).pieces(most),
            Self::Held(SampleRows::Captured(held)) => {
                let piece = |part: &SamplePart| match part {
                    SamplePart::Formed(rows) => Self::Formed(rows.clone()).pieces(most),
                    SamplePart::Captured { capture, .. } => Self::Captured(capture.clone()).pieces(most),
                };
                held.parts.iter().flat_map(piece).collect()
            }
        }
    }

    /// Forms the gradients if products with `q` rows take less from them than from the capture.
    pub(crate) fn form_for(&mut self, q: usize) {
        if let Self::Captured(capture) = self
            && !capture.is_cheaper_for(q)
        {
            *self = Self::Formed(self.rows());
        }
    }

    /// `‖g‖²` of each sample, in f64.
    pub(crate) fn squared_norms(&self) -> Result<Vec<f64>, ScoreError> {
        Ok(Self::squared_norms_each(&[self])?.concat())
    }

    /// [`BlockRows::squared_norms`] of several blocks, from one read of all gradients and one of all captures.
    pub(crate) fn squared_norms_each(blocks: &[&Self]) -> Result<Vec<Vec<f64>>, ScoreError> {
        let (mut formed, mut captured) = (Vec::new(), Vec::new());
        for block in blocks {
            match block {
                Self::Formed(rows) => formed.push(rows.clone()),
                Self::Captured(capture) => captured.push(capture.clone()),
                Self::Held(_) => {}
            }
        }
        let mut formed = squared_norms_each(&formed)?.into_iter();
        let mut captured = Capture::squared_norms_each(&captured)?.into_iter();
        let of_block = |block: &&Self| match block {
            Self::Formed(_) => Ok(formed.next().unwrap_or_default()),
            Self::Captured(_) => Ok(captured.next().unwrap_or_default()),
            Self::Held(rows) => Ok(rows.squared_norms()?),
        };
        blocks.iter().map(of_block).collect()
    }

    /// The type of the gradients.
    pub(crate) fn dtype(&self) -> DType {
        match self {
            Self::Formed(rows) => rows.dtype(),
            Self::Captured(capture) => capture.delta.dtype(),
            Self::Held(rows) => rows.like().dtype(),
        }
    }

    /// `X Jᵀ`, `[q, n]`, on the device: in f64 for preconditioned rows; for plain queries in the type of the gradients.
    pub(crate) fn products(&self, x: &Tensor<2>) -> Tensor<2> {
        if x.dtype() != self.dtype() {
            return self.precise_products(x);
        }
        match self {
            Self::Formed(rows) => dots(x.clone(), rows.clone()),
            Self::Captured(capture) => capture.dots(shaped(x.clone(), &capture.block)),
            Self::Held(rows) => rows.dots(x.clone()),
        }
    }

    /// The scores of [`BlockRows::products`], whose values were read; taken again in f64 where products of plain queries
    /// leave the range of the gradients' type.
    pub(crate) fn scores(&self, x: &Tensor<2>, products: &[f64]) -> Result<Scores, ScoreError> {
        let dtype = self.dtype();
        let most = largest(&products.iter().map(|product| product.abs()).collect::<Vec<_>>());
        let leaves_range = !(least_square(dtype)..f64::INFINITY).contains(&most);
        if x.dtype() == dtype && dtype != DType::F64 && leaves_range {
            return read_rows(self.precise_products(x));
        }
        Ok(rows_of(products, self.samples()))
    }

    fn precise_products(&self, x: &Tensor<2>) -> Tensor<2> {
        match self {
            Self::Formed(rows) => dots_precise(x.clone(), rows.clone()),
            Self::Captured(capture) => capture.dots(shaped(precise(x.clone()), &capture.block)),
            Self::Held(rows) => rows.dots(precise(x.clone())),
        }
    }
}

fn shaped(x: Tensor<2>, block: &Block) -> Tensor<3> {
    let q = x.dims()[0];
    x.reshape([q, block.rows, block.cols])
}
