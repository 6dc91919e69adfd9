//! Diffusion models against diffusers' numbers (`tests/fixtures/diffusion/make.py`).

use burn::module::Param;
use burn::tensor::{Device, Tensor, TensorData};
use hyperinf::gradients::{Estimate, Tape, Target, Task, capture, estimated, gradients};
use hyperinf::models::{
    Adaptable, AdaptableLinear, BetaSchedule, Denoiser, DiffusionBatch, DiffusionSample, LoraConfig, LoraScaling,
    NoisePairs, NoiseProcess, NoiseSchedule, NoiseSharing, PixArt, PixArtConfig, Prediction, SampleModel,
    SamplerConfig, TextState, TextStates, TextToImage, TimestepsAs, adapt, load_pixart, load_unet, load_weights,
    sample_images, weights,
};
use hyperinf_tests::compare::{assert_close, assert_within, values};
use hyperinf_tests::devices;
use hyperinf_tests::fixtures::{self, Array, Arrays};

const TARGETS: [&str; 4] = ["to_q", "to_k", "to_v", "to_out.0"];
const LENGTHS: [usize; 3] = [5, 2, 3];
const K: usize = 3;

fn expected() -> Arrays {
    fixtures::load("diffusion/expected.safetensors")
}

fn process(prediction: Prediction, min_snr: Option<f64>) -> NoiseProcess {
    NoiseProcess { prediction, min_snr, ..NoiseProcess::default() }
}

/// The fixture's transformer with its adapter.
fn model(process: NoiseProcess, timesteps_as: TimestepsAs, fixture: &Arrays, device: &Device) -> TextToImage {
    let folder = fixtures::path("diffusion/transformer");
    let denoiser = Denoiser::PixArt(load_pixart(&folder, device).expect("the fixture is valid").model);
    adapted(denoiser, process, timesteps_as, fixture, device)
}

/// A denoiser with the adapter of a fixture, whose names are those of its layers.
fn adapted(
    denoiser: Denoiser,
    process: NoiseProcess,
    timesteps_as: TimestepsAs,
    fixture: &Arrays,
    device: &Device,
) -> TextToImage {
    let pairs = NoisePairs { timesteps: vec![25.0, 425.0, 925.0], sharing: NoiseSharing::Shared, seed: 0 };
    let config = LoraConfig { rank: 2, alpha: 2.0, scaling: LoraScaling::Standard, dropout: 0.0 };
    let mut model =
        adapt(TextToImage { denoiser, process, pairs, timesteps_as, prompt_dropout: None }, &TARGETS, &config, 1)
            .expect("targets");
    model.visit_layers(&mut |name, layer| {
        let AdaptableLinear::Lora(lora) = layer else { return };
        let name = name.strip_prefix("base_model.model.").expect("PEFT's prefix");
        for (factor, linear) in [("A", &mut lora.lora_a), ("B", &mut lora.lora_b)] {
            let array = &fixture[&format!("adapter.{name}.lora_{factor}.weight")];
            let data = TensorData::new(transposed(array), linear.weight.dims());
            linear.weight = Param::from_data(data, device);
        }
    });
    model
}

fn transposed(array: &Array) -> Vec<f32> {
    let (rows, cols) = (array.shape[0], array.shape[1]);
    (0..rows * cols).map(|at| array.values[at % rows * cols + at / rows] as f32).collect()
}

fn floats(array: &Array) -> Vec<f32> {
    array.values.iter().map(|&value| value as f32).collect()
}

fn text(fixture: &Arrays, sample: usize) -> TextState {
    let all = floats(&fixture["text"]);
    TextState { width: 12, values: all[sample * 60..sample * 60 + 12 * LENGTHS[sample]].to_vec() }
}

/// The fixture's samples with its noise.
fn batch(model: &TextToImage, fixture: &Arrays, samples: &[usize], device: &Device) -> DiffusionBatch {
    let latents = floats(&fixture["latents"]);
    let n = samples.len();
    let images: Vec<f32> = samples.iter().flat_map(|&i| latents[i * 192..(i + 1) * 192].repeat(K)).collect();
    let noise = floats(&fixture["noise"]).repeat(n);
    let tensor = |values| Tensor::<4>::from_data(TensorData::new(values, [n * K, 3, 8, 8]), device);
    let timesteps = model.pairs.timesteps.repeat(n);
    let [noisy, target] = model.process.noised(tensor(images), tensor(noise), &timesteps).expect("valid timesteps");
    let texts: Vec<TextState> = samples.iter().map(|&i| text(fixture, i)).collect();
    let weights = model.process.weights(&timesteps).expect("valid timesteps").iter().map(|w| w / K as f64).collect();
    DiffusionBatch {
        noisy,
        target: target.reshape([n * K, 192]),
        timesteps,
        text: TextStates::new(&texts.iter().collect::<Vec<_>>(), 12, device).expect("valid prompts"),
        weights,
    }
}

#[test]
fn schedules_are_those_of_diffusers() {
    let fixture = fixtures::load("diffusion/schedules.safetensors");
    let kinds = [
        ("linear", BetaSchedule::Linear),
        ("scaled_linear", BetaSchedule::ScaledLinear),
        ("squaredcos_cap_v2", BetaSchedule::SquaredCosine),
    ];
    for (name, betas) in kinds {
        for (suffix, zero_snr) in [("", false), ("_zero", true)] {
            let signal = NoiseSchedule { betas, zero_snr, ..NoiseSchedule::default() }.signal();
            let found: Vec<f64> = fixture["places"].values.iter().map(|&t| signal[t as usize]).collect();
            assert_within(&format!("{name}{suffix}"), &found, &fixture[&format!("{name}{suffix}")].values, 1e-7);
        }
    }
}

#[test]
fn predictions_are_those_of_diffusers() {
    let fixture = expected();
    for (name, device) in devices() {
        let model = model(process(Prediction::Epsilon, None), TimestepsAs::Sum, &fixture, &device);
        let all = batch(&model, &fixture, &[0, 1, 2], &device);
        // The fixture's timesteps of the outputs are those of the pairs; channels beyond three are left out.
        let found = values(model.forward(&all, &mut Tape::off()));
        assert_close(&name, &found, &fixture["outputs"].values, 1e-5);
        for sample in 0..3 {
            let alone = values(model.forward(&batch(&model, &fixture, &[sample], &device), &mut Tape::off()));
            let rows = sample * K * 192..(sample + 1) * K * 192;
            assert_close(&name, &alone, &fixture["outputs"].values[rows], 1e-5);
        }
    }
}

#[test]
fn losses_are_those_of_diffusers() {
    let fixture = expected();
    let kinds = [
        ("epsilon", Prediction::Epsilon),
        ("v_prediction", Prediction::Velocity),
        ("sample", Prediction::Sample),
        ("flow", Prediction::Flow),
    ];
    for (name, device) in devices() {
        for (kind, prediction) in kinds {
            for (suffix, min_snr) in [("", None), (".min_snr", Some(5.0))] {
                let Some(losses) = fixture.get(&format!("losses.{kind}{suffix}")) else { continue };
                let model = model(process(prediction, min_snr), TimestepsAs::Sum, &fixture, &device);
                let batch = batch(&model, &fixture, &[0, 1, 2], &device);
                let found = values(model.loss(model.forward(&batch, &mut Tape::off()), &batch));
                assert_close(&format!("{name}, {kind}{suffix}"), &found, &losses.values, 1e-5);
            }
        }
    }
}

/// A sample's gradient over the timesteps is the sum of theirs; stacked, they are side by side.
#[test]
fn gradients_are_those_of_diffusers_alone_and_in_a_batch() {
    let fixture = expected();
    for (name, device) in devices() {
        for stacked in [false, true] {
            let kept = if stacked { TimestepsAs::Stacked } else { TimestepsAs::Sum };
            let model = model(process(Prediction::Epsilon, None), kept, &fixture, &device);
            for samples in [&[0, 1, 2][..], &[1]] {
                let batch = batch(&model, &fixture, samples, &device);
                let found = gradients(&model, &batch, Target::Loss).expect("a recorded adapter");
                assert_eq!(found.layout.len(), 2 * 8 * 2);
                for (block, tensor) in found.layout.iter().zip(found.blocks) {
                    let short = block.name.strip_prefix("base_model.model.").expect("PEFT's prefix");
                    let array = &fixture[&format!("gradients.{short}")];
                    let expected = arranged(array, samples, stacked);
                    assert_close(&format!("{name}, {}, {samples:?}", block.name), &values(tensor), &expected, 1e-5);
                }
            }
        }
    }
}

/// Gradients `[n, K, d_output, d_input]` as blocks: transposed, and summed or stacked on the side of the rank.
fn arranged(array: &Array, samples: &[usize], stacked: bool) -> Vec<f64> {
    let [_, k, outputs, inputs] = array.shape[..] else { panic!("gradients of rank 4") };
    let at =
        |sample: usize, k_: usize, i: usize, o: usize| array.values[((sample * k + k_) * outputs + o) * inputs + i];
    let mut found = Vec::new();
    for &sample in samples {
        if !stacked {
            for (i, o) in (0..inputs * outputs).map(|at| (at / outputs, at % outputs)) {
                found.push((0..k).map(|k_| at(sample, k_, i, o)).sum());
            }
        } else if inputs < outputs {
            for row in 0..k * inputs {
                found.extend((0..outputs).map(|o| at(sample, row / inputs, row % inputs, o)));
            }
        } else {
            for i in 0..inputs {
                found.extend((0..k * outputs).map(|col| at(sample, col / outputs, i, col % outputs)));
            }
        }
    }
    found
}

#[test]
fn stacked_products_are_sums_of_products() {
    let fixture = expected();
    let (name, device) = devices().remove(0);
    let stacked = model(process(Prediction::Epsilon, None), TimestepsAs::Stacked, &fixture, &device);
    let all = batch(&stacked, &fixture, &[0, 2], &device);
    let found = gradients(&stacked, &all, Target::Loss).expect("a recorded adapter");
    let product = |tensor: &Tensor<3>| values((tensor.clone().narrow(0, 0, 1) * tensor.clone().narrow(0, 1, 1)).sum());
    let total: f64 = found.blocks.iter().map(|tensor| product(tensor)[0]).sum();
    let mut sum = 0.0;
    for k in 0..K {
        let mut one = stacked.clone();
        one.timesteps_as = TimestepsAs::Sum;
        let rows = [k, K + k];
        let pick = |x: Tensor<4>| Tensor::cat(rows.iter().map(|&row| x.clone().narrow(0, row, 1)).collect(), 0);
        let target = Tensor::cat(rows.iter().map(|&row| all.target.clone().narrow(0, row, 1)).collect(), 0);
        let part = DiffusionBatch {
            noisy: pick(all.noisy.clone()),
            target,
            timesteps: rows.iter().map(|&row| all.timesteps[row]).collect(),
            text: all.text.clone(),
            weights: rows.iter().map(|&row| all.weights[row]).collect(),
        };
        let found = gradients(&one, &part, Target::Loss).expect("a recorded adapter");
        sum += found.blocks.iter().map(|tensor| product(tensor)[0]).sum::<f64>();
    }
    assert_within(&name, &[total], &[sum], 1e-5 * sum.abs());
}

/// Outer products of exact Gauss-Newton pseudo-samples sum to `Σ_rows w JᵀJ`; its trace here, by one output at a time.
#[test]
fn gauss_newton_of_the_squared_error_is_exact() {
    let (name, device) = devices().remove(0);
    let config = PixArtConfig {
        channels: 1,
        out_channels: 1,
        side: 2,
        patch: 1,
        layers: 1,
        heads: 1,
        head_size: 4,
        text_width: 3,
        ..PixArtConfig::default()
    };
    let pairs = NoisePairs::evenly(2, 1000, 3).expect("two timesteps");
    let denoiser = Denoiser::PixArt(PixArt::new(config, 1, &device).expect("a valid configuration"));
    let model = TextToImage { pairs, ..TextToImage::new(denoiser, NoiseProcess::default()) };
    let all = weights(&model).expect("a model that can be read").into_iter().map(|(path, data)| {
        let values: Vec<f32> = (0..data.num_elements()).map(|i| ((i * 7 + path.len()) as f32).sin() * 0.5).collect();
        (path, TensorData::new(values, data.shape().to_vec()))
    });
    let model = load_weights(model, all.collect()).expect("the same names");
    let model = adapt(model, &["attn1.to_q", "attn2.to_v"], &LoraConfig { rank: 1, ..LoraConfig::default() }, 5)
        .expect("known targets");
    let sample = DiffusionSample {
        shape: [1, 2, 2],
        image: vec![0.5, -0.25, 0.75, -1.0],
        text: TextState { width: 3, values: vec![0.3, -0.6, 0.9] },
    };
    let batch = model.collate(&[&sample]).expect("a fitting sample");
    let (mut trace, mut passes) = (0.0, 0.0);
    let exact = Estimate::GaussNewton { sketch: None };
    estimated::<_, hyperinf::gradients::GradientError>(&model, &batch, 0, exact, |captures| {
        trace += captures.iter().map(|c| values(c.gradients().square().sum())[0]).sum::<f64>();
        passes += 1.0;
        Ok(())
    })
    .expect("a squared error is a likelihood");
    // The gradient of one output of one row, with a loss that is that output.
    let mut sum = 0.0;
    for (row, column) in (0..2 * 4).map(|at| (at / 4, at % 4)) {
        let one = One { model: &model, row, column };
        let found = capture(&one, &batch, Target::Loss).expect("a recorded adapter");
        let squares: f64 = found.blocks.iter().map(|c| values(c.gradients().square().sum())[0]).sum();
        sum += 2.0 * batch.weights[row] / 4.0 * squares;
    }
    assert!(sum > 1e-8, "the gradients vanish: {sum:e}");
    assert_within(&name, &[trace / passes], &[sum], 1e-5 * sum);
}

/// The loss of one sample is one output.
struct One<'a> {
    model: &'a TextToImage,
    row: usize,
    column: usize,
}

impl Task for One<'_> {
    type Batch = DiffusionBatch;

    fn forward(&self, batch: &DiffusionBatch, tape: &mut Tape) -> Tensor<2> {
        self.model.forward(batch, tape)
    }

    fn loss(&self, outputs: Tensor<2>, _: &DiffusionBatch) -> Tensor<1> {
        outputs.narrow(0, self.row, 1).narrow(1, self.column, 1).reshape([1])
    }
}

#[test]
fn ddim_is_that_of_diffusers() {
    let fixture = expected();
    for (name, device) in devices() {
        let model = model(process(Prediction::Epsilon, None), TimestepsAs::Sum, &fixture, &device);
        let noise = floats(&fixture["noise"])[..192].to_vec();
        let noise = Tensor::from_data(TensorData::new(noise, [1, 3, 8, 8]), &device);
        let config = SamplerConfig { steps: 4, guidance: 2.0, clip: None, seed: 0 };
        let (prompt, empty) = (text(&fixture, 0), text(&fixture, 2));
        let found = model.sample_from(noise, &[&prompt], &empty, &config).expect("valid settings");
        assert_close(&name, &values(found), &fixture["ddim"].values, 1e-4);
    }
}

#[test]
fn noise_depends_on_its_number_and_the_shape_alone() {
    let pairs = NoisePairs::evenly(10, 1000, 7).expect("ten timesteps");
    assert_eq!(pairs.timesteps[..3], [50.0, 150.0, 250.0]);
    assert_eq!(pairs.noise(2, 12, 0), pairs.noise(2, 12, 0));
    assert_ne!(pairs.noise(2, 12, 0), pairs.noise(3, 12, 0));
    assert_ne!(pairs.noise(2, 12, 0), pairs.noise(2, 12, 1));
    let noise = pairs.noise(0, 100_000, 0);
    let mean = noise.iter().sum::<f32>() / 1e5;
    let variance = noise.iter().map(|value| value * value).sum::<f32>() / 1e5;
    assert!(mean.abs() < 0.02 && (variance - 1.0).abs() < 0.02, "{mean}, {variance}");
    assert!(NoisePairs::evenly(0, 1000, 7).is_err() && NoisePairs::evenly(11, 10, 7).is_err());
}

#[test]
fn pictures_depend_on_their_seed_alone() {
    let fixture = expected();
    let (name, device) = devices().remove(0);
    let model = model(process(Prediction::Flow, None), TimestepsAs::Sum, &fixture, &device);
    let (first, second, empty) = (text(&fixture, 0), text(&fixture, 1), text(&fixture, 2));
    let config = SamplerConfig { steps: 3, ..SamplerConfig::default() };
    let both = values(sample_images(&model, &[&first, &second], &empty, &config).expect("valid settings"));
    let alone = values(sample_images(&model, &[&first], &empty, &config).expect("valid settings"));
    assert_close(&name, &both[..192], &alone, 1e-5);
    for config in [SamplerConfig { steps: 0, ..config }, SamplerConfig { guidance: 0.5, ..config }] {
        assert!(sample_images(&model, &[&first], &empty, &config).is_err(), "{config:?}");
    }
}

#[test]
fn a_unet_computes_what_diffusers_computes() {
    let (shared, fixture) = (expected(), fixtures::load("diffusion/unet.safetensors"));
    let folder = fixtures::path("diffusion/unet");
    for (name, device) in devices() {
        let denoiser = Denoiser::UNet(load_unet(&folder, &device).expect("the fixture is valid").model);
        let model = adapted(denoiser, process(Prediction::Epsilon, None), TimestepsAs::Sum, &fixture, &device);
        let all = batch(&model, &shared, &[0, 1, 2], &device);
        let found = values(model.forward(&all, &mut Tape::off()));
        assert_close(&name, &found, &fixture["outputs"].values, 1e-5);
        for samples in [&[0, 1, 2][..], &[1]] {
            let found = gradients(&model, &batch(&model, &shared, samples, &device), Target::Loss).expect("adapters");
            for (block, tensor) in found.layout.iter().zip(found.blocks) {
                let short = block.name.strip_prefix("base_model.model.").expect("PEFT's prefix");
                let mut array = fixture[&format!("gradients.{short}")].clone();
                array.shape.insert(1, 1);
                let expected = arranged(&array, samples, false);
                assert_close(&format!("{name}, {}, {samples:?}", block.name), &values(tensor), &expected, 1e-5);
            }
        }
    }
}
