//! Normalised scores, several checkpoints, contrasts and groups: each against its definition.

use burn::tensor::{DType, Device, Tensor};
use hyperinf::curvature::Storage;
use hyperinf::gradients::{Block, Gradients};
use hyperinf::scoring::{
    Checkpoint, Contrast, CurvatureFrom, Groups, Joined, Method, Normalisation, Options, Pool, QueryMode, ScoreError,
    Scorer, Scores, Set, Source, TaskSource, attribute, sweep, tracin,
};
use hyperinf::solvers::{Inverse, Solution, SolveError, Solver};
use hyperinf_tests::compare::{assert_close, precisions, tensor};
use hyperinf_tests::devices;

use crate::solvers::precise_devices;
use hyperinf_tests::digits::{Digits, arrays, expected, images};
use hyperinf_tests::oracle::{Contracted, Matrix, datainf, exact, fisher, gfim, relative_damping, scores};

const SHAPES: [(usize, usize); 2] = [(3, 5), (4, 2)];
const N: usize = 20;
const Q: usize = 3;

/// The plain numbers of two blocks.
fn parts(n: usize, seed: u64) -> Vec<Matrix> {
    SHAPES.iter().enumerate().map(|(l, (r, c))| Matrix::noise(n, r * c, seed + 100 * l as u64)).collect()
}

fn stored(parts: &[Matrix], device: &Device, dtype: DType) -> Gradients {
    let layout: Vec<Block> =
        SHAPES.iter().enumerate().map(|(l, (r, c))| Block::new(format!("layer.{l}"), *r, *c)).collect();
    let blocks = parts.iter().zip(SHAPES);
    let blocks = blocks.map(|(m, (r, c))| tensor(m, device, dtype).reshape([m.rows, r, c])).collect();
    Gradients::new(layout, blocks).expect("shapes agree")
}

fn named(name: &str) -> Options {
    Options::named(name).expect("a method")
}

/// `V (H + λI)⁻¹` of a block by the definition of a method.
fn preconditioned(name: &str, block: usize, curvature: &Matrix, v: &Matrix) -> Matrix {
    let ((r, c), lambda) = (SHAPES[block], relative_damping(curvature));
    match name {
        "identity" => v.clone(),
        "datainf" => datainf(curvature, lambda, v),
        "hyperinf" => {
            let contracted = if r < c { Contracted::Rows } else { Contracted::Cols };
            exact(&gfim(curvature, r, c, contracted, true), lambda, v)
        }
        _ => exact(&fisher(curvature), lambda, v),
    }
}

/// `Σ_l ⟨left_l, right_l⟩` of rows `i` and `j`.
fn inner(left: &[Matrix], i: usize, right: &[Matrix], j: usize) -> f64 {
    let of = |(a, b): (&Matrix, &Matrix)| a.row(i).iter().zip(b.row(j)).map(|(a, b)| a * b).sum::<f64>();
    left.iter().zip(right).map(of).sum()
}

/// Normalised scores by the definition, `[q, n]` row by row.
fn normalised(
    name: &str,
    normalisation: Normalisation,
    train: &[Matrix],
    curvature: &[Matrix],
    query: &[Matrix],
) -> Vec<f64> {
    let all = |v: &[Matrix]| -> Vec<Matrix> {
        v.iter().enumerate().map(|(l, v)| preconditioned(name, l, &curvature[l], v)).collect()
    };
    let (x, h) = (all(query), all(train));
    let (q, n) = (query[0].rows, train[0].rows);
    let score = |k: usize, i: usize| {
        let divisor = match normalisation {
            Normalisation::None => 1.0,
            Normalisation::Gradient => inner(train, i, train, i).sqrt(),
            Normalisation::Cosine => (inner(&x, k, &x, k) * inner(train, i, train, i)).sqrt(),
            Normalisation::LossRelatif => inner(&h, i, train, i).sqrt(),
            Normalisation::ThetaRelatif => inner(&h, i, &h, i).sqrt(),
        };
        inner(&x, k, train, i) / divisor
    };
    (0..q).flat_map(|k| (0..n).map(move |i| (k, i))).map(|(k, i)| score(k, i)).collect()
}

const NORMALISATIONS: [Normalisation; 5] = [
    Normalisation::None,
    Normalisation::Gradient,
    Normalisation::Cosine,
    Normalisation::LossRelatif,
    Normalisation::ThetaRelatif,
];

/// Rounding, amplified by the condition of the damped curvature; CG and the hyperpower iteration stop at 1e-6.
fn tolerance(epsilon: f64) -> f64 {
    (1e3 * epsilon).max(1e-5)
}

#[test]
fn normalised_scores_are_their_definitions() {
    // With 5 samples the curvature holds them, with 20 it does not.
    for n in [5, N] {
        let (j, v, f) = (parts(n, 1), parts(Q, 2), parts(9, 3));
        for (device_name, device) in devices() {
            for (dtype, epsilon) in precisions(&device) {
                let store = |parts: &[Matrix]| stored(parts, &device, dtype);
                let (train, query, others) = (store(&j), store(&v), store(&f));
                for name in ["identity", "datainf", "exact", "hyperinf", "cg"] {
                    for normalisation in NORMALISATIONS {
                        let options = Options { normalisation, block_scores: true, ..named(name) };
                        let what = format!("{name}, {normalisation:?}, {device_name}, {dtype:?}, {n}");
                        let found = attribute(&train, &query, CurvatureFrom::Training, &options).expect("good data");
                        let expected = normalised(name, normalisation, &j, &j, &v);
                        assert_close(&what, &found.scores.rows.concat(), &expected, tolerance(epsilon));
                        let sum: Vec<f64> = (0..Q * n)
                            .map(|k| found.block_scores.iter().map(|(_, part)| part.rows[k / n][k % n]).sum())
                            .collect();
                        assert_close(&format!("{what}, blocks"), &sum, &expected, tolerance(epsilon));
                        let found =
                            attribute(&train, &query, CurvatureFrom::Source(&others), &options).expect("good data");
                        let expected = normalised(name, normalisation, &j, &f, &v);
                        let what = format!("{what}, curvature of others");
                        assert_close(&what, &found.scores.rows.concat(), &expected, tolerance(epsilon));
                    }
                }
            }
        }
    }
}

#[test]
fn norms_span_all_blocks_however_they_come() {
    for (_, device) in devices() {
        let [train, query] = [(N, 1), (Q, 2)].map(|(n, seed)| stored(&parts(n, seed), &device, DType::F32));
        let one = |all: &Gradients, l: usize| {
            Gradients::new(vec![all.layout[l].clone()], vec![all.blocks[l].clone()]).expect("one block")
        };
        for normalisation in NORMALISATIONS {
            let options = Options { normalisation, ..named("exact") };
            let mut scorer = Scorer::new(options.clone()).expect("good options");
            (0..2).for_each(|l| {
                scorer.add(&one(&train, l), &one(&query, l), CurvatureFrom::Training).expect("good data")
            });
            let found = scorer.finish().expect("two blocks").scores.rows.concat();
            let at_once =
                attribute(&train, &query, CurvatureFrom::Training, &options).expect("good data").scores.rows.concat();
            assert_close(&format!("{normalisation:?}"), &found, &at_once, 1e-6);
        }
    }
}

#[test]
fn what_moves_nothing_has_the_score_0() {
    for (_, device) in devices() {
        let mut j = parts(N, 1);
        j.iter_mut().for_each(|m| (0..m.cols).for_each(|k| m.values[4 * m.cols + k] = 0.0));
        let (train, query) = (stored(&j, &device, DType::F32), stored(&parts(Q, 2), &device, DType::F32));
        for name in ["identity", "exact", "hyperinf"] {
            for normalisation in NORMALISATIONS {
                let options = Options { normalisation, ..named(name) };
                let found = attribute(&train, &query, CurvatureFrom::Training, &options)
                    .expect("a zero gradient is no error")
                    .scores;
                for row in found.rows {
                    assert_eq!(row[4], 0.0, "{name}, {normalisation:?}");
                    assert!(row.iter().all(|s| s.is_finite()) && row[3] != 0.0, "{name}, {normalisation:?}: {row:?}");
                }
            }
        }
    }
}

/// `X = −V`: a solver that is wrong.
struct Negative;

impl Solver for Negative {
    fn name(&self) -> &'static str {
        "negative"
    }

    fn supports(&self, _: hyperinf::curvature::Structure) -> bool {
        true
    }

    fn prepare(&self, _: &hyperinf::curvature::Curvature, _: f64) -> Result<Box<dyn Inverse>, SolveError> {
        Ok(Box::new(Self))
    }
}

impl Inverse for Negative {
    fn apply(&self, v: Tensor<2>) -> Result<Solution, SolveError> {
        let residuals = vec![1.0; v.dims()[0]];
        Ok(Solution { x: v.neg(), iterations: 0, residuals, tolerance: None, products: None })
    }
}

#[test]
fn a_self_influence_without_a_root_is_an_error() {
    for (_, device) in devices() {
        let [train, query] = [(N, 1), (Q, 2)].map(|(n, seed)| stored(&parts(n, seed), &device, DType::F32));
        let method = Method::inverse(Storage::Diagonal, Negative);
        let options = Options { method, normalisation: Normalisation::LossRelatif, ..Options::default() };
        let error = attribute(&train, &query, CurvatureFrom::Training, &options).err();
        let Some(ScoreError::Divisor { set: Set::Train, sample: 0, value }) = error else { panic!("{error:?}") };
        assert!(value < 0.0, "{value}");
    }
}

/// A solver whose products with the samples are infinite, though its solution is not.
struct Endless;

impl Solver for Endless {
    fn name(&self) -> &'static str {
        "endless"
    }

    fn supports(&self, _: hyperinf::curvature::Structure) -> bool {
        true
    }

    fn prepare(&self, _: &hyperinf::curvature::Curvature, _: f64) -> Result<Box<dyn Inverse>, SolveError> {
        Ok(Box::new(Self))
    }
}

impl Inverse for Endless {
    fn apply(&self, v: Tensor<2>) -> Result<Solution, SolveError> {
        let products = Some(Tensor::full([v.dims()[0], N], f32::INFINITY, &v.device()));
        let residuals = vec![1.0; v.dims()[0]];
        Ok(Solution { x: v, iterations: 0, residuals, tolerance: None, products })
    }
}

#[test]
fn infinite_products_with_held_samples_are_an_error() {
    for (name, device) in devices() {
        let [train, query] = [(N, 1), (Q, 2)].map(|(n, seed)| stored(&parts(n, seed), &device, DType::F32));
        let options = Options { method: Method::inverse(Storage::Samples, Endless), ..Options::default() };
        let swept = sweep(&train, &query, CurvatureFrom::Training, &options, &[options.damping]);
        for error in [attribute(&train, &query, CurvatureFrom::Training, &options).err(), swept.err()] {
            let overflow = matches!(error, Some(ScoreError::Overflow { query: 0, sample: 0, .. }));
            assert!(overflow, "{name}: {error:?}");
        }
    }
}

/// A norm beyond f32 is no reason to refuse what is divided by it; one beyond f64 is.
#[test]
fn gradients_whose_norms_overflow_count_by_their_direction() {
    for (device_name, device) in precise_devices() {
        for normalisation in [Normalisation::Gradient, Normalisation::Cosine] {
            let of = |size: f64, dtype| {
                let mut j = parts(N, 1);
                let cols = j[1].cols;
                j[1].values[6 * cols] = size;
                let (train, query) = (stored(&j, &device, dtype), stored(&parts(Q, 2), &device, dtype));
                let options = Options { normalisation, ..named("identity") };
                attribute(&train, &query, CurvatureFrom::Training, &options)
            };
            let scores = |size| of(size, DType::F32).expect("its direction is fine").scores.rows.concat();
            assert_close(&device_name, &scores(1e25), &scores(1e10), 1e-5);
            let error = of(1e200, DType::F64).err();
            let named = matches!(&error, Some(ScoreError::NonFinite { set: Set::Train, block, sample: 6, .. }) if block == "layer.1");
            assert!(named, "{error:?}");
        }
    }
}

#[test]
fn a_contrast_is_the_difference_of_the_mean_scores() {
    let (j, a, b) = (parts(N, 1), parts(Q, 2), parts(5, 3));
    for (device_name, device) in devices() {
        for (dtype, epsilon) in precisions(&device) {
            let store = |parts: &[Matrix]| stored(parts, &device, dtype);
            let (train, helped, harmed) = (store(&j), store(&a), store(&b));
            let contrast = Contrast { helped: &helped, harmed: &harmed };
            let joined = Joined(vec![&helped, &harmed]);
            for name in ["identity", "datainf", "exact", "hyperinf"] {
                let x = |v: &[Matrix], l: usize| preconditioned(name, l, &j[l], &v[l]);
                let of = |v: &[Matrix]| -> Matrix {
                    let blocks = (0..2).map(|l| scores(&x(v, l), &j[l]));
                    blocks.reduce(|a, b| a.plus(1.0, &b)).expect("two blocks")
                };
                let mean = |m: &Matrix, i: usize| (0..m.rows).map(|k| m.at(k, i)).sum::<f64>() / m.rows as f64;
                let (of_a, of_b) = (of(&a), of(&b));
                let expected: Vec<f64> = (0..N).map(|i| mean(&of_a, i) - mean(&of_b, i)).collect();
                let what = format!("{name}, {device_name}, {dtype:?}");
                for query in [QueryMode::Each, QueryMode::Mean] {
                    let found =
                        attribute(&train, &contrast, CurvatureFrom::Training, &Options { query, ..named(name) })
                            .expect("good data");
                    assert_eq!(found.scores.queries(), 1);
                    assert_close(&what, &found.scores.rows[0], &expected, 10.0 * tolerance(epsilon));
                }
                let found =
                    attribute(&train, &joined, CurvatureFrom::Training, &named(name)).expect("good data").scores;
                let both = [of_a.values, of_b.values].concat();
                assert_close(&format!("{what}, joined"), &found.rows.concat(), &both, tolerance(epsilon));
            }
        }
        // The error names the set with the bad numbers.
        let mut bad = b.clone();
        let cols = bad[0].cols;
        bad[0].values[2 * cols] = f64::NAN;
        let [train, helped, harmed] = [&j, &a, &bad].map(|parts| stored(parts, &device, DType::F32));
        let error = attribute(
            &train,
            &Contrast { helped: &helped, harmed: &harmed },
            CurvatureFrom::Training,
            &named("identity"),
        )
        .err();
        assert!(matches!(error, Some(ScoreError::NonFinite { set: Set::Contrast, sample: 2, .. })), "{error:?}");
    }
}

#[test]
fn groups_are_sums_or_means() {
    let found = Scores { rows: vec![vec![1.0, 2.0, 4.0, 8.0], vec![-1.0, 0.5, 0.0, 3.0]] };
    let groups = Groups::new(["b", "a", "b", "c"]);
    assert_eq!(groups.ids, ["b", "a", "c"]);
    let pooled = |pool| groups.of_train(&found, pool).expect("as many as samples").rows;
    assert_eq!(pooled(Pool::Sum), [[5.0, 2.0, 8.0], [-1.0, 0.5, 3.0]]);
    assert_eq!(pooled(Pool::Mean), [[2.5, 2.0, 8.0], [-0.5, 0.5, 3.0]]);
    let queries = Groups::new(["x", "x"]);
    let pooled = |pool| queries.of_queries(&found, pool).expect("as many as queries").rows;
    assert_eq!(pooled(Pool::Sum), [[0.0, 2.5, 4.0, 11.0]]);
    assert_eq!(pooled(Pool::Mean), [[0.0, 1.25, 2.0, 5.5]]);
    let error = queries.of_train(&found, Pool::Sum).err();
    assert!(matches!(error, Some(ScoreError::SampleCount { set: Set::Train, found: 4, expected: 2 })), "{error:?}");
    let error = groups.of_queries(&found, Pool::Sum).err();
    assert!(matches!(error, Some(ScoreError::SampleCount { set: Set::Query, found: 2, expected: 4 })), "{error:?}");
}

/// A checkpoint with the curvature of its training samples.
fn moment<'a>(learning_rate: f64, train: &'a dyn Source, query: &'a dyn Source) -> Checkpoint<'a> {
    Checkpoint { learning_rate, train, query, curvature: CurvatureFrom::Training }
}

#[test]
fn tracin_is_the_golden_sum_over_checkpoints() {
    let expected = expected("tracin_5ckpt");
    let arrays = arrays();
    for (name, device) in devices() {
        for (dtype, epsilon) in precisions(&device) {
            let (train, query) = (images(&arrays, "train", &device, dtype), images(&arrays, "val", &device, dtype));
            let tasks: Vec<Digits> =
                (0..5).map(|c| Digits::new(&arrays, &format!("ckpt{c}."), &device, dtype)).collect();
            let sources: Vec<_> =
                tasks.iter().map(|task| (TaskSource::train(task, &train), TaskSource::query(task, &query))).collect();
            let checkpoints: Vec<_> = sources.iter().map(|(train, query)| moment(3e-3, train, query)).collect();
            let options = Options { query: QueryMode::Mean, ..named("identity") };
            let found = tracin(&checkpoints, &options).expect("the dot product always exists");
            // Sums over 2,410 parameters and 200 queries, in f32 to what the project promises.
            let tolerance = (1e4 * epsilon).clamp(1e-9, 1e-4);
            assert_close(&format!("{name}, {dtype:?}"), &found.scores.rows[0], &expected, tolerance);
        }
    }
}

#[test]
fn tracin_weighs_each_checkpoint_by_its_learning_rate() {
    for (_, device) in devices() {
        let set = |n, seed| stored(&parts(n, seed), &device, DType::F32);
        let sets = [(set(N, 1), set(Q, 2)), (set(N, 3), set(Q, 4))];
        let rates = [0.5, 2.0];
        let checkpoints: Vec<_> =
            sets.iter().zip(rates).map(|((train, query), rate)| moment(rate, train, query)).collect();
        for name in ["identity", "cosine", "exact"] {
            let options = Options { block_scores: true, ..named(name) };
            let alone: Vec<Vec<f64>> = sets
                .iter()
                .map(|(train, query)| {
                    attribute(train, query, CurvatureFrom::Training, &options).expect("good data").scores.rows.concat()
                })
                .collect();
            let expected: Vec<f64> = alone[0].iter().zip(&alone[1]).map(|(a, b)| rates[0] * a + rates[1] * b).collect();
            let found = tracin(&checkpoints, &options).expect("good data");
            assert_close(name, &found.scores.rows.concat(), &expected, 1e-9);
            let blocks = |k: usize| found.block_scores.iter().map(|(_, part)| part.rows[k / N][k % N]).sum::<f64>();
            assert_close(name, &(0..Q * N).map(blocks).collect::<Vec<_>>(), &expected, 1e-5);
            assert_eq!(found.blocks.len(), if name == "exact" { 4 } else { 0 });
        }
        assert!(matches!(tracin(&[], &named("identity")), Err(ScoreError::NoCheckpoints)));
        for rate in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            let (train, query) = &sets[1];
            let bad = [moment(1.0, train, query), moment(rate, train, query)];
            let error = tracin(&bad, &named("identity")).err();
            assert!(matches!(error, Some(ScoreError::LearningRate { checkpoint: 1, .. })), "{error:?}");
        }
        let (short, query) = (set(N - 1, 5), set(Q, 6));
        let (train, first) = &sets[0];
        let uneven = [moment(1.0, train, first), moment(1.0, &short, &query)];
        let error = tracin(&uneven, &named("identity")).err();
        assert!(
            matches!(error, Some(ScoreError::SampleCount { set: Set::Train, found: 19, expected: 20 })),
            "{error:?}"
        );
    }
}
