use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{Gradients as Backward, Tensor};

use crate::{Block, GradientError, Gradients};

/// Per-sample gradients of any Burn module, one forward and backward pass per sample.
///
/// Works for every layer that Burn can differentiate, and is slow: the fallback for models without a tape, and the
/// oracle that the tape is tested against. Every floating-point parameter that requires a gradient is a block
/// under its path (`layers.0.weight`): a vector is `[1, d]`, a matrix `[rows, cols]`, a tensor of higher rank keeps
/// its last dimension as columns. A parameter that a sample does not use has a zero gradient.
///
/// `loss(module, i)` is the scalar loss `[1]` of sample `i`; the module must be on an autodiff device.
///
/// # Errors
///
/// If `samples` is 0, the module has no parameter that requires a gradient, or a loss depends on no parameter.
pub fn gradients_looped<M: Module>(
    module: &M,
    samples: usize,
    loss: impl Fn(&M, usize) -> Tensor<1>,
) -> Result<Gradients, GradientError> {
    if samples == 0 {
        return Err(GradientError::Empty { what: "samples" });
    }
    let mut layout = Vec::new();
    let mut rows: Vec<Vec<Tensor<2>>> = Vec::new();
    for sample in 0..samples {
        let value = loss(module, sample);
        if !value.is_tracked() {
            return Err(GradientError::Empty { what: "parameters that require a gradient and reach the loss" });
        }
        let mut collector =
            Collector { backward: value.backward(), path: Vec::new(), blocks: Vec::new(), values: Vec::new() };
        module.visit(&mut collector);
        if layout.is_empty() {
            layout = collector.blocks;
            rows = vec![Vec::with_capacity(samples); layout.len()];
        }
        for (block, value) in rows.iter_mut().zip(collector.values) {
            block.push(value);
        }
    }
    if layout.is_empty() {
        return Err(GradientError::Empty { what: "parameters that require a gradient" });
    }
    Gradients::new(layout, rows.into_iter().map(|block| Tensor::stack(block, 0)).collect())
}

/// Reads the gradient of every parameter that requires one.
struct Collector {
    backward: Backward,
    path: Vec<String>,
    blocks: Vec<Block>,
    values: Vec<Tensor<2>>,
}

impl ModuleVisitor for Collector {
    fn enter_module(&mut self, name: &str, _container_type: &str) {
        self.path.push(name.to_string());
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.pop();
    }

    fn visit_float<const R: usize>(&mut self, param: &Param<Tensor<R>>) {
        let value = param.val();
        if !value.is_require_grad() {
            return;
        }
        let dims = value.dims();
        let cols = dims[R - 1];
        let rows = dims[..R - 1].iter().product();
        let gradient =
            value.grad_remove(&mut self.backward).unwrap_or_else(|| value.clone().without_autodiff().zeros_like());
        self.blocks.push(Block::new(self.path.join("."), rows, cols));
        self.values.push(gradient.reshape([rows, cols]));
    }
}
