use burn::nn::Linear;
use burn::tensor::{Tensor, assert_shape};

use crate::{Block, GradientError};

/// What a linear layer saw and what came back to it, for every sample of a batch.
///
/// The per-sample gradient of the block is `g_i = a_iᵀ δ_i`, summed over the `t` positions.
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
            // One position: an outer product, which a broadcast writes at the memory's speed and a product does not.
            transposed * self.delta.clone()
        } else {
            transposed.matmul(self.delta.clone())
        }
    }

    /// Joins two uses of one layer: positions of both, side by side.
    fn join(self, other: Self) -> Self {
        Self {
            block: self.block,
            input: Tensor::cat(vec![self.input, other.input], 1),
            delta: Tensor::cat(vec![self.delta, other.delta], 1),
        }
    }
}

/// One use of a layer: its input, and a zero added to its output that receives `δ` from the backward pass.
struct Use {
    block: Block,
    input: Tensor<3>,
    leaf: Tensor<3>,
}

/// Runs linear layers and, when recording, notes what went in and what came out.
///
/// A zero tensor is added to each recorded layer's output. After one backward pass of the *summed* loss its
/// gradient is exactly `δ_i = ∂L_i/∂output` of every sample, because sample `j`'s loss does not depend on sample
/// `i`'s outputs. This holds only for models whose samples do not mix: no batch normalisation in training mode.
///
/// The layer's own parameters are taken as constants, so a model from `module.valid()` or on a plain device costs
/// no weight gradients.
#[derive(Default)]
pub struct Tape {
    recording: bool,
    uses: Vec<Use>,
}

impl Tape {
    /// A tape that passes through: the forward pass is the model's own.
    pub fn off() -> Self {
        Self::default()
    }

    /// A tape that records; [`crate::capture`] makes one for each batch.
    pub(crate) fn recording() -> Self {
        Self { recording: true, uses: Vec::new() }
    }

    /// Whether layers are being recorded.
    pub fn is_recording(&self) -> bool {
        self.recording
    }

    /// Applies a linear layer under a name.
    ///
    /// Using one name twice with the same layer (a shared layer) adds the gradients of both uses.
    ///
    /// # Shapes
    ///
    /// `input`: `[n, d_input]` or `[n, t, d_input]`; output: `[n, d_output]` or `[n, t, d_output]`. The first
    /// dimension is the sample.
    ///
    /// # Panics
    ///
    /// If the rank is neither 2 nor 3, or the last dimension is not the layer's `d_input`.
    pub fn linear<const R: usize>(&mut self, name: &str, layer: &Linear, input: Tensor<R>) -> Tensor<R> {
        let weight = layer.weight.val();
        let [d_input, d_output] = weight.dims();
        assert_shape!(input, [.., d_input]);
        let bias = layer.bias.as_ref().map(|b| b.val());
        if !self.recording {
            return layer.forward(input);
        }
        assert!(R == 2 || R == 3, "Tape::linear takes inputs of rank 2 or 3, not {R}");
        let dims = input.dims();
        let (n, t) = (dims[0], if R == 3 { dims[1] } else { 1 });

        let has_bias = bias.is_some();
        let output = plain_linear(input.clone().reshape([n * t, d_input]), weight, bias);
        // One zero, seen as many: it is never written out.
        let leaf = Tensor::<3>::zeros([1, 1, 1], (&output.device().without_autodiff(), output.dtype()))
            .expand([n, t, d_output])
            .autodiff()
            .require_grad();
        let output = output.reshape([n, t, d_output]).autodiff() + leaf.clone();

        let mut seen = input.without_autodiff().reshape([n, t, d_input]);
        if has_bias {
            let ones = Tensor::ones([n, t, 1], (&seen.device(), seen.dtype()));
            seen = Tensor::cat(vec![seen, ones], 2);
        }
        let rows = d_input + usize::from(has_bias);
        self.uses.push(Use { block: Block::new(name, rows, d_output), input: seen, leaf });
        let mut shape = dims;
        shape[R - 1] = d_output;
        output.reshape(shape)
    }

    /// Back-propagates the sum `[1]` of `n` samples' losses and collects one capture per block, in order of first use.
    pub(crate) fn finish(self, sum: Tensor<1>, n: usize) -> Result<Vec<Capture>, GradientError> {
        if self.uses.is_empty() {
            return Err(GradientError::NothingRecorded);
        }
        if !sum.is_tracked() {
            return Err(GradientError::Unreached { block: self.uses[0].block.name.clone() });
        }
        let mut grads = sum.backward();
        let mut captures: Vec<Capture> = Vec::new();
        for Use { block, input, leaf } in self.uses {
            let [samples, _, _] = input.dims();
            if samples != n {
                return Err(GradientError::SampleCount { block: block.name, samples, losses: n });
            }
            let delta =
                leaf.grad_remove(&mut grads).ok_or_else(|| GradientError::Unreached { block: block.name.clone() })?;
            let capture = Capture { block, input, delta };
            match captures.iter().position(|c| c.block.name == capture.block.name) {
                None => captures.push(capture),
                Some(first) if captures[first].block == capture.block => {
                    let earlier = captures.remove(first);
                    captures.insert(first, earlier.join(capture));
                }
                Some(first) => {
                    let Block { rows: first_rows, cols: first_cols, .. } = captures[first].block;
                    let Block { name, rows, cols } = capture.block;
                    return Err(GradientError::BlockShape { block: name, first_rows, first_cols, rows, cols });
                }
            }
        }
        Ok(captures)
    }
}

/// `x W + b` with the parameters as constants, as one two-dimensional product: faster than a batch of small ones.
fn plain_linear(x: Tensor<2>, weight: Tensor<2>, bias: Option<Tensor<1>>) -> Tensor<2> {
    let product = x.matmul(weight.without_autodiff());
    match bias {
        Some(bias) => product + bias.without_autodiff().unsqueeze(),
        None => product,
    }
}
