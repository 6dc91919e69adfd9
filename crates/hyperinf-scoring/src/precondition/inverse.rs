use burn::tensor::Tensor;
use hyperinf_gradients::Block;

use super::{BlockInverse, Operator, Scaling};
use crate::ScoreError;

impl BlockInverse {
    /// What is left of an inverse after [`BlockInverse::release`], of another process: `zero` is
    /// [`BlockInverse::is_zero`] there.
    pub(crate) fn released(block: Block, zero: bool) -> Self {
        let (operator, scaling) = (Operator::Nothing, Scaling::default());
        Self { block, operator, scaling, zero, report: None, rows: None }
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
