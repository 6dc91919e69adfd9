//! Curvature computed first and used later, and the report of its inverse.

use std::sync::atomic::{AtomicBool, Ordering};

use burn::tensor::{DType, Device, Tensor};
use hyperinf::curvature::{Curvature, Storage, Structure};
use hyperinf::gradients::{Block, Gradients};
use hyperinf::scoring::{CurvatureFrom, Method, Options, ScoreError, Scorer, attribute, curvature, self_influence};
use hyperinf::solvers::{Inverse, Plan, Solution, SolveError, Solver, Work};
use hyperinf_tests::compare::{assert_close, tensor};
use hyperinf_tests::devices;
use hyperinf_tests::oracle::Matrix;

const SHAPES: [(usize, usize); 2] = [(3, 5), (4, 2)];

fn set(n: usize, seed: u64, device: &Device) -> Gradients {
    let layout: Vec<Block> = SHAPES.iter().map(|&(r, c)| Block::new(format!("{r} by {c}"), r, c)).collect();
    let blocks = SHAPES
        .iter()
        .zip(seed..)
        .map(|(&(r, c), seed)| tensor(&Matrix::noise(n, r * c, seed), device, DType::F32).reshape([n, r, c]));
    Gradients::new(layout, blocks.collect()).expect("the shapes are the blocks'")
}

#[test]
fn curvature_made_first_gives_the_same_scores() {
    for (name, device) in devices() {
        let (train, other, query) = (set(14, 1, &device), set(9, 20, &device), set(3, 40, &device));
        for method in ["identity", "datainf", "exact", "hyperinf", "shampoo", "diagonal"] {
            let options = Options::named(method).expect("a method");
            let what = format!("{method} on {name}");
            for (made_of, expected) in [
                (&train, attribute(&train, &query, CurvatureFrom::Training, &options)),
                (&other, attribute(&train, &query, CurvatureFrom::Source(&other), &options)),
            ] {
                let known = curvature(made_of, &options).expect("good gradients");
                let mut scorer = Scorer::new(options.clone()).expect("a damping");
                scorer.add(&train, &query, CurvatureFrom::Known(known)).expect("the same blocks");
                let found = scorer.finish().expect("scores").scores.rows.concat();
                // The dual's own products and those of its rounded rows differ by rounding.
                assert_close(&what, &found, &expected.expect("good gradients").scores.rows.concat(), 2e-5);
            }
            let known = curvature(&train, &options).expect("good gradients");
            let found = self_influence(&train, CurvatureFrom::Known(known), &options).expect("good gradients").values;
            assert_close(
                &what,
                &found,
                &self_influence(&train, CurvatureFrom::Training, &options).expect("good gradients").values,
                1e-6,
            );
        }
    }
}

#[test]
fn curvature_of_other_blocks_is_refused() {
    for (_, device) in devices() {
        let (train, query) = (set(14, 1, &device), set(3, 40, &device));
        let options = Options::named("exact").expect("a method");
        let mut known = curvature(&train, &options).expect("good gradients");
        known.reverse();
        let mut scorer = Scorer::new(options).expect("a damping");
        let error =
            scorer.add(&train, &query, CurvatureFrom::Known(known)).expect_err("the blocks are in another order");
        assert!(matches!(error, ScoreError::Gradients { .. }), "{error:?}");
    }
}

/// A solver that knows only afterwards how it went.
#[derive(Default)]
struct Afterwards(AtomicBool);

impl Solver for Afterwards {
    fn name(&self) -> &'static str {
        "afterwards"
    }

    fn supports(&self, _: Structure) -> bool {
        true
    }

    fn prepare(&self, _: &Curvature, _: f64) -> Result<Box<dyn Inverse>, SolveError> {
        Ok(Box::new(Self::default()))
    }
}

impl Inverse for Afterwards {
    fn apply(&self, v: Tensor<2>) -> Result<Solution, SolveError> {
        self.0.store(true, Ordering::Relaxed);
        let residuals = vec![1.0; v.dims()[0]];
        Ok(Solution { x: v, iterations: 0, residuals, tolerance: None, products: None })
    }

    fn plan(&self) -> Plan {
        let note = if self.0.load(Ordering::Relaxed) { "it was repeated" } else { "it is prepared" };
        Plan { work: Some(Work::Note(note.into())), ..Plan::default() }
    }
}

#[test]
fn reports_say_how_an_inverse_went_and_not_how_it_was_prepared() {
    for (name, device) in devices() {
        let (train, query) = (set(14, 1, &device), set(3, 40, &device));
        for storage in [Storage::Samples, Storage::Diagonal] {
            let options = Options { method: Method::inverse(storage, Afterwards::default()), ..Options::default() };
            let found = [
                attribute(&train, &query, CurvatureFrom::Training, &options).expect("good gradients").blocks,
                self_influence(&train, CurvatureFrom::Training, &options).expect("good gradients").blocks,
            ];
            for block in found.iter().flatten() {
                assert_eq!(block.plan.work, Some(Work::Note("it was repeated".into())), "{storage:?}, {name}");
                assert_eq!(block.plan.to_string(), "it was repeated");
            }
        }
    }
}
