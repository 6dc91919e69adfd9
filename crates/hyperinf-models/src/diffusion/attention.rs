use burn::module::Module;
use burn::tensor::{Bool, Device, Tensor};
use hyperinf_gradients::Tape;
use hyperinf_ops as ops;

use crate::arch::builder::Builder;
use crate::{AdaptableLinear, ModelError};

/// Where the rows of a batch come from: `n` samples with `K` rows each.
#[derive(Clone, Copy)]
pub(super) struct Rows {
    /// `n`.
    pub(super) samples: usize,
    /// `n · K`.
    pub(super) all: usize,
}

impl Rows {
    /// A layer on rows, with all rows of a sample as its positions: `[n · K, t, d]` through `[n, K · t, d]`.
    pub(super) fn linear(self, layer: &AdaptableLinear, x: Tensor<3>, tape: &mut Tape) -> Tensor<3> {
        let [m, t, d] = x.dims();
        let y = layer.forward(x.reshape([self.samples, m * t / self.samples, d]), tape);
        let [_, _, d] = y.dims();
        y.reshape([m, t, d])
    }
}

/// The text that rows attend to.
pub(super) struct Text {
    /// `[n, u, d]`, or `[n · K, u, d]`.
    pub(super) states: Tensor<3>,
    /// `[n, 1, 1, u]`, or for all rows.
    pub(super) hidden: Tensor<4, Bool>,
}

impl Text {
    /// Every row's own copy.
    pub(super) fn repeated(self, rows: Rows) -> Self {
        let each = rows.all / rows.samples;
        let [n, u, d] = self.states.dims();
        let states = self.states.unsqueeze_dim::<4>(1).expand([n, each, u, d]).reshape([rows.all, u, d]);
        let hidden = self.hidden.expand([n, each, 1, u]).reshape([rows.all, 1, 1, u]);
        Self { states, hidden }
    }
}

/// The sizes of an [`Attention`].
#[derive(Clone, Copy)]
pub(super) struct AttentionSizes {
    /// The width of the rows' states.
    pub(super) width: usize,
    /// The width of the states attended to.
    pub(super) seen: usize,
    /// The number of heads; they divide the width.
    pub(super) heads: usize,
    /// Whether queries, keys and values have biases.
    pub(super) bias: bool,
}

/// Attention to the row itself or to its text. Fields are named as in diffusers' checkpoints.
#[derive(Module, Debug)]
pub(super) struct Attention {
    to_q: AdaptableLinear,
    to_k: AdaptableLinear,
    to_v: AdaptableLinear,
    to_out: AdaptableLinear,
    heads: usize,
}

impl Attention {
    pub(super) fn build(builder: &mut Builder<'_>, name: &str, sizes: AttentionSizes) -> Result<Self, ModelError> {
        let AttentionSizes { width, seen, heads, bias } = sizes;
        let mut linear = |part: &str, inputs, bias| {
            builder.linear(&format!("{name}.{part}"), inputs, width, bias).map(AdaptableLinear::Plain)
        };
        Ok(Self {
            to_q: linear("to_q", width, bias)?,
            to_k: linear("to_k", seen, bias)?,
            to_v: linear("to_v", seen, bias)?,
            to_out: linear("to_out.0", width, true)?,
            heads,
        })
    }

    /// `x`: `[n · K, t, d]`; `seen`: `[g, u, d]`, where each of `g` groups of rows sees the same.
    pub(super) fn forward(
        &self,
        x: Tensor<3>,
        seen: Tensor<3>,
        hidden: Tensor<4, Bool>,
        rows: Rows,
        tape: &mut Tape,
    ) -> Tensor<3> {
        let ([m, t, d], [groups, u, _]) = (x.dims(), seen.dims());
        let (heads, size) = (self.heads, d / self.heads);
        let split = |x: Tensor<3>, length: usize| x.reshape([groups, length, heads, size]).swap_dims(1, 2);
        let query = split(rows.linear(&self.to_q, x, tape), m / groups * t);
        let key = split(rows.linear(&self.to_k, seen.clone(), tape), u);
        let value = split(rows.linear(&self.to_v, seen, tape), u);
        let mixed = ops::attention(query, key, value, hidden, 1.0 / (size as f64).sqrt());
        rows.linear(&self.to_out, mixed.swap_dims(1, 2).reshape([m, t, d]), tape)
    }

    /// Attention of rows to themselves.
    pub(super) fn to_itself(&self, x: Tensor<3>, rows: Rows, tape: &mut Tape) -> Tensor<3> {
        let none = nothing_hidden(&x.device());
        self.forward(x.clone(), x, none, rows, tape)
    }

    /// The linear layers with their names, in the order of use.
    pub(super) fn linears(&mut self) -> [(&'static str, &mut AdaptableLinear); 4] {
        [("to_q", &mut self.to_q), ("to_k", &mut self.to_k), ("to_v", &mut self.to_v), ("to_out.0", &mut self.to_out)]
    }
}

fn nothing_hidden(device: &Device) -> Tensor<4, Bool> {
    Tensor::from_data([[[[false]]]], &device.clone().without_autodiff())
}

/// `x σ(x)`.
pub(super) fn silu<const R: usize>(x: Tensor<R>) -> Tensor<R> {
    ops::swish(x, 1.0)
}
