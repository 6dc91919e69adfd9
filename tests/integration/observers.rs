//! The steps that an observer of a solver sees.

use burn::tensor::{DType, Tensor};
use hyperinf::curvature::{Curvature, Samples};
use hyperinf::solvers::{BlockCg, Cg, Exact, Lissa, LissaScale, Solver, Step, solvers};
use hyperinf_tests::compare::{assert_close, tensor, values};
use hyperinf_tests::oracle::Matrix;

use crate::krylov::{logarithmic, noise, with_spectrum};
use crate::solvers::{precise_devices, structures};

/// Damping as large as the curvature: every solver that converges at all does so here.
const LAMBDA: f64 = 0.5;

/// All steps of a solver on one problem.
fn observed(solver: &dyn Solver, h: &Curvature, lambda: f64, v: &Tensor<2>) -> Vec<Step> {
    let mut steps = Vec::new();
    let inverse = solver.prepare(h, lambda).expect("a good problem");
    inverse.apply_observed(v.clone(), &mut |step| steps.push(step.clone())).expect("a good problem");
    steps
}

#[test]
fn answers_are_the_same_bit_for_bit_and_the_last_step() {
    for (name, device) in precise_devices() {
        for (h, _) in structures(&device) {
            for dtype in [DType::F32, DType::F64] {
                let h = h.cast(dtype);
                let v = tensor(&Matrix::noise(3, 12, 9), &device, dtype);
                for solver in solvers().iter().filter(|solver| solver.supports(h.structure())) {
                    let what = format!("{} on {:?}, {dtype:?}, {name}", solver.name(), h.structure());
                    let inverse = solver.prepare(&h, LAMBDA).expect("a good problem");
                    let plain = inverse.apply(v.clone()).expect("a good problem");
                    let mut steps = Vec::new();
                    let seen = inverse.apply_observed(v.clone(), &mut |step| steps.push(step.clone()));
                    let seen = seen.expect("a good problem");
                    assert_eq!(values(plain.x.clone()), values(seen.x.clone()), "{what}");
                    assert_eq!((plain.iterations, &plain.residuals), (seen.iterations, &seen.residuals), "{what}");
                    let last = steps.last().expect("the answer is shown");
                    assert_eq!(values(last.x.clone()), values(seen.x), "{what}");
                    assert_eq!((last.number, &last.rows, last.x.dtype()), (seen.iterations, &(0..3), dtype), "{what}");
                    assert!(steps.iter().all(|step| step.residuals.len() == 3), "{what}");
                }
            }
        }
    }
}

/// Every iterate is the answer of a run with that many steps.
#[test]
fn iterates_are_the_answers_of_shorter_runs() {
    for (name, device) in precise_devices() {
        let (h, _) = with_spectrum(&logarithmic(30, -2.0, 0.0), &device);
        let (_, v) = noise(2, 30, &device);
        let samples = Curvature::from(Samples { rows: tensor(&Matrix::noise(5, 30, 3), &device, DType::F64) });
        let check = |h: &Curvature, solver: &dyn Fn(usize) -> Box<dyn Solver>| {
            let what = solver(1).name();
            let steps = observed(solver(40).as_ref(), h, 0.01, &v);
            assert_eq!(
                steps.iter().map(|s| s.number).collect::<Vec<_>>(),
                (0..steps.len()).collect::<Vec<_>>(),
                "{what}"
            );
            assert!(steps.len() > 5, "{what} on {name}: {} steps", steps.len());
            for step in &steps[1..] {
                let inverse = solver(step.number).prepare(h, 0.01).expect("a good problem");
                let found = inverse.apply(v.clone()).expect("a good problem");
                assert_eq!(found.iterations, step.number, "{what}");
                // On held samples a shorter run sums its increments in another order.
                assert_close(what, &values(step.x.clone()), &values(found.x.clone()), 1e-13);
                let largest = found.residual();
                for (shown, truth) in step.residuals.iter().zip(&found.residuals) {
                    assert!((shown - truth).abs() <= 1e-6 * largest + 1e-12, "{what}: {shown:e}, is {truth:e}");
                }
            }
        };
        check(&h, &|max_steps| Box::new(Cg { max_steps, tolerance: 1e-12, ..Cg::default() }));
        check(&h, &|max_steps| Box::new(BlockCg { max_steps, tolerance: 1e-12, ..BlockCg::default() }));
        check(&h, &|max_steps| Box::new(Lissa { max_steps, tolerance: 1e-12, ..Lissa::default() }));
        check(&samples, &|max_steps| Box::new(Lissa { max_steps, tolerance: 1e-12, ..Lissa::default() }));
    }
}

#[test]
fn blocks_of_queries_are_shown_one_after_the_other() {
    let (_, device) = precise_devices().remove(0);
    let (h, _) = with_spectrum(&logarithmic(12, -1.0, 0.0), &device);
    let (_, v) = noise(5, 12, &device);
    let steps = observed(&BlockCg { block: 2, ..BlockCg::default() }, &h, 0.1, &v);
    let mut blocks: Vec<_> = steps.iter().map(|step| step.rows.clone()).collect();
    blocks.dedup();
    assert_eq!(blocks, [0..2, 2..4, 4..5]);
    for step in &steps {
        assert_eq!((step.x.dims(), step.residuals.len()), ([step.rows.len(), 12], step.rows.len()));
    }
}

#[test]
fn a_closed_form_shows_its_answer_alone() {
    let (_, device) = precise_devices().remove(0);
    let (h, _) = with_spectrum(&logarithmic(12, -1.0, 0.0), &device);
    let (_, v) = noise(2, 12, &device);
    let steps = observed(&Exact, &h, 0.1, &v);
    assert_eq!(steps.iter().map(|step| step.number).collect::<Vec<_>>(), [0]);
}

/// Below half of the largest eigenvalue the series grows.
#[test]
fn growth_is_shown_before_it_is_an_error() {
    let (_, device) = precise_devices().remove(0);
    let (h, _) = with_spectrum(&logarithmic(12, -1.0, 0.0), &device);
    let (_, v) = noise(2, 12, &device);
    let fixed = Lissa { scale: LissaScale::Fixed(0.4), ..Lissa::default() };
    let inverse = fixed.prepare(&h, 0.1).expect("a good problem");
    let mut residuals = Vec::new();
    let failed = inverse.apply_observed(v, &mut |step| residuals.push(step.residuals.clone()));
    assert!(failed.is_err());
    // The growth that ended it has been shown.
    let largest = |all: &[f64]| all.iter().copied().fold(0.0, f64::max);
    assert!(largest(residuals.last().expect("steps were shown")) > 1.5 * largest(&residuals[0]), "{residuals:?}");
}
