//! Every order of the hyperpower family against its definition: eigenvalue maps, certificates, steps and products.

use burn::tensor::{DType, Device, Tensor};
use hyperinf::curvature::{Curvature, Dense, Diagonal, OneSided};
use hyperinf::solvers::{Hyperpower, HyperpowerStart, Order, SolveError, Solver};
use hyperinf_tests::compare::{assert_close, assert_within, matrix, tensor, values};
use hyperinf_tests::devices;
use hyperinf_tests::oracle::{Matrix, exact, spectral};
use hyperinf_tests::strategies::{Spd, spd};
use proptest::prelude::*;

const STARTS: [HyperpowerStart; 2] = [HyperpowerStart::Chebyshev, HyperpowerStart::Unscaled];

fn precise_devices() -> Vec<(String, Device)> {
    devices().into_iter().filter(|(_, device)| device.supports_dtype(DType::F64)).collect()
}

fn diagonal(values: &[f64]) -> Matrix {
    Matrix::from_fn(values.len(), values.len(), |i, j| if i == j { values[i] } else { 0.0 })
}

/// `T_p(x)` by its recurrence.
fn chebyshev(p: usize, x: f64) -> f64 {
    let mut pair = (1.0, x);
    for _ in 1..p {
        pair = (pair.1, 2.0 * x * pair.1 - pair.0);
    }
    pair.1
}

/// The residual `1 − μ x` of every eigenvalue after `steps` steps from `2/(u + l)`, by definition, and its bound.
fn residuals(order: Order, start: HyperpowerStart, eigenvalues: &[f64], upper: f64, steps: usize) -> (Vec<f64>, f64) {
    let (lower, p) = (eigenvalues[0], order.power());
    let mut delta = (upper - lower) / (upper + lower);
    let mut rest: Vec<f64> = eigenvalues.iter().map(|mu| 1.0 - 2.0 * mu / (upper + lower)).collect();
    for _ in 0..steps {
        if start == HyperpowerStart::Unscaled {
            rest.iter_mut().for_each(|e| *e = e.powi(p as i32));
            delta = delta.powi(p as i32);
        } else {
            rest.iter_mut().for_each(|e| *e = chebyshev(p, *e / delta) / chebyshev(p, 1.0 / delta));
            delta = 1.0 / chebyshev(p, 1.0 / delta);
        }
    }
    (rest, delta)
}

#[test]
fn every_order_maps_eigenvalues_as_defined() {
    let eigenvalues = [0.01, 0.03, 0.2, 0.5, 1.0, 1.7];
    for (name, device) in precise_devices() {
        let a = tensor(&diagonal(&eigenvalues), &device, DType::F64);
        for (order, start) in Order::ALL.into_iter().flat_map(|order| STARTS.map(|start| (order, start))) {
            for steps in 0..4 {
                let solver = Hyperpower { order, start, tolerance: 1e-15, max_steps: steps, ..Hyperpower::default() };
                let found = solver.invert(a.clone(), 0.01, 2.0).expect("true bounds");
                let (rest, delta) = residuals(order, start, &eigenvalues, 2.0, found.steps);
                let expected: Vec<f64> = rest.iter().zip(&eigenvalues).map(|(e, mu)| (1.0 - e) / mu).collect();
                let what = format!("{} after {steps} steps, {name}", solver.name());
                assert_close(&what, &values(found.x), &diagonal(&expected).values, 1e-11);
                assert!((found.certificate - delta).abs() <= 1e-12 + 1e-9 * delta, "{what}: {}", found.certificate);
                assert!(rest.iter().all(|e| e.abs() <= delta * (1.0 + 1e-9)), "{what}");
            }
        }
    }
}

#[test]
fn scaled_steps_of_order_two_are_as_many_as_documented() {
    let steps = |solver: Hyperpower, condition| Hyperpower { tolerance: 1e-10, ..solver }.forecast(condition).0;
    for (condition, expected) in [(1e2, 7), (1e4, 11), (1e6, 14)] {
        assert_eq!(steps(Hyperpower::default(), condition), expected, "condition {condition:e}");
    }
    // Higher orders take as many fewer steps as the logarithm of their order says, give or take one.
    for order in Order::ALL {
        let expected = (11.0 * 2.0_f64.ln() / (order.power() as f64).ln()).round();
        let found = steps(Hyperpower::of_order(order), 1e4) as f64;
        assert!((found - expected).abs() <= 1.0, "{order:?}: {found} for {expected}");
    }
}

/// The authors' start on the spectra of which the documented step counts speak: from 1/κ to 1.
#[test]
fn the_authors_start_takes_26_33_and_39_steps() {
    for (condition, expected) in [(1e2_f64, 26), (1e4, 33), (1e6, 39)] {
        let (_, device) = precise_devices().remove(0);
        let eigenvalues = [1.0 / condition, 1.0];
        let a = tensor(&diagonal(&eigenvalues), &device, DType::F64);
        let start = HyperpowerStart::Fixed { scale: 5e-5, steps: 45, extra_damping: 0.0 };
        let mut first = None;
        let mut observer = |iterate: &hyperinf::solvers::MatrixStep| {
            let x = matrix(iterate.x.clone());
            let worst = (0..2).map(|i| (1.0 - eigenvalues[i] * x.at(i, i)).abs()).fold(0.0, f64::max);
            if worst <= 1e-10 && first.is_none() {
                first = Some(iterate.number);
            }
        };
        let solver = Hyperpower { start, ..Hyperpower::default() };
        let found = solver.invert_observed(a, eigenvalues[0], 1.0, &mut observer).expect("below 2/scale");
        assert_eq!((found.steps, first), (45, Some(expected)), "condition {condition:e}");
    }
}

#[test]
fn products_are_counted_and_planned() {
    let (_, device) = precise_devices().remove(0);
    let a = tensor(&diagonal(&[0.001, 0.1, 1.0]), &device, DType::F64);
    for (order, start) in Order::ALL.into_iter().flat_map(|order| STARTS.map(|start| (order, start))) {
        let solver = Hyperpower { order, start, tolerance: 1e-9, ..Hyperpower::default() };
        let found = solver.invert(a.clone(), 0.001, 1.0).expect("true bounds");
        let name = solver.name();
        assert_eq!((found.steps, found.products), solver.forecast(1000.0), "{name}");
        assert_eq!(found.products, order.products() * found.steps - 2, "{name}");
        assert!(found.certificate <= 1e-9 && found.error <= 1e-9, "{name}");
    }
    // Well conditioned at once: a multiple of I needs nothing.
    let eye = Tensor::<2>::eye(3, &device).cast(DType::F64).mul_scalar(4.0);
    let found = Hyperpower::default().invert(eye, 4.0, 4.0).expect("true bounds");
    assert_eq!((found.steps, found.products), (0, 0));
    assert_eq!(values(found.x)[0], 0.25);
}

#[test]
fn an_observer_sees_every_step() {
    let (_, device) = precise_devices().remove(0);
    let a = tensor(&diagonal(&[0.01, 1.0]), &device, DType::F64);
    let mut seen = Vec::new();
    let mut observer = |i: &hyperinf::solvers::MatrixStep| seen.push((i.number, i.products, i.certificate));
    let found = Hyperpower::default().invert_observed(a, 0.01, 1.0, &mut observer).expect("true bounds");
    assert_eq!(seen.iter().map(|s| s.0).collect::<Vec<_>>(), (0..=found.steps).collect::<Vec<_>>());
    assert!(seen.windows(2).all(|w| w[1].2 < w[0].2 && w[1].1 >= w[0].1));
    assert_eq!(seen.last().map(|s| (s.1, s.2)), Some((found.products, found.certificate)));
}

/// A curvature whose damped condition is as the matrix says, in a type.
fn damped(spd: &Spd, device: &Device, dtype: DType) -> (Curvature, f64) {
    let lambda = spd.eigenvalues[0];
    let h = spectral(&spd.basis, &spd.eigenvalues, |mu| mu - lambda);
    (Curvature::from(Dense { matrix: tensor(&h, device, dtype) }), lambda)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    /// `δ ≥ ||I − A X||₂` for every order and start, after any number of steps.
    #[test]
    fn certificates_hold(spd in spd(2..=12, 0.0..6.0, -2.0..2.0), steps in 0..7_usize, which in 0..10_usize) {
        let (_, device) = precise_devices().remove(0);
        let (order, start) = (Order::ALL[which % 5], STARTS[which / 5]);
        let (lower, upper) = (spd.eigenvalues[0], spd.eigenvalues[spd.eigenvalues.len() - 1]);
        let a = tensor(&spd.matrix(), &device, DType::F64);
        let solver = Hyperpower { order, start, tolerance: 1e-14, max_steps: steps, ..Hyperpower::default() };
        let found = solver.invert(a, lower, upper * 1.3).expect("true bounds");
        let x = spd.basis.transpose().times(&matrix(found.x)).times(&spd.basis);
        let worst = (0..x.rows).map(|i| (1.0 - spd.eigenvalues[i] * x.at(i, i)).abs()).fold(0.0, f64::max);
        let rounding = 1e-11 * spd.condition();
        prop_assert!(worst <= found.certificate + rounding, "{}: {worst:e} above {:e}", solver.name(), found.certificate);
    }

    /// From κ = 1 to 1e8: converged with a true residual, because the iteration moves to f64 where f32 cannot.
    #[test]
    fn any_condition_converges_or_says_so(spd in spd(2..=16, 0.0..8.0, -2.0..2.0), which in 0..5_usize) {
        let (name, device) = precise_devices().remove(0);
        let solver = Hyperpower::of_order(Order::ALL[which]);
        let (h, lambda) = damped(&spd, &device, DType::F64);
        let v = Matrix::noise(2, spd.eigenvalues.len(), 5);
        let inverse = solver.prepare(&h, lambda).expect("positive definite");
        let found = inverse.apply(tensor(&v, &device, DType::F64)).expect("finite");
        let left = matrix(found.x.clone()).times(&spd.matrix()).plus(-1.0, &v);
        let norm = |row: &[f64]| row.iter().map(|v| v * v).sum::<f64>().sqrt();
        let worst = (0..2).map(|i| norm(left.row(i)) / norm(v.row(i))).fold(0.0, f64::max);
        prop_assert!((found.residual() - worst).abs() <= 1e-7, "{name}: says {:e}, is {worst:e}", found.residual());
        prop_assert!(found.converged(), "κ = {:e}: {:e}", spd.condition(), found.residual());
    }
}

#[test]
fn f32_alone_says_what_it_could_not_reach() {
    for (name, device) in precise_devices() {
        let basis = Matrix::identity(6);
        for condition in [1.0, 1e2, 1e4, 1e6, 1e8_f64] {
            let eigenvalues: Vec<f64> = (0..6).map(|i| condition.powf(f64::from(i) / 5.0 - 1.0)).collect();
            // Rotated, so that products round.
            let u = Matrix::noise(1, 6, 3);
            let square: f64 = u.values.iter().map(|u| u * u).sum();
            let flip = Matrix::from_fn(6, 6, |i, j| basis.at(i, j) - 2.0 * u.values[i] * u.values[j] / square);
            let a = spectral(&flip, &eigenvalues, |mu| mu);
            let found = Hyperpower::default().invert(tensor(&a, &device, DType::F32), eigenvalues[0], 1.1);
            match found {
                Ok(found) => {
                    let rounding = f64::from(f32::EPSILON) * condition;
                    assert!(found.error <= 1e-6 + 10.0 * rounding, "{name}, {condition:e}: {:e}", found.error);
                    assert!(condition < 1e6 || found.error > 1e-6, "{name}: {:e} at {condition:e}", found.error);
                }
                Err(error) => {
                    assert!(matches!(error, SolveError::Diverged { .. }) && condition > 1e6, "{name}: {error}");
                }
            }
        }
    }
}

#[test]
fn first_steps_in_a_short_type_change_nothing_in_the_end() {
    for (name, device) in devices() {
        let samples = Matrix::noise(40, 24, 5);
        let h = samples.transpose().times(&samples);
        let curvature = Curvature::from(Dense { matrix: tensor(&h, &device, DType::F32) });
        let v = tensor(&Matrix::noise(3, 24, 6), &device, DType::F32);
        for (order, first) in Order::ALL.into_iter().flat_map(|order| [DType::BF16, DType::F16].map(|t| (order, t))) {
            let solver = Hyperpower { first_steps: Some(first), ..Hyperpower::of_order(order) };
            let found = solver.prepare(&curvature, 0.05).and_then(|inverse| inverse.apply(v.clone()));
            let found = found.unwrap_or_else(|e| panic!("{order:?} {first:?} on {name}: {e}"));
            assert!(found.converged(), "{order:?} {first:?} on {name}: {:e}", found.residual());
            let expected = exact(&h, 0.05, &Matrix::noise(3, 24, 6));
            assert_close(&format!("{order:?} {first:?} on {name}"), &values(found.x), &expected.values, 1e-3);
        }
    }
}

#[test]
fn warm_starts_take_few_steps_from_the_neighbouring_damping() {
    for (name, device) in precise_devices() {
        let samples = Matrix::noise(30, 20, 8);
        let h = samples.transpose().times(&samples);
        let upper = 60.0;
        let at = |lambda: f64| tensor(&h.plus(lambda, &Matrix::identity(20)), &device, DType::F64);
        let solver = Hyperpower { tolerance: 1e-8, ..Hyperpower::default() };
        let known = solver.invert(at(1e-2), 1e-2, upper).expect("true bounds");
        for ratio in [0.32, 0.9, 1.0, 1.1, 3.2_f64] {
            let lambda = 1e-2 * ratio;
            let (low, high) = (ratio.min(1.0) - 1e-7, ratio.max(1.0) + 1e-7);
            let found = solver.improve(at(lambda), known.x.clone(), low, high, upper / lambda).expect("true bounds");
            assert!(found.steps <= 4 && found.steps < solver.forecast(upper / lambda).0, "{name}: {}", found.steps);
            let expected = h.plus(lambda, &Matrix::identity(20)).inverse();
            assert_close(&format!("ratio {ratio}, {name}"), &values(found.x), &expected.values, 1e-6);
        }
    }
}

#[test]
fn a_sweep_is_each_damping_by_itself() {
    for (name, device) in devices() {
        let samples = Matrix::noise(30, 12, 8);
        let h = Curvature::from(Dense { matrix: tensor(&samples.transpose().times(&samples), &device, DType::F32) });
        let v = tensor(&Matrix::noise(2, 12, 9), &device, DType::F32);
        // In no order, with a repetition and a gap that a warm start does not bridge.
        let lambdas = [0.1, 10.0, 0.03, 3.0, 0.1, 1e-3];
        for order in Order::ALL {
            let solver = Hyperpower::of_order(order);
            let swept = solver.prepare_sweep(&h, &lambdas).expect("a good problem");
            for (inverse, lambda) in swept.iter().zip(lambdas) {
                let alone = solver.prepare(&h, lambda).and_then(|i| i.apply(v.clone())).expect("a good problem");
                let found = inverse.apply(v.clone()).expect("a good problem");
                assert!(found.converged(), "{name}, λ = {lambda}: {:e}", found.residual());
                assert_close(&format!("{name}, λ = {lambda}"), &values(found.x), &values(alone.x), 1e-4);
            }
        }
    }
}

#[test]
fn many_blocks_at_once_are_each_by_itself() {
    for (name, device) in devices() {
        let block = |size: usize, seed: u64, scale: f64| {
            let samples = Matrix::noise(2 * size, size, seed);
            let h = samples.transpose().times(&samples).plus(scale - 1.0, &samples.transpose().times(&samples));
            Curvature::from(Dense { matrix: tensor(&h, &device, DType::F32) })
        };
        let one_sided = Curvature::OneSided(OneSided {
            factor: block(8, 4, 1.0).to_dense(),
            rows: 2,
            cols: 8,
            rows_contracted: true,
        });
        let blocks = [block(8, 1, 1.0), block(8, 2, 100.0), one_sided, block(5, 3, 1.0), block(8, 5, 0.01)];
        let lambdas = [0.1, 1e-2, 1.0, 0.1, 1e-4];
        for order in Order::ALL {
            let solver = Hyperpower::of_order(order);
            let pairs: Vec<_> = blocks.iter().zip(lambdas).collect();
            for ((inverse, h), lambda) in solver.prepare_many(&pairs).into_iter().zip(&blocks).zip(lambdas) {
                let v = tensor(&Matrix::noise(2, h.parameters(), 9), &device, DType::F32);
                let found = inverse.expect("a good problem").apply(v.clone()).expect("a good problem");
                let alone = solver.prepare(h, lambda).and_then(|i| i.apply(v)).expect("a good problem");
                assert!(found.converged(), "{name}: {:e}", found.residual());
                assert_close(&name, &values(found.x), &values(alone.x), 1e-4);
            }
        }
    }
}

#[test]
fn a_batch_of_three_dimensions_is_each_matrix_by_itself() {
    for (name, device) in precise_devices() {
        let spectra = [[0.01, 0.1, 1.0], [0.5, 0.7, 1.0], [20.0, 30.0, 4000.0], [3.0, 3.0, 3.0]];
        let matrices: Vec<_> = spectra.iter().map(|s| tensor(&diagonal(s), &device, DType::F64)).collect();
        let bounds = spectra.map(|s| (s[0], s[2]));
        for (order, start) in Order::ALL.into_iter().flat_map(|order| STARTS.map(|start| (order, start))) {
            let solver = Hyperpower { order, start, tolerance: 1e-9, ..Hyperpower::default() };
            let found = solver.invert_many(Tensor::stack(matrices.clone(), 0), &bounds).expect("true bounds");
            let steps = bounds.iter().map(|(lower, upper)| solver.forecast(upper / lower).0).max();
            for (found, spectrum) in found.into_iter().zip(spectra) {
                let found = found.expect("true bounds");
                let what = format!("{} on {spectrum:?}, {name}", solver.name());
                assert_close(&what, &values(found.x), &diagonal(&spectrum.map(|mu| 1.0 / mu)).values, 1e-8);
                assert_eq!(Some(found.steps), steps, "{what}");
                assert!(found.certificate <= 1e-9 && found.error <= 1e-8, "{what}");
            }
        }
        // A bound that is far too low is one matrix's own error.
        let wrong = [(0.01, 1.0), (0.5, 1.0), (20.0, 25.0), (3.0, 3.0)];
        let found = Hyperpower::default().invert_many(Tensor::stack(matrices, 0), &wrong).expect("bounds in order");
        assert!(matches!(&found[2], Err(SolveError::Diverged { .. })), "{name}");
        assert!([0, 1, 3].into_iter().all(|i| found[i].as_ref().is_ok_and(|f| f.error <= 1e-5)), "{name}");
    }
}

#[test]
fn a_bad_block_among_many_spoils_no_other() {
    for (_, device) in devices() {
        let good = Curvature::from(Dense { matrix: Tensor::eye(4, &device) });
        let bad = Curvature::from(Dense { matrix: Tensor::full([4, 4], f32::NAN, &device) });
        let diagonal = Curvature::from(Diagonal { values: Tensor::ones([4], &device) });
        let found = Hyperpower::default().prepare_many(&[
            (&good, 0.5),
            (&bad, 0.5),
            (&diagonal, 0.5),
            (&good, -1.0),
            (&good, 0.5),
        ]);
        assert!(matches!(&found[1], Err(SolveError::NonFinite { .. })));
        assert!(matches!(&found[2], Err(SolveError::Unsupported { .. })));
        assert!(matches!(&found[3], Err(SolveError::Damping { .. })));
        for i in [0, 4] {
            let x = found[i].as_ref().map(|inverse| inverse.apply(Tensor::ones([1, 4], &device)));
            let x = x.unwrap_or_else(|e| panic!("{e}")).expect("a good problem").x;
            assert_within("good", &values(x), &[2.0 / 3.0; 4], 1e-6);
        }
    }
}
