use std::hash::{Hash, Hasher};

use burn::module::Module;
use burn::tensor::{Device, Distribution, Tensor, TensorData};
use hyperinf_gradients::{Family, Likelihood, Tape, Task};
use twox_hash::XxHash3_128;

use super::denoiser::Denoiser;
use super::noise::{NoisePairs, NoiseSharing, TimestepsAs};
use super::process::NoiseProcess;
use super::text_states::{TextState, TextStates};
use crate::{Adaptable, AdaptableLinear, CheckpointNames, ModelError, SampleModel};

/// A picture, or its latents, with the states of its caption.
#[derive(Clone, Debug, PartialEq)]
pub struct DiffusionSample {
    /// Channels, height and width.
    pub shape: [usize; 3],
    /// The values in that order, pictures in `[−1, 1]`.
    pub image: Vec<f32>,
    /// The states of the caption.
    pub text: TextState,
}

impl Hash for DiffusionSample {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.shape.hash(state);
        self.image.iter().for_each(|value| value.to_bits().hash(state));
        self.text.hash(state);
    }
}

/// The `K` noisy versions of each of `n` samples.
#[derive(Clone, Debug)]
pub struct DiffusionBatch {
    /// `[n · K, channels, side, side]`, the versions of a sample together.
    pub noisy: Tensor<4>,
    /// What should be predicted, `[n · K, P]` with `P` values per picture.
    pub target: Tensor<2>,
    /// `n · K` timesteps.
    pub timesteps: Vec<f64>,
    /// `n` prompts.
    pub text: TextStates,
    /// The weight of each row's mean squared error, `w(t) / K`, `n · K` values.
    pub weights: Vec<f64>,
}

/// A denoiser with its loss, `L_i = 1/K Σ_k w(t_k) mean (prediction(x_{t_k}, t_k, text_i) − target)²`.
///
/// A model on a plain device draws nothing: every sample has the same `K` timesteps and noises
/// ([`NoisePairs`]). In training, on a device with autodiff, each sample of a batch has one timestep and noise, drawn
/// from the device's generator.
#[derive(Module, Debug)]
pub struct TextToImage {
    /// The denoiser.
    pub denoiser: Denoiser,
    /// How images become noise.
    #[module(skip)]
    pub process: NoiseProcess,
    /// The timesteps and noises of the loss.
    #[module(skip)]
    pub pairs: NoisePairs,
    /// What a sample's gradient is.
    #[module(skip)]
    pub timesteps_as: TimestepsAs,
    /// Captions that training leaves out, so that the model also learns to draw without one.
    #[module(skip)]
    pub prompt_dropout: Option<PromptDropout>,
}

/// Captions that training leaves out (Ho & Salimans 2022).
#[derive(Clone, Debug, PartialEq)]
pub struct PromptDropout {
    /// The probability that a sample's caption is replaced in a step, 0 to 1.
    pub share: f64,
    /// The states of the empty caption.
    pub empty: TextState,
}

/// The timesteps of a new model's loss.
const TIMESTEPS: usize = 10;

impl TextToImage {
    /// A denoiser whose loss is over ten evenly spaced timesteps with shared noise of seed 0.
    pub fn new(denoiser: Denoiser, process: NoiseProcess) -> Self {
        let total = process.schedule.timesteps;
        let pairs = NoisePairs::evenly(TIMESTEPS.min(total), total, 0);
        let pairs = pairs.unwrap_or(NoisePairs { timesteps: vec![0.0], sharing: NoiseSharing::Shared, seed: 0 });
        Self { denoiser, process, pairs, timesteps_as: TimestepsAs::default(), prompt_dropout: None }
    }

    /// The captions of samples in a step of training, some of them empty.
    fn captions<'a>(
        &'a self,
        samples: &[&'a DiffusionSample],
        device: &Device,
    ) -> Result<Vec<&'a TextState>, ModelError> {
        let all = samples.iter().map(|sample| &sample.text);
        let Some(PromptDropout { share, empty }) = self.prompt_dropout.as_ref().filter(|_| self.device().is_autodiff())
        else {
            return Ok(all.collect());
        };
        let drawn = Tensor::<1>::random([samples.len()], Distribution::Uniform(0.0, 1.0), device);
        let drawn = drawn.try_into_data().map_err(|e| ModelError::Read(e.to_string()))?;
        Ok(all.zip(drawn.iter::<f64>()).map(|(text, draw)| if draw < *share { empty } else { text }).collect())
    }

    /// `K` rows of one sample's noise, one after the other.
    fn own_noise(&self, sample: &DiffusionSample, size: usize) -> Vec<f32> {
        let of = match self.pairs.sharing {
            NoiseSharing::Shared => 0,
            NoiseSharing::PerSample => content(sample),
        };
        (0..self.pairs.timesteps.len()).flat_map(|k| self.pairs.noise(k, size, of)).collect()
    }

    fn fits(&self, samples: &[&DiffusionSample]) -> Result<(), ModelError> {
        let expected = self.denoiser.shape();
        for (index, sample) in samples.iter().enumerate() {
            let size = expected.iter().product::<usize>();
            if sample.shape != expected || sample.image.len() != size {
                return Err(ModelError::WeightShape {
                    name: format!("picture of sample {index}"),
                    found: sample.shape.to_vec(),
                    expected: expected.to_vec(),
                });
            }
        }
        Ok(())
    }
}

impl SampleModel for TextToImage {
    type Sample = DiffusionSample;

    fn collate(&self, samples: &[&DiffusionSample]) -> Result<DiffusionBatch, ModelError> {
        self.fits(samples)?;
        let (device, dtype) = (self.device().without_autodiff(), self.denoiser.dtype());
        let (n, [c, h, w]) = (samples.len(), self.denoiser.shape());
        let texts = self.captions(samples, &device)?;
        let text = TextStates::new(&texts, self.denoiser.text_width(), &device)?;
        let images: Vec<f32> = samples.iter().flat_map(|sample| sample.image.iter().copied()).collect();
        let images = Tensor::<4>::from_data(TensorData::new(images, [n, c, h, w]), (&device, dtype));

        let (each, timesteps, noise) = if self.device().is_autodiff() {
            let total = self.process.schedule.timesteps as f64;
            let drawn = Tensor::<1>::random([n], Distribution::Uniform(0.0, total), &device);
            let drawn = drawn.try_into_data().map_err(|e| ModelError::Read(e.to_string()))?;
            let timesteps: Vec<f64> = drawn.iter::<f64>().map(|t| t.floor().min(total - 1.0)).collect();
            (1, timesteps, Tensor::random([n, c, h, w], Distribution::Normal(0.0, 1.0), (&device, dtype)))
        } else {
            let each = self.pairs.timesteps.len();
            if each == 0 {
                return Err(ModelError::Empty { what: "timesteps" });
            }
            let timesteps: Vec<f64> = (0..n).flat_map(|_| self.pairs.timesteps.iter().copied()).collect();
            let noise: Vec<f32> = match self.pairs.sharing {
                NoiseSharing::Shared => self.own_noise(samples[0], c * h * w).repeat(n),
                NoiseSharing::PerSample => samples.iter().flat_map(|s| self.own_noise(s, c * h * w)).collect(),
            };
            (each, timesteps, Tensor::from_data(TensorData::new(noise, [n * each, c, h, w]), (&device, dtype)))
        };
        let images = images.unsqueeze_dim::<5>(1).expand([n, each, c, h, w]).reshape([n * each, c, h, w]);
        let [noisy, target] = self.process.noised(images, noise, &timesteps)?;
        let weights = self.process.weights(&timesteps)?.into_iter().map(|weight| weight / each as f64).collect();
        Ok(DiffusionBatch { noisy, target: target.reshape([n * each, c * h * w]), timesteps, text, weights })
    }

    fn length(_: &DiffusionSample) -> usize {
        1
    }

    fn device(&self) -> Device {
        self.denoiser.device()
    }
}

/// Outputs are the predictions, one row per version of a picture.
impl Task for TextToImage {
    type Batch = DiffusionBatch;

    fn forward(&self, batch: &DiffusionBatch, tape: &mut Tape) -> Tensor<2> {
        let apart = self.timesteps_as == TimestepsAs::Stacked && tape.is_recording();
        if apart {
            let [n, ..] = batch.text.states.dims();
            tape.stack(batch.timesteps.len() / n);
        }
        let output = self.denoiser.forward_with(batch.noisy.clone(), &batch.timesteps, &batch.text, apart, tape);
        output.reshape(batch.target.dims())
    }

    fn loss(&self, outputs: Tensor<2>, batch: &DiffusionBatch) -> Tensor<1> {
        let ([m, _], [n, ..]) = (outputs.dims(), batch.text.states.dims());
        let weights = TensorData::new(batch.weights.clone(), [m, 1]);
        let weights = Tensor::<2>::from_data(weights, (&batch.target.device(), outputs.dtype()));
        let errors = (outputs - batch.target.clone()).square().mean_dim(1) * weights;
        errors.reshape([n, m / n]).sum_dim(1).reshape([n])
    }

    /// A squared error of `P` values is the Gaussian's with weight `2 w(t) / (K P)`.
    fn likelihood(&self, batch: &DiffusionBatch) -> Option<Likelihood> {
        let ([m, values], [n, ..]) = (batch.target.dims(), batch.text.states.dims());
        let weights = batch.weights.iter().map(|weight| 2.0 * weight / values as f64).collect::<Vec<f64>>();
        let weights = Tensor::from_data(TensorData::new(weights, [m]), (&batch.target.device(), batch.target.dtype()));
        let samples = (0..m).map(|row| row * n / m).collect();
        Some(Likelihood { family: Family::Gaussian, weights: Some(weights), samples: Some(samples) })
    }
}

impl Adaptable for TextToImage {
    fn generates_images(&self) -> bool {
        true
    }

    fn visit_layers(&mut self, visit: &mut dyn FnMut(&str, &mut AdaptableLinear)) {
        self.denoiser.visit_layers(visit);
    }
}

impl CheckpointNames for TextToImage {
    fn checkpoint_name(&self, path: &str) -> String {
        self.denoiser.checkpoint_name(path.strip_prefix("denoiser.").unwrap_or(path))
    }
}

/// A number that follows from a sample's content.
fn content(sample: &DiffusionSample) -> u64 {
    struct Bytes(XxHash3_128);
    impl Hasher for Bytes {
        fn write(&mut self, bytes: &[u8]) {
            self.0.write(bytes);
        }

        fn finish(&self) -> u64 {
            0
        }
    }
    let mut hasher = Bytes(XxHash3_128::new());
    sample.hash(&mut hasher);
    hasher.0.finish_128() as u64
}
