//! One eigendecomposition against the exact solver, for every structure and many dampings.

use burn::tensor::{DType, Tensor};
use hyperinf::curvature::{Curvature, Dense};
use hyperinf::solvers::{Auto, Exact, Reason, SolveError, Solver, Spectral, SpectralSolver};
use hyperinf_tests::compare::{assert_close, tensor, values};
use hyperinf_tests::devices;
use hyperinf_tests::oracle::{Matrix, exact};

use crate::solvers::structures;

#[test]
fn every_damping_is_exact() {
    for (name, device) in devices().into_iter().filter(|(_, d)| d.supports_dtype(DType::F64)) {
        let v = Matrix::noise(3, 12, 9);
        let rows = tensor(&v, &device, DType::F64);
        for (h, dense) in structures(&device) {
            let spectral = Spectral::new(&h).expect("a good problem");
            let lambdas = [1e-3, 0.05, 2.0, 1e4];
            let found = spectral.apply_sweep(rows.clone(), &lambdas).expect("a good problem");
            let swept = SpectralSolver.prepare_sweep(&h, &lambdas).expect("a good problem");
            for ((found, inverse), lambda) in found.into_iter().zip(swept).zip(lambdas) {
                let what = format!("{:?}, λ = {lambda}, {name}", h.structure());
                assert_close(&what, &values(found.x.clone()), &exact(&dense, lambda, &v).values, 1e-9);
                assert!(found.converged() && found.residual() < 1e-9, "{what}: {}", found.residual());
                assert_eq!(values(found.x), values(inverse.apply(rows.clone()).expect("a good problem").x), "{what}");
                let again = Exact.prepare(&h, lambda).and_then(|i| i.apply(rows.clone())).expect("a good problem");
                assert_eq!(found.products.is_some(), again.products.is_some(), "{what}");
                if let (Some(products), Some(expected)) = (found.products, again.products) {
                    assert_close(&what, &values(products), &values(expected), 1e-9);
                }
            }
        }
    }
}

#[test]
fn eigenvalues_are_those_of_the_matrix() {
    for (_, device) in devices() {
        let h = Curvature::from(Dense {
            matrix: tensor(&Matrix::from_fn(2, 2, |i, j| if i == j { 2.0 } else { 1.0 }), &device, DType::F32),
        });
        let spectral = Spectral::new(&h).expect("a good problem");
        assert_close("2 ± 1", spectral.eigenvalues().expect("decomposed"), &[1.0, 3.0], 1e-6);
        // With an eigenvalue of −1, λ has to exceed 1.
        let h = Curvature::from(Dense {
            matrix: tensor(&Matrix::from_fn(2, 2, |i, j| f64::from(u8::from(i != j))), &device, DType::F32),
        });
        let error = SpectralSolver.prepare(&h, 0.5).err();
        assert!(matches!(error, Some(SolveError::NotPositiveDefinite { size: 2, .. })), "{error:?}");
        assert!(SpectralSolver.prepare(&h, 1.5).is_ok());
    }
}

#[test]
fn auto_is_exact_and_says_what_it_took() {
    for (name, device) in devices().into_iter().filter(|(_, d)| d.supports_dtype(DType::F64)) {
        let v = Matrix::noise(3, 12, 9);
        let rows = tensor(&v, &device, DType::F64);
        let all = structures(&device);
        for (h, dense) in &all {
            let inverse = Auto::default().prepare(h, 0.05).expect("a good problem");
            let found = inverse.apply(rows.clone()).expect("a good problem");
            let what = format!("{:?}, {name}", h.structure());
            assert_close(&what, &values(found.x.clone()), &exact(dense, 0.05, &v).values, 1e-5);
            assert!(found.converged(), "{what}");
            let choice = Auto::default().choose(h, 0.05).expect("a good problem");
            let plan = inverse.plan();
            assert_eq!((&*plan.solver, plan.reason), (choice.solver, Some(choice.reason)), "{what}");
            assert!(plan.to_string().starts_with(&format!("{}: {}", choice.solver, choice.reason)), "{what}: {plan}");
            // Two dampings are no reason to change the answer.
            for (inverse, lambda) in
                Auto::default().prepare_sweep(h, &[0.05, 1.0]).expect("good").iter().zip([0.05, 1.0])
            {
                let x = inverse.apply(rows.clone()).expect("a good problem").x;
                assert_close(&what, &values(x), &exact(dense, lambda, &v).values, 1e-5);
            }
        }
        let pairs: Vec<_> = all.iter().map(|(h, _)| (h, 0.05)).collect();
        for (inverse, (_, dense)) in Auto::default().prepare_many(&pairs).into_iter().zip(&all) {
            let x = inverse.expect("a good problem").apply(rows.clone()).expect("a good problem").x;
            assert_close(&name, &values(x), &exact(dense, 0.05, &v).values, 1e-5);
        }
    }
}

#[test]
fn a_processor_factorises_and_long_sweeps_decompose() {
    for (name, device) in devices().into_iter().filter(|(_, d)| d.memory_pool_usage().is_none()) {
        let h = Curvature::from(Dense { matrix: Tensor::eye(300, &device) });
        assert_eq!(Auto::default().choose(&h, 0.1).expect("good").solver, "exact", "{name}");
        let lambdas: Vec<f64> = (0..400).map(|i| 1.0 + f64::from(i)).collect();
        assert_eq!(Auto::default().choose_sweep(&h, &lambdas).expect("good").solver, "spectral", "{name}");
        // The assumption is stated, and matters: each query costs Cholesky two triangular solves.
        let seconds = |queries: usize| -> f64 {
            let reason = Auto { queries, ..Auto::default() }.choose(&h, 0.1).expect("good").reason;
            assert!(reason.to_string().contains(&format!("for {queries} queries assumed")), "{reason}");
            let Reason::Matrix { queries: assumed, estimate, .. } = reason else { panic!("{reason}") };
            assert_eq!(assumed, queries);
            estimate.cholesky
        };
        assert!(seconds(6400) > 10.0 * seconds(64), "{name}: {:e} and {:e}", seconds(6400), seconds(64));
        assert_eq!(Auto::default().prepare_sweep(&h, &[]).expect("nothing to do").len(), 0, "{name}");
        let error = Auto { tolerance: 0.0, ..Auto::default() }.choose(&h, 0.1).err();
        assert!(matches!(error, Some(SolveError::Parameter { parameter: "tolerance", .. })), "{error:?}");
    }
}
