//! Low-rank curvature by a sketch, and what all structures have in common.

use burn::tensor::{DType, Device, Tensor};
use hyperinf::curvature::{
    Accumulator, BlockCurvature, Curvature, CurvatureError, Damping, Dense, Eigenpairs, Kronecker, Samples, Storage,
    Structure,
};
use hyperinf::gradients::{Block, Gradients};
use hyperinf::linalg::rotate;
use hyperinf::scoring::{CurvatureFrom, Method, Options, attribute};
use hyperinf::solvers::{Exact, SolveError, Solver};
use hyperinf_tests::compare::{assert_close, assert_within, matrix, precisions, tensor, values};
use hyperinf_tests::devices;
use hyperinf_tests::oracle::{Matrix, eigenvalues, exact, fisher, spectral};
use hyperinf_tests::strategies::{gradient_set, orthogonal};
use proptest::prelude::*;

/// The low-rank curvature of samples `[n, D]`, seen as gradients `[n, 1, D]`, in batches of this size.
fn low_rank(
    samples: &Matrix,
    rank: usize,
    seed: u64,
    (device, dtype): (&Device, DType),
    batch: usize,
) -> BlockCurvature {
    let (n, d) = (samples.rows, samples.cols);
    let mut sum = Accumulator::new(Block::new("block", 1, d), Storage::LowRank { rank, seed }).expect("it is small");
    for start in (0..n).step_by(batch) {
        let end = (start + batch).min(n);
        let part = Matrix::from_fn(end - start, d, |i, j| samples.at(start + i, j));
        sum.add(tensor(&part, device, dtype).reshape([end - start, 1, d])).expect("it is finite");
    }
    assert!(!sum.end_pass().expect("one pass is enough"));
    sum.finish().expect("there are samples")
}

fn pairs(curvature: &Curvature) -> (Matrix, Vec<f64>) {
    let Curvature::Eigenpairs(Eigenpairs { vectors, values: mu }) = curvature else {
        panic!("{:?}", curvature.structure())
    };
    (matrix(vectors.clone()), values(mu.clone()))
}

/// Samples whose Fisher has eigenvalues that fall by `fall` each.
fn falling(d: usize, fall: f64, seed: u64) -> Matrix {
    Matrix::from_fn(2 * d, d, |i, j| Matrix::noise(2 * d, d, seed).at(i, j) * fall.powf(0.5 * j as f64))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_rank_as_large_as_the_fishers_is_exact(set in gradient_set(1..=8, 1..=4, 1..=5), more in 0..3_usize) {
        let d = set.samples.cols;
        let rank = set.samples.rows.min(d) + more;
        let expected = fisher(&set.samples);
        for (name, device) in devices() {
            for (dtype, epsilon) in precisions(&device) {
                let found = low_rank(&set.samples, rank, 1, (&device, dtype), 3);
                let what = format!("{name}, {dtype:?}, rank {rank} of {d}");
                // Sums of n products, and the shift that keeps the sketch's matrix definite: 1e-7 of its norm or 4 ε.
                let bound = ((set.samples.rows + 60) as f64 * epsilon).max(1e-6) * expected.trace();
                assert_within(&what, &values(found.curvature.to_dense()), &expected.values, bound);
                let (vectors, mu) = pairs(&found.curvature);
                prop_assert_eq!(mu.len(), rank.min(d));
                let square = vectors.times(&vectors.transpose());
                assert_close(&what, &square.values, &Matrix::identity(rank.min(d)).values, (10.0 * d as f64 * epsilon).max(1e-7));
                assert_close(&what, &[found.mean_square * d as f64], &[expected.trace()], 100.0 * epsilon);
            }
        }
    }
}

/// With more rank every eigenvalue grows or stays, and `F − H` has no negative eigenvalue.
#[test]
fn a_larger_rank_is_nearer_and_never_above_the_fisher() {
    let samples = falling(24, 0.7, 3);
    let expected = fisher(&samples);
    let (truth, size) = (eigenvalues(&expected), expected.trace());
    for (name, device) in devices() {
        for (dtype, epsilon) in precisions(&device) {
            let rounding = (300.0 * epsilon).max(1e-6) * size;
            let mut before: Vec<f64> = Vec::new();
            for rank in [1, 2, 4, 8, 12, 24] {
                let what = format!("{name}, {dtype:?}, rank {rank}");
                let found = low_rank(&samples, rank, 5, (&device, dtype), 10);
                let (_, mu) = pairs(&found.curvature);
                assert_eq!(mu.len(), rank, "{what}");
                assert!(mu.windows(2).all(|pair| pair[0] >= pair[1]), "{what}: {mu:?}");
                assert!(mu.iter().zip(&truth).all(|(found, truth)| *found <= truth + rounding), "{what}: {mu:?}");
                assert!(
                    before.iter().zip(&mu).all(|(less, more)| *less <= more + rounding),
                    "{what}: {before:?} {mu:?}"
                );
                let rest = expected.plus(-1.0, &matrix(found.curvature.to_dense()));
                let least = eigenvalues(&rest).into_iter().fold(f64::INFINITY, f64::min);
                assert!(least >= -rounding, "{what}: F − H has the eigenvalue {least}");
                before = mu;
            }
        }
    }
}

/// The mean error in the nuclear norm over many sketches is at most twice the best possible (Tropp et al. 2017).
#[test]
fn the_error_is_within_twice_the_best_of_its_rank() {
    let samples = falling(30, 0.85, 9);
    let expected = fisher(&samples);
    let truth = eigenvalues(&expected);
    let (_, device) = devices().remove(0);
    for rank in [2, 5, 10] {
        let tail: f64 = truth[rank..].iter().sum();
        let errors: Vec<f64> = (0..20)
            .map(|seed| {
                let (_, mu) = pairs(&low_rank(&samples, rank, seed, (&device, DType::F64), 60).curvature);
                // Never above F, so the nuclear norm of the difference is the difference of the traces.
                expected.trace() - mu.iter().sum::<f64>()
            })
            .collect();
        let mean = errors.iter().sum::<f64>() / errors.len() as f64;
        assert!(mean >= tail && mean <= 2.0 * tail, "rank {rank}: {mean}, best {tail}");
    }
}

#[test]
fn batches_do_not_matter_and_the_seed_decides() {
    let samples = falling(20, 0.8, 2);
    for (name, device) in devices() {
        let of = |seed, batch| values(low_rank(&samples, 4, seed, (&device, DType::F32), batch).curvature.to_dense());
        assert_eq!(of(7, 40), of(7, 40), "{name}: the same seed");
        let scale = fisher(&samples).trace();
        assert_within(&name, &of(7, 3), &of(7, 40), 1e-5 * scale);
        let difference = of(7, 40).iter().zip(of(8, 40)).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        assert!(difference > 1e-4 * scale, "{name}: another seed gives another sketch");
    }
}

#[test]
fn a_long_stream_is_as_good_as_a_short_one() {
    let (n, d) = (8000, 12);
    let (left, right) = (Matrix::noise(n, 2, 3), Matrix::noise(2, d, 4));
    let samples = left.times(&right);
    let expected = fisher(&samples);
    for (name, device) in devices() {
        let found = low_rank(&samples, 5, 1, (&device, DType::F32), 1);
        let what = format!("{n} batches on {name}");
        assert_within(&what, &values(found.curvature.to_dense()), &expected.values, 1e-5 * expected.trace());
    }
}

#[test]
fn nothing_sketched_is_nothing() {
    for (name, device) in devices() {
        let found = low_rank(&Matrix::from_fn(3, 6, |_, _| 0.0), 2, 0, (&device, DType::F32), 3);
        assert_eq!(values(found.curvature.to_dense()), vec![0.0; 36], "{name}");
        assert_eq!(found.curvature.trace().expect("the device works"), 0.0, "{name}");
    }
}

// ---- isotropic ---------------------------------------------------------------------------------------------------

/// `Σ_b ⟨q_b, g_b⟩/(μ_b + λ_b)`, and what follows: relative damping scales all scores alike, and of one block (or all
/// of them merged) they are those of the identity, scaled.
#[test]
fn isotropic_scores_weigh_each_block_by_its_mean_square() {
    // Gradients of the second block are a hundred times smaller.
    let shapes = [(3, 5, 1.0), (4, 2, 0.01)];
    let of = |n, seed| {
        shapes.map(|(r, c, size)| Matrix::from_fn(n, r * c, |i, j| size * Matrix::noise(n, r * c, seed).at(i, j)))
    };
    let (train, query) = (of(9, 21), of(2, 22));
    let expected = |weight: &dyn Fn(f64) -> f64| -> Vec<f64> {
        let score = |q: usize, i: usize| -> f64 {
            let blocks = train.iter().zip(&query).map(|(g, v)| {
                let mu = g.values.iter().map(|g| g * g).sum::<f64>() / g.values.len() as f64;
                v.row(q).iter().zip(g.row(i)).map(|(v, g)| v * g).sum::<f64>() * weight(mu)
            });
            blocks.sum()
        };
        (0..2).flat_map(|q| (0..9).map(move |i| (q, i))).map(|(q, i)| score(q, i)).collect()
    };
    for (name, device) in devices() {
        for (dtype, epsilon) in precisions(&device) {
            let stored = |parts: &[Matrix; 2]| {
                let layout = shapes.iter().enumerate().map(|(b, (r, c, _))| Block::new(format!("b{b}"), *r, *c));
                let blocks = parts.iter().zip(shapes);
                let blocks = blocks.map(|(m, (r, c, _))| tensor(m, &device, dtype).reshape([m.rows, r, c]));
                Gradients::new(layout.collect::<Vec<_>>(), blocks.collect()).expect("shapes agree")
            };
            let check = |damping, merged, expected: Vec<f64>| {
                let method = Method::inverse(Storage::Isotropic, Exact);
                let options = Options { method, damping, merged, ..Options::default() };
                let found =
                    attribute(&stored(&train), &stored(&query), CurvatureFrom::Training, &options).expect("a division");
                let what = format!("{name}, {dtype:?}, {damping:?}, merged: {merged}");
                assert_close(&what, &found.scores.rows.concat(), &expected, 100.0 * epsilon);
                assert!(found.blocks.iter().all(|block| block.residual < 1e-9), "{what}: {:?}", found.blocks);
            };
            check(Damping::Absolute(1e-3), false, expected(&|mu| 1.0 / (mu + 1e-3)));
            for relative in [0.1, 10.0] {
                check(Damping::Relative(relative), false, expected(&|mu| 1.0 / (mu * (1.0 + relative))));
            }
            let numbers: usize = train.iter().map(|g| g.cols).sum();
            let squares: f64 = train.iter().flat_map(|g| &g.values).map(|g| g * g).sum();
            let mu = squares / (9 * numbers) as f64;
            check(Damping::Relative(0.1), true, expected(&|_| 1.0 / (1.1 * mu)));
        }
    }
}

// ---- Kronecker and eigenpairs as matrices ------------------------------------------------------------------------

/// A Kronecker curvature and one of eigenpairs with the matrices that they stand for, from given orthogonal bases.
fn given_bases([left, right]: [&Matrix; 2], device: &Device, dtype: DType) -> [(Curvature, Matrix); 2] {
    let (rows, cols) = (left.rows, right.rows);
    let d = rows * cols;
    let spread = |i: usize| 10.0_f64.powf(-4.0 * i as f64 / d as f64);
    let on_device = |m: &Matrix| tensor(m, device, dtype);
    let basis = Matrix::from_fn(d, d, |i, j| left.at(i / cols, j / cols) * right.at(i % cols, j % cols));
    let all: Vec<f64> = (0..d).map(spread).collect();
    let kronecker = Curvature::Kronecker(Kronecker {
        left: on_device(left),
        right: on_device(right),
        eigenvalues: on_device(&Matrix { rows, cols, values: all.clone() }),
    });
    let kept = d.div_ceil(2);
    let some: Vec<f64> = (0..d).map(|i| if i < kept { spread(i) } else { 0.0 }).collect();
    let eigen = Curvature::Eigenpairs(Eigenpairs {
        vectors: on_device(&Matrix::from_fn(kept, d, |i, j| basis.at(j, i))),
        values: on_device(&Matrix::from_fn(1, kept, |_, j| spread(j))).squeeze_dim(0),
    });
    [(kronecker, spectral(&basis, &all, |mu| mu)), (eigen, spectral(&basis, &some, |mu| mu))]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn eigenbases_act_as_the_matrices_they_stand_for(
        (left, right) in (1..=4_usize, 1..=5_usize).prop_flat_map(|(rows, cols)| (orthogonal(rows), orthogonal(cols))),
        q in 1..=3_usize,
        seed in 0..100_u64,
    ) {
        let d = left.rows * right.rows;
        let v = Matrix::noise(q, d, seed);
        for (name, device) in devices() {
            for (dtype, epsilon) in precisions(&device) {
                for (h, expected) in given_bases([&left, &right], &device, dtype) {
                    let what = format!("{name}, {dtype:?}, {:?}", h.structure());
                    let tolerance = 20.0 * d as f64 * epsilon;
                    let rows = tensor(&v, &device, dtype);
                    prop_assert_eq!(h.parameters(), d);
                    assert_within(&what, &values(h.to_dense()), &expected.values, tolerance);
                    assert_within(&what, &values(h.apply(rows.clone())), &v.times(&expected).values, tolerance);
                    let trace = h.trace().expect("the device works");
                    assert_close(&format!("{what}: trace"), &[trace], &[expected.trace()], tolerance);
                    prop_assert!(h.matrix().is_none());
                    let solution = Exact.prepare(&h, 1e-3).and_then(|inverse| inverse.apply(rows));
                    let solution = solution.expect("it is positive definite");
                    // Of the matrix as stored, in this type: the condition is 1e3.
                    let stored = matrix(h.precise().to_dense());
                    let found = values(solution.x.clone());
                    assert_close(&what, &found, &exact(&stored, 1e-3, &v).values, 1e-9 + 10.0 * epsilon);
                    prop_assert!(solution.residual() < 1e-9, "{}: {}", what, solution.residual());
                }
            }
        }
    }
}

#[test]
fn a_rotation_there_and_back_is_nothing() {
    for (name, device) in devices() {
        let (left, right) = (Matrix::noise(3, 2, 1), Matrix::noise(4, 5, 2));
        let v = Matrix::noise(2, 12, 3);
        let found = rotate(
            tensor(&v, &device, DType::F32),
            tensor(&left, &device, DType::F32),
            tensor(&right, &device, DType::F32),
        );
        // By the definition, leftᵀ V right of each row.
        let expected = (0..2).flat_map(|q| {
            let row = Matrix::from_fn(3, 4, |i, j| v.at(q, i * 4 + j));
            left.transpose().times(&row).times(&right).values
        });
        assert_close(&name, &values(found), &expected.collect::<Vec<_>>(), 1e-5);
    }
}

// ---- what can go wrong -------------------------------------------------------------------------------------------

#[test]
fn a_rank_of_zero_and_a_sketch_that_cannot_fit_are_errors() {
    let zero = Accumulator::new(Block::new("b", 2, 3), Storage::LowRank { rank: 0, seed: 0 }).err();
    assert!(matches!(zero, Some(CurvatureError::Rank { .. })), "{zero:?}");
    let block = Block::new("embedding", 50_000, 768);
    let error = Accumulator::new(block.clone(), Storage::LowRank { rank: 100, seed: 0 }).err();
    assert!(matches!(error, Some(CurvatureError::TooLarge { rows: 201, cols: 38_400_000, .. })), "{error:?}");
    assert!(Accumulator::new(block, Storage::LowRank { rank: 10, seed: 0 }).is_ok());
}

/// The backend on which one number is seen as many; elsewhere the many are written out, hundreds of gigabytes here.
fn with_views() -> Option<Device> {
    devices().into_iter().find_map(|(name, device)| (name == "flex").then_some(device))
}

/// Half a terabyte of samples, seen as one number, is refused when the first batch arrives.
#[test]
fn samples_that_cannot_be_held_are_an_error() {
    let Some(device) = with_views() else { return };
    for storage in [Storage::Samples, Storage::Full] {
        let block = Block::new("embedding", 50_000, 768);
        let mut sum = Accumulator::new(block, storage).expect("nothing is held yet");
        let one = Tensor::<3>::zeros([1, 1, 1], &device).expand([3_000, 50_000, 768]);
        let error = sum.add(one).err();
        assert!(matches!(error, Some(CurvatureError::TooLarge { rows: 3_000, cols: 38_400_000, .. })), "{error:?}");
    }
}

/// 200,000 samples have a Gram matrix of 320 GB, and so many parameters a matrix of this size.
#[test]
fn a_matrix_too_large_to_factorise_is_an_error_before_it_is_formed() {
    let Some(device) = with_views() else { return };
    let one = Tensor::<2>::zeros([1, 1], &device);
    for h in [
        Curvature::from(Samples { rows: one.clone().expand([200_000, 300_000]) }),
        Curvature::from(Samples { rows: one.clone().expand([300_000, 200_000]) }),
        Curvature::from(Dense { matrix: one.expand([200_000, 200_000]) }),
    ] {
        let error = Exact.prepare(&h, 0.1).err();
        assert!(matches!(error, Some(SolveError::TooLarge { size: 200_000, .. })), "{error:?}");
        assert!(error.is_some_and(|e| e.to_string().contains("298.0 GiB")));
    }
}

#[test]
fn eigenvalues_that_are_not_finite_or_too_negative_are_errors() {
    for (name, device) in devices() {
        let eye = |d: usize| Tensor::<2>::eye(d, &device);
        let with = |value: f32| {
            [
                Curvature::Kronecker(Kronecker {
                    left: eye(2),
                    right: eye(3),
                    eigenvalues: Tensor::full([2, 3], value, &device),
                }),
                Curvature::Eigenpairs(Eigenpairs { vectors: eye(3), values: Tensor::full([3], value, &device) }),
            ]
        };
        for value in [f32::NAN, f32::INFINITY] {
            for h in with(value) {
                let error = Exact.prepare(&h, 0.1).err();
                assert!(matches!(error, Some(SolveError::NonFinite { .. })), "{name}, {value}: {error:?}");
            }
        }
        for h in with(-0.2) {
            let error = Exact.prepare(&h, 0.1).err();
            assert!(matches!(error, Some(SolveError::NotPositiveDefinite { .. })), "{name}: {error:?}");
            assert!([Structure::Kronecker, Structure::Eigenpairs].contains(&h.structure()));
        }
        let nan = Curvature::Kronecker(Kronecker {
            left: Tensor::full([2, 2], f32::NAN, &device),
            right: eye(3),
            eigenvalues: Tensor::ones([2, 3], &device),
        });
        let found = Exact.prepare(&nan, 0.1).and_then(|inverse| inverse.apply(Tensor::ones([1, 6], &device)));
        assert!(found.is_err(), "{name}: eigenvectors that are NaN");
    }
}
