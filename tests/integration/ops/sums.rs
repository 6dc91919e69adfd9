//! Sums, normalisations of groups and GEGLU against their definitions, values and gradients.

use burn::tensor::{DType, Tensor};
use hyperinf::ops;
use hyperinf_tests::compare::{assert_within, largest, values};
use hyperinf_tests::devices;
use hyperinf_tests::oracle::Matrix;

use super::{check, flat, noise, normal};

#[test]
fn add_leaves_what_is_still_held() {
    // On one core, on several, and with a rest.
    for length in [1, 7, 40_001] {
        let inputs = [noise(length, 2.0, 31), noise(length, 2.0, 32)];
        let fast = |x: &[Tensor<1>]| {
            // Nothing else holds these two; the second sum must not write into its terms.
            let own = ops::add(x[0].clone().mul_scalar(2.0), x[1].clone().mul_scalar(3.0));
            let sum = ops::add(own.clone(), x[0].clone());
            let twice = ops::add(own.clone(), own.clone());
            sum + twice - own + x[1].clone()
        };
        let oracle = |x: &[Vec<f64>]| x[0].iter().zip(&x[1]).map(|(a, b)| 5.0 * a + 7.0 * b).collect::<Vec<f64>>();
        check(&format!("add of {length}"), &inputs, &fast, &oracle, 8.0);
    }
}

#[test]
fn add_takes_views() {
    let inputs = [noise(300 * 200, 2.0, 33), noise(300 * 200, 2.0, 34)];
    let fast = |x: &[Tensor<1>]| {
        let (a, b) = (x[0].clone().reshape([300, 200]), x[1].clone().reshape([200, 300]));
        ops::add(a.narrow(0, 100, 150), b.transpose().narrow(0, 0, 150)).flatten(0, 1)
    };
    let oracle = |x: &[Vec<f64>]| {
        let places = (0..150).flat_map(|row| (0..200).map(move |col| (row, col)));
        places.map(|(row, col)| x[0][(row + 100) * 200 + col] + x[1][col * 300 + row]).collect::<Vec<f64>>()
    };
    check("add of views", &inputs, &fast, &oracle, 4.0);
}

#[test]
#[should_panic(expected = "shapes of both tensors")]
fn add_refuses_other_shapes() {
    let (_, device) = devices().remove(0);
    ops::add(Tensor::<2>::ones([2, 3], &device), Tensor::ones([1, 3], &device));
}

#[test]
fn a_constant_has_no_gradient_and_takes_none_away() {
    for (name, device) in devices() {
        let constant = flat(&noise(6, 2.0, 41), &device, DType::F32);
        let tracked = flat(&noise(6, 2.0, 42), &device, DType::F32).autodiff().require_grad();
        for sum in [ops::add(constant.clone(), tracked.clone()), ops::add(tracked.clone(), constant.autodiff())] {
            let mut gradients = sum.powi_scalar(2).sum().backward();
            let found = tracked.grad_remove(&mut gradients).map(values);
            assert!(found.is_some_and(|found| largest(&found) > 0.1), "{name}: the gradient is lost");
        }
    }
}

#[test]
fn affine_with_a_bias_that_is_trained_alone() {
    for (name, device) in devices() {
        let x = flat(&noise(6, 1.0, 43), &device, DType::F32).autodiff().reshape([2, 3]);
        let weight = flat(&noise(12, 1.0, 44), &device, DType::F32).reshape([3, 4]);
        let bias = flat(&noise(4, 1.0, 45), &device, DType::F32).autodiff().require_grad();
        let mut gradients = ops::affine(x, weight, Some(bias.clone())).sum().backward();
        let found = bias.grad_remove(&mut gradients).map(values).expect("the bias is trained");
        assert_within(&name, &found, &[2.0; 4], 1e-6);
    }
}

/// Large enough to be split, both ways round, with a weight that is stored the other way round, forwards and back.
#[test]
fn affine_in_parts_is_its_definition() {
    for ([m, d_input, d_output], by_columns) in [([333, 70, 150], false), ([100, 90, 400], true)] {
        let (weight, bias) = (noise(d_input * d_output, 1.0, 46), noise(d_output, 1.0, 47));
        let fast = |x: &[Tensor<1>]| {
            let (device, dtype) = (x[0].device().without_autodiff(), x[0].dtype());
            let weight = flat(&weight, &device, dtype).reshape([d_input, d_output]);
            let weight = if by_columns { weight.transpose().mul_scalar(1.0).transpose() } else { weight };
            let bias = flat(&bias, &device, dtype);
            ops::affine(x[0].clone().reshape([m, d_input]), weight, Some(bias)).flatten(0, 1)
        };
        let oracle = |x: &[Vec<f64>]| {
            let x = Matrix { rows: m, cols: d_input, values: x[0].clone() };
            let mut y = x.times(&Matrix { rows: d_input, cols: d_output, values: weight.clone() });
            y.values.chunks_mut(d_output).for_each(|row| row.iter_mut().zip(&bias).for_each(|(y, b)| *y += b));
            y.values
        };
        check(&format!("affine {m} × {d_input} × {d_output}"), &[noise(m * d_input, 1.0, 48)], &fast, &oracle, 16.0);
    }
}

#[test]
fn nothing_is_nothing() {
    for (name, device) in devices() {
        let empty = |shape: [usize; 4]| Tensor::<4>::zeros(shape, &device);
        for shape in [[0, 4, 2, 2], [2, 4, 0, 3], [2, 4, 3, 0]] {
            let (gain, bias) = (Tensor::ones([4], &device), Tensor::zeros([4], &device));
            assert_eq!(ops::group_norm(gain, bias, 2, 1e-5, empty(shape)).dims(), shape, "{name}");
            assert_eq!(ops::add(empty(shape), empty(shape)).dims(), shape, "{name}");
        }
        assert_eq!(ops::geglu(empty([2, 3, 4, 0])).dims(), [2, 3, 4, 0], "{name}");
        assert_eq!(ops::geglu(empty([0, 3, 4, 6])).dims(), [0, 3, 4, 3], "{name}");
    }
}

#[test]
fn a_leaf_receives_the_gradient_of_the_sum() {
    for (name, device) in devices() {
        let x = noise(6, 2.0, 35);
        for (tracked, lifted) in [(true, true), (false, true), (false, false)] {
            let x = flat(&x, &device, DType::F32).reshape([1, 2, 3]);
            let x = if lifted { x.autodiff() } else { x };
            let x = if tracked { x.require_grad() } else { x };
            let leaf = Tensor::<3>::zeros([1, 1, 1], &device).expand([1, 2, 3]).autodiff().require_grad();
            let sum = ops::with_leaf(x.clone(), leaf.clone());
            assert_within(&name, &values(sum.clone()), &values(x.clone()), 0.0);
            let mut gradients = sum.powi_scalar(2).sum().backward();
            let doubled: Vec<f64> = values(x.clone()).iter().map(|x| 2.0 * x).collect();
            let at_leaf = leaf.grad_remove(&mut gradients).map(values);
            assert_within(&name, &at_leaf.expect("the leaf is reached"), &doubled, 1e-6);
            let at_x = if lifted { x.grad_remove(&mut gradients).map(values) } else { None };
            assert_eq!(at_x.is_some(), tracked, "{name}");
            assert_within(&name, &at_x.unwrap_or_else(|| doubled.clone()), &doubled, 1e-6);
        }
    }
}

/// By the definition, of pictures `[n, c, h · w]`.
fn group_norm(x: &[f64], [c, pixels]: [usize; 2], groups: usize, gain: &[f64], bias: &[f64]) -> Vec<f64> {
    let of_group = c / groups * pixels;
    let normed = x.chunks(of_group).flat_map(|group| {
        let mean = group.iter().sum::<f64>() / of_group as f64;
        let variance = group.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / of_group as f64;
        group.iter().map(move |x| (x - mean) / (variance + 1e-5).sqrt())
    });
    normed.enumerate().map(|(place, z)| z * gain[place / pixels % c] + bias[place / pixels % c]).collect()
}

#[test]
fn group_norm_is_its_definition() {
    for ([n, c, h, w], groups) in [([1, 1, 1, 2], 1), ([2, 6, 3, 5], 3), ([3, 4, 2, 2], 4), ([2, 8, 50, 60], 2)] {
        let (gain, bias) = (noise(c, 1.0, 36), noise(c, 1.0, 37));
        let fast = |x: &[Tensor<1>]| {
            let (device, dtype) = (x[0].device().without_autodiff(), x[0].dtype());
            let (gain, bias) = (flat(&gain, &device, dtype), flat(&bias, &device, dtype));
            ops::group_norm(gain, bias, groups, 1e-5, x[0].clone().reshape([n, c, h, w])).flatten(0, 3)
        };
        let oracle = |x: &[Vec<f64>]| group_norm(&x[0], [c, h * w], groups, &gain, &bias);
        let x = noise(n * c * h * w, 2.0, 38);
        check(&format!("{groups} groups of {n} × {c} × {h} × {w}"), &[x], &fast, &oracle, 32.0);
    }
}

#[test]
fn group_norm_that_is_trained() {
    for (name, device) in devices() {
        let x = flat(&noise(24, 2.0, 39), &device, DType::F32).autodiff().reshape([1, 4, 2, 3]);
        let (gain, bias) = (Tensor::<1>::ones([4], &device), Tensor::<1>::zeros([4], &device));
        let (gain, bias) = (gain.autodiff().require_grad(), bias.autodiff().require_grad());
        let output = ops::group_norm(gain.clone(), bias.clone(), 2, 1e-5, x);
        let mut gradients = output.powi_scalar(2).sum().backward();
        for value in [gain, bias] {
            let found = value.grad_remove(&mut gradients).map(values);
            assert!(found.is_some_and(|found| largest(&found) > 0.1), "{name}: a parameter's gradient is lost");
        }
    }
}

#[test]
fn geglu_is_its_definition() {
    for (rows, d) in [(1, 1), (3, 7), (230, 150)] {
        let fast = |x: &[Tensor<1>]| ops::geglu(x[0].clone().reshape([rows, 2 * d])).flatten(0, 1);
        let oracle = |x: &[Vec<f64>]| {
            let rows = x[0].chunks(2 * d);
            rows.flat_map(|row| (0..d).map(move |j| row[j] * row[d + j] * normal(row[d + j]))).collect::<Vec<f64>>()
        };
        check(&format!("geglu {rows} × {d}"), &[noise(rows * 2 * d, 4.0, 40)], &fast, &oracle, 16.0);
    }
}

#[test]
#[should_panic(expected = "3 has no halves")]
fn geglu_refuses_an_odd_dimension() {
    let (_, device) = devices().remove(0);
    ops::geglu(Tensor::<2>::ones([2, 3], &device));
}
