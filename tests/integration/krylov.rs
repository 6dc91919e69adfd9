//! Conjugate gradients, alone and in blocks, with preconditioners: against the definitions.

use burn::tensor::{DType, Device, Tensor};
use hyperinf::curvature::{Curvature, Dense, Samples};
use hyperinf::solvers::{
    BlockCg, Cg, Hyperpower, Lanczos, Lissa, Nystrom, Preconditioner, Solution, SolveError, Solver, SpectralSolver,
    certain_bound, largest_eigenvalue,
};
use hyperinf_tests::compare::{assert_close, largest, matrix, tensor, values};
use hyperinf_tests::devices;
use hyperinf_tests::oracle::{Matrix, eigenvalues, exact, fisher, relative_damping, spectral};
use hyperinf_tests::strategies::{Spd, rows, spd};
use proptest::prelude::*;

use crate::solvers::{orthogonal, precise_devices, solve, structures};

const NYSTROM: Preconditioner = Preconditioner::Nystrom { rank: 8, seed: 1 };
const PRECONDITIONERS: [Preconditioner; 3] = [Preconditioner::None, Preconditioner::Jacobi, NYSTROM];

/// A curvature with given eigenvalues, in f64, with the matrix that it is.
pub(crate) fn with_spectrum(eigenvalues: &[f64], device: &Device) -> (Curvature, Matrix) {
    let basis = orthogonal(eigenvalues.len());
    let h = spectral(&basis, eigenvalues, |mu| mu);
    (Curvature::from(Dense { matrix: tensor(&h, device, DType::F64) }), h)
}

/// `count` values from `10^low` to `10^high`, evenly spaced on a logarithmic scale.
pub(crate) fn logarithmic(count: usize, low: f64, high: f64) -> Vec<f64> {
    (0..count).map(|i| 10.0_f64.powf(low + (high - low) * i as f64 / (count.max(2) - 1) as f64)).collect()
}

pub(crate) fn noise(rows: usize, cols: usize, device: &Device) -> (Matrix, Tensor<2>) {
    let m = Matrix::noise(rows, cols, 71);
    let t = tensor(&m, device, DType::F64);
    (m, t)
}

#[test]
fn no_preconditioner_changes_the_answer() {
    for (name, device) in precise_devices() {
        let (v, rows) = noise(3, 12, &device);
        for (h, dense) in structures(&device) {
            for preconditioner in PRECONDITIONERS {
                let alone = solve(&Cg { preconditioner, tolerance: 1e-12, ..Cg::default() }, &h, 0.05, &rows);
                let block = solve(&BlockCg { preconditioner, tolerance: 1e-12, ..BlockCg::default() }, &h, 0.05, &rows);
                for found in [alone, block] {
                    let what = format!("{preconditioner:?} on {:?}, {name}", h.structure());
                    assert_close(&what, &values(found.x.clone()), &exact(&dense, 0.05, &v).values, 1e-9);
                    assert!(found.converged(), "{what}: {:?}", found.residuals);
                }
            }
        }
    }
}

#[test]
fn nystrom_preconditioning_removes_the_few_large_eigenvalues() {
    for (name, device) in precise_devices() {
        let mut eigenvalues = logarithmic(6, 3.0, 5.0);
        eigenvalues.extend(vec![1.0; 34]);
        let (h, _) = with_spectrum(&eigenvalues, &device);
        let (_, v) = noise(4, 40, &device);
        let steps = |preconditioner| solve(&Cg { preconditioner, ..Cg::default() }, &h, 1.0, &v).iterations;
        let (plain, with) = (steps(Preconditioner::None), steps(NYSTROM));
        // Without the six, all eigenvalues are within [λ, 2λ] of each other: κ = 2.
        assert!(with <= 12 && with < plain, "{name}: {with} steps, {plain} without");
    }
}

#[test]
fn jacobi_preconditioning_undoes_the_scales_of_parameters() {
    for (name, device) in precise_devices() {
        // 40 parameters whose gradients have scales from 1e-3 to 1e3.
        let scales = logarithmic(40, -3.0, 3.0);
        let samples = Matrix::noise(400, 40, 5);
        let samples = Matrix::from_fn(400, 40, |i, j| samples.at(i, j) * scales[j]);
        let h = Curvature::from(Samples { rows: tensor(&samples, &device, DType::F64) });
        let (_, v) = noise(2, 40, &device);
        let steps = |preconditioner| solve(&Cg { preconditioner, ..Cg::default() }, &h, 1e-9, &v).iterations;
        let (plain, with) = (steps(Preconditioner::None), steps(Preconditioner::Jacobi));
        assert!(2 * with < plain, "{name}: {with} steps, {plain} without");
    }
}

#[test]
fn block_cg_with_one_query_is_cg() {
    for (name, device) in precise_devices() {
        // A condition at which rounding does not add steps.
        let (h, _) = with_spectrum(&logarithmic(30, 0.0, 2.0), &device);
        let (_, v) = noise(1, 30, &device);
        for preconditioner in PRECONDITIONERS {
            let alone = solve(&Cg { preconditioner, ..Cg::default() }, &h, 0.01, &v);
            let block = solve(&BlockCg { preconditioner, ..BlockCg::default() }, &h, 0.01, &v);
            let what = format!("{preconditioner:?}, {name}");
            assert!(alone.iterations.abs_diff(block.iterations) <= 1, "{what}: {alone:?} {block:?}");
            // Both hold a residual of 1e-6 at a condition of 1e2.
            assert_close(&what, &values(block.x), &values(alone.x), 1e-3);
        }
        let few = |solver: &dyn Solver| values(solve(solver, &h, 0.01, &v).x);
        let alone = few(&Cg { max_steps: 5, ..Cg::default() });
        assert_close(&name, &few(&BlockCg { max_steps: 5, ..BlockCg::default() }), &alone, 1e-12);
    }
}

#[test]
fn block_cg_takes_fewer_steps_the_more_queries_there_are() {
    for (name, device) in precise_devices() {
        let (h, dense) = with_spectrum(&logarithmic(60, -3.0, 2.0), &device);
        let (v, rows) = noise(20, 60, &device);
        let alone = solve(&Cg::default(), &h, 1e-3, &rows);
        let block = solve(&BlockCg::default(), &h, 1e-3, &rows);
        // A step is a product of at most 20 rows in both.
        assert!(5 * block.iterations < alone.iterations, "{name}: {} and {}", block.iterations, alone.iterations);
        let small = solve(&BlockCg { block: 7, ..BlockCg::default() }, &h, 1e-3, &rows);
        let expected = exact(&dense, 1e-3, &v).values;
        for found in [&alone, &block, &small] {
            assert!(found.converged(), "{name}: {:?}", found.residuals);
            assert_close(&name, &values(found.x.clone()), &expected, 1e-3);
        }
    }
}

/// Block CG solves each of the queries, alone and together.
fn check_queries(what: &str, v: &Matrix, device: &Device) {
    let (h, dense) = with_spectrum(&logarithmic(v.cols, -2.0, 1.0), device);
    let found = solve(&BlockCg { tolerance: 1e-10, ..BlockCg::default() }, &h, 0.01, &tensor(v, device, DType::F64));
    assert!(found.converged(), "{what}: {:?}", found.residuals);
    let (found, expected) = (matrix(found.x), exact(&dense, 0.01, v));
    for i in 0..v.rows {
        // Each against its own size.
        assert_close(&format!("{what}, query {i}"), found.row(i), expected.row(i), 1e-6);
    }
}

#[test]
fn block_cg_bears_queries_that_depend_on_each_other() {
    for (name, device) in precise_devices() {
        let v = Matrix::noise(4, 12, 3);
        let at = |i: usize, j: usize| v.at(i, j);
        check_queries(&format!("duplicates, {name}"), &Matrix::from_fn(6, 12, |i, j| at(i % 2, j)), &device);
        check_queries(
            &format!("zeros, {name}"),
            &Matrix::from_fn(5, 12, |i, j| if i % 2 == 0 { 0.0 } else { at(i / 2, j) }),
            &device,
        );
        check_queries(
            &format!("a sum, {name}"),
            &Matrix::from_fn(3, 12, |i, j| if i == 2 { at(0, j) + at(1, j) } else { at(i, j) }),
            &device,
        );
        check_queries(
            &format!("nearly the same, {name}"),
            &Matrix::from_fn(3, 12, |i, j| at(0, j) + 1e-9 * i as f64 * at(1, j)),
            &device,
        );
        check_queries(
            &format!("other scales, {name}"),
            &Matrix::from_fn(4, 12, |i, j| at(i, j) * 10.0_f64.powi(12 - 8 * i as i32)),
            &device,
        );
        check_queries(&format!("more than parameters, {name}"), &Matrix::noise(30, 12, 4), &device);
        check_queries(&format!("only zeros, {name}"), &Matrix::from_fn(3, 12, |_, _| 0.0), &device);
    }
}

#[test]
fn negative_curvature_is_named() {
    // docs/methods/pitfalls.md: an indefinite Hessian accepted silently.
    for (name, device) in precise_devices() {
        let diagonal = Matrix::from_fn(1, 6, |_, j| if j == 5 { -2.0 } else { 1.0 + j as f64 });
        let h = Curvature::from(Dense {
            matrix: tensor(
                &Matrix::from_fn(6, 6, |i, j| if i == j { diagonal.at(0, j) } else { 0.0 }),
                &device,
                DType::F64,
            ),
        });
        // Queries 0 and 1 see nothing of the last direction; query 2 is it.
        let v = Matrix::from_fn(3, 6, |i, j| match i {
            2 => f64::from(u8::from(j == 5)),
            _ => f64::from(u8::from(j < 5)) * (1.0 + (i + j) as f64),
        });
        for solver in [&Cg::default() as &dyn Solver, &BlockCg::default()] {
            let found = solver.prepare(&h, 0.5).and_then(|inverse| inverse.apply(tensor(&v, &device, DType::F64)));
            let Err(SolveError::NegativeCurvature { query: 2, step: 0, value, .. }) = found else {
                panic!("{} on {name}: {found:?}", solver.name())
            };
            assert!((value + 1.5).abs() < 1e-9, "{}: {value}", solver.name());
        }
        // Low-rank solvers see it too, and Jacobi in the diagonal itself.
        let jacobi = Cg { preconditioner: Preconditioner::Jacobi, ..Cg::default() };
        for solver in [&jacobi as &dyn Solver, &Lanczos::default(), &Nystrom::default()] {
            let error = solver.prepare(&h, 0.5).err();
            let named = matches!(error, Some(SolveError::NotPositiveDefinite { solver: s, .. }) if s == solver.name());
            assert!(named, "{} on {name}: {error:?}", solver.name());
        }
    }
}

#[test]
fn the_tolerance_is_of_the_residual_and_of_each_query() {
    // docs/methods/pitfalls.md: a tolerance that is squared stops at another residual; one over the wrong axis at a sum.
    for (name, device) in precise_devices() {
        let (h, _) = with_spectrum(&logarithmic(60, -3.0, 1.0), &device);
        let v = Matrix::noise(2, 60, 72);
        let v = Matrix::from_fn(2, 60, |i, j| v.at(i, j) * if i == 0 { 1e9 } else { 1e-9 });
        for tolerance in [1e-1, 1e-3, 1e-6] {
            for solver in
                [&Cg { tolerance, ..Cg::default() } as &dyn Solver, &BlockCg { tolerance, ..BlockCg::default() }]
            {
                let found = solve(solver, &h, 1e-3, &tensor(&v, &device, DType::F64));
                let what = format!("{} to {tolerance:e}, {name}: {:?}", solver.name(), found.residuals);
                assert!(found.residuals.iter().all(|residual| *residual <= 1.1 * tolerance), "{what}");
                // No query was taken much further than asked for.
                assert!(found.residual() > 0.02 * tolerance, "{what}");
            }
        }
    }
}

/// A condition from 1 to 1e8 by λ, on a spectrum that fills it.
fn check_condition(solver: &dyn Solver, log_condition: i32, reaches: bool) -> Result<(), String> {
    for (name, device) in precise_devices() {
        let lambda = 10.0_f64.powi(-log_condition);
        let mut eigenvalues = logarithmic(20, f64::from(-log_condition), 0.0);
        eigenvalues[0] = 0.0;
        let (h, dense) = with_spectrum(&eigenvalues, &device);
        let (v, rows) = noise(3, 20, &device);
        let found = solve(solver, &h, lambda, &rows);
        let what = format!("{} at 1e{log_condition}, {name}", solver.name());
        let left = matrix(found.x.clone()).times(&dense.plus(lambda, &Matrix::identity(20))).plus(-1.0, &v);
        let norm = |row: &[f64]| row.iter().map(|v| v * v).sum::<f64>().sqrt();
        for (i, residual) in found.residuals.iter().enumerate() {
            let truth = norm(left.row(i)) / norm(v.row(i));
            // f64 leaves about ε·κ.
            let rounding = 1e-13 / lambda;
            if (residual - truth).abs() > 1e-6 * truth + rounding {
                return Err(format!("{what}: query {i} says {residual:e}, is {truth:e}"));
            }
        }
        if found.converged() != reaches {
            return Err(format!("{what}: {:?} after {} steps", found.residuals, found.iterations));
        }
    }
    Ok(())
}

#[test]
fn conditions_from_1_to_1e8() {
    for exponent in 0..=8 {
        for solver in [&Cg::default() as &dyn Solver, &BlockCg::default()] {
            check_condition(solver, exponent, true).expect("it reaches 1e-6");
        }
        // LiSSA's default of 1,000 steps is κ log(1/ε) at κ = 150.
        check_condition(&Lissa::default(), exponent, exponent <= 2).expect("it says whether it reached 1e-3");
        check_condition(&Cg { max_steps: 3, ..Cg::default() }, exponent, exponent == 0).expect("three steps are few");
    }
}

#[test]
fn conditions_beyond_f32_are_told() {
    for (name, device) in devices() {
        // The curvature is rounded to f32, vectors are f64 where the device has it; residuals are reported either way.
        for exponent in [0, 4, 8] {
            let lambda = 10.0_f64.powi(-exponent);
            let (h, _) = with_spectrum(&logarithmic(20, f64::from(-exponent), 0.0), &device);
            let h = h.cast(DType::F32);
            let dense = matrix(h.to_dense());
            let precise = device.supports_dtype(DType::F64);
            let (dtype, epsilon) = if precise { (DType::F64, f64::EPSILON) } else { (DType::F32, 6e-8) };
            let v = tensor(&Matrix::noise(2, 20, 8), &device, dtype);
            for solver in [&Cg::default() as &dyn Solver, &BlockCg::default()] {
                let found = match solver.prepare(&h, lambda).and_then(|inverse| inverse.apply(v.clone())) {
                    Ok(found) => found,
                    // Rounded to f32 the smallest eigenvalues may be below −λ.
                    Err(SolveError::NegativeCurvature { .. }) if exponent == 8 => continue,
                    Err(error) => panic!("{} at 1e{exponent}, {name}: {error}", solver.name()),
                };
                let v = matrix(v.clone());
                let left = matrix(found.x.clone()).times(&dense.plus(lambda, &Matrix::identity(20))).plus(-1.0, &v);
                for (i, told) in found.residuals.iter().enumerate() {
                    let norm = |row: &[f64]| row.iter().map(|v| v * v).sum::<f64>().sqrt();
                    let truth = norm(left.row(i)) / norm(v.row(i));
                    let close = (told - truth).abs() <= 1e-3 * truth + 100.0 * epsilon / lambda;
                    assert!(close, "{} at 1e{exponent}, {name}: says {told:e}, is {truth:e}", solver.name());
                }
                assert!(exponent == 8 || found.converged(), "{} at 1e{exponent}, {name}", solver.name());
            }
        }
    }
}

/// The answer for gradients and queries of other sizes is the answer for those of size 1, but for the sizes.
fn check_scales(solver: &dyn Solver, dtype: DType, sizes: [(f64, f64); 3], tolerance: f64) {
    for (name, device) in devices().into_iter().filter(|(_, device)| device.supports_dtype(dtype)) {
        let (samples, v) = (Matrix::noise(9, 12, 5), Matrix::noise(2, 12, 71));
        let lambda = relative_damping(&samples);
        let expected = exact(&fisher(&samples), lambda, &v).values;
        for (gradients, queries) in sizes {
            let h = tensor(&Matrix::from_fn(9, 12, |i, j| gradients * samples.at(i, j)), &device, dtype);
            let h = Curvature::from(Samples { rows: h });
            let h = if solver.supports(h.structure()) { h } else { Curvature::from(Dense { matrix: h.to_dense() }) };
            let rows = tensor(&v, &device, dtype).mul_scalar(queries);
            let found = solve(solver, &h, lambda * gradients * gradients, &rows);
            let what = format!("{} in {dtype:?} at {gradients:e}, {queries:e}, {name}", solver.name());
            assert!(found.converged(), "{what}: {:?}", found.residuals);
            let found: Vec<f64> = values(found.x).iter().map(|x| x * gradients * gradients / queries).collect();
            assert_close(&what, &found, &expected, tolerance);
        }
    }
}

#[test]
fn answers_scale_with_queries_and_curvature() {
    let lissa = |tolerance| Lissa { tolerance, max_steps: 100_000, ..Lissa::default() };
    let [fine, coarse] = [1e-9, 1e-5].map(lissa);
    let others: [&dyn Solver; 6] = [
        &Cg::default(),
        &BlockCg::default(),
        &Lanczos::default(),
        &Nystrom::default(),
        &Hyperpower::default(),
        &SpectralSolver,
    ];
    for solver in others.into_iter().chain([&fine as &dyn Solver]) {
        check_scales(solver, DType::F64, [(1e-10, 1e-15), (1e8, 1e10), (1.0, 1e-100)], 1e-5);
    }
    for solver in others.into_iter().chain([&coarse as &dyn Solver]) {
        check_scales(solver, DType::F32, [(1e-11, 1e-15), (1e8, 1e10), (1.0, 1e-25)], 1e-3);
    }
}

#[test]
fn bounds_hold_for_matrices_of_any_size() {
    for (name, device) in devices() {
        let samples = Matrix::noise(9, 12, 5);
        let most = eigenvalues(&fisher(&samples))[0];
        for size in [1e-30, 1e-23, 1.0, 1e25] {
            let h = tensor(&fisher(&samples), &device, DType::F32).mul_scalar(size);
            let (bound, h) = (certain_bound(&h).expect("a good device"), Curvature::from(Dense { matrix: h }));
            let found = largest_eigenvalue(&h, &h.like(), 60).expect("a good device");
            let what = format!("{size:e}, {name}: {bound:e} and {found:e} for {most}");
            assert!(bound >= most * size && bound < 10.0 * most * size, "{what}");
            assert!((found / size - most).abs() < 0.05 * most, "{what}");
        }
    }
}

/// Checks a solver's answer on a positive definite matrix, λ included in it.
fn check_spd(solver: &dyn Solver, spd: &Spd, v: &Matrix, tolerance: f64) -> Result<Solution, TestCaseError> {
    let (_, device) = precise_devices().remove(0);
    let lambda = spd.eigenvalues[0];
    let h = spectral(&spd.basis, &spd.eigenvalues, |mu| mu - lambda);
    let h = Curvature::from(Dense { matrix: tensor(&h, &device, DType::F64) });
    let found = solve(solver, &h, lambda, &tensor(v, &device, DType::F64));
    let expected = v.times(&spd.inverse());
    let error = matrix(found.x.clone()).plus(-1.0, &expected);
    let relative = largest(&error.values) / largest(&expected.values).max(f64::MIN_POSITIVE);
    prop_assert!(relative <= tolerance, "{}: κ = {:e}, error {relative:e}", solver.name(), spd.condition());
    prop_assert!(found.converged(), "{}: {:?}", solver.name(), found.residuals);
    Ok(found)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, ..ProptestConfig::default() })]

    /// Any number of queries, some of them copies, with any preconditioner.
    #[test]
    fn block_cg_inverts_any_spd(
        spd in spd(2..=20, 0.0..4.0, -3.0..3.0),
        q in 1..30_usize,
        copies in 1..4_usize,
        preconditioner in prop::sample::select(PRECONDITIONERS.to_vec()),
    ) {
        let d = spd.eigenvalues.len();
        let distinct = Matrix::noise(q.div_ceil(copies), d, 17);
        let v = Matrix::from_fn(q, d, |i, j| distinct.at(i / copies, j));
        check_spd(&BlockCg { preconditioner, tolerance: 1e-11, ..BlockCg::default() }, &spd, &v, 1e-6)?;
    }

    #[test]
    fn preconditioned_cg_inverts_any_spd(
        spd in spd(2..=20, 0.0..4.0, -3.0..3.0),
        v in rows(1..=3, 20),
        preconditioner in prop::sample::select(PRECONDITIONERS.to_vec()),
    ) {
        let d = spd.eigenvalues.len();
        let v = Matrix::from_fn(v.rows, d, |i, j| v.at(i, j));
        check_spd(&Cg { preconditioner, tolerance: 1e-11, ..Cg::default() }, &spd, &v, 1e-6)?;
    }
}
