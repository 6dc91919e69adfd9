//! The contract of every solver in the registry for every structure, and their table in the documentation.

use std::fs;
use std::path::Path;

use burn::tensor::{DType, Tensor};
use hyperinf::curvature::{
    Captured, Curvature, Dense, Diagonal, Eigenpairs, Kronecker, OneSided, SamplePart, Samples, Structure,
};
use hyperinf::solvers::{SolveError, Solver, solvers};
use hyperinf_tests::compare::{assert_close, matrix, precisions, tensor, values};
use hyperinf_tests::devices;
use hyperinf_tests::oracle::{Matrix, exact};

use crate::solvers::structures;

/// Damping as large as the curvature: every solver that converges at all does so here.
const LAMBDA: f64 = 0.5;

/// Calls the check with every solver and every small curvature.
fn pairs(check: impl Fn(&str, &dyn Solver, &Curvature, &Matrix)) {
    for (name, device) in devices() {
        let all = structures(&device);
        for structure in Structure::ALL {
            assert!(all.iter().any(|(h, _)| h.structure() == structure), "no case of {structure:?}");
        }
        for (h, dense) in &all {
            for solver in solvers() {
                let what = format!("{} on {:?}, {name}", solver.name(), h.structure());
                check(&what, solver.as_ref(), h, dense);
            }
        }
    }
}

/// The same for those that go together.
fn supported(check: impl Fn(&str, &dyn Solver, &Curvature, &Matrix)) {
    pairs(|what, solver, h, dense| {
        if solver.supports(h.structure()) {
            check(what, solver, h, dense);
        }
    });
}

fn norm(row: &[f64]) -> f64 {
    row.iter().map(|v| v * v).sum::<f64>().sqrt()
}

#[test]
fn answers_are_the_exact_ones_within_their_own_residuals() {
    supported(|what, solver, h, dense| {
        let device = h.like().device();
        for (dtype, epsilon) in precisions(&device) {
            let what = format!("{what} {dtype:?}");
            // Rounded once, so that both have the same problem.
            let h = h.cast(dtype);
            let dense = if dtype == DType::F64 { dense.clone() } else { matrix(h.precise().to_dense()) };
            let v = tensor(&Matrix::noise(3, 12, 9), &device, dtype);
            let found = solver.prepare(&h, LAMBDA).and_then(|inverse| inverse.apply(v.clone()));
            let found = found.unwrap_or_else(|error| panic!("{what}: {error}"));
            assert_eq!((found.x.dims(), found.x.dtype()), ([3, 12], dtype), "{what}");
            assert_eq!(found.residuals.len(), 3, "{what}");
            assert!(found.converged(), "{what}: {:?}", found.residuals);
            let v = matrix(v);
            let (x, expected) = (matrix(found.x), exact(&dense, LAMBDA, &v));
            let error = x.plus(-1.0, &expected);
            for i in 0..3 {
                // ||x − x*|| ≤ ||(H + λI)⁻¹|| · ||x(H + λI) − v||; eigenvalues here are at most 10.
                let rounding = 100.0 * epsilon * norm(expected.row(i));
                let bound = found.residuals[i] * norm(v.row(i)) / LAMBDA + rounding;
                assert!(norm(error.row(i)) <= bound, "{what}, query {i}: {:e} > {bound:e}", norm(error.row(i)));
            }
        }
    });
}

#[test]
fn the_residual_of_each_query_is_the_true_one() {
    supported(|what, solver, h, dense| {
        let v = Matrix::noise(4, 12, 9);
        // Queries of different lengths: residuals are relative to each.
        let v = Matrix::from_fn(4, 12, |i, j| v.at(i, j) * 10.0_f64.powi(2 * i as i32 - 3));
        let inverse = solver.prepare(h, 0.05).expect("a good problem");
        let found = inverse.apply(tensor(&v, &h.like().device(), DType::F64)).expect("a good problem");
        let left = matrix(found.x.clone()).times(&dense.plus(0.05, &Matrix::identity(12))).plus(-1.0, &v);
        for i in 0..4 {
            let (told, truth) = (found.residuals[i], norm(left.row(i)) / norm(v.row(i)));
            assert!((told - truth).abs() <= 1e-9 + 1e-6 * truth, "{what}, query {i}: {told:e}, is {truth:e}");
        }
        assert!(found.residuals.contains(&found.residual()), "{what}");
        assert!(found.residuals.iter().all(|residual| *residual <= found.residual()), "{what}");
    });
}

#[test]
fn asked_twice_or_in_parts_the_answer_is_the_same() {
    supported(|what, solver, h, _| {
        let v = tensor(&Matrix::noise(3, 12, 9), &h.like().device(), DType::F64);
        let inverse = solver.prepare(h, LAMBDA).expect("a good problem");
        let solve = |v: Tensor<2>| values(inverse.apply(v).expect("a good problem").x);
        let first = solve(v.clone());
        assert_eq!(first, solve(v.clone()), "{what}");
        // Prepared again, from the same curvature.
        let again = solver.prepare(h, LAMBDA).and_then(|inverse| inverse.apply(v.clone()));
        assert_eq!(first, values(again.expect("a good problem").x), "{what}");
        // One by one: within the tolerance of the loosest, LiSSA's 1e-3.
        let one_by_one: Vec<f64> = (0..3).flat_map(|i| solve(v.clone().slice([i..i + 1]))).collect();
        assert_close(what, &one_by_one, &first, 1e-2);
    });
}

#[test]
fn a_query_of_zeros_has_an_answer_of_zeros() {
    supported(|what, solver, h, _| {
        let v = Matrix::noise(3, 12, 9);
        let v = Matrix::from_fn(3, 12, |i, j| if i == 1 { 0.0 } else { v.at(i, j) });
        let inverse = solver.prepare(h, LAMBDA).expect("a good problem");
        let found = inverse.apply(tensor(&v, &h.like().device(), DType::F64)).expect("a good problem");
        assert_eq!(matrix(found.x).row(1), [0.0; 12], "{what}");
        assert_eq!(found.residuals[1], 0.0, "{what}");
    });
}

#[test]
fn what_cannot_be_solved_is_refused() {
    pairs(|what, solver, h, _| {
        let device = h.like().device();
        if !solver.supports(h.structure()) {
            let Some(error) = solver.prepare(h, LAMBDA).err() else { panic!("{what}: solved") };
            let able: Vec<Structure> = Structure::ALL.into_iter().filter(|s| solver.supports(*s)).collect();
            assert!(!able.is_empty(), "{what}: it can do nothing");
            assert!(error.to_string().contains(&format!("{able:?}")), "{what}: {error}");
            let SolveError::Unsupported { structure, supported, .. } = error else { panic!("{what}: {error}") };
            assert_eq!((structure, supported), (h.structure(), able), "{what}");
            return;
        }
        for lambda in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            let error = solver.prepare(h, lambda).err();
            assert!(matches!(error, Some(SolveError::Damping { .. })), "{what} at {lambda}: {error:?}");
        }
        let inverse = solver.prepare(h, LAMBDA).expect("a good problem");
        for wrong in [1, 11, 13] {
            let error = inverse.apply(Tensor::<2>::ones([1, wrong], &device).cast(DType::F64)).err();
            let named = matches!(error, Some(SolveError::Shape { found, expected: 12 }) if found == wrong);
            assert!(named, "{what}: {error:?}");
        }
        // One bad value in one of several queries.
        for bad in [f64::NAN, f64::INFINITY] {
            let v = Matrix::from_fn(3, 12, |i, j| if (i, j) == (1, 7) { bad } else { 1.0 + (i + j) as f64 });
            let found = inverse.apply(tensor(&v, &device, DType::F64));
            assert!(found.is_err(), "{what}: {bad} in a query gives {found:?}");
            let found = solver
                .prepare(&poisoned(h, bad), LAMBDA)
                .and_then(|inverse| inverse.apply(Tensor::<2>::ones([1, 12], &device).cast(DType::F64)));
            assert!(found.is_err(), "{what}: {bad} in the curvature gives {found:?}");
        }
    });
}

/// The curvature with one bad value.
fn poisoned(h: &Curvature, bad: f64) -> Curvature {
    let device = h.like().device();
    let poison = |t: &Tensor<2>| {
        let m = matrix(t.clone());
        let values = Matrix::from_fn(m.rows, m.cols, |i, j| if (i, j) == (0, 1) { bad } else { m.at(i, j) });
        tensor(&values, &device, DType::F64)
    };
    match h {
        Curvature::Dense(Dense { matrix: m }) => {
            // Symmetric, as a sum of outer products with one bad sample is.
            let m = matrix(m.clone());
            let bad = |i: usize, j: usize| if (i, j) == (0, 1) || (i, j) == (1, 0) { bad } else { m.at(i, j) };
            Curvature::from(Dense { matrix: tensor(&Matrix::from_fn(12, 12, bad), &device, DType::F64) })
        }
        Curvature::Samples(Samples { rows }) => Curvature::from(Samples { rows: poison(rows) }),
        Curvature::Captured(Captured { parts }) => {
            let mut parts = parts.clone();
            let SamplePart::Captured { capture, .. } = &mut parts[0] else { panic!("a capture comes first") };
            let [n, t, rows] = capture.input.dims();
            capture.input = poison(&capture.input.clone().reshape([n * t, rows])).reshape([n, t, rows]);
            Curvature::from(Captured { parts })
        }
        Curvature::OneSided(OneSided { factor, .. }) => h.with_core(poison(factor)),
        Curvature::Diagonal(Diagonal { values }) => {
            Curvature::from(Diagonal { values: poison(&values.clone().reshape([1, 12])).reshape([12]) })
        }
        Curvature::Isotropic(_) => h.with_core(tensor(&Matrix::from_fn(1, 1, |_, _| bad), &device, DType::F64)),
        Curvature::Kronecker(Kronecker { left, right, eigenvalues }) => Curvature::Kronecker(Kronecker {
            left: left.clone(),
            right: right.clone(),
            eigenvalues: poison(eigenvalues),
        }),
        Curvature::Eigenpairs(Eigenpairs { vectors, values }) => {
            Curvature::Eigenpairs(Eigenpairs { vectors: poison(vectors), values: values.clone() })
        }
    }
}

#[test]
fn the_documented_table_is_the_registry() {
    let head: String = Structure::ALL.iter().map(|s| format!(" {s:?} |")).collect();
    let mut table = format!("| solver |{head}\n|---|{}\n", "---|".repeat(Structure::ALL.len()));
    for solver in solvers() {
        let marks = Structure::ALL.map(|s| if solver.supports(s) { " yes |" } else { " – |" });
        table += &format!("| {} |{}\n", solver.name(), marks.concat());
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/methods/solvers.md");
    let text = fs::read_to_string(&path).expect("the documentation is a part of the repository");
    assert!(
        text.contains(&table),
        "docs/methods/solvers.md should have, under \"Which solver inverts what\":\n\n{table}"
    );
}
