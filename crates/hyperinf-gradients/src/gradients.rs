use std::sync::Arc;

use burn::tensor::Tensor;
use hyperinf_linalg::squared_norms_each;

use crate::{Block, GradientError};

/// Per-sample gradients of a set of samples: row `i` of every block is sample `i`.
#[derive(Clone, Debug)]
pub struct Gradients {
    /// The blocks, in order.
    pub layout: Arc<[Block]>,
    /// One tensor per block, `[n, rows, cols]`.
    pub blocks: Vec<Tensor<3>>,
}

impl Gradients {
    /// Gradients from tensors with a layout.
    ///
    /// # Errors
    ///
    /// If there are no blocks, or a tensor's shape is not its block's, or the sample counts differ.
    pub fn new(layout: impl Into<Arc<[Block]>>, blocks: Vec<Tensor<3>>) -> Result<Self, GradientError> {
        let layout = layout.into();
        if layout.is_empty() {
            return Err(GradientError::Empty { what: "blocks" });
        }
        let n = blocks.first().map_or(0, |b| b.dims()[0]);
        for index in 0..layout.len().max(blocks.len()) {
            let expected = layout.get(index).map(|b| (b.name.as_str(), [n, b.rows, b.cols]));
            let found = blocks.get(index).map(|b| b.dims());
            if expected.map(|(_, dims)| dims) != found {
                return Err(GradientError::LayoutMismatch {
                    index,
                    found: format!("{found:?}"),
                    expected: format!("{expected:?}"),
                });
            }
        }
        Ok(Self { layout, blocks })
    }

    /// The number of samples, `n`.
    pub fn samples(&self) -> usize {
        self.blocks.first().map_or(0, |b| b.dims()[0])
    }

    /// The number of parameters over all blocks.
    pub fn parameters(&self) -> usize {
        self.layout.iter().map(Block::parameters).sum()
    }

    /// Fails unless `other` has the same blocks in the same order.
    ///
    /// # Errors
    ///
    /// Names the first block that differs.
    pub fn same_layout(&self, other: &Self) -> Result<(), GradientError> {
        same_layout(&self.layout, &other.layout)
    }

    /// All samples of several sets, in order.
    ///
    /// # Errors
    ///
    /// If there is no set or the layouts differ.
    pub fn concat(sets: Vec<Self>) -> Result<Self, GradientError> {
        let first = sets.first().ok_or(GradientError::Empty { what: "gradients to join" })?;
        for set in &sets {
            first.same_layout(set)?;
        }
        let layout = first.layout.clone();
        let blocks =
            (0..layout.len()).map(|l| Tensor::cat(sets.iter().map(|s| s.blocks[l].clone()).collect(), 0)).collect();
        Ok(Self { layout, blocks })
    }

    /// All blocks joined into one block `[n, 1, D]`, whose curvature is the full matrix instead of a block diagonal.
    pub fn merged(&self) -> Self {
        let rows = self.blocks.iter().map(|b| b.clone().flatten::<2>(1, 2)).collect();
        let all = Tensor::cat(rows, 1);
        let [n, d] = all.dims();
        Self { layout: Arc::new([Block::new("merged", 1, d)]), blocks: vec![all.reshape([n, 1, d])] }
    }

    /// The sum over samples, as a set of one sample.
    pub fn sum(&self) -> Self {
        Self { layout: self.layout.clone(), blocks: self.blocks.iter().map(|b| b.clone().sum_dim(0)).collect() }
    }

    /// The squared norm of each sample over all blocks, `n` values in f64.
    ///
    /// # Errors
    ///
    /// If a value is not finite: names the block and the sample.
    pub fn squared_norms(&self) -> Result<Vec<f64>, GradientError> {
        let mut total = vec![0.0; self.samples()];
        let rows: Vec<Tensor<2>> = self.blocks.iter().map(|block| block.clone().flatten(1, 2)).collect();
        for (block, norms) in self.layout.iter().zip(squared_norms_each(&rows)?) {
            for (sample, (sum, value)) in total.iter_mut().zip(norms).enumerate() {
                if !value.is_finite() {
                    return Err(GradientError::NonFinite { block: block.name.clone(), sample, value });
                }
                *sum += value;
            }
        }
        Ok(total)
    }
}

/// Fails unless both have the same blocks in the same order.
///
/// # Errors
///
/// Names the first block that differs.
pub fn same_layout(expected: &[Block], found: &[Block]) -> Result<(), GradientError> {
    for index in 0..expected.len().max(found.len()) {
        let (expected, found) = (expected.get(index), found.get(index));
        if expected != found {
            return Err(GradientError::LayoutMismatch { index, found: describe(found), expected: describe(expected) });
        }
    }
    Ok(())
}

fn describe(block: Option<&Block>) -> String {
    block.map_or_else(|| "absent".into(), |b| format!("`{}` of {} × {}", b.name, b.rows, b.cols))
}
