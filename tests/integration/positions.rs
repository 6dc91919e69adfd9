//! Scores of positions against those of whole samples, and methods that need activations.

use burn::tensor::{DType, Tensor};
use hyperinf::curvature::Storage;
use hyperinf::gradients::{Block, Gradients};
use hyperinf::scoring::{
    Batch, CurvatureFrom, Method, Normalisation, Options, ScoreError, Source, TaskSource, attribute, methods,
    position_scores,
};
use hyperinf::solvers::Exact;
use hyperinf_tests::compare::{assert_close, assert_within, precisions, tensor};
use hyperinf_tests::devices;
use hyperinf_tests::oracle::Matrix;

use crate::networks::{Classify, LowRank, Make, Network, Perceptron, Samples, Sequence, Shared};

fn named(name: &str) -> Options {
    Options::named(name).expect("a method")
}

/// Gradients of one block that are no task's.
fn stored(n: usize, seed: u64, device: &burn::tensor::Device) -> Gradients {
    let values = tensor(&Matrix::noise(n, 12, seed), device, DType::F32).reshape([n, 3, 4]);
    Gradients::new(vec![Block::new("layer", 3, 4)], vec![values]).expect("shapes agree")
}

/// The samples of a source, of which only one position is kept.
struct Only<'a>(&'a dyn Source, usize);

impl Source for Only<'_> {
    fn pass(&self, visit: &mut dyn FnMut(Batch) -> Result<(), ScoreError>) -> Result<(), ScoreError> {
        self.0.pass(&mut |batch| {
            let captures = batch.into_captures()?;
            let at = |t: &Tensor<3>| t.clone().narrow(1, self.1, 1);
            let layout: Vec<Block> = captures.iter().map(|c| c.block.clone()).collect();
            let blocks = captures.iter().map(|c| at(&c.input).swap_dims(1, 2).matmul(at(&c.delta)));
            visit(Gradients { layout: layout.into(), blocks: blocks.collect() }.into())
        })
    }
}

/// The scores of a network's positions sum to those of its samples, and padding has none.
fn check_positions<Net: Network>(lengths: &[usize], padding: usize, positions: usize, whole: bool) {
    for (device_name, device) in devices() {
        for (dtype, epsilon) in precisions(&device) {
            let task = Classify(Net::new(&Make { device: device.clone(), dtype }));
            let samples = Samples::new(lengths, padding);
            // Two batches, so that samples are counted across them.
            let half = lengths.len() / 2;
            let batch = |places: &[usize]| samples.select(places, padding).batch(&device, dtype);
            let places: Vec<usize> = (0..lengths.len()).collect();
            let train = [batch(&places[..half]), batch(&places[half..])];
            let query = [batch(&[1, 2])];
            let (train, query) = (TaskSource::train(&task, &train), TaskSource::query(&task, &query));
            for name in ["identity", "cosine", "exact", "hyperinf"] {
                for (normalisation, merged) in [
                    (named(name).normalisation, false),
                    (Normalisation::LossRelatif, false),
                    (Normalisation::Cosine, true),
                ] {
                    let options = Options { normalisation, merged, ..named(name) };
                    let what = format!("{name}, {normalisation:?}, merged {merged}, {device_name}, {dtype:?}");
                    let expected =
                        attribute(&train, &query, CurvatureFrom::Training, &options).expect("good data").scores;
                    let found = position_scores(&train, &query, CurvatureFrom::Training, &options).expect("good data");
                    assert_eq!((found.rows.len(), found.whole.len()), (2, 2), "{what}");
                    for (k, (rows, alone)) in found.rows.iter().zip(&found.whole).enumerate() {
                        assert!(rows.iter().all(|row| row.len() == positions), "{what}");
                        // A sample whose units are all dead has none, but not all samples have.
                        assert!(rows.iter().flatten().any(|s| *s != 0.0), "{what}: no position has a score");
                        assert_eq!(alone.iter().any(|s| *s != 0.0), whole, "{what}");
                        let sum: Vec<f64> =
                            rows.iter().zip(alone).map(|(row, w)| w + row.iter().sum::<f64>()).collect();
                        assert_close(&what, &sum, &expected.rows[k], 2e3 * epsilon);
                        for (row, &length) in rows.iter().zip(lengths).filter(|_| positions == padding) {
                            assert!(row[length..].iter().all(|s| *s == 0.0), "{what}: padding has scores {row:?}");
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn positions_sum_to_the_sample_and_padding_has_no_score() {
    check_positions::<Sequence>(&[3, 6, 1, 4, 2, 5], 6, 6, true);
    check_positions::<LowRank>(&[3, 6, 1, 4, 2, 5], 7, 7, false);
}

#[test]
fn one_position_is_the_sample() {
    check_positions::<Perceptron>(&[4, 4, 4, 4], 4, 1, false);
}

/// `score_t = Σ_l ⟨X_l, a_t ⊗ δ_t⟩`: the score of a sample that has this position alone.
#[test]
fn a_position_is_its_part_of_the_gradient() {
    for (_, device) in devices() {
        let task = Classify(LowRank::new(&Make { device: device.clone(), dtype: DType::F64 }));
        let train = [Samples::new(&[3, 2, 4], 4).batch(&device, DType::F64)];
        let query = [Samples::new(&[2], 2).batch(&device, DType::F64)];
        let (train, query) = (TaskSource::train(&task, &train), TaskSource::query(&task, &query));
        let found = position_scores(&train, &query, CurvatureFrom::Training, &named("exact")).expect("good data");
        for position in 0..4 {
            let part = attribute(&Only(&train, position), &query, CurvatureFrom::Source(&train), &named("exact"))
                .expect("good data");
            let expected = &part.scores.rows[0];
            let column: Vec<f64> = found.rows[0].iter().map(|row| row[position]).collect();
            let largest = found.rows[0].iter().flatten().fold(0.0_f64, |m, s| m.max(s.abs()));
            assert_within("position", &column, expected, 1e-9 * largest);
        }
    }
}

#[test]
fn positions_that_do_not_correspond_are_refused() {
    for (_, device) in devices() {
        let [train, query] = [(20, 1), (3, 2)].map(|(n, seed)| stored(n, seed, &device));
        let error = position_scores(&train, &query, CurvatureFrom::Training, &named("identity")).err();
        assert!(matches!(error, Some(ScoreError::NoCaptures)), "{error:?}");
        // A layer used on all positions and on their mean has one more, which is no position of a token.
        let task = Classify(Shared::new(&Make { device: device.clone(), dtype: DType::F32 }));
        let batches = [Samples::new(&[3, 2, 4], 4).batch(&device, DType::F32)];
        let (train, query) = (TaskSource::train(&task, &batches), TaskSource::query(&task, &batches));
        let found = position_scores(&train, &query, CurvatureFrom::Training, &named("identity"))
            .expect("nothing contradicts 5 positions");
        assert_eq!(found.rows[0][0].len(), 5);
    }
}

#[test]
fn methods_that_need_activations_say_so() {
    for (_, device) in devices() {
        let [train, query] = [(20, 1), (3, 2)].map(|(n, seed)| stored(n, seed, &device));
        for method in methods() {
            let found = attribute(&train, &query, CurvatureFrom::Training, &named(method.name));
            if ["kfac", "ekfac"].contains(&method.name) {
                assert!(matches!(found, Err(ScoreError::NoCaptures)), "{}", method.name);
            } else {
                assert!(found.is_ok_and(|found| found.scores.samples() == 20), "{}", method.name);
            }
        }
        let method = Method::inverse(Storage::Kronecker { corrected: true }, Exact);
        let task = Classify(LowRank::new(&Make { device: device.clone(), dtype: DType::F32 }));
        let batches = [Samples::new(&[3, 2, 4, 1], 4).batch(&device, DType::F32)];
        let (train, query) = (TaskSource::train(&task, &batches), TaskSource::query(&task, &batches));
        let own = attribute(&train, &query, CurvatureFrom::Training, &Options { method, ..Options::default() })
            .expect("a task has captures");
        assert_eq!(
            own.scores,
            attribute(&train, &query, CurvatureFrom::Training, &named("ekfac")).expect("the same method").scores
        );
    }
}
