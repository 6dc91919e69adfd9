use burn::module::{Module, Param};
use burn::nn::Linear;
use burn::tensor::activation::{log_softmax, relu};
use burn::tensor::{DType, Device, Tensor, TensorData};
use hyperinf_gradients::{Family, Likelihood, Tape, Task};

use super::{CLASSES, Images, PIXELS, Perceptron};

/// A perceptron as a Burn module, whose gradients can be taken.
#[derive(Module, Debug)]
pub struct PerceptronModule {
    /// The layers, first to last; their blocks are named by index, from `"0"`.
    pub layers: Vec<Linear>,
}

/// Images on a device.
#[derive(Clone, Debug)]
pub struct Labelled {
    /// Pixels, `[n, 64]`.
    pub pixels: Tensor<2>,
    /// Labels as rows of the identity, `[n, 10]`.
    pub labels: Tensor<2>,
}

impl Perceptron {
    /// The same model as a Burn module.
    pub fn module(&self, device: &Device, dtype: DType) -> PerceptronModule {
        let layers = self.layers.iter().map(|layer| {
            let (rows, cols) = (layer.inputs, layer.outputs);
            let (weight, bias) = layer.weights.split_at(rows * cols);
            let weight = TensorData::new(weight.to_vec(), [rows, cols]);
            let bias = TensorData::new(bias.to_vec(), [cols]);
            Linear {
                weight: Param::from_tensor(Tensor::from_data(weight, (device, dtype))),
                bias: Some(Param::from_tensor(Tensor::from_data(bias, (device, dtype)))),
            }
        });
        PerceptronModule { layers: layers.collect() }
    }
}

impl PerceptronModule {
    /// The same model in another type.
    #[must_use]
    pub fn cast(&self, dtype: DType) -> Self {
        let layers = self.layers.iter().map(|layer| Linear {
            weight: Param::from_tensor(layer.weight.val().cast(dtype)),
            bias: layer.bias.as_ref().map(|bias| Param::from_tensor(bias.val().cast(dtype))),
        });
        Self { layers: layers.collect() }
    }
}

impl Labelled {
    /// The same images in another type.
    #[must_use]
    pub fn cast(&self, dtype: DType) -> Self {
        Self { pixels: self.pixels.clone().cast(dtype), labels: self.labels.clone().cast(dtype) }
    }
}

impl Images {
    /// The images on a device, in batches of `size`; the last one may be smaller.
    ///
    /// # Panics
    ///
    /// If `size` is 0.
    pub fn batches(&self, size: usize, device: &Device, dtype: DType) -> Vec<Labelled> {
        let tensor = |values, [rows, cols]: [usize; 2]| {
            Tensor::from_data(TensorData::new::<f64, _>(values, [rows, cols]), (device, dtype))
        };
        let batch = |(pixels, labels): (&[f64], &[usize])| {
            let one_hot =
                labels.iter().flat_map(|&label| (0..CLASSES).map(move |class| f64::from(u8::from(class == label))));
            Labelled {
                pixels: tensor(pixels.to_vec(), [labels.len(), PIXELS]),
                labels: tensor(one_hot.collect(), [labels.len(), CLASSES]),
            }
        };
        self.pixels.chunks(size * PIXELS).zip(self.labels.chunks(size)).map(batch).collect()
    }
}

impl Task for PerceptronModule {
    type Batch = Labelled;

    fn forward(&self, batch: &Labelled, tape: &mut Tape) -> Tensor<2> {
        let mut values = batch.pixels.clone();
        for (l, layer) in self.layers.iter().enumerate() {
            let input = if l > 0 { relu(values) } else { values };
            values = tape.linear(&l.to_string(), layer, input);
        }
        values
    }

    /// Cross-entropy, in nats.
    fn loss(&self, outputs: Tensor<2>, batch: &Labelled) -> Tensor<1> {
        (log_softmax(outputs, 1) * batch.labels.clone()).sum_dim(1).squeeze_dim::<1>(1).neg()
    }

    fn likelihood(&self, _batch: &Labelled) -> Option<Likelihood> {
        Some(Likelihood::new(Family::Softmax))
    }
}
