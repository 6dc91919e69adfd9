use burn::tensor::Tensor;

use crate::Block;

/// The inputs and output gradients of a linear layer, for every sample of a batch.
///
/// The per-sample gradient of the block is `g_i = a_iᵀ δ_i`, summed over the `t` positions. Other layers have captures
/// of this form too: see the methods of [`Tape`](crate::Tape).
#[derive(Clone, Debug)]
pub struct Capture {
    /// The block.
    pub block: Block,
    /// `a`: the layer's inputs, `[n, t, rows]`; with a bias the last column is 1.
    pub input: Tensor<3>,
    /// `δ`: the gradient of each sample's loss at the layer's outputs, `[n, t, cols]`.
    pub delta: Tensor<3>,
}

impl Capture {
    /// The per-sample gradients of the block, `[n, rows, cols]`.
    pub fn gradients(&self) -> Tensor<3> {
        let transposed = self.input.clone().swap_dims(1, 2);
        if self.input.dims()[1] == 1 {
            // One position: an outer product, which a broadcast writes at the speed of memory; a product does not.
            transposed * self.delta.clone()
        } else {
            transposed.matmul(self.delta.clone())
        }
    }

    /// Joins two uses of one layer: the positions of both, one after the other.
    pub(crate) fn join(self, other: Self) -> Self {
        Self {
            block: self.block,
            input: Tensor::cat(vec![self.input, other.input], 1),
            delta: Tensor::cat(vec![self.delta, other.delta], 1),
        }
    }
}
