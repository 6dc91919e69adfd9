//! Inputs that solvers refuse, with the reason.

use burn::tensor::{DType, Tensor};
use hyperinf::curvature::{
    Curvature, CurvatureError, Dense, Diagonal, Eigenpairs, Kronecker, OneSided, Samples, Structure,
};
use hyperinf::solvers::{
    BlockCg, Cg, Exact, Hyperpower, Identity, Lanczos, Lissa, LissaBatch, LissaScale, Nystrom, Preconditioner,
    SolveError, Solver, SpectralSolver, solver, solvers,
};
use hyperinf_tests::compare::{matrix, precisions, tensor, values};
use hyperinf_tests::devices;
use hyperinf_tests::oracle::Matrix;

use crate::solvers::{orthogonal, structures};

#[test]
fn an_indefinite_matrix_is_an_error() {
    for (_, device) in devices() {
        let h = Curvature::from(Dense {
            matrix: tensor(&Matrix::from_fn(2, 2, |i, j| if i == j { 0.0 } else { 1.0 }), &device, DType::F32),
        });
        let v = tensor(&Matrix::from_fn(1, 2, |_, j| if j == 0 { 1.0 } else { -1.0 }), &device, DType::F32);
        let exact = Exact.prepare(&h, 0.1).err();
        assert!(matches!(exact, Some(SolveError::NotPositiveDefinite { size: 2, .. })), "{exact:?}");
        let cg = Cg::default().prepare(&h, 0.1).and_then(|inverse| inverse.apply(v)).err();
        assert!(matches!(cg, Some(SolveError::NegativeCurvature { query: 0, .. })), "{cg:?}");
        // A diagonal shows it without a factorisation; zero is no better than less.
        for (least, lambda) in [(-2.0, 0.5), (-2.0, 2.0)] {
            let values = tensor(&Matrix::from_fn(1, 2, |_, j| [least, 1.0][j]), &device, DType::F32);
            let h = Curvature::from(Diagonal { values: values.reshape([2]) });
            for solver in [&Exact as &dyn Solver, &SpectralSolver] {
                let error = solver.prepare(&h, lambda).and_then(|i| i.apply(Tensor::ones([1, 2], &device))).err();
                assert!(matches!(error, Some(SolveError::NotPositiveDefinite { size: 2, .. })), "{error:?}");
            }
        }
    }
}

/// Every solver that has a tolerance, with an eigenvalue far below `−λ`, in every structure that can have one.
#[test]
fn an_indefinite_matrix_is_an_error_of_every_solver_that_inverts() {
    for (name, device) in devices() {
        for (dtype, _) in precisions(&device) {
            let diagonal =
                |d: usize| Matrix::from_fn(d, d, |i, j| if i == j { [1.0, 0.3, -2.0, 0.7][i % 4] } else { 0.0 });
            let dense = orthogonal(12).times(&diagonal(12)).times(&orthogonal(12).transpose());
            let factor = orthogonal(4).times(&diagonal(4)).times(&orthogonal(4).transpose());
            let rows = |m: &Matrix| tensor(m, &device, dtype);
            let eigenvalues = Matrix::from_fn(3, 4, |_, j| diagonal(4).at(j, j));
            let all = [
                Curvature::from(Dense { matrix: rows(&dense) }),
                Curvature::OneSided(OneSided { factor: rows(&factor), rows: 3, cols: 4, rows_contracted: true }),
                Curvature::from(Diagonal { values: rows(&eigenvalues).reshape([12]) }),
                Curvature::Kronecker(Kronecker {
                    left: rows(&orthogonal(3)),
                    right: rows(&orthogonal(4)),
                    eigenvalues: rows(&eigenvalues),
                }),
                Curvature::Eigenpairs(Eigenpairs {
                    vectors: rows(&orthogonal(12)),
                    values: rows(&eigenvalues).reshape([12]),
                }),
            ];
            for h in all {
                for solver in solvers().iter().filter(|s| s.supports(h.structure()) && s.name() != "identity") {
                    let found = solver.prepare(&h, 0.2).and_then(|i| i.apply(rows(&Matrix::noise(3, 12, 4))));
                    let what = format!("{} on {:?} in {dtype:?}, {name}", solver.name(), h.structure());
                    let named = matches!(
                        found,
                        Err(SolveError::NotPositiveDefinite { .. }
                            | SolveError::NegativeCurvature { .. }
                            | SolveError::Diverged { .. })
                    );
                    assert!(named, "{what}: {found:?}");
                }
            }
        }
    }
}

#[test]
fn nan_never_leaves_a_solver() {
    for (device_name, device) in devices() {
        let nan = Tensor::<2>::full([1, 12], f32::NAN, &device);
        for (h, _) in structures(&device) {
            // Compare in f32: what a model gives.
            let h = h.cast(DType::F32);
            for solver in solvers().iter().filter(|s| s.supports(h.structure())) {
                let found = solver.prepare(&h, 0.05).and_then(|inverse| inverse.apply(nan.clone()));
                assert!(found.is_err(), "{} on {:?}, {device_name}", solver.name(), h.structure());
            }
        }
        let bad = Curvature::from(Dense { matrix: Tensor::full([12, 12], f32::NAN, &device) });
        for solver in solvers().iter().filter(|s| s.supports(Structure::Dense)) {
            let found = solver.prepare(&bad, 0.05).and_then(|inverse| inverse.apply(Tensor::ones([1, 12], &device)));
            assert!(found.is_err(), "{} on {device_name}", solver.name());
        }
    }
}

#[test]
fn what_overflows_its_type_never_leaves_a_solver() {
    for (name, device) in devices().into_iter().filter(|(_, device)| device.supports_dtype(DType::F64)) {
        // Gradients of a model that has been trained to the end, and a query that has not: x is about 1e40.
        let samples = tensor(&Matrix::noise(3, 12, 5), &device, DType::F32).mul_scalar(1e-15);
        let v = tensor(&Matrix::noise(2, 12, 6), &device, DType::F32).mul_scalar(1e9);
        let held = Curvature::from(Samples { rows: samples });
        let dense = Curvature::from(Dense { matrix: tensor(&matrix(held.to_dense()), &device, DType::F32) });
        let diagonal = Curvature::from(Diagonal { values: Tensor::<1>::ones([12], &device).mul_scalar(1e-31) });
        let mut refused = Vec::new();
        for h in [held, dense, diagonal] {
            for solver in solvers().iter().filter(|solver| solver.supports(h.structure())) {
                match solver.prepare(&h, 1e-31).and_then(|inverse| inverse.apply(v.clone())) {
                    Ok(found) => {
                        let finite = values(found.x).iter().all(|x| x.is_finite());
                        assert!(finite, "{} on {:?}, {name}", solver.name(), h.structure());
                    }
                    Err(SolveError::NonFinite { what: "the solution, in its type", .. }) => refused.push(solver.name()),
                    Err(_) => {}
                }
            }
        }
        for solver in ["exact", "spectral", "cg", "block-cg", "lissa", "lanczos", "nystrom"] {
            assert!(refused.contains(&solver), "{solver}, {name}: {refused:?}");
        }
    }
}

#[test]
fn parameters_out_of_range_are_named() {
    let (_, device) = devices().remove(0);
    let h = Curvature::from(Samples { rows: Tensor::ones([2, 3], &device) });
    let check = |solver: &dyn Solver, expected: &str| match solver.prepare(&h, 0.1).err() {
        Some(SolveError::Parameter { parameter, .. }) => assert_eq!(parameter, expected),
        other => panic!("{expected}: {other:?}"),
    };
    check(&Cg { max_steps: 0, ..Cg::default() }, "max_steps");
    check(&Cg { tolerance: 0.0, ..Cg::default() }, "tolerance");
    check(&BlockCg { max_steps: 0, ..BlockCg::default() }, "max_steps");
    check(&BlockCg { block: 0, ..BlockCg::default() }, "block");
    check(&Cg { preconditioner: Preconditioner::Nystrom { rank: 0, seed: 0 }, ..Cg::default() }, "rank");
    check(&Lanczos { rank: 0, ..Lanczos::default() }, "rank");
    check(&Nystrom { rank: 0, seed: 0 }, "rank");
    check(&Lissa { max_steps: 0, ..Lissa::default() }, "max_steps");
    check(&Lissa { tolerance: f64::NAN, ..Lissa::default() }, "tolerance");
    let batch = LissaBatch::Random { size: 0, repeats: 1, tail: 1, seed: 0 };
    check(&Lissa { batch, ..Lissa::default() }, "size and repeats");
    let scale = LissaScale::Fixed(0.0);
    check(&Lissa { scale, ..Lissa::default() }, "scale");
    for tail in [0, 1001] {
        let batch = LissaBatch::Random { size: 1, repeats: 1, tail, seed: 0 };
        check(&Lissa { batch, ..Lissa::default() }, "tail");
    }
    let dense = Curvature::from(Dense { matrix: Tensor::eye(3, &device) });
    let error = Hyperpower { tolerance: 1.0, ..Hyperpower::default() }.prepare(&dense, 0.1).err();
    assert!(matches!(error, Some(SolveError::Parameter { parameter: "tolerance", .. })), "{error:?}");
    let error = Hyperpower::default().invert(Tensor::eye(3, &device), 0.0, 1.0).err();
    assert!(matches!(error, Some(SolveError::Parameter { .. })), "{error:?}");
}

#[test]
fn a_curvature_error_keeps_its_message() {
    let error = SolveError::from(CurvatureError::Damping { value: 0.0 });
    assert_eq!(error.to_string(), "damping must be positive and finite, not 0");
}

#[test]
fn the_registry_finds_every_solver_by_its_name() {
    let names: Vec<_> = solvers().iter().map(|s| s.name()).collect();
    let known =
        ["identity", "exact", "schulz", "schulz-authors", "datainf", "lissa", "lissa-stochastic", "cg", "block-cg"];
    assert!(known.iter().all(|name| names.contains(name)), "{names:?}");
    for name in names {
        assert_eq!(solver(name).map(|s| s.name()), Some(name));
    }
    assert!(solver("newton").is_none());
    assert!(Identity.supports(Structure::Samples));
}
