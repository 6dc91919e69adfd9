//! Every solver against the definition of its problem, and the error that it reports.

use burn::tensor::{DType, Device, Tensor};
use hyperinf::curvature::{
    Captured, Curvature, Dense, Diagonal, Eigenpairs, Isotropic, Kronecker, OneSided, SamplePart, Samples,
};
use hyperinf::gradients::{Block, Capture};
use hyperinf::solvers::{
    Cg, DataInf, Exact, Hyperpower, HyperpowerStart, Lissa, LissaBatch, Solution, SolveError, Solver, solvers,
};
use hyperinf_tests::compare::{assert_close, largest, matrix, precisions, tensor, values};
use hyperinf_tests::devices;
use hyperinf_tests::oracle::{Matrix, datainf, exact, fisher, relative_damping, schulz_map, spectral};
use hyperinf_tests::strategies::{Spd, spd};
use proptest::prelude::*;

/// Solves `X (H + λI) = V` with both in one type.
pub(crate) fn solve(solver: &dyn Solver, h: &Curvature, lambda: f64, v: &Tensor<2>) -> Solution {
    let solution = solver.prepare(h, lambda).and_then(|inverse| inverse.apply(v.clone()));
    solution.unwrap_or_else(|e| panic!("{} on {:?}: {e}", solver.name(), h.structure()))
}

/// The devices with a type of f64, which is what checks the mathematics free of rounding.
pub(crate) fn precise_devices() -> Vec<(String, Device)> {
    devices().into_iter().filter(|(_, device)| device.supports_dtype(DType::F64)).collect()
}

/// Every structure of one small block of 3 × 4 parameters, in f64.
pub(crate) fn structures(device: &Device) -> Vec<(Curvature, Matrix)> {
    let samples = Matrix::noise(7, 12, 5);
    let rows = |m: &Matrix| tensor(m, device, DType::F64);
    let (factor, kept) = (fisher(&Matrix::noise(20, 4, 6)), fisher(&Matrix::noise(20, 3, 7)));
    let diagonal = Matrix::noise(1, 12, 8);
    let diagonal = Matrix::from_fn(1, 12, |_, j| diagonal.at(0, j).abs());
    // Of one and of several positions, next to formed samples.
    let captured = |n: usize, t: usize, seed: u64| {
        let side = |width: usize, seed: u64| rows(&Matrix::noise(n * t, width, seed)).reshape([n, t, width]);
        let capture = Capture { block: Block::new("block", 3, 4), input: side(3, seed), delta: side(4, seed + 1) };
        let squares = capture.squared_norms().expect("the device works");
        SamplePart::Captured { capture, squares }
    };
    let formed = SamplePart::Formed(rows(&Matrix::noise(2, 12, 30)));
    let all = [
        Curvature::from(Dense { matrix: rows(&fisher(&samples)) }),
        Curvature::from(Samples { rows: rows(&samples) }),
        Curvature::from(Captured { parts: vec![captured(4, 1, 20)] }),
        Curvature::from(Captured { parts: vec![captured(3, 1, 22), formed, captured(2, 3, 24)] }),
        Curvature::OneSided(OneSided { factor: rows(&factor), rows: 3, cols: 4, rows_contracted: true }),
        Curvature::OneSided(OneSided { factor: rows(&kept), rows: 3, cols: 4, rows_contracted: false }),
        Curvature::from(Diagonal { values: rows(&diagonal).reshape([12]) }),
        Curvature::from(Isotropic { value: rows(&Matrix::from_fn(1, 1, |_, _| 0.7)), parameters: 12 }),
        Curvature::Kronecker(Kronecker {
            left: rows(&orthogonal(3)),
            right: rows(&orthogonal(4)),
            eigenvalues: rows(&Matrix::from_fn(3, 4, |i, j| 0.1 * (1 + i * 4 + j) as f64)),
        }),
        Curvature::Eigenpairs(Eigenpairs {
            vectors: rows(&Matrix { rows: 5, cols: 12, values: orthogonal(12).values[..60].to_vec() }),
            values: rows(&Matrix::from_fn(1, 5, |_, j| 1.0 / (1 + j) as f64)).reshape([5]),
        }),
    ];
    all.into_iter().map(|h| (h.clone(), matrix(h.to_dense()))).collect()
}

#[test]
fn converging_solvers_reach_the_exact_answer_on_every_structure_they_support() {
    let all: [(Box<dyn Solver>, f64); 4] = [
        (Box::new(Exact), 1e-10),
        (Box::new(Hyperpower { tolerance: 1e-12, ..Hyperpower::default() }), 1e-9),
        (Box::new(Cg { tolerance: 1e-12, ..Cg::default() }), 1e-9),
        (Box::new(Lissa { tolerance: 1e-10, max_steps: 100_000, ..Lissa::default() }), 1e-7),
    ];
    for (name, device) in precise_devices() {
        let v = Matrix::noise(3, 12, 9);
        for (h, dense) in structures(&device) {
            for (solver, tolerance) in all.iter().filter(|(s, _)| s.supports(h.structure())) {
                let solution = solve(solver.as_ref(), &h, 0.05, &tensor(&v, &device, DType::F64));
                let what = format!("{} on {:?}, {name}", solver.name(), h.structure());
                assert_close(&what, &values(solution.x.clone()), &exact(&dense, 0.05, &v).values, *tolerance);
                assert!(solution.converged(), "{what}: residual {}", solution.residual());
            }
        }
    }
}

#[test]
fn dual_is_primal() {
    for (name, device) in precise_devices() {
        // Fewer samples than parameters, as many, and more: the last takes the primal inside.
        for n in [5, 12, 40] {
            let (samples, v) = (Matrix::noise(n, 12, 1), Matrix::noise(4, 12, 2));
            let held = Curvature::from(Samples { rows: tensor(&samples, &device, DType::F64) });
            let dense = Curvature::from(Dense { matrix: tensor(&fisher(&samples), &device, DType::F64) });
            let lambda = relative_damping(&samples);
            let [dual, primal] = [held, dense].map(|h| solve(&Exact, &h, lambda, &tensor(&v, &device, DType::F64)));
            assert_close(&format!("n = {n}, {name}"), &values(dual.x.clone()), &values(primal.x), 1e-10);
            if let Some(products) = dual.products {
                let again = dual.x.matmul(tensor(&samples, &device, DType::F64).transpose());
                assert_close(&format!("products, n = {n}, {name}"), &values(products), &values(again), 1e-10);
            }
        }
    }
}

#[test]
fn exact_in_f32_is_exact_to_the_rounding_of_its_inputs() {
    for (name, device) in devices() {
        let (samples, v) = (Matrix::noise(30, 64, 3), Matrix::noise(2, 64, 4));
        let rows = tensor(&samples, &device, DType::F32);
        let v = tensor(&v, &device, DType::F32);
        let lambda = relative_damping(&samples);
        let found = solve(&Exact, &Curvature::from(Samples { rows: rows.clone() }), lambda, &v);
        // The inputs as rounded are the problem; its solution is rounded once, to f32.
        let expected = exact(&fisher(&matrix(rows)), lambda, &matrix(v));
        assert_close(&name, &values(found.x), &expected.values, 1e-6);
    }
}

#[test]
fn datainf_is_the_mean_of_the_samples_inverses() {
    for (name, device) in devices() {
        for (dtype, epsilon) in precisions(&device) {
            let (samples, v) = (Matrix::noise(9, 6, 11), Matrix::noise(3, 6, 12));
            let lambda = relative_damping(&samples);
            let found = solve(
                &DataInf,
                &Curvature::from(Samples { rows: tensor(&samples, &device, dtype) }),
                lambda,
                &tensor(&v, &device, dtype),
            );
            let expected = datainf(&samples, lambda, &v);
            // The subtraction (V − Σ c u)/λ amplifies rounding by at most about (μ + λ)/λ, some hundred here.
            assert_close(&format!("{name} {dtype:?}"), &values(found.x), &expected.values, 300.0 * epsilon);
            assert_eq!((found.iterations, found.tolerance), (0, None));
        }
    }
}

#[test]
fn datainf_never_underestimates_and_meets_the_inverse_when_all_samples_agree() {
    for (_, device) in precise_devices() {
        let (samples, v) = (Matrix::noise(9, 6, 13), Matrix::noise(20, 6, 14));
        let lambda = relative_damping(&samples);
        let rows = |m: &Matrix| tensor(m, &device, DType::F64);
        let found = matrix(solve(&DataInf, &Curvature::from(Samples { rows: rows(&samples) }), lambda, &rows(&v)).x);
        let reference = exact(&fisher(&samples), lambda, &v);
        let quadratic = |x: &Matrix, i: usize| x.row(i).iter().zip(v.row(i)).map(|(x, v)| x * v).sum::<f64>();
        for i in 0..v.rows {
            assert!(quadratic(&found, i) >= quadratic(&reference, i) * (1.0 - 1e-12), "query {i}");
        }
        let same = Matrix::from_fn(5, 6, |i, j| samples.at(0, j) * if i % 2 == 0 { 1.0 } else { -1.0 });
        let solution = solve(&DataInf, &Curvature::from(Samples { rows: rows(&same) }), lambda, &rows(&v));
        assert_close(
            "identical samples",
            &values(solution.x.clone()),
            &exact(&fisher(&same), lambda, &v).values,
            1e-12,
        );
        assert!(solution.residual() < 1e-12, "residual {}", solution.residual());
    }
}

#[test]
fn schulz_from_a_multiple_of_the_identity_follows_its_closed_form() {
    for (name, device) in precise_devices() {
        let basis = orthogonal(6);
        let eigenvalues = [1e-3, 0.01, 0.2, 1.0, 7.0, 150.0];
        let h = spectral(&basis, &eigenvalues, |mu| mu);
        for steps in [1, 5, 15, 30] {
            let start = HyperpowerStart::Fixed { scale: 5e-5, steps, extra_damping: 0.0 };
            let solver = Hyperpower { start, ..Hyperpower::default() };
            let v = Matrix::identity(6);
            let lambda = 1e-4;
            let h = Curvature::from(Dense { matrix: tensor(&h, &device, DType::F64) });
            let found = solve(&solver, &h, lambda, &tensor(&v, &device, DType::F64));
            let expected = spectral(&basis, &eigenvalues, |mu| schulz_map(5e-5, mu + lambda, steps as u32));
            assert_close(&format!("{steps} steps, {name}"), &values(found.x), &expected.values, 1e-9);
        }
    }
}

/// An orthogonal matrix that nothing here depends on: a product of three reflections.
pub(crate) fn orthogonal(d: usize) -> Matrix {
    (1..4).fold(Matrix::identity(d), |q, seed| {
        let u = Matrix::noise(1, d, seed);
        let square: f64 = u.values.iter().map(|u| u * u).sum();
        let reflection =
            Matrix::from_fn(d, d, |i, j| f64::from(u8::from(i == j)) - 2.0 * u.values[i] * u.values[j] / square);
        q.times(&reflection)
    })
}

#[test]
fn the_authors_start_leaves_small_eigenvalues_alone_and_says_so() {
    // docs/methods/pitfalls.md: a fixed Schulz start. 15 steps from 5e-5 do not invert an eigenvalue of 0.01.
    for (_, device) in precise_devices() {
        let h = Curvature::from(Dense { matrix: Tensor::<2>::eye(3, &device).cast(DType::F64).mul_scalar(0.009) });
        let start = HyperpowerStart::Fixed { scale: 5e-5, steps: 15, extra_damping: 0.0 };
        let v = tensor(&Matrix::noise(1, 3, 1), &device, DType::F64);
        let found = solve(&Hyperpower { start, ..Hyperpower::default() }, &h, 0.001, &v);
        assert!(found.residual() > 0.9, "residual {}", found.residual());
        // The default does, to its tolerance.
        assert!(solve(&Hyperpower::default(), &h, 0.001, &v).residual() <= 1e-6);
    }
}

#[test]
fn the_authors_start_diverges_above_its_range_as_an_error() {
    for (_, device) in devices() {
        let h = Curvature::from(Dense { matrix: Tensor::<2>::eye(3, &device).mul_scalar(1e5) });
        let error = Hyperpower::authors().prepare(&h, 0.1).err();
        assert!(matches!(error, Some(SolveError::Diverged { .. })), "{error:?}");
    }
}

#[test]
fn refinement_carries_schulz_past_the_floor_of_f32() {
    // κ·ε is 1e5 · 6e-8 = 6e-3: the f32 inverse alone cannot do better.
    for (name, device) in precise_devices() {
        let basis = orthogonal(6);
        let h = spectral(&basis, &[0.0, 0.01, 0.1, 1.0, 10.0, 100.0], |mu| mu);
        let h = Curvature::from(Dense { matrix: tensor(&h, &device, DType::F32) });
        let v = tensor(&Matrix::noise(4, 6, 2), &device, DType::F32);
        let found = solve(&Hyperpower::default(), &h, 1e-3, &v);
        assert!(found.converged() && found.residual() <= 1e-6, "{name}: residual {}", found.residual());
    }
}

#[test]
fn stochastic_lissa_approaches_the_exact_answer() {
    for (name, device) in devices() {
        let (samples, v) = (Matrix::noise(50, 6, 21), Matrix::noise(2, 6, 22));
        let lambda = 10.0 * relative_damping(&samples);
        let solver = Lissa {
            batch: LissaBatch::Random { size: 16, repeats: 8, tail: 100, seed: 3 },
            max_steps: 300,
            ..Lissa::stochastic()
        };
        let h = Curvature::from(Samples { rows: tensor(&samples, &device, DType::F32) });
        let v32 = tensor(&v, &device, DType::F32);
        let found = solve(&solver, &h, lambda, &v32);
        // Noise of the draws: a few per cent at this size.
        assert_close(&name, &values(found.x.clone()), &exact(&fisher(&samples), lambda, &v).values, 0.15);
        assert_eq!(values(found.x), values(solve(&solver, &h, lambda, &v32).x), "the same seed draws the same");
    }
}

#[test]
fn under_growing_damping_everything_becomes_v_over_lambda() {
    // Also the test of LiSSA's damping sign: with it subtracted the answer would be −V/λ or diverge.
    let lambda = 1e9;
    for (name, device) in precise_devices() {
        let v = Matrix::noise(2, 12, 9);
        let expected: Vec<f64> = v.values.iter().map(|v| v / lambda).collect();
        for (h, _) in structures(&device) {
            for solver in solvers().iter().filter(|s| s.supports(h.structure()) && inverts_at_any_scale(s.name())) {
                let found = solve(solver.as_ref(), &h, lambda, &tensor(&v, &device, DType::F64));
                let what = format!("{} on {:?}, {name}", solver.name(), h.structure());
                assert_close(&what, &values(found.x), &expected, 2e-3);
            }
        }
    }
}

/// All but the one that inverts nothing and the one whose fixed start diverges above 4e4.
fn inverts_at_any_scale(name: &str) -> bool {
    !["identity", "schulz-authors"].contains(&name)
}

#[test]
fn cg_holds_every_query_to_its_own_residual() {
    // docs/methods/pitfalls.md: a tolerance over the wrong axis lets a large query hide a small one.
    for (name, device) in devices() {
        let samples = Matrix::noise(30, 12, 31);
        let v = Matrix::noise(2, 12, 32);
        let v = Matrix::from_fn(2, 12, |i, j| v.at(i, j) * if i == 0 { 1e6 } else { 1e-3 });
        let h = Curvature::from(Samples { rows: tensor(&samples, &device, DType::F32) });
        let found = matrix(solve(&Cg::default(), &h, 0.01, &tensor(&v, &device, DType::F32)).x);
        let expected = exact(&fisher(&samples), 0.01, &v);
        for i in 0..2 {
            assert_close(&format!("query {i}, {name}"), found.row(i), expected.row(i), 1e-4);
        }
    }
}

/// Checks that a solver inverts a damped matrix of a chosen condition to `tolerance`.
fn check_inverse(solver: &dyn Solver, spd: &Spd, tolerance: f64) -> Result<(), TestCaseError> {
    let (_, device) = precise_devices().remove(0);
    let d = spd.eigenvalues.len();
    // λ takes the place of the smallest eigenvalue, so that H + λI has the condition asked for.
    let lambda = spd.eigenvalues[0];
    let h = spectral(&spd.basis, &spd.eigenvalues, |mu| mu - lambda);
    let v = Matrix::noise(2, d, 17);
    let h = Curvature::from(Dense { matrix: tensor(&h, &device, DType::F64) });
    let found = solve(solver, &h, lambda, &tensor(&v, &device, DType::F64));
    let expected = v.times(&spd.inverse());
    let error = matrix(found.x.clone()).plus(-1.0, &expected);
    let relative = largest(&error.values) / largest(&expected.values);
    prop_assert!(relative <= tolerance, "{}: κ = {:e}, error {relative:e}", solver.name(), spd.condition());
    prop_assert!(found.converged(), "{}: residual {:e}", solver.name(), found.residual());
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    // A residual of ε bounds the error by κ·ε; cases stay at κ ≤ 1e4, so 1e-10 is safe for 1e-14 of f64.
    #[test]
    fn exact_inverts_any_spd(spd in spd(1..=24, 0.0..4.0, -3.0..3.0)) {
        check_inverse(&Exact, &spd, 1e-10)?;
    }

    #[test]
    fn schulz_inverts_any_spd(spd in spd(1..=24, 0.0..4.0, -3.0..3.0)) {
        check_inverse(&Hyperpower { tolerance: 1e-11, ..Hyperpower::default() }, &spd, 1e-6)?;
    }

    #[test]
    fn cg_inverts_any_spd(spd in spd(1..=24, 0.0..4.0, -3.0..3.0)) {
        check_inverse(&Cg { tolerance: 1e-11, ..Cg::default() }, &spd, 1e-6)?;
    }

    #[test]
    fn lissa_inverts_any_spd(spd in spd(1..=12, 0.0..2.0, -3.0..3.0)) {
        check_inverse(&Lissa { tolerance: 1e-8, max_steps: 100_000, ..Lissa::default() }, &spd, 1e-5)?;
    }

    /// `δ ≥ ||I − A X||₂` after every number of steps. Two f64 roundings are far below 1e-12 here.
    #[test]
    fn the_certificate_bounds_the_true_residual(spd in spd(2..=16, 0.0..5.0, -2.0..2.0), steps in 0..12_usize) {
        let (_, device) = precise_devices().remove(0);
        let (lower, upper) = (spd.eigenvalues[0], spd.eigenvalues[spd.eigenvalues.len() - 1]);
        let a = tensor(&spd.matrix(), &device, DType::F64);
        let solver = Hyperpower { tolerance: 1e-15, max_steps: steps, ..Hyperpower::default() };
        let found = solver.invert(a, lower, upper * 1.3).expect("true bounds");
        // ||I − AX||₂ in the eigenbasis, where A X is diagonal: the largest |1 − μ x(μ)|.
        let x = spd.basis.transpose().times(&matrix(found.x)).times(&spd.basis);
        let worst = (0..x.rows).map(|i| (1.0 - spd.eigenvalues[i] * x.at(i, i)).abs()).fold(0.0, f64::max);
        let rounding = 1e-12 * spd.condition();
        prop_assert!(worst <= found.certificate + rounding, "{worst:e} above {:e}", found.certificate);
    }
}
