//! Schulz's iteration where its arithmetic is hardest: wide blocks in f32, and a spectrum that hides its top.

use burn::tensor::{DType, Device, Tensor};
use hyperinf::curvature::{Curvature, Dense};
use hyperinf::solvers::{Hyperpower, Solver, Work, spectral_bound};
use hyperinf_tests::compare::{assert_close, largest, matrix, tensor, values};
use hyperinf_tests::devices;
use hyperinf_tests::oracle::{Matrix, spectral};

use crate::solvers::orthogonal;

/// The residual of the rows found, by the definition, is what the solver aims for.
fn check(name: &str, device: &Device, h: &Matrix, lambda: f64) {
    let curvature = Curvature::from(Dense { matrix: tensor(h, device, DType::F32) });
    let v = Matrix::noise(2, h.cols, 3);
    let inverse = Hyperpower::default().prepare(&curvature, lambda).expect("the matrix is positive definite");
    let solution = inverse.apply(tensor(&v, device, DType::F32)).expect("the iteration converges");
    assert!(
        solution.converged(),
        "{name}: a residual of {:e} after {} steps",
        solution.residual(),
        solution.iterations
    );
    let x = Matrix { rows: 2, cols: h.cols, values: values(solution.x) };
    let product = x.times(&h.plus(lambda, &Matrix::identity(h.cols)));
    // x comes back in f32, and its rounding passes through H.
    let rounding = f64::from(f32::EPSILON) * largest(&x.values) * row_sum(h) / largest(&v.values);
    assert_close(name, &product.values, &v.values, 1e-5 + rounding);
}

fn row_sum(h: &Matrix) -> f64 {
    (0..h.rows).map(|i| h.row(i).iter().map(|v| v.abs()).sum()).fold(0.0, f64::max)
}

/// Four times as wide as there are samples; `λ` sets the condition number.
fn check_wide(width: usize, condition: f64) {
    let samples = Matrix::noise(width / 4, width, 7);
    let h = samples.transpose().times(&samples);
    // Rounded once, so that the definition and the solver have the same matrix.
    let h = Matrix::from_fn(width, width, |i, j| f64::from(h.at(i, j) as f32));
    for (name, device) in devices() {
        let curvature = Curvature::from(Dense { matrix: tensor(&h, &device, DType::F32) });
        let matrix = curvature.matrix().expect("a dense curvature has one");
        let top = spectral_bound(&curvature, matrix).expect("the device works");
        check(&format!("{name}, width {width}, condition {condition:e}"), &device, &h, top / condition);
    }
}

#[test]
fn a_wide_block_of_condition_1e3() {
    check_wide(320, 1e3);
}

#[test]
fn a_wide_block_of_condition_1e5() {
    check_wide(320, 1e5);
    check_wide(520, 1e5);
}

/// A power iteration gains almost nothing on a flat spectrum, and stops before it finds the one that stands out.
#[test]
fn an_eigenvalue_that_stands_out_of_a_flat_spectrum() {
    for top in [1.12, 1.14, 1.16, 1.18, 1.2, 1.5, 3.0] {
        let h = Matrix::from_fn(1000, 1000, |i, j| match i == j {
            true if i == 0 => top,
            true => 1.0,
            false => 0.0,
        });
        for (name, device) in devices() {
            check(&format!("{name}, top {top}"), &device, &h, 0.1);
        }
    }
}

/// Integer samples, so that the matrix is exact and singular in f32: its condition is `top/λ` whatever rounds.
#[test]
fn beyond_f32_the_iteration_runs_in_f64() {
    let samples = Matrix::noise(10, 40, 7);
    let samples = Matrix::from_fn(10, 40, |i, j| (3.0 * samples.at(i, j)).round());
    let h = samples.transpose().times(&samples);
    let top = row_sum(&h);
    let v = Matrix::noise(2, 40, 3);
    for (name, device) in devices().into_iter().filter(|(_, device)| device.supports_dtype(DType::F64)) {
        let curvature = Curvature::from(Dense { matrix: tensor(&h, &device, DType::F32) });
        for (condition, dtype) in [(1e2, DType::F32), (1e6, DType::F64), (1e8, DType::F64)] {
            let lambda = top / condition;
            let inverse = Hyperpower::default().prepare(&curvature, lambda).expect("positive definite");
            let what = format!("{name}, condition {condition:e}: {}", inverse.plan());
            let Some(Work::Matrix { first, second: None }) = inverse.plan().work else { panic!("{what}") };
            assert_eq!((first.dtype, first.size), (dtype, 40), "{what}");
            assert!(inverse.plan().to_string().contains(&format!("products in {dtype:?}")), "{what}");
            let found = inverse.apply(tensor(&v, &device, DType::F64)).expect("the iteration converges");
            assert!(found.converged(), "{what}: {:e}", found.residual());
            let left = matrix(found.x.clone()).times(&h.plus(lambda, &Matrix::identity(40))).plus(-1.0, &v);
            for (i, told) in found.residuals.iter().enumerate() {
                let norm = |row: &[f64]| row.iter().map(|v| v * v).sum::<f64>().sqrt();
                let truth = norm(left.row(i)) / norm(v.row(i));
                // f64 leaves about ε·κ.
                assert!((told - truth).abs() <= 1e-3 * truth + 1e-14 * condition, "{what}: {told:e}, is {truth:e}");
            }
        }
    }
}

/// In f32 and at a condition above 1e7 more steps than are needed grow without bound: a matrix that has ended takes no part
/// in those that another one needs.
#[test]
fn a_matrix_of_a_batch_ends_as_it_does_alone() {
    for (name, device) in devices() {
        let mut ended = 0;
        for (size, condition) in [20, 60].into_iter().flat_map(|size| [1e7, 2e7, 3e7].map(|c| (size, c))) {
            let mut eigenvalues: Vec<f64> = (0..size).map(|i| if i % 2 == 0 { 1.0 } else { 0.5 }).collect();
            eigenvalues[size - 1] = 1.0 / condition;
            let hard = tensor(&spectral(&orthogonal(size), &eigenvalues, |mu| mu), &device, DType::F32);
            // A bound that is needlessly low makes it take some 50 steps.
            let easy = Tensor::<2>::eye(size, &device).mul_scalar(0.5);
            let bounds = [(1.0 / condition, 1.0), (1e-30, 1.0)];
            let solver = Hyperpower::default();
            let Ok(alone) = solver.invert(hard.clone(), bounds[0].0, bounds[0].1) else { continue };
            ended += 1;
            let found = solver.invert_many(Tensor::stack(vec![hard, easy], 0), &bounds).expect("bounds in order");
            let what = format!("{size}, {condition:e}, {name}");
            let found = found[0].as_ref().unwrap_or_else(|error| panic!("{what}: {error}, alone {:e}", alone.error));
            assert!(found.steps > 2 * alone.steps, "{what}: {} steps, {} alone", found.steps, alone.steps);
            assert!(found.error <= 2.0 * alone.error, "{what}: {:e}, alone {:e}", found.error, alone.error);
            assert!(values(found.x.clone()).iter().all(|x| x.is_finite()), "{what}");
        }
        assert!(ended > 0, "{name}: all diverge");
    }
}
