use std::collections::VecDeque;

use burn::tensor::Tensor;
use hyperinf_curvature::BlockCurvature;
use hyperinf_gradients::Block;

use super::{BlockInverse, Operator, Scaling, TOGETHER};
use crate::ScoreError;

impl BlockInverse {
    /// What is left of an inverse after [`BlockInverse::release`], of another process: `zero` is
    /// [`BlockInverse::is_zero`] there.
    pub(crate) fn released(block: Block, zero: bool) -> Self {
        let (operator, scaling) = (Operator::Nothing, Scaling::default());
        Self { block, bytes: 0, operator, scaling, zero, report: None, rows: None }
    }

    /// The preconditioned rows, with their powers of two.
    pub(crate) fn solve(&mut self, v: Tensor<2>) -> Result<Tensor<2>, ScoreError> {
        Ok(self.apply(v)?.0.restored())
    }

    /// The damping; 0 without one.
    pub(crate) fn lambda(&self) -> f64 {
        self.report.as_ref().and_then(|report| report.lambda).unwrap_or(0.0)
    }
}

/// The bytes of the matrix of a block that is inverted.
pub(super) fn bytes(found: &BlockCurvature) -> usize {
    size_of::<f64>() * found.curvature.decomposed_side().pow(2)
}

/// The next blocks to be inverted together.
pub(super) fn group(found: &mut VecDeque<BlockCurvature>) -> Vec<BlockCurvature> {
    let mut taken = Vec::new();
    let mut sum = 0;
    while let Some(next) = found.pop_front_if(|next| taken.is_empty() || sum + bytes(next) <= TOGETHER) {
        sum += bytes(&next);
        taken.push(next);
    }
    taken
}
