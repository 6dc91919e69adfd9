mod conv;
mod embedding;
mod moved;
mod scale;

use std::collections::BTreeMap;

use burn::module::ParamId;
use burn::nn::Linear;
use burn::tensor::{DType, Tensor, assert_shape};
use hyperinf_linalg::has_f64_functions;
use hyperinf_ops::{affine, with_leaf};

use self::moved::Parameters;
use crate::{Block, Capture, GradientError};

/// One use of a layer: the zero added to its output, and how `a` and `δ` follow from the gradient of that zero.
struct Use {
    block: Block,
    samples: usize,
    leaf: Tensor<3>,
    read: Box<dyn FnOnce(Tensor<3>) -> Read + Send>,
}

/// `a`, `[n, t, rows]`, and `δ`, `[n, t, cols]`.
type Read = (Tensor<3>, Tensor<3>);

/// Applies layers and, when recording, keeps their inputs and obtains their output gradients.
///
/// A zero tensor is added to each recorded layer's output. After one backward pass of the *summed* loss its
/// gradient is exactly `δ_i = ∂L_i/∂output` of every sample, because sample `j`'s loss does not depend on sample
/// `i`'s outputs. This holds only for models whose samples do not mix: no batch normalisation in training mode.
///
/// The layer's own parameters are constants, so a model from `module.valid()` or on a plain device costs no weight
/// gradients.
///
/// | method | layer | block, rows × cols |
/// |---|---|---|
/// | [`linear`](Self::linear) | linear | inputs (+ 1 with a bias) × outputs |
/// | [`bias`](Self::bias) | an added vector alone (BitFit) | 1 × outputs |
/// | [`layer_norm`](Self::layer_norm), [`rms_norm`](Self::rms_norm), [`scale`](Self::scale) | gain and shift | 1 (2 with a shift) × features |
/// | [`embedding`](Self::embedding), [`embedding_rows`](Self::embedding_rows) | table of vectors | tokens × features |
/// | [`conv1d`](Self::conv1d), [`conv2d`](Self::conv2d) | convolution | inputs per group · kernel (+ 1 with a bias) × output channels |
#[derive(Default)]
pub struct Tape {
    recording: bool,
    /// Parts of each sample's positions whose gradients are kept apart; 0 and 1 are the same.
    parts: usize,
    /// The parameters that layers are applied with.
    parameters: Parameters,
    /// A block whose parts were to be kept apart where parameters are measured or moved.
    stacked: Option<String>,
    /// The parameters of linear layers by their blocks' names.
    ids: BTreeMap<String, Vec<ParamId>>,
    uses: Vec<Use>,
}

impl Tape {
    /// A tape that passes through: the forward pass is the model's own.
    pub fn off() -> Self {
        Self::default()
    }

    /// A tape that records; [`crate::capture`] makes one for each batch.
    pub(crate) fn recording() -> Self {
        Self { recording: true, ..Self::default() }
    }

    /// Whether layers are being recorded.
    pub fn is_recording(&self) -> bool {
        self.recording
    }

    /// Keeps the gradients of `parts` equal parts of each sample's positions apart, from here on and for linear layers
    /// alone: a block of `rows × cols` becomes `parts · rows × cols` or `rows × parts · cols`, whichever stacks the
    /// smaller side. The part of the positions `[n, t, d]` is their outer index: the first `t / parts` are part 0.
    ///
    /// The inner product of two stacked gradients is the sum of the products of their parts.
    pub fn stack(&mut self, parts: usize) {
        self.parts = parts;
    }

    /// Applies a linear layer under a name.
    ///
    /// Using one name twice with the same layer (a shared layer) adds the gradients of both uses.
    ///
    /// ```
    /// use burn::nn::{Linear, LinearConfig};
    /// use burn::tensor::{Tensor, activation::relu};
    /// use hyperinf_gradients::Tape;
    ///
    /// struct Network {
    ///     first: Linear,
    ///     second: Linear,
    /// }
    ///
    /// impl Network {
    ///     fn forward(&self, x: Tensor<2>, tape: &mut Tape) -> Tensor<2> {
    ///         let hidden = relu(tape.linear("first", &self.first, x));
    ///         tape.linear("second", &self.second, hidden)
    ///     }
    /// }
    ///
    /// # let (_, device) = hyperinf_tests::devices().remove(0);
    /// let network =
    ///     Network { first: LinearConfig::new(3, 4).init(&device), second: LinearConfig::new(4, 2).init(&device) };
    /// // A tape that is off passes through: the same code predicts and records.
    /// let outputs = network.forward(Tensor::ones([5, 3], &device), &mut Tape::off());
    /// assert_eq!(outputs.dims(), [5, 2]);
    /// ```
    ///
    /// # Shapes
    ///
    /// `input`: `[n, d_input]` or `[n, t, d_input]`; output: `[n, d_output]` or `[n, t, d_output]`. The first
    /// dimension is the sample.
    ///
    /// # Panics
    ///
    /// If the rank is neither 2 nor 3, the last dimension is not the layer's `d_input`, or the positions do not divide
    /// into the parts of [`stack`](Self::stack).
    pub fn linear<const R: usize>(&mut self, name: &str, layer: &Linear, input: Tensor<R>) -> Tensor<R> {
        let weight = layer.weight.val();
        let [d_input, d_output] = weight.dims();
        assert_shape!(input, [.., d_input]);
        let bias = layer.bias.as_ref().map(|b| b.val());
        let (dims, mut shape) = (input.dims(), input.dims());
        shape[R - 1] = d_output;
        if !self.recording {
            if dims.contains(&0) {
                return layer.forward(input);
            }
            let rows = dims[..R - 1].iter().product::<usize>();
            return affine(input.reshape([rows, d_input]), weight, bias).reshape(shape);
        }
        assert!(R == 2 || R == 3, "Tape::linear takes inputs of rank 2 or 3, not {R}");
        self.note_parameters(name, layer);
        let (n, t) = (dims[0], if R == 3 { dims[1] } else { 1 });

        let has_bias = bias.is_some();
        let output = self.moved_linear(name, input.clone().reshape([n * t, d_input]), weight, bias);
        let rows = d_input + usize::from(has_bias);
        let mut seen = input.without_autodiff().reshape([n, t, d_input]);
        let parts = self.parts.max(1);
        assert!(t.is_multiple_of(parts), "Tape::linear: {t} positions for {parts} parts");
        let (of_rows, of_cols) = if rows < d_output { (parts, 1) } else { (1, parts) };
        let block = Block::new(name, of_rows * rows, of_cols * d_output);
        let output = self.note(block, output.reshape([n, t, d_output]), move |delta| {
            if has_bias {
                seen = with_ones(seen);
            }
            (apart(seen, of_rows), apart(delta, of_cols))
        });
        output.reshape(shape)
    }

    /// Adds a zero to outputs `[n, t, cols]`; `read` turns its gradient, of that shape, into `a` and `δ`.
    fn note(
        &mut self,
        block: Block,
        output: Tensor<3>,
        read: impl FnOnce(Tensor<3>) -> Read + Send + 'static,
    ) -> Tensor<3> {
        let shape = output.dims();
        // One zero, expanded: the full tensor is never written.
        let place = (&output.device().without_autodiff(), output.dtype());
        let zeros = if shape.contains(&0) {
            Tensor::zeros(shape, place)
        } else {
            Tensor::<3>::zeros([1, 1, 1], place).expand(shape)
        };
        let leaf = zeros.autodiff().require_grad();
        self.uses.push(Use { block, samples: shape[0], leaf: leaf.clone(), read: Box::new(read) });
        with_leaf(output.autodiff(), leaf)
    }

    /// Back-propagates the sum `[1]` of `n` samples' losses and collects one capture per block, in order of first use.
    pub(crate) fn finish(self, sum: Tensor<1>, n: usize) -> Result<Vec<Capture>, GradientError> {
        if self.uses.is_empty() {
            return Err(GradientError::NothingRecorded);
        }
        if !sum.is_tracked() {
            return Err(GradientError::Unreached { block: self.uses[0].block.name.clone() });
        }
        if sum.dtype() == DType::F64 && !has_f64_functions(&sum.device())? {
            return Err(GradientError::NoF64Functions { device: format!("{:?}", sum.device()) });
        }
        let mut grads = sum.backward();
        let mut captures: Vec<Capture> = Vec::new();
        for Use { block, samples, leaf, read } in self.uses {
            if samples != n {
                return Err(GradientError::SampleCount { block: block.name, samples, losses: n });
            }
            let delta =
                leaf.grad_remove(&mut grads).ok_or_else(|| GradientError::Unreached { block: block.name.clone() })?;
            let (input, delta) = read(delta);
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
    affine(x, weight.without_autodiff(), bias.map(|bias| bias.without_autodiff()))
}

/// `[n, t, d]` with a last column of ones, `[n, t, d + 1]`.
fn with_ones(seen: Tensor<3>) -> Tensor<3> {
    let [n, t, _] = seen.dims();
    let ones = Tensor::ones([n, t, 1], (&seen.device(), seen.dtype()));
    Tensor::cat(vec![seen, ones], 2)
}

/// `[n, t, d]` to `[n, t, parts · d]`: the positions of each part keep their values in columns of their own.
fn apart(x: Tensor<3>, parts: usize) -> Tensor<3> {
    let [n, t, d] = x.dims();
    if parts == 1 || n * t == 0 {
        return if parts == 1 { x } else { Tensor::zeros([n, t, parts * d], (&x.device(), x.dtype())) };
    }
    let own = Tensor::<2>::eye(parts, &x.device()).cast(x.dtype()).reshape([1, parts, 1, parts, 1]);
    (x.reshape([n, parts, t / parts, 1, d]) * own).reshape([n, t, parts * d])
}

/// The inputs of a capture whose `δ` holds the gradients of one row after the other, at `t` positions each: `t` times
/// the first unit vector, `t` times the second and so on, `[n, rows · t, rows]`.
fn units([n, rows, t]: [usize; 3], like: &Tensor<3>) -> Tensor<3> {
    if n * t == 0 {
        return Tensor::zeros([n, rows * t, rows], (&like.device(), like.dtype()));
    }
    let identity = Tensor::<2>::eye(rows, &like.device()).cast(like.dtype());
    identity.reshape([1, rows, 1, rows]).expand([n, rows, t, rows]).reshape([n, rows * t, rows])
}
