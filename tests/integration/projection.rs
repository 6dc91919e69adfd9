//! Gradients made small: by the definition, from captures, and what it does to scores.

use burn::tensor::{DType, Device, Tensor};
use hyperinf::curvature::{Damping, Storage};
use hyperinf::eval::spearman;
use hyperinf::gradients::{
    Block, Capture, Entries, GradientError, Gradients, Projection, Sides, Target, capture, gradients,
};
use hyperinf::scoring::{
    Batch, CurvatureFrom, Joined, Method, Moments, Options, ProjectedSource, QueryMode, ScoreError, Source, TaskSource,
    attribute, principal,
};
use hyperinf::solvers::Exact;
use hyperinf_tests::compare::{assert_close, assert_within, matrix, precisions, tensor, values};
use hyperinf_tests::devices;
use hyperinf_tests::digits::per_sample_gradients;
use hyperinf_tests::oracle::Matrix;

use crate::networks::{self, Classify, Make, Network, Perceptron, Samples, Sequence};

const LAYOUT: [(&str, usize, usize); 2] = [("a", 6, 5), ("b", 1, 7)];

fn layout() -> Vec<Block> {
    LAYOUT.iter().map(|(name, rows, cols)| Block::new(*name, *rows, *cols)).collect()
}

/// `n` samples of the layout.
fn noise(n: usize, seed: u64, device: &Device, dtype: DType) -> Gradients {
    let block = |(l, block): (usize, &Block)| {
        let values = Matrix::noise(n, block.parameters(), seed + l as u64);
        tensor(&values, device, dtype).reshape([n, block.rows, block.cols])
    };
    let blocks = layout().iter().enumerate().map(block).collect();
    Gradients::new(layout(), blocks).expect("the shapes fit the layout")
}

/// One block as a single matrix, `[n, D]`.
fn flat(gradients: &Gradients, l: usize) -> Matrix {
    matrix(gradients.blocks[l].clone())
}

fn exact(damping: f64) -> Options {
    Options {
        method: Method::inverse(Storage::Full, Exact),
        damping: Damping::Absolute(damping),
        query: QueryMode::Mean,
        ..Options::default()
    }
}

fn scores(train: &dyn Source, query: &dyn Source, options: &Options) -> Vec<f64> {
    attribute(train, query, CurvatureFrom::Training, options).expect("it can be inverted").scores.rows.concat()
}

/// Every device in every type.
fn each(check: impl Fn(&str, &Device, DType, f64)) {
    for (name, device) in devices() {
        for (dtype, epsilon) in precisions(&device) {
            check(&format!("{name}, {dtype:?}"), &device, dtype, epsilon);
        }
    }
}

// ---- the definition ----------------------------------------------------------------------------------------------

#[test]
fn a_projected_gradient_is_its_definition() {
    each(|what, device, dtype, epsilon| {
        let (p, q) = (Matrix::noise(6, 2, 31), Matrix::noise(7, 3, 32));
        let side = |m: &Matrix| Some(tensor(m, device, dtype));
        let sides = vec![Sides { left: side(&p), right: None }, Sides { left: None, right: side(&q) }];
        let projection = Projection::new(layout(), sides).expect("the matrices fit");
        assert_eq!(projection.projected()[..], [Block::new("a", 2, 5), Block::new("b", 1, 3)]);
        let found = projection.gradients(&noise(3, 1, device, dtype)).expect("the layout is the same");
        let given = noise(3, 1, device, dtype);
        for i in 0..3 {
            let g = Matrix { rows: 6, cols: 5, values: flat(&given, 0).row(i).to_vec() };
            assert_close(what, flat(&found, 0).row(i), &p.transpose().times(&g).values, 20.0 * epsilon);
            let g = Matrix { rows: 1, cols: 7, values: flat(&given, 1).row(i).to_vec() };
            assert_close(what, flat(&found, 1).row(i), &g.times(&q).values, 20.0 * epsilon);
        }
    });
}

/// The mean of inner products over seeds is that of the gradients, within four standard errors.
#[test]
fn random_projections_keep_inner_products_on_average() {
    const SEEDS: u64 = 1500;
    for (name, device) in devices() {
        let (dtype, _) = precisions(&device)[0];
        let pair = noise(2, 5, &device, dtype);
        for entries in [Entries::Gaussian, Entries::Signs] {
            for (rank, l) in [(2, 0), (3, 1)] {
                let product =
                    |rows: &Matrix, i: usize| -> f64 { (0..rows.cols).map(|d| rows.at(0, d) * rows.at(i, d)).sum() };
                for other in [0, 1] {
                    let found: Vec<f64> = (0..SEEDS)
                        .map(|seed| {
                            let projection = Projection::random(layout(), rank, entries, seed, (&device, dtype));
                            let projected =
                                projection.and_then(|p| p.gradients(&pair)).expect("the layout is the same");
                            product(&flat(&projected, l), other)
                        })
                        .collect();
                    let mean = found.iter().sum::<f64>() / SEEDS as f64;
                    let variance = found.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (SEEDS - 1) as f64;
                    let error = (variance / SEEDS as f64).sqrt();
                    let expected = product(&flat(&pair, l), other);
                    assert_within(&format!("{name}, {entries:?}, block {l}"), &[mean], &[expected], 4.0 * error);
                }
            }
        }
    }
}

#[test]
fn a_random_projection_is_that_of_its_seed() {
    let all = devices();
    let values = |device: &Device, seed: u64| {
        let projection = Projection::random(layout(), 2, Entries::Gaussian, seed, (device, DType::F32));
        let projection = projection.expect("there are blocks");
        let projected = projection.gradients(&noise(4, 1, device, DType::F32)).expect("the layout is the same");
        [flat(&projected, 0).values, flat(&projected, 1).values].concat()
    };
    let first = values(&all[0].1, 3);
    for (name, device) in &all {
        assert_close(name, &values(device, 3), &first, 1e-5);
        assert_ne!(values(device, 3), values(device, 4), "{name}");
    }
}

/// Sides that are not longer than the rank stay as they are.
#[test]
fn a_large_rank_changes_nothing() {
    each(|what, device, dtype, _| {
        let set = noise(3, 1, device, dtype);
        let projection = Projection::random(layout(), 7, Entries::Signs, 1, (device, dtype)).expect("there are blocks");
        let same = projection.gradients(&set).expect("the layout is the same");
        assert_eq!(same.layout[..], layout()[..]);
        for l in 0..2 {
            assert_close(what, &flat(&same, l).values, &flat(&set, l).values, 0.0);
        }
    });
}

// ---- captures ----------------------------------------------------------------------------------------------------

fn sequence(device: &Device, dtype: DType) -> (Classify<Sequence>, networks::Batch) {
    let task = Classify(Sequence::new(&Make { device: device.clone(), dtype }));
    (task, Samples::new(&[3, 6, 1, 4, 2, 5], 6).batch(device, dtype))
}

#[test]
fn projected_captures_give_projected_gradients() {
    each(|what, device, dtype, epsilon| {
        let (task, batch) = sequence(device, dtype);
        let whole = gradients(&task, &batch, Target::Loss).expect("the network is well-formed");
        let captures = capture(&task, &batch, Target::Loss).expect("the network is well-formed").blocks;
        let projection = Projection::random(whole.layout.clone(), 3, Entries::Gaussian, 2, (device, dtype));
        let projection = projection.expect("there are blocks");
        let expected = projection.gradients(&whole).expect("the layout is the same");
        let found = projection.captures(captures).expect("the layout is the same");
        for (l, capture) in found.iter().enumerate() {
            assert_eq!(capture.block, expected.layout[l]);
            assert!(capture.input.dims()[2] <= 3 && capture.delta.dims()[2] <= 3, "{what}: nothing of full size");
            let found = values(capture.gradients());
            assert_close(
                &format!("{what}, {}", capture.block.name),
                &found,
                &flat(&expected, l).values,
                100.0 * epsilon,
            );
        }
    });
}

/// A source with captures and one of gradients alone are projected to the same; Kronecker factors need the former.
#[test]
fn a_projected_source_takes_captures_where_there_are_any() {
    each(|what, device, dtype, epsilon| {
        let (task, batch) = sequence(device, dtype);
        let batches = [batch];
        let (model, stored) = (TaskSource::train(&task, &batches), gradients(&task, &batches[0], Target::Loss));
        let stored = stored.expect("the network is well-formed");
        let projection = Projection::random(stored.layout.clone(), 3, Entries::Signs, 2, (device, dtype));
        let projection = projection.expect("there are blocks");
        let both = [&model as &dyn Source, &stored].map(|source| ProjectedSource { source, projection: &projection });
        let all = |source: &dyn Source| {
            let mut found = Vec::new();
            let visit = &mut |batch: Batch| {
                found.extend(values(batch.into_gradients().merged().blocks[0].clone()));
                Ok(())
            };
            source.pass(visit).expect("the projection fits");
            found
        };
        assert_close(what, &all(&both[0]), &all(&both[1]), 100.0 * epsilon);
        // Where one of two has captures, each sample is still there once.
        let joined = Joined(vec![&model, &stored]);
        let joined = ProjectedSource { source: &joined, projection: &projection };
        assert_close(what, &all(&joined), &all(&both[1]).repeat(2), 100.0 * epsilon);

        let kfac = Options { method: Method::inverse(Storage::Kronecker { corrected: false }, Exact), ..exact(0.1) };
        let found = attribute(&both[0], &both[1], CurvatureFrom::Training, &kfac).expect("there are captures");
        assert_eq!(found.scores.samples(), 6);
        assert!(
            matches!(attribute(&both[1], &both[1], CurvatureFrom::Training, &kfac), Err(ScoreError::NoCaptures)),
            "{what}"
        );
    });
}

// ---- changes of basis --------------------------------------------------------------------------------------------

/// A product of Householder reflections.
fn orthogonal(d: usize, seed: u64) -> Matrix {
    (0..d).fold(Matrix::identity(d), |q, k| {
        let u = Matrix::noise(1, d, seed + k as u64).values;
        let square: f64 = u.iter().map(|x| x * x).sum();
        q.times(&Matrix::from_fn(d, d, |i, j| f64::from(u8::from(i == j)) - 2.0 * u[i] * u[j] / square))
    })
}

#[test]
fn an_orthogonal_change_of_basis_changes_no_score() {
    each(|what, device, dtype, epsilon| {
        let (train, query) = (noise(12, 1, device, dtype), noise(3, 9, device, dtype));
        let turn = |d: usize, seed| Some(tensor(&orthogonal(d, seed), device, dtype));
        let sides = layout().iter().map(|b| Sides { left: turn(b.rows, 1), right: turn(b.cols, 50) }).collect();
        let projection = Projection::new(layout(), sides).expect("the matrices fit");
        let turned = [&train, &query].map(|source| ProjectedSource { source, projection: &projection });
        for merged in [false, true] {
            let options = Options { merged, ..exact(0.3) };
            let expected = scores(&train, &query, &options);
            assert_close(what, &scores(&turned[0], &turned[1], &options), &expected, 1e3 * epsilon);
        }
    });
}

/// `U M_i Wᵀ` with few directions: what the projection leaves out is zero.
#[test]
fn principal_directions_of_gradients_hold_all_where_there_are_few() {
    each(|what, device, dtype, epsilon| {
        let (u, w) = (Matrix::noise(6, 2, 60), Matrix::noise(5, 3, 61));
        let set = |n: usize, seed: u64| {
            let each = (0..n).flat_map(|i| u.times(&Matrix::noise(2, 3, seed + i as u64)).times(&w.transpose()).values);
            let rows = Matrix { rows: n, cols: 30, values: each.collect() };
            let block = tensor(&rows, device, dtype).reshape([n, 6, 5]);
            Gradients::new([Block::new("a", 6, 5)], vec![block]).expect("the shapes fit the layout")
        };
        let (train, query) = (set(20, 100), set(2, 200));
        let projection = principal(&train, Moments::Gradients, 3).expect("there are samples");
        assert_eq!(projection.projected()[..], [Block::new("a", 3, 3)]);
        let small = [&train, &query].map(|source| ProjectedSource { source, projection: &projection });
        let expected = scores(&train, &query, &exact(0.2));
        assert_close(what, &scores(&small[0], &small[1], &exact(0.2)), &expected, 1e3 * epsilon);

        let half = principal(&train, Moments::Gradients, 1).expect("there are samples");
        let half = [&train, &query].map(|source| ProjectedSource { source, projection: &half });
        let apart = scores(&half[0], &half[1], &exact(0.2)).iter().zip(&expected).any(|(a, b)| (a - b).abs() > 1e-2);
        assert!(apart, "{what}: one direction cannot be enough");
    });
}

/// The last layer of a classifier: what comes back to it sums to zero, so that one of three directions is empty.
/// Which side is the shorter one is a matter of the block as it was: rows here, of 3 × 8, though both are 2 afterwards.
#[test]
fn the_shorter_side_is_that_before_the_projection() {
    each(|what, device, dtype, epsilon| {
        // Every gradient is a matrix of rank 2 between the same two spaces.
        let (u, w) = (Matrix::noise(3, 2, 60), Matrix::noise(8, 2, 61));
        let set = |n: usize, seed: u64| {
            let each = (0..n).flat_map(|i| u.times(&Matrix::noise(2, 2, seed + i as u64)).times(&w.transpose()).values);
            let rows = Matrix { rows: n, cols: 24, values: each.collect() };
            let block = tensor(&rows, device, dtype).reshape([n, 3, 8]);
            Gradients::new([Block::new("wide", 3, 8)], vec![block]).expect("the shapes fit the layout")
        };
        let (train, query) = (set(30, 100), set(4, 200));
        let options = Options::named("hyperinf:sum").expect("the method is known");
        let options = Options { damping: Damping::Absolute(0.5), ..options };
        let projection = principal(&train, Moments::Gradients, 2).expect("the gradients are numbers");
        let project = |source| ProjectedSource { source, projection: &projection };
        let expected = scores(&train, &query, &options);
        // The iteration stops at a residual of 1e-6.
        let tolerance = (1e5 * epsilon).max(1e-6);
        assert_close(what, &scores(&project(&train), &project(&query), &options), &expected, tolerance);
    });
}

#[test]
fn principal_directions_of_captures_hold_all_where_there_are_few() {
    each(|what, device, dtype, epsilon| {
        let task = Classify(Perceptron::new(&Make { device: device.clone(), dtype }));
        let batches = [Samples::new(&[2; 9], 2).batch(device, dtype)];
        let train = Last(TaskSource::train(&task, &batches));
        let projection = principal(&train, Moments::Captures, 2).expect("there are samples");
        let small = ProjectedSource { source: &train, projection: &projection };
        assert_eq!(projection.projected()[..], [Block::new("second", 2, 2)]);
        // Of the four inputs two are left out as well, so that only the columns are complete.
        let sides = |p: &Projection| p.captures(last(&task, &batches[0])).expect("the layout is the same");
        let (whole, found) = (last(&task, &batches[0]), sides(&projection));
        let squares = |c: &[Capture]| values(c[0].delta.clone()).iter().map(|v| v * v).sum::<f64>();
        assert_within(what, &[squares(&found)], &[squares(&whole)], 100.0 * epsilon * squares(&whole));
        assert_eq!(scores(&small, &small, &exact(0.1)).len(), 9);
    });
}

fn last(task: &Classify<Perceptron>, batch: &networks::Batch) -> Vec<Capture> {
    capture(task, batch, Target::Loss).expect("the network is well-formed").blocks.split_off(1)
}

/// The second block of a source.
struct Last<S>(S);

impl<S: Source> Source for Last<S> {
    fn pass(&self, visit: &mut dyn FnMut(Batch) -> Result<(), ScoreError>) -> Result<(), ScoreError> {
        self.0.pass(&mut |batch| visit(batch.into_captures()?.split_off(1).into()))
    }
}

// ---- attribution -------------------------------------------------------------------------------------------------

/// TRAK's form, projected gradients with their own Fisher and its exact inverse, ranks as the whole does, and the
/// better the more directions there are; principal directions do so with fewer.
#[test]
fn scores_through_a_projection_approach_those_without() {
    const RANKS: [usize; 3] = [4, 12, 36];
    for (name, device) in devices() {
        let (dtype, _) = precisions(&device)[0];
        let (train, query) =
            (per_sample_gradients("train", &device, dtype), per_sample_gradients("val", &device, dtype));
        let expected = scores(&train, &query, &exact(0.15));
        let agreement = |projection: &Projection| {
            let small = [&train, &query].map(|source| ProjectedSource { source, projection });
            spearman(&scores(&small[0], &small[1], &exact(0.15)), &expected).expect("the scores differ")
        };
        let random = RANKS.map(|rank| {
            let of = |seed| {
                let projection =
                    Projection::random(train.layout.clone(), rank, Entries::Gaussian, seed, (&device, dtype));
                agreement(&projection.expect("there are blocks"))
            };
            (0..3).map(of).sum::<f64>() / 3.0
        });
        let best =
            RANKS.map(|rank| agreement(&principal(&train, Moments::Gradients, rank).expect("there are samples")));
        println!("{name}: random {random:?}, principal {best:?}");
        assert!(random[0] < random[1] && random[1] < random[2] && random[2] > 0.9, "{name}: {random:?}");
        assert!(best[0] > random[0] && best[1] > random[1] && best[2] > 0.99, "{name}: {best:?}, random {random:?}");
    }
}

// ---- what can go wrong -------------------------------------------------------------------------------------------

#[test]
fn a_projection_that_does_not_fit_is_an_error() {
    for (name, device) in devices() {
        let zeros = |rows, cols| Some(Tensor::<2>::zeros([rows, cols], &device));
        let new = |sides: Vec<Sides>| Projection::new(layout(), sides).map(|_| ()).expect_err(&name).to_string();
        assert_eq!(new(vec![Sides::default()]), "the projection has 1 pairs of matrices for 2 blocks");
        assert_eq!(
            new(vec![Sides { left: zeros(5, 2), right: None }, Sides::default()]),
            "block `a`: a matrix of its projection is 5 × 2 where 6 rows and at least one column were expected"
        );
        let random = |rank| Projection::random(layout(), rank, Entries::Signs, 1, (&device, DType::F32));
        assert!(matches!(random(0), Err(GradientError::Empty { .. })), "{name}");
        let set = noise(2, 1, &device, DType::F32);
        assert!(matches!(principal(&set, Moments::Gradients, 0), Err(ScoreError::Projection(_))), "{name}");
        assert!(matches!(principal(&set, Moments::Captures, 2), Err(ScoreError::NoCaptures)), "{name}");
        let projection = random(2).expect("there are blocks");
        let merged = set.merged();
        let other = ProjectedSource { source: &merged, projection: &projection };
        let error = attribute(&other, &other, CurvatureFrom::Training, &exact(0.1)).map(|_| ()).expect_err(&name);
        let is_expected = matches!(error, ScoreError::Projection(GradientError::LayoutMismatch { .. }));
        assert!(is_expected, "{name}: {error:?}");
    }
}
