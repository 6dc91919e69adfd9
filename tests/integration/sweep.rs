//! Scores at many dampings from one curvature: those of one attribution per damping.

use burn::tensor::{DType, Device};
use hyperinf::curvature::Damping;
use hyperinf::gradients::{Block, Gradients};
use hyperinf::scoring::{Attribution, CurvatureFrom, Normalisation, Options, ScoreError, Scores, attribute, sweep};
use hyperinf_tests::compare::{assert_close, tensor};
use hyperinf_tests::devices;
use hyperinf_tests::oracle::Matrix;

const SHAPES: [(usize, usize); 3] = [(3, 5), (4, 2), (2, 3)];
const DAMPINGS: [Damping; 4] =
    [Damping::Relative(0.1), Damping::Relative(10.0), Damping::Absolute(0.5), Damping::Relative(0.003)];

/// Gradients of `n` samples; those of the last block are all zero.
fn gradients(n: usize, seed: u64, device: &Device) -> Gradients {
    let layout: Vec<Block> =
        SHAPES.iter().enumerate().map(|(l, (r, c))| Block::new(format!("layer.{l}"), *r, *c)).collect();
    let block = |(l, &(r, c)): (usize, &(usize, usize))| {
        let values = tensor(&Matrix::noise(n, r * c, seed + 100 * l as u64), device, DType::F32).reshape([n, r, c]);
        if l == 2 { values.zeros_like() } else { values }
    };
    Gradients::new(layout, SHAPES.iter().enumerate().map(block).collect()).expect("shapes agree")
}

fn check_scores(what: &str, found: &Scores, expected: &Scores) {
    assert_eq!((found.queries(), found.samples()), (expected.queries(), expected.samples()), "{what}");
    for (found, expected) in found.rows.iter().zip(&expected.rows) {
        assert_close(what, found, expected, 1e-4);
    }
}

fn check(options: &Options, what: &str) {
    for (name, device) in devices() {
        // Few samples are held; of many the matrix is.
        for n in [7, 40] {
            let (train, query) = (gradients(n, 1, &device), gradients(3, 2, &device));
            let found =
                sweep(&train, &query, CurvatureFrom::Training, options, &DAMPINGS).expect("the gradients are fine");
            assert_eq!(found.len(), DAMPINGS.len());
            for (found, damping) in found.iter().zip(DAMPINGS) {
                let what = format!("{what}, {damping:?}, {n} samples on {name}");
                let one = Options { damping, ..options.clone() };
                let expected =
                    attribute(&train, &query, CurvatureFrom::Training, &one).expect("the gradients are fine");
                check_scores(&what, &found.scores, &expected.scores);
                let lambdas = |a: &Attribution| {
                    let mut all: Vec<_> = a.blocks.iter().map(|b| (b.block.name.clone(), b.lambda)).collect();
                    all.sort_by(|a, b| a.0.cmp(&b.0));
                    all
                };
                assert_eq!(lambdas(found), lambdas(&expected), "{what}");
                for (block, expected) in &expected.block_scores {
                    let same = found.block_scores.iter().find(|(other, _)| other == block);
                    check_scores(&what, &same.expect("every block has its part").1, expected);
                }
                assert_eq!(found.block_scores.len(), expected.block_scores.len(), "{what}");
            }
        }
    }
}

#[test]
fn a_sweep_is_one_attribution_per_damping() {
    for name in ["exact", "hyperinf", "datainf", "diagonal", "shampoo", "identity"] {
        let named = Options::named(name).expect("a method");
        check(&named, name);
        check(&Options { block_scores: true, ..named.clone() }, name);
        check(&Options { merged: true, ..named }, name);
    }
}

#[test]
fn normalised_scores_are_swept_as_well() {
    let named = Options::named("exact").expect("a method");
    check(&Options { normalisation: Normalisation::LossRelatif, ..named }, "relatif");
}

#[test]
fn what_one_attribution_refuses_a_sweep_refuses() {
    for (_, device) in devices() {
        let (train, query) = (gradients(5, 1, &device), gradients(2, 2, &device));
        let options = Options::named("exact").expect("a method");
        assert!(
            sweep(&train, &query, CurvatureFrom::Training, &options, &[Damping::Relative(0.1), Damping::Relative(0.0)])
                .is_err()
        );
        assert_eq!(
            sweep(&train, &query, CurvatureFrom::Training, &options, &[]).expect("nothing is asked for").len(),
            0
        );
        let mut bad = train.clone();
        bad.blocks[1] = bad.blocks[1].clone().mul_scalar(f64::NAN);
        let error = sweep(&bad, &query, CurvatureFrom::Training, &options, &DAMPINGS).err();
        assert!(matches!(error, Some(ScoreError::NonFinite { sample: 0, .. })), "{error:?}");
    }
}
