//! LiSSA's steps in other coordinates, its scale, its averages, and what it says of the steps it needs.

use burn::tensor::DType;
use hyperinf::curvature::{Curvature, Dense, Samples};
use hyperinf::solvers::{Hyperpower, HyperpowerStart, Lissa, LissaBatch, LissaScale, SolveError, Solver, Work};
use hyperinf_tests::compare::{assert_close, matrix, tensor, values};
use hyperinf_tests::oracle::{Matrix, exact, fisher, relative_damping};

use crate::krylov::{logarithmic, noise, with_spectrum};
use crate::solvers::{precise_devices, solve};

/// Held samples, fewer than a quarter of the parameters, take the steps of the matrix that they stand for.
fn check_held(tolerance: f64, max_steps: usize) {
    let samples = Matrix::noise(6, 30, 3);
    let v = Matrix::noise(3, 30, 4);
    // Queries that lie in the samples' span, outside it, and both: they shrink at different rates.
    let v = Matrix::from_fn(3, 30, |i, j| match i {
        0 => 1e3 * samples.at(2, j),
        1 => samples.at(0, j) + 1e-3 * v.at(1, j),
        _ => v.at(2, j),
    });
    let lambda = relative_damping(&samples);
    let solver = Lissa { tolerance, max_steps, ..Lissa::default() };
    for (name, device) in precise_devices() {
        let rows = tensor(&v, &device, DType::F64);
        let held = Curvature::from(Samples { rows: tensor(&samples, &device, DType::F64) });
        let dense = Curvature::from(Dense { matrix: tensor(&fisher(&samples), &device, DType::F64) });
        let [held, dense] = [held, dense].map(|h| solve(&solver, &h, lambda, &rows));
        let what = format!("{tolerance:e} in {max_steps} steps, {name}");
        assert_eq!(held.iterations, dense.iterations, "{what}");
        assert!(held.iterations > 24, "{what}: the samples' own steps were never taken");
        let (found, expected) = (matrix(held.x), matrix(dense.x));
        for i in 0..3 {
            assert_close(&format!("{what}, query {i}"), found.row(i), expected.row(i), 1e-9);
        }
        // What cancels in the residuals is far below the tolerance.
        for (found, expected) in held.residuals.iter().zip(&dense.residuals) {
            assert!((found - expected).abs() <= 1e-6 * tolerance + 1e-14, "{what}: {found:e}, is {expected:e}");
        }
    }
}

#[test]
fn steps_on_held_samples_are_the_same_steps() {
    check_held(1e-3, 100_000);
    check_held(1e-12, 100_000);
    // Given up half way.
    check_held(1e-12, 60);
}

#[test]
fn the_steps_foretold_are_enough() {
    for (name, device) in precise_devices() {
        for exponent in [0, 1, 2, 3] {
            let (h, _) = with_spectrum(&logarithmic(12, f64::from(-exponent), 0.0), &device);
            let (_, v) = noise(2, 12, &device);
            let lambda = 10.0_f64.powi(-exponent);
            let told = Lissa::default().prepare(&h, lambda).expect("a good problem").plan();
            let steps = told.steps().expect("a forecast");
            let found = solve(&Lissa { max_steps: steps, ..Lissa::default() }, &h, lambda, &v);
            assert!(found.converged(), "{name}, κ = 1e{exponent}: {told}; {:?}", found.residuals);
            assert!(matches!(told.work, Some(Work::Series { max_steps: 1000, .. })), "{told}");
            let words = told.to_string();
            assert!(words.contains(&format!("so {steps} steps")) && words.contains("at most 1000"), "{words}");
        }
    }
}

#[test]
fn averages_over_the_tail_are_less_noisy() {
    for (name, device) in precise_devices() {
        let (samples, v) = (Matrix::noise(50, 6, 21), Matrix::noise(2, 6, 22));
        let lambda = 10.0 * relative_damping(&samples);
        let expected = exact(&fisher(&samples), lambda, &v);
        let h = Curvature::from(Samples { rows: tensor(&samples, &device, DType::F64) });
        let error = |tail: usize, seed: u64| {
            let batch = LissaBatch::Random { size: 4, repeats: 1, tail, seed };
            let solver = Lissa { batch, max_steps: 300, ..Lissa::stochastic() };
            let found = matrix(solve(&solver, &h, lambda, &tensor(&v, &device, DType::F64)).x);
            found.plus(-1.0, &expected).values.iter().map(|e| e * e).sum::<f64>()
        };
        let total = |tail| (0..8).map(|seed| error(tail, seed)).sum::<f64>();
        // Iterates forget each other within s/λ, some twenty steps, so that 200 of them are about ten independent ones.
        let (last, averaged) = (total(1), total(200));
        assert!(averaged < 0.4 * last, "{name}: {averaged:e} instead of {last:e}");
    }
}

#[test]
fn a_scale_of_ones_own_is_kept() {
    for (name, device) in precise_devices() {
        let (h, dense) = with_spectrum(&logarithmic(12, -1.0, 0.0), &device);
        let (v, rows) = noise(2, 12, &device);
        let with = |scale| Lissa { scale: LissaScale::Fixed(scale), tolerance: 1e-9, ..Lissa::default() };
        let found = solve(&with(3.0), &h, 0.1, &rows);
        assert_close(&name, &values(found.x), &exact(&dense, 0.1, &v).values, 1e-7);
        // One step from r = v at s: x = (2v − v(H + λI)/s)/s.
        let one = solve(&Lissa { max_steps: 1, ..with(3.0) }, &h, 0.1, &rows).x;
        let damped = dense.plus(0.1, &Matrix::identity(12));
        let expected = v.plus(-1.0 / 6.0, &v.times(&damped));
        let expected: Vec<f64> = expected.values.iter().map(|x| x * 2.0 / 3.0).collect();
        assert_close(&name, &values(one), &expected, 1e-12);
        // Below half of the largest eigenvalue, 1.1, the series diverges, and nothing is doubled.
        let error = with(0.4).prepare(&h, 0.1).and_then(|inverse| inverse.apply(rows)).err();
        assert!(matches!(error, Some(SolveError::Diverged { .. })), "{name}: {error:?}");
    }
}

#[test]
fn what_is_said_of_steps_is_true_of_any_scale() {
    let (_, device) = precise_devices().remove(0);
    let h = with_spectrum(&[1.0; 4], &device).0;
    let told = |scale, tolerance| {
        let inverse = Lissa { scale, tolerance, ..Lissa::default() }.prepare(&h, 0.5).expect("a good problem");
        inverse.plan()
    };
    // At 0.76 the largest eigenvalue shrinks by 0.97 a step and the smallest possible by 0.34: λ alone says nothing.
    for scale in [0.76, 0.4] {
        let plan = told(LissaScale::Fixed(scale), 1e-3);
        assert_eq!(plan.work, Some(Work::Series { scale, max_steps: 1000, forecast: None }));
        let told = plan.to_string();
        assert!(told.contains("at most 1000 steps") && !told.contains("enough") && !told.contains("NaN"), "{told}");
    }
    let plan = told(LissaScale::Spectral, 2.0);
    assert_eq!(plan.steps(), Some(0), "{plan}");
    let told = plan.to_string();
    assert!(told.contains("so 0 steps") && told.contains("if s ≥ μ_max/2 + λ"), "{told}");
}

/// `(I − (I − A/s)^(2^k)) A⁻¹` is both `2^k` terms of the series, the first of which is `r = v`, and `k` unscaled Schulz
/// steps from `I/s`.
#[test]
fn a_power_of_two_terms_are_as_many_schulz_steps_as_its_logarithm() {
    for (name, device) in precise_devices() {
        let (h, _) = with_spectrum(&logarithmic(8, -3.0, 0.0), &device);
        let (_, v) = noise(3, 8, &device);
        let s = 1.7;
        for k in 1..=8_usize {
            let scale = LissaScale::Fixed(s);
            let lissa = Lissa { scale, max_steps: (1 << k) - 1, tolerance: 1e-300, ..Lissa::default() };
            let start = HyperpowerStart::Fixed { scale: 1.0 / s, steps: k, extra_damping: 0.0 };
            let schulz = Hyperpower { start, ..Hyperpower::default() };
            let [lissa, schulz] = [&lissa as &dyn Solver, &schulz].map(|solver| solve(solver, &h, 1e-2, &v));
            assert_eq!((lissa.iterations, schulz.iterations), ((1 << k) - 1, k));
            assert_close(&format!("{k} steps, {name}"), &values(lissa.x), &values(schulz.x), 1e-12);
        }
    }
}
