use hyperinf_gradients::Block;

use super::{BlockInverse, Operator, Scaling};

impl BlockInverse {
    /// What is left of an inverse after [`BlockInverse::release`], of another process: `zero` is
    /// [`BlockInverse::is_zero`] there.
    pub(crate) fn released(block: Block, zero: bool) -> Self {
        let (operator, scaling) = (Operator::Nothing, Scaling::default());
        Self { block, operator, scaling, zero, report: None, rows: None }
    }
}
