use burn::module::{Module, Param};
use burn::nn::{Dropout, DropoutConfig, Linear};
use burn::tensor::{Tensor, TensorData};
use hyperinf_gradients::Tape;
use hyperinf_ops as ops;
use rand::SeedableRng;
use rand::rngs::StdRng;

use super::init::Init;
use crate::ModelError;
use crate::diffusion::normals;
use crate::error::check;

/// How the low-rank update is scaled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoraScaling {
    /// `alpha / r` (Hu et al. 2021).
    Standard,
    /// `alpha / √r`, which keeps the size of updates as the rank grows (rsLoRA, Kalajdzievski 2023).
    RankStabilized,
}

/// The settings of an adapter on a linear layer.
///
/// | field | default | purpose | range |
/// |---|---|---|---|
/// | `rank` | 8 | `r`, the inner dimension of the two factors | ≥ 1 |
/// | `alpha` | 16 | numerator of the scale | finite, > 0 |
/// | `scaling` | `Standard` | denominator of the scale: `r` or `√r` | |
/// | `dropout` | 0 | share of the adapter's inputs set to zero in training | 0 ≤ p < 1 |
///
/// A value outside its range is a [`ModelError::Setting`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LoraConfig {
    /// `r`.
    pub rank: usize,
    /// `alpha`.
    pub alpha: f64,
    /// The denominator of the scale.
    pub scaling: LoraScaling,
    /// The share of the adapter's inputs set to zero in training, the others divided by `1 − dropout`.
    pub dropout: f64,
}

impl Default for LoraConfig {
    fn default() -> Self {
        Self { rank: 8, alpha: 16.0, scaling: LoraScaling::Standard, dropout: 0.0 }
    }
}

impl LoraConfig {
    /// The factor of `B(A(x))`.
    pub fn scale(&self) -> f64 {
        match self.scaling {
            LoraScaling::Standard => self.alpha / self.rank as f64,
            LoraScaling::RankStabilized => self.alpha / (self.rank as f64).sqrt(),
        }
    }

    /// Fails if a value is outside its range.
    ///
    /// # Errors
    ///
    /// [`ModelError::Setting`] with the first such value.
    pub fn validate(&self) -> Result<(), ModelError> {
        check(self.rank >= 1, "rank", self.rank as f64, "at least 1")?;
        check(self.alpha.is_finite() && self.alpha > 0.0, "alpha", self.alpha, "positive and finite")?;
        check((0.0..1.0).contains(&self.dropout), "dropout", self.dropout, "at least 0 and below 1")
    }
}

/// A frozen linear layer with a trained low-rank update (Hu et al. 2021): `y = base(x) + scale · B(A(dropout(x)))`.
///
/// The factors are linear layers without bias. On a tape they are blocks with PEFT's names: `{name}.lora_A.weight` is
/// `d_input × r`, `{name}.lora_B.weight` is `r × d_output`. The base is not recorded. `B` starts at zero, so that a new
/// layer computes the same as its base; `A` starts uniform in `±1/√d_input`, as in PEFT; for image generators
/// it is normal of standard deviation `1/r`.
///
/// Dropout draws from the device's generator and is off in `valid()` models.
#[derive(Module, Debug)]
pub struct LoraLinear {
    /// The frozen layer.
    pub base: Linear,
    /// `A`, weight `[d_input, r]`.
    pub lora_a: Linear,
    /// `B`, weight `[r, d_output]`.
    pub lora_b: Linear,
    dropout: Dropout,
    scale: f64,
    #[module(skip)]
    name: String,
    #[module(skip)]
    pub(super) recorded: Recorded,
}

/// The parts of a layer that leave a capture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Recorded {
    /// The factors of its adapter, if it has one.
    pub(crate) factors: bool,
    /// Its own weight and bias.
    pub(crate) weight: bool,
}

impl LoraLinear {
    /// Freezes a layer and adds an adapter to it.
    ///
    /// `name` is the layer's name in the model, the stem of the names of its two blocks.
    ///
    /// # Errors
    ///
    /// If the configuration is invalid.
    pub fn new(base: Linear, name: impl Into<String>, config: &LoraConfig, seed: u64) -> Result<Self, ModelError> {
        config.validate()?;
        let base = base.no_grad();
        let weight = base.weight.val();
        let [d_input, d_output] = weight.dims();
        let device = weight.device();
        let mut init = Init::new(seed, &device);
        Ok(Self {
            lora_a: init.linear_without_bias(d_input, config.rank),
            lora_b: Linear { weight: Param::from_tensor(Tensor::zeros([config.rank, d_output], &device)), bias: None },
            base,
            dropout: DropoutConfig::new(config.dropout).init(),
            scale: config.scale(),
            name: name.into(),
            recorded: Recorded { factors: true, weight: false },
        })
    }

    /// With `A` normal of standard deviation `1/r`.
    pub(super) fn gaussian(mut self, rank: usize, seed: u64) -> Self {
        let weight = self.lora_a.weight.val();
        let ([d_input, r], device) = (weight.dims(), weight.device());
        let mut values = normals(&mut StdRng::seed_from_u64(seed), d_input * r);
        values.iter_mut().for_each(|value| *value /= rank as f32);
        self.lora_a.weight = Param::from_data(TensorData::new(values, [d_input, r]), &device);
        self
    }

    /// Applies the layer; both factors go through the tape.
    ///
    /// # Shapes
    ///
    /// `input`: `[n, d_input]` or `[n, t, d_input]`; output: the same with `d_output`.
    ///
    /// # Panics
    ///
    /// If the rank is neither 2 nor 3, or the last dimension is not `d_input`.
    pub fn forward<const R: usize>(&self, input: Tensor<R>, tape: &mut Tape) -> Tensor<R> {
        assert!(R == 2 || R == 3, "LoraLinear::forward takes inputs of rank 2 or 3, not {R}");
        let mut dims = input.dims();
        // The tape needs samples and positions apart, as `[n, t, d_input]`.
        let t = if R == 3 { dims[1] } else { 1 };
        let input = input.reshape([dims[0], t, dims[R - 1]]);
        let base = if self.recorded.weight && tape.is_recording() {
            tape.linear(&format!("{}.base_layer.weight", self.name), &self.base, input.clone())
        } else {
            ops::linear(&self.base, input.clone())
        };
        // The input does not show whether this is training: a recording tape makes it differentiable in `valid()`
        // models too.
        let training = self.lora_a.weight.val().device().is_autodiff();
        let input = if training { self.dropout.forward(input) } else { input };
        let inner = self.factor("lora_A", &self.lora_a, input, tape);
        // Scaling before the second factor gives the same sums and gradients on `r` values instead of `d_output`.
        let update = self.factor("lora_B", &self.lora_b, inner.mul_scalar(self.scale), tape);
        dims[R - 1] = base.dims()[2];
        ops::add(base, update).reshape(dims)
    }

    /// Never drops inputs again.
    pub(crate) fn stop_dropout(&mut self) {
        self.dropout = DropoutConfig::new(0.0).init();
    }

    fn factor(&self, which: &str, layer: &Linear, input: Tensor<3>, tape: &mut Tape) -> Tensor<3> {
        if self.recorded.factors && tape.is_recording() {
            tape.linear(&format!("{}.{which}.weight", self.name), layer, input)
        } else {
            ops::linear(layer, input)
        }
    }

    /// The layer's name, the stem of the names of its two blocks.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The factor of `B(A(x))`.
    pub fn scale(&self) -> f64 {
        self.scale
    }

    /// Adds `scale · A B` to the base weight.
    #[must_use]
    pub fn merge(self) -> MergedLora {
        let update = self.update();
        MergedLora { layer: self.with_base_plus(update) }
    }

    fn update(&self) -> Tensor<2> {
        let (a, b) = (self.lora_a.weight.val().detach(), self.lora_b.weight.val().detach());
        a.matmul(b).mul_scalar(self.scale)
    }

    fn with_base_plus(mut self, update: Tensor<2>) -> Self {
        self.base.weight = self.base.weight.map(|weight| weight + update).no_grad();
        self
    }
}

/// A [`LoraLinear`] whose update is merged into its base weight: one product instead of three, and no blocks.
///
/// It is a separate type, so that nothing can be merged twice.
#[derive(Module, Debug)]
pub struct MergedLora {
    layer: LoraLinear,
}

impl MergedLora {
    /// The plain layer with the weight `W + scale · A B`.
    pub fn linear(&self) -> &Linear {
        &self.layer.base
    }

    /// Applies the layer. The result is that of [`LoraLinear::forward`] without dropout, up to rounding.
    ///
    /// # Panics
    ///
    /// If the last dimension is not `d_input`.
    pub fn forward<const R: usize>(&self, input: Tensor<R>) -> Tensor<R> {
        self.layer.base.forward(input)
    }

    /// Subtracts the update again. The result is the layer that was merged, up to rounding of its base weight.
    #[must_use]
    pub fn unmerge(self) -> LoraLinear {
        let update = self.layer.update();
        self.layer.with_base_plus(update.neg())
    }
}
