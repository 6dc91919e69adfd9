//! Chebyshev's semi-iteration: its polynomial, its bound, and its linearity.

use burn::tensor::DType;
use hyperinf::curvature::{Curvature, Diagonal};
use hyperinf::solvers::{Cg, Chebyshev, Lissa, Solver, Work};
use hyperinf_tests::compare::{assert_close, tensor, values};
use hyperinf_tests::oracle::{Matrix, exact, spectral};

use crate::krylov::{logarithmic, noise, with_spectrum};
use crate::solvers::{orthogonal, precise_devices, solve, structures};

#[test]
fn every_structure_has_the_exact_inverse() {
    for (name, device) in precise_devices() {
        let (v, rows) = noise(3, 12, &device);
        for (h, dense) in structures(&device) {
            let found = solve(&Chebyshev { tolerance: 1e-12, ..Chebyshev::default() }, &h, 0.05, &rows);
            let what = format!("{:?}, {name}", h.structure());
            assert_close(&what, &values(found.x.clone()), &exact(&dense, 0.05, &v).values, 1e-9);
            assert!(found.converged(), "{what}: {:?}", found.residuals);
        }
    }
}

/// `x = v (I − T_k((θ − A)/δ)/T_k(θ/δ)) A⁻¹`, from the closed form of `T_k` for the bounds that the plan tells.
#[test]
fn the_answer_is_chebyshevs_polynomial() {
    let (_, device) = precise_devices().remove(0);
    let eigenvalues = logarithmic(10, -2.0, 0.0);
    let (h, _) = with_spectrum(&eigenvalues, &device);
    let (v, rows) = noise(2, 10, &device);
    let lambda = 0.01;
    for k in [1, 2, 3, 7, 20] {
        let solver = Chebyshev { max_steps: k, ..Chebyshev::default() };
        let inverse = solver.prepare(&h, lambda).expect("a good problem");
        let Some(Work::Iteration { forecast, .. }) = inverse.plan().work else { panic!("{}", inverse.plan()) };
        let upper = forecast.condition * lambda;
        let (theta, delta) = (0.5 * (upper + lambda), 0.5 * (upper - lambda));
        let chebyshev = |x: f64| match x.abs() <= 1.0 {
            true => (k as f64 * x.acos()).cos(),
            false => (k as f64 * x.acosh()).cosh(),
        };
        let rest = |a: f64| chebyshev((theta - a) / delta) / chebyshev(theta / delta);
        let map = spectral(&orthogonal(10), &eigenvalues, |mu| (1.0 - rest(mu + lambda)) / (mu + lambda));
        let found = inverse.apply(rows.clone()).expect("a good problem");
        assert_close(&format!("k = {k}"), &values(found.x.clone()), &v.times(&map).values, 1e-10);
        assert!(found.residual() <= 1.0 / chebyshev(theta / delta) + 1e-12, "k = {k}: {:e}", found.residual());
        assert_eq!(found.iterations, k);
    }
}

#[test]
fn it_takes_the_steps_it_plans_and_fewer_than_lissa() {
    for (name, device) in precise_devices() {
        let (_, v) = noise(2, 40, &device);
        for exponent in [1, 2, 3] {
            let (h, _) = with_spectrum(&logarithmic(40, f64::from(-exponent), 0.0), &device);
            let lambda = 10.0_f64.powi(-exponent);
            let solver = Chebyshev { tolerance: 1e-3, ..Chebyshev::default() };
            let planned = solver.prepare(&h, lambda).expect("a good problem").plan();
            let found = solve(&solver, &h, lambda, &v);
            assert_eq!(Some(found.iterations), planned.steps(), "{name}: {planned}");
            assert!(found.converged(), "{name}: {planned}, {:?}", found.residuals);
            let lissa = solve(&Lissa { max_steps: 100_000, ..Lissa::default() }, &h, lambda, &v).iterations;
            assert!(found.iterations < lissa, "{name}, κ = 1e{exponent}: {} and {lissa}", found.iterations);
        }
    }
}

/// One polynomial for all queries: at any tolerance the answer for a sum is the sum of the answers.
#[test]
fn the_answer_is_linear_in_the_query() {
    let (_, device) = precise_devices().remove(0);
    let (h, _) = with_spectrum(&logarithmic(30, -3.0, 0.0), &device);
    let (_, v) = noise(2, 30, &device);
    let sum = v.clone().sum_dim(0);
    let gap = |solver: &dyn Solver| {
        let parts = values(solve(solver, &h, 1e-3, &v).x.sum_dim(0));
        let whole = values(solve(solver, &h, 1e-3, &sum).x);
        let norm = |rows: &[f64]| rows.iter().map(|x| x * x).sum::<f64>().sqrt();
        let difference: Vec<f64> = parts.iter().zip(&whole).map(|(a, b)| a - b).collect();
        norm(&difference) / norm(&whole)
    };
    let chebyshev = gap(&Chebyshev { tolerance: 0.1, ..Chebyshev::default() });
    let cg = gap(&Cg { tolerance: 0.1, ..Cg::default() });
    assert!(chebyshev < 1e-12 && cg > 1e-6, "{chebyshev:e} and {cg:e}");
}

/// A power iteration gains almost nothing on a flat spectrum, and stops before it finds the one that stands out.
#[test]
fn a_bound_that_is_too_low_is_doubled() {
    for (name, device) in precise_devices() {
        for top in [1.2, 3.0, 50.0] {
            let diagonal = Matrix::from_fn(1, 1000, |_, j| if j == 0 { top } else { 1.0 });
            let values = tensor(&diagonal, &device, DType::F64).reshape([1000]);
            let h = Curvature::from(Diagonal { values });
            let (_, v) = noise(2, 1000, &device);
            let found = solve(&Chebyshev::default(), &h, 1e-2, &v);
            assert!(found.converged(), "{name}, top {top}: {:?}", found.residuals);
        }
    }
}

#[test]
fn no_curvature_is_a_division() {
    let (_, device) = precise_devices().remove(0);
    let h = with_spectrum(&[0.0; 4], &device).0;
    let (v, rows) = noise(2, 4, &device);
    let found = solve(&Chebyshev::default(), &h, 0.5, &rows);
    let expected: Vec<f64> = v.values.iter().map(|x| 2.0 * x).collect();
    assert_close("H = 0", &values(found.x), &expected, 1e-14);
    assert_eq!(found.iterations, 1);
}
