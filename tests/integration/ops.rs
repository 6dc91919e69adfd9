//! The functions of transformers against their definitions in f64, values and gradients, on every device.

use burn::module::{Module, Param};
use burn::nn::{LayerNorm, LayerNormConfig, Linear};
use burn::tensor::{Bool, DType, Device, Int, Tensor, TensorData};
use hyperinf::ops;
use hyperinf_tests::compare::{assert_within, largest, precisions, values};
use hyperinf_tests::devices;
use hyperinf_tests::oracle::Matrix;

mod attention;
mod convolution;
mod sums;

/// Between the values of a tensor and those of a function of flat tensors: what is checked.
type Fast<'a> = &'a dyn Fn(&[Tensor<1>]) -> Tensor<1>;
/// The same function from its definition.
type Oracle<'a> = &'a dyn Fn(&[Vec<f64>]) -> Vec<f64>;

/// Values that look random, within ±`size`, exact in f32.
fn noise(length: usize, size: f64, seed: u64) -> Vec<f64> {
    Matrix::noise(1, length, seed).values.iter().map(|x| f64::from((x * size) as f32)).collect()
}

fn flat(values: &[f64], device: &Device, dtype: DType) -> Tensor<1> {
    Tensor::from_data(TensorData::new(values.to_vec(), [values.len()]), (device, dtype))
}

/// Values within `tolerance` units of the type's precision, gradients within ten times that (and the error of the
/// differences that they are compared with), each relative to the largest, with and without autodiff.
fn check(what: &str, inputs: &[Vec<f64>], fast: Fast<'_>, oracle: Oracle<'_>, tolerance: f64) {
    let expected = oracle(inputs);
    let cotangent = noise(expected.len(), 1.0, 77);
    for (name, device) in devices() {
        for (dtype, epsilon) in precisions(&device) {
            let what = format!("{what}, {name}, {dtype:?}");
            let plain: Vec<Tensor<1>> = inputs.iter().map(|x| flat(x, &device, dtype)).collect();
            let found = values(fast(&plain));
            assert_within(&what, &found, &expected, tolerance * epsilon * largest(&expected));

            let leaves: Vec<Tensor<1>> = plain.into_iter().map(|x| x.autodiff().require_grad()).collect();
            let output = fast(&leaves);
            let bound = tolerance * epsilon * largest(&expected);
            assert_within(&format!("{what}: with autodiff"), &values(output.clone()), &expected, bound);
            let mut gradients = (output * flat(&cotangent, &device, dtype)).sum().backward();
            for (index, leaf) in leaves.iter().enumerate() {
                let found = values(leaf.grad_remove(&mut gradients).expect("every input reaches the output"));
                let (places, expected) = differences(inputs, index, &cotangent, oracle);
                let found: Vec<f64> = places.iter().map(|&place| found[place]).collect();
                let bound = (10.0 * tolerance * epsilon + 1e-7) * largest(&expected).max(1e-2);
                assert_within(&format!("{what}: gradient of input {index}"), &found, &expected, bound);
            }
        }
    }
}

/// Central differences of `Σ cotangent · oracle` at about twenty places of one input.
fn differences(inputs: &[Vec<f64>], index: usize, cotangent: &[f64], oracle: Oracle<'_>) -> (Vec<usize>, Vec<f64>) {
    let length = inputs[index].len();
    let places: Vec<usize> = (0..length).step_by(length.div_ceil(20)).chain([length - 1]).collect();
    let expected = places.iter().map(|&place| {
        let step = 1e-5 * inputs[index][place].abs().max(1.0);
        let at = |shift: f64| {
            let mut moved = inputs.to_vec();
            moved[index][place] += shift;
            oracle(&moved).iter().zip(cotangent).map(|(y, c)| y * c).sum::<f64>()
        };
        // Fourth order: the error is that of rounding.
        (8.0 * (at(step) - at(-step)) - (at(2.0 * step) - at(-2.0 * step))) / (12.0 * step)
    });
    let expected = expected.collect();
    (places, expected)
}

/// Φ: Marsaglia's series within ±7, 0 and 1 beyond (an error of 1e-12).
fn normal(x: f64) -> f64 {
    if x.abs() > 7.0 {
        return if x < 0.0 { 0.0 } else { 1.0 };
    }
    let (mut sum, mut term, mut odd) = (x, x, 1.0);
    while term.abs() > 1e-18 {
        odd += 2.0;
        term *= x * x / odd;
        sum += term;
    }
    0.5 + sum * (-0.5 * x * x).exp() / (2.0 * std::f64::consts::PI).sqrt()
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

#[test]
fn normal_distribution_of_the_oracle() {
    // Tables of the normal distribution.
    for (x, expected) in [(0.0, 0.5), (1.0, 0.841_344_746_068_542_9), (-1.959_963_984_540_054, 0.025)] {
        assert!((normal(x) - expected).abs() < 1e-15, "Φ({x}) is {}", normal(x));
    }
}

#[test]
fn gelu_is_its_definition() {
    let gelu = |inputs: &[Vec<f64>]| inputs[0].iter().map(|&x| x * normal(x)).collect();
    for length in [1, 7, 33, 40_001] {
        let inputs = [noise(length, 6.0, length as u64)];
        check("gelu", &inputs, &|x| ops::gelu(x[0].clone()), &gelu, 8.0);
    }
}

#[test]
fn gelu_tanh_is_its_definition() {
    let definition =
        |&x: &f64| 0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3))).tanh());
    let gelu = |inputs: &[Vec<f64>]| inputs[0].iter().map(definition).collect();
    for length in [1, 7, 33, 40_001] {
        let inputs = [noise(length, 6.0, length as u64)];
        check("gelu_tanh", &inputs, &|x| ops::gelu_tanh(x[0].clone()), &gelu, 8.0);
    }
    let extremes = [vec![1e4, -1e4, 20.5, -20.5, 0.0]];
    check("gelu_tanh of extremes", &extremes, &|x| ops::gelu_tanh(x[0].clone()), &gelu, 8.0);
}

#[test]
fn swish_is_its_definition() {
    for slope in [1.0, 1.702, 0.25] {
        let swish = |inputs: &[Vec<f64>]| inputs[0].iter().map(|x| x / (1.0 + (-slope * x).exp())).collect();
        for length in [1, 7, 33, 40_001] {
            let inputs = [noise(length, 6.0, length as u64)];
            check("swish", &inputs, &|x| ops::swish(x[0].clone(), slope), &swish, 8.0);
        }
        let extremes = [vec![1e4, -1e4, 30.5, -30.5, 0.0]];
        check("swish of extremes", &extremes, &|x| ops::swish(x[0].clone(), slope), &swish, 8.0);
    }
}

/// The documented error of Φ holds at every place, not only relative to the largest value.
#[test]
fn gelu_is_exact_near_zero_and_far_away() {
    let mut x: Vec<f64> = (-1600..=1600).map(|i| f64::from(i) / 128.0).collect();
    x.extend([-0.0, 1e-30, -1e-30, 1.0, -1.0, 1e4, -1e4, 1e30, -1e30]);
    let expected: Vec<f64> = x.iter().map(|&x| x * normal(x)).collect();
    let device = devices().remove(0).1;
    let leaf = flat(&x, &device, DType::F32).autodiff().require_grad();
    let output = ops::gelu(leaf.clone());
    let slope = values(leaf.grad(&output.clone().sum().backward()).expect("a leaf"));
    for (i, found) in values(output).into_iter().enumerate() {
        let bound = 8e-8 * x[i].abs() + 1.2e-7 * expected[i].abs();
        assert!((found - expected[i]).abs() <= bound, "gelu({}) is {found}, expected {}", x[i], expected[i]);
        let density = (-0.5 * x[i] * x[i]).exp() / (2.0 * std::f64::consts::PI).sqrt();
        let expected = normal(x[i]) + if density == 0.0 { 0.0 } else { x[i] * density };
        assert!((slope[i] - expected).abs() <= 4e-7, "gelu'({}) is {}, expected {expected}", x[i], slope[i]);
    }
}

#[test]
fn gelu_keeps_what_is_not_a_number() {
    for (name, device) in devices() {
        let found = values(ops::gelu(Tensor::<1>::from_floats([f32::NAN, 1.0], &device)));
        assert!(found[0].is_nan() && found[1].is_finite(), "{name}: {found:?}");
    }
}

#[test]
fn swiglu_is_its_definition() {
    let swiglu = |inputs: &[Vec<f64>]| {
        inputs[0].iter().zip(&inputs[1]).map(|(&gate, &up)| gate * sigmoid(gate) * up).collect::<Vec<f64>>()
    };
    for length in [1, 31, 36_000] {
        let inputs = [noise(length, 8.0, 3), noise(length, 2.0, 4)];
        check("swiglu", &inputs, &|x| ops::swiglu(x[0].clone(), x[1].clone()), &swiglu, 8.0);
    }
    let extremes = [vec![1e4, -1e4, 88.5, -88.5, 0.0], vec![2.0, 3.0, 1.0, 1.0, 5.0]];
    check("swiglu of extremes", &extremes, &|x| ops::swiglu(x[0].clone(), x[1].clone()), &swiglu, 8.0);
}

/// `(x − mean) / √(var + ε) · gain + bias` for rows of `d`; inputs: x, gain, bias.
fn layer_norm(inputs: &[Vec<f64>], epsilon: f64) -> Vec<f64> {
    let (gain, bias) = (&inputs[1], &inputs[2]);
    let d = gain.len();
    let rows = inputs[0].chunks(d).flat_map(|row| {
        let mean = row.iter().sum::<f64>() / d as f64;
        let variance = row.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / d as f64;
        (0..d).map(move |j| (row[j] - mean) / (variance + epsilon).sqrt() * gain[j] + bias[j])
    });
    rows.collect()
}

fn layer(gain: Tensor<1>, bias: Tensor<1>, epsilon: f64) -> LayerNorm {
    let [d] = gain.dims();
    let mut layer = LayerNormConfig::new(d).with_epsilon(epsilon).init(&gain.device());
    layer.gamma = Param::from_tensor(gain);
    layer.beta = Some(Param::from_tensor(bias));
    layer
}

#[test]
fn standardize_is_a_layer_norm_without_parameters() {
    for (rows, d) in ROWS {
        let x = noise(rows * d, 2.0, 7);
        let plain = |inputs: &[Vec<f64>]| layer_norm(&[inputs[0].clone(), vec![1.0; d], vec![0.0; d]], 1e-6);
        let fast = |x: &[Tensor<1>]| ops::standardize(x[0].clone().reshape([rows, d]), 1e-6).reshape([rows * d]);
        check(&format!("standardize {rows} × {d}"), &[x], &fast, &plain, 16.0);
    }
}

const ROWS: [(usize, usize); 5] = [(1, 5), (3, 7), (5, 33), (2, 384), (130, 260)];

#[test]
fn layer_norm_is_its_definition() {
    for (rows, d) in ROWS {
        let (gain, bias) = (noise(d, 1.0, 5), noise(d, 1.0, 6));
        for centre in [0.0, 30.0] {
            let x: Vec<f64> = noise(rows * d, 2.0, 7).iter().map(|x| f64::from((x + centre) as f32)).collect();
            let (g, b) = (gain.clone(), bias.clone());
            let fast = |x: &[Tensor<1>]| {
                let (device, dtype) = (x[0].device().without_autodiff(), x[0].dtype());
                let layer = layer(flat(&g, &device, dtype), flat(&b, &device, dtype), 1e-5).no_grad();
                ops::layer_norm(&layer, 1e-5, x[0].clone().reshape([1, rows, d])).flatten(0, 2)
            };
            let oracle = |x: &[Vec<f64>]| layer_norm(&[x[0].clone(), g.clone(), b.clone()], 1e-5);
            // The mean is subtracted: its digits are lost.
            check(&format!("layer norm {rows} × {d} about {centre}"), &[x], &fast, &oracle, 16.0 + 4.0 * centre);
        }
    }
}

#[test]
fn layer_norm_that_is_trained() {
    let (rows, d) = (4, 9);
    let inputs = [noise(rows * d, 2.0, 8), noise(d, 1.0, 9), noise(d, 1.0, 10)];
    let fast = |x: &[Tensor<1>]| {
        // Not `Param`s: those would be separate leaves.
        let normal = layer(Tensor::ones_like(&x[1]).detach(), Tensor::zeros_like(&x[2]).detach(), 1e-5).no_grad();
        let z = ops::layer_norm(&normal, 1e-5, x[0].clone().reshape([1, rows, d]));
        (z * x[1].clone().unsqueeze() + x[2].clone().unsqueeze()).flatten(0, 2)
    };
    check("layer norm, trained", &inputs, &fast, &|x| layer_norm(x, 1e-5), 32.0);

    for (name, device) in devices() {
        let trained = layer(Tensor::ones([d], &device), Tensor::zeros([d], &device), 1e-5).train();
        let x = flat(&inputs[0], &device, DType::F32).autodiff().reshape([1, rows, d]);
        let gradients = ops::layer_norm(&trained, 1e-5, x).powi_scalar(2).sum().backward();
        let gain = trained.gamma.grad(&gradients).map(values);
        assert!(gain.is_some_and(|gain| largest(&gain) > 0.1), "{name}: the gain's gradient is lost");
    }
}

#[test]
fn rms_norm_is_its_definition() {
    let epsilon = 1e-6;
    let oracle = |inputs: &[Vec<f64>]| {
        let d = inputs[1].len();
        let rows = inputs[0].chunks(d).flat_map(|row| {
            let square = row.iter().map(|x| x * x).sum::<f64>() / d as f64;
            row.iter().zip(&inputs[1]).map(move |(x, gain)| x / (square + epsilon).sqrt() * gain)
        });
        rows.collect::<Vec<f64>>()
    };
    for (rows, d) in ROWS {
        let inputs = [noise(rows * d, 3.0, 11), noise(d, 1.0, 12)];
        let shape = [1, rows, d];
        let trained = |x: &[Tensor<1>]| ops::rms_norm(x[0].clone().reshape(shape), x[1].clone(), epsilon).flatten(0, 2);
        check(&format!("rms norm {rows} × {d}, trained"), &inputs, &trained, &oracle, 16.0);
        let gain = inputs[1].clone();
        let frozen = |x: &[Tensor<1>]| {
            let gain = flat(&gain, &x[0].device().without_autodiff(), x[0].dtype());
            ops::rms_norm(x[0].clone().reshape(shape), gain, epsilon).flatten(0, 2)
        };
        let oracle = |x: &[Vec<f64>]| oracle(&[x[0].clone(), gain.clone()]);
        check(&format!("rms norm {rows} × {d}"), &inputs[..1], &frozen, &oracle, 16.0);
    }
}

#[test]
fn linear_is_its_definition() {
    for (n, t, d_input, d_output) in [(1, 1, 1, 1), (2, 3, 5, 4), (3, 7, 33, 65), (8, 16, 100, 120)] {
        let (weight, bias) = (noise(d_input * d_output, 1.0, 13), noise(d_output, 1.0, 14));
        for (has_bias, by_columns) in [(true, false), (false, false), (true, true)] {
            let fast = |x: &[Tensor<1>]| {
                let (device, dtype) = (x[0].device().without_autodiff(), x[0].dtype());
                let weight = flat(&weight, &device, dtype).reshape([d_input, d_output]);
                // Stored the other way round, as a view.
                let weight = if by_columns { weight.transpose().mul_scalar(1.0).transpose() } else { weight };
                let bias = has_bias.then(|| Param::from_tensor(flat(&bias, &device, dtype)));
                let layer = Linear { weight: Param::from_tensor(weight), bias }.no_grad();
                ops::linear(&layer, x[0].clone().reshape([n, t, d_input])).flatten(0, 2)
            };
            let oracle = |x: &[Vec<f64>]| {
                let x = Matrix { rows: n * t, cols: d_input, values: x[0].clone() };
                let mut y = x.times(&Matrix { rows: d_input, cols: d_output, values: weight.clone() });
                for row in y.values.chunks_mut(d_output).filter(|_| has_bias) {
                    row.iter_mut().zip(&bias).for_each(|(y, b)| *y += b);
                }
                y.values
            };
            let what = format!("linear [{n}, {t}, {d_input}] to {d_output}, {has_bias}, {by_columns}");
            check(&what, &[noise(n * t * d_input, 1.0, 15)], &fast, &oracle, 16.0);
        }
    }
}

#[test]
fn linear_that_is_trained() {
    for (name, device) in devices() {
        let weight = flat(&noise(12, 1.0, 16), &device, DType::F32).reshape([3, 4]);
        let layer = Linear { weight: Param::from_tensor(weight), bias: None }.train();
        let x = flat(&noise(6, 1.0, 17), &device, DType::F32).autodiff().reshape([1, 2, 3]);
        let gradients = ops::linear(&layer, x.clone()).sum().backward();
        let found = values(layer.weight.grad(&gradients).expect("the weight is trained"));
        let x = values(x);
        let expected: Vec<f64> = (0..12).map(|k| x[k / 4] + x[3 + k / 4]).collect();
        assert_within(&name, &found, &expected, 1e-6);
    }
}

fn cross_entropy(logits: &[f64], classes: usize, targets: &[i64]) -> Vec<f64> {
    let rows = logits.chunks(classes).zip(targets);
    rows.map(|(row, &target)| {
        let top = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        top + row.iter().map(|x| (x - top).exp()).sum::<f64>().ln() - row[target as usize]
    })
    .collect()
}

#[test]
fn cross_entropy_of_large_logits_keeps_its_digits() {
    for (name, device) in devices() {
        let targets = Tensor::from_ints([0, 1], &device);
        let logits = Tensor::<2>::from_floats([[1000.0, 991.0, 980.0], [-3000.0, -2990.0, -3001.0]], &device);
        let expected = [(-9.0_f64).exp() + (-20.0_f64).exp(), (-10.0_f64).exp() + (-11.0_f64).exp()].map(f64::ln_1p);
        // The sum of the exponentials is close to 1, so its logarithm has an error of 6e-8.
        for (found, expected) in values(ops::cross_entropy(logits, targets)).into_iter().zip(expected) {
            assert!((found - expected).abs() <= 1.3e-7, "{name}: {found}, not {expected}");
        }
    }
}

#[test]
fn cross_entropy_is_its_definition() {
    for (rows, classes, size) in
        [(1, 1, 1.0), (3, 2, 5.0), (5, 37, 20.0), (40, 1000, 8.0), (2, 30_000, 3.0), (3, 5, 1e4)]
    {
        let logits = noise(rows * classes, size, 18);
        let targets: Vec<i64> = (0..rows).map(|row| ((row * 7919 + 3) % classes) as i64).collect();
        let fast = |x: &[Tensor<1>]| {
            let targets: Tensor<1, Int> =
                Tensor::from_data(TensorData::new(targets.clone(), [rows]), &x[0].device().without_autodiff());
            ops::cross_entropy(x[0].clone().reshape([rows, classes]), targets)
        };
        let oracle = |x: &[Vec<f64>]| cross_entropy(&x[0], classes, &targets);
        // Relative to the logits that are subtracted, not to a small loss.
        let scale = size / largest(&oracle(std::slice::from_ref(&logits))).max(1e-12);
        let tolerance = 16.0 * scale.max(1.0);
        check(
            &format!("cross-entropy {rows} × {classes}, ±{size}"),
            std::slice::from_ref(&logits),
            &fast,
            &oracle,
            tolerance.min(1e3),
        );
    }
}

#[test]
fn cross_entropy_refuses_a_target_that_is_no_class() {
    for (name, device) in devices() {
        let lost = || ops::cross_entropy(Tensor::zeros([1, 3], &device), Tensor::from_ints([3], &device)).into_data();
        assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(lost)).is_err(), "{name}");
    }
}
