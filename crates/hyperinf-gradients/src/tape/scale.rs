use burn::module::{Module, Param};
use burn::nn::{LayerNorm, RmsNorm};
use burn::tensor::{Tensor, assert_shape};

use super::{Tape, units};
use crate::Block;

impl Tape {
    /// Records a vector that a layer added to its outputs: the bias alone of a linear layer, as BitFit trains it.
    ///
    /// The block is `[1, d]`. Take a model from `module.valid()`, so that no gradients of the layer's weights are
    /// computed.
    ///
    /// ```
    /// # use hyperinf_gradients::Tape;
    /// # use burn::{nn::Linear, tensor::Tensor};
    /// fn forward(layer: &Linear, x: Tensor<2>, tape: &mut Tape) -> Tensor<2> {
    ///     tape.bias("layer.bias", layer.forward(x))
    /// }
    /// ```
    ///
    /// # Shapes
    ///
    /// `output`: `[n, .., d]`, which is also the shape returned.
    pub fn bias<const R: usize>(&mut self, name: &str, output: Tensor<R>) -> Tensor<R> {
        if !self.recording {
            return output;
        }
        let dims = output.dims();
        let output = positions(output);
        let [n, t, d] = output.dims();
        // The vector is the layer's own affair: where it is moved from does not show here.
        let output = match self.movement(name, &[]) {
            Some(by) => output + by.unsqueeze(),
            None => output,
        };
        let read = move |delta: Tensor<3>| (units([n, 1, t], &delta), delta);
        self.note(Block::new(name, 1, d), output, read).reshape(dims)
    }

    /// Applies a layer normalisation. The block is `[1, d]`, its gain; with a bias `[2, d]`, the bias in the last row.
    ///
    /// # Shapes
    ///
    /// `input`: `[n, .., d]`, which is also the output's.
    ///
    /// # Panics
    ///
    /// If the last dimension is not the layer's.
    pub fn layer_norm<const R: usize>(&mut self, name: &str, layer: &LayerNorm, input: Tensor<R>) -> Tensor<R> {
        if !self.recording {
            return layer.forward(input);
        }
        let mut plain = layer.clone();
        plain.gamma = ones(&layer.gamma.val(), &input);
        plain.beta = None;
        self.scale(name, plain.forward(input), layer.gamma.val(), layer.beta.as_ref().map(|beta| beta.val()))
    }

    /// Applies a normalisation by the root mean square. The block is `[1, d]`, its gain.
    ///
    /// # Shapes
    ///
    /// `input`: `[n, .., d]`, which is also the output's.
    ///
    /// # Panics
    ///
    /// If the last dimension is not the layer's.
    pub fn rms_norm<const R: usize>(&mut self, name: &str, layer: &RmsNorm, input: Tensor<R>) -> Tensor<R> {
        if !self.recording {
            return layer.forward(input);
        }
        let plain = RmsNorm { gamma: ones(&layer.gamma.val(), &input), epsilon: layer.epsilon };
        self.scale(name, plain.forward(input), layer.gamma.val(), None)
    }

    /// `x ∘ gain + shift`, feature by feature: the end of every normalisation, for norms of the caller's own.
    ///
    /// The block is `[1, d]`, the gain; with a shift `[2, d]`, the shift in the last row. Its captures have `x ∘ δ` as
    /// `δ` and `(1, 0)` as `a` at each position, and once more as many positions for the shift, with `δ` and `(0, 1)`.
    ///
    /// # Shapes
    ///
    /// `x`: `[n, .., d]`, which is also the output's; `gain` and `shift`: `[d]`.
    ///
    /// # Panics
    ///
    /// If the last dimension is not the gain's and the shift's.
    pub fn scale<const R: usize>(
        &mut self,
        name: &str,
        x: Tensor<R>,
        gain: Tensor<1>,
        shift: Option<Tensor<1>>,
    ) -> Tensor<R> {
        let [d] = gain.dims();
        assert_shape!(x, [.., d]);
        if let Some(shift) = &shift {
            assert_shape!(shift, [d]);
        }
        if !self.recording {
            let scaled = x * gain.unsqueeze();
            return shift.map_or_else(|| scaled.clone(), |shift| scaled.clone() + shift.unsqueeze());
        }
        let (dims, rows) = (x.dims(), 1 + usize::from(shift.is_some()));
        let x = positions(x);
        let seen = x.clone().without_autodiff();
        let parts: Vec<Tensor<1>> = std::iter::once(gain.clone()).chain(shift.clone()).collect();
        let mut vectors: Vec<Tensor<1>> = parts.iter().map(|part| part.clone().without_autodiff()).collect();
        if let Some(by) = self.movement(name, &parts) {
            let rows = by.split(1, 0).into_iter().map(|row| row.squeeze_dim::<1>(0));
            vectors = vectors.into_iter().zip(rows).map(|(vector, row)| vector + row).collect();
        }
        let mut vectors = vectors.into_iter().map(|vector| vector.unsqueeze::<3>());
        let mut output = vectors.next().map_or_else(|| x.clone(), |gain| x.clone() * gain);
        if let Some(shift) = vectors.next() {
            output = output + shift;
        }
        let [n, t, _] = output.dims();
        let read = move |delta: Tensor<3>| {
            let scaled = seen * delta.clone();
            let delta = if rows == 2 { Tensor::cat(vec![scaled, delta], 1) } else { scaled };
            (units([n, rows, t], &delta), delta)
        };
        self.note(Block::new(name, rows, d), output, read).reshape(dims)
    }
}

/// `[n, .., d]` as `[n, t, d]`.
fn positions<const R: usize>(x: Tensor<R>) -> Tensor<3> {
    let dims = x.dims();
    let (n, d) = (dims[0], dims[R - 1]);
    let t = dims[1..R - 1].iter().product::<usize>();
    x.reshape([n, t, d])
}

/// A gain of ones, where the input is.
fn ones<const R: usize>(gain: &Tensor<1>, input: &Tensor<R>) -> Param<Tensor<1>> {
    Param::from_tensor(Tensor::ones(gain.dims(), (&input.device(), gain.dtype()))).no_grad()
}
