use burn::module::Param;
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::{Embedding, LayerNorm, LayerNormConfig, Linear, PaddingConfig2d};
use burn::tensor::{Device, Tensor, TensorData};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::ModelError;
use crate::files::layout::transposed;

/// Returns the weight with a name and shape; linear weights are `[d_input, d_output]`.
pub(crate) type WeightSource<'a> = dyn FnMut(&str, &[usize]) -> Result<TensorData, ModelError> + 'a;

/// Builds the parts of a model, one weight after the other, so that no weight is held twice.
pub(crate) struct Builder<'a> {
    source: &'a mut WeightSource<'a>,
    device: &'a Device,
}

impl<'a> Builder<'a> {
    pub(crate) fn new(source: &'a mut WeightSource<'a>, device: &'a Device) -> Self {
        Self { source, device }
    }

    pub(crate) fn vector(&mut self, name: &str, length: usize) -> Result<Param<Tensor<1>>, ModelError> {
        self.weight(name, [length])
    }

    pub(crate) fn embedding(&mut self, name: &str, shape: [usize; 2]) -> Result<Embedding, ModelError> {
        Ok(Embedding { weight: self.weight(&format!("{name}.weight"), shape)? })
    }

    pub(crate) fn linear(
        &mut self,
        name: &str,
        d_input: usize,
        d_output: usize,
        bias: bool,
    ) -> Result<Linear, ModelError> {
        let weight = self.weight(&format!("{name}.weight"), [d_input, d_output])?;
        let bias = if bias { Some(self.vector(&format!("{name}.bias"), d_output)?) } else { None };
        Ok(Linear { weight, bias })
    }

    /// A matrix that is not of a linear layer.
    pub(crate) fn table(&mut self, name: &str, shape: [usize; 2]) -> Result<Param<Tensor<2>>, ModelError> {
        self.weight(name, shape)
    }

    /// A convolution whose windows do not overlap, as a linear layer on patches whose values are ordered by channel, row
    /// and column; the weight is `[d_output, channels, side, side]`.
    pub(crate) fn patches(&mut self, name: &str, [d_output, channels, side]: [usize; 3]) -> Result<Linear, ModelError> {
        let full = format!("{name}.weight");
        let (shape, d_input) = ([d_output, channels, side, side], channels * side * side);
        let data = (self.source)(&full, &shape)?;
        let found = data.shape().to_vec();
        if found != shape {
            return Err(ModelError::WeightShape { name: full, found, expected: shape.to_vec() });
        }
        let values: Vec<f32> = data.iter().collect();
        let data = TensorData::new(transposed(&values, d_output, d_input), [d_input, d_output]);
        let weight = Param::from_data(data, self.device);
        Ok(Linear { weight, bias: Some(self.vector(&format!("{name}.bias"), d_output)?) })
    }

    /// A convolution of `side × side` from `inputs` to `outputs` channels, padded to keep the size before the stride.
    pub(crate) fn convolution(
        &mut self,
        name: &str,
        [inputs, outputs, side]: [usize; 3],
        stride: usize,
    ) -> Result<Conv2d, ModelError> {
        let padding = side / 2;
        let config = Conv2dConfig::new([1, 1], [side, side])
            .with_stride([stride, stride])
            .with_padding(PaddingConfig2d::Explicit(padding, padding, padding, padding));
        let mut layer = config.init(self.device);
        layer.weight = self.weight(&format!("{name}.weight"), [outputs, inputs, side, side])?;
        layer.bias = Some(self.vector(&format!("{name}.bias"), outputs)?);
        Ok(layer)
    }

    /// A layer normalisation with gain and bias.
    pub(crate) fn layer_norm(&mut self, name: &str, width: usize, epsilon: f64) -> Result<LayerNorm, ModelError> {
        let mut layer = LayerNormConfig::new(1).with_epsilon(epsilon).init(self.device);
        layer.gamma = self.vector(&format!("{name}.weight"), width)?;
        layer.beta = Some(self.vector(&format!("{name}.bias"), width)?);
        Ok(layer)
    }

    fn weight<const R: usize>(&mut self, name: &str, shape: [usize; R]) -> Result<Param<Tensor<R>>, ModelError> {
        let data = (self.source)(name, &shape)?;
        let found = data.shape().to_vec();
        if found != shape {
            return Err(ModelError::WeightShape { name: name.to_owned(), found, expected: shape.to_vec() });
        }
        Ok(Param::from_data(data, self.device))
    }
}

/// Untrained weights, drawn on the host from a seed: gains 1, biases 0, the embedding uniform in `±0.1`, linear weights
/// uniform in `±1/√d_input`.
pub(crate) fn untrained(seed: u64) -> impl FnMut(&str, &[usize]) -> Result<TensorData, ModelError> {
    let mut rng = StdRng::seed_from_u64(seed);
    move |name, shape| {
        let count = shape.iter().product();
        let inputs = match shape {
            [rows, _] => Some(*rows),
            [_, channels, height, width] => Some(channels * height * width),
            _ => None,
        };
        let values: Vec<f32> = match inputs {
            Some(inputs) => {
                let bound = if name.ends_with("embed_tokens.weight") { 0.1 } else { 1.0 / (inputs as f32).sqrt() };
                (0..count).map(|_| bound * (2.0 * rng.random::<f32>() - 1.0)).collect()
            }
            _ => vec![if name.ends_with(".bias") { 0.0 } else { 1.0 }; count],
        };
        Ok(TensorData::new(values, shape.to_vec()))
    }
}
