//! Every structure is the matrix that it stands for, however its samples arrived.

use burn::tensor::{DType, Device, Tensor};
use hyperinf::curvature::{
    Accumulator, BlockCurvature, Curvature, CurvatureError, Damping, OneSided, Scale, Side, Storage, Structure,
};
use hyperinf::gradients::{Block, Gradients};
use hyperinf::linalg::{gram, outer};
use hyperinf_tests::compare::{assert_close, assert_within, largest, matrix, precisions, tensor, values};
use hyperinf_tests::oracle::{Contracted, Matrix, fisher, gfim, relative_damping};
use hyperinf_tests::strategies::{GradientSet, gradient_set, rows};
use proptest::prelude::*;

use hyperinf_tests::devices;

use crate::solvers::precise_devices;

/// Every storage, each side and scale of the GFIM among them.
fn storages() -> Vec<Storage> {
    let gfim = |side| [Scale::Mean, Scale::Sum].map(|scale| Storage::OneSided { side, scale });
    let sides = [Side::Short, Side::Rows, Side::Cols].into_iter().flat_map(gfim);
    let plain = [Storage::Dense, Storage::Samples, Storage::Full, Storage::Diagonal, Storage::Isotropic];
    plain.into_iter().chain(sides).collect()
}

/// The same matrix by the definition, `[D, D]`.
fn oracle(set: &GradientSet, storage: Storage) -> Matrix {
    match storage {
        Storage::Dense | Storage::Samples | Storage::Full => fisher(&set.samples),
        Storage::Diagonal => {
            let full = fisher(&set.samples);
            Matrix::from_fn(full.rows, full.cols, |i, j| if i == j { full.at(i, j) } else { 0.0 })
        }
        Storage::Isotropic => {
            let full = fisher(&set.samples);
            let mean = full.trace() / full.rows as f64;
            Matrix::from_fn(full.rows, full.cols, |i, j| if i == j { mean } else { 0.0 })
        }
        Storage::OneSided { side, scale } => {
            let contracted = match side {
                Side::Rows => Contracted::Rows,
                Side::Cols => Contracted::Cols,
                Side::Short if set.rows < set.cols => Contracted::Rows,
                Side::Short => Contracted::Cols,
            };
            gfim(&set.samples, set.rows, set.cols, contracted, scale == Scale::Mean)
        }
        Storage::Kronecker { .. } | Storage::TwoSided { .. } | Storage::LowRank { .. } => {
            unreachable!("structures.rs checks them")
        }
    }
}

/// Accumulates the set in batches of the given sizes (the last takes the rest).
fn accumulate(
    set: &GradientSet,
    storage: Storage,
    (device, dtype): (&Device, DType),
    batches: &[usize],
) -> Result<BlockCurvature, CurvatureError> {
    let (n, d) = (set.samples.rows, set.samples.cols);
    let mut accumulator = Accumulator::new(Block::new("block", set.rows, set.cols), storage)?;
    let mut start = 0;
    for size in batches.iter().copied().chain([n]) {
        let end = (start + size).min(n);
        if start < end {
            let part = Matrix::from_fn(end - start, d, |i, j| set.samples.at(start + i, j));
            accumulator.add(tensor(&part, device, dtype).reshape([end - start, set.rows, set.cols]))?;
        }
        start = end;
    }
    accumulator.finish()
}

/// Rounding of one entry of the matrix, relative to its largest entry: `n · max(rows, cols)` terms are summed.
fn rounding(set: &GradientSet, epsilon: f64) -> f64 {
    (set.samples.rows * set.rows.max(set.cols) + 10) as f64 * epsilon
}

/// `to_dense`, the structure, `samples` and `mean_square` of every storage, for samples that came in these batches.
fn check_matrix(set: &GradientSet, batches: &[usize]) {
    for (name, device) in devices() {
        for (dtype, epsilon) in precisions(&device) {
            for storage in storages() {
                let what = format!("{name}, {dtype:?}, {storage:?}");
                let found = accumulate(set, storage, (&device, dtype), batches).expect("the gradients are finite");
                let expected = oracle(set, storage);
                let tolerance = rounding(set, epsilon);
                assert_close(&what, &values(found.curvature.to_dense()), &expected.values, tolerance);
                assert_close(&what, &[0.1 * found.mean_square], &[relative_damping(&set.samples)], tolerance);
                assert_eq!(found.samples, set.samples.rows, "{what}");
                assert_eq!(found.curvature.parameters(), set.samples.cols, "{what}");
            }
        }
    }
}

/// `V H` of every storage.
fn check_apply(set: &GradientSet, v: &Matrix) {
    for (name, device) in devices() {
        for (dtype, epsilon) in precisions(&device) {
            for storage in storages() {
                let found = accumulate(set, storage, (&device, dtype), &[]).expect("the gradients are finite");
                let product = found.curvature.apply(tensor(v, &device, dtype));
                let h = oracle(set, storage);
                // v·H can cancel to nothing, so the error is relative to the sum of absolute values.
                let bound = (set.samples.cols as f64) * largest(&v.values) * largest(&h.values);
                let tolerance = rounding(set, epsilon) + set.samples.cols as f64 * epsilon;
                let what = format!("{name}, {dtype:?}, {storage:?}");
                assert_within(&what, &values(product.clone()), &v.times(&h).values, tolerance * bound);
                let dense = tensor(v, &device, dtype).matmul(found.curvature.to_dense().cast(dtype));
                assert_within(&what, &values(product), &values(dense), tolerance * bound);
            }
        }
    }
}

/// The trace of every storage that keeps it is the trace of the Fisher; `Scale::Sum` multiplies by the length.
fn check_trace(set: &GradientSet) {
    let expected = fisher(&set.samples).trace();
    for (name, device) in devices() {
        for (dtype, epsilon) in precisions(&device) {
            for storage in storages() {
                let found = accumulate(set, storage, (&device, dtype), &[]).expect("the gradients are finite");
                let trace = found.curvature.trace().expect("the device works");
                let length = match (storage, &found.curvature) {
                    (
                        Storage::OneSided { scale: Scale::Sum, .. },
                        Curvature::OneSided(OneSided { rows_contracted: true, .. }),
                    ) => set.rows,
                    (Storage::OneSided { scale: Scale::Sum, .. }, _) => set.cols,
                    _ => 1,
                };
                let what = format!("{name}, {dtype:?}, {storage:?}: trace");
                // Only squares are summed, so nothing cancels.
                let tolerance = rounding(set, epsilon) + set.samples.cols as f64 * epsilon;
                assert_close(&what, &[trace], &[expected * length as f64], tolerance);
                assert_close(&what, &[found.mean_square * set.samples.cols as f64], &[expected], tolerance);
            }
        }
    }
}

fn sets() -> impl Strategy<Value = GradientSet> {
    gradient_set(1..=12, 1..=5, 1..=5)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_structure_is_its_definition_however_its_samples_are_batched(
        set in sets(),
        batches in prop::collection::vec(1..5_usize, 0..4),
    ) {
        check_matrix(&set, &batches);
    }

    #[test]
    fn apply_is_the_product_with_to_dense((set, v) in sets().prop_flat_map(|set| {
        let d = set.samples.cols;
        (Just(set), rows(1..=3, d))
    })) {
        check_apply(&set, &v);
    }

    #[test]
    fn every_trace_is_the_trace_of_the_fisher(set in sets()) {
        check_trace(&set);
    }

    #[test]
    fn the_order_of_samples_does_not_matter((set, order) in sets().prop_flat_map(|set| {
        let order: Vec<usize> = (0..set.samples.rows).collect();
        (Just(set), Just(order).prop_shuffle())
    })) {
        let shuffled = Matrix::from_fn(set.samples.rows, set.samples.cols, |i, j| set.samples.at(order[i], j));
        // Against the oracle of the set as it was.
        for (_, device) in devices() {
            for storage in storages() {
                let set_of = GradientSet { samples: shuffled.clone(), ..set };
                let found = accumulate(&set_of, storage, (&device, DType::F32), &[2]).expect("the gradients are finite");
                let expected = oracle(&set, storage);
                let tolerance = rounding(&set, f64::from(f32::EPSILON));
                assert_close("shuffled", &values(found.curvature.to_dense()), &expected.values, tolerance);
            }
        }
    }
}

fn noise(n: usize, rows: usize, cols: usize) -> GradientSet {
    GradientSet { rows, cols, samples: Matrix::noise(n, rows * cols, 11) }
}

/// The structure that `Storage::Full` ends in.
fn check_full(n: usize, batches: &[usize], expected: Structure) {
    let set = noise(n, 2, 3);
    for (name, device) in devices() {
        let full = accumulate(&set, Storage::Full, (&device, DType::F32), batches).expect("the gradients are finite");
        assert_eq!(full.curvature.structure(), expected, "{name}, {n} samples in {batches:?}");
        let found = values(full.curvature.to_dense());
        assert_close(&name, &found, &fisher(&set.samples).values, rounding(&set, f64::from(f32::EPSILON)));
    }
}

#[test]
fn full_keeps_samples_while_they_are_the_smaller() {
    check_full(5, &[], Structure::Samples);
    check_full(6, &[], Structure::Samples);
    check_full(6, &[4, 2], Structure::Samples);
}

#[test]
fn full_turns_to_the_matrix_when_that_is_smaller() {
    check_full(7, &[], Structure::Dense);
    check_full(7, &[6, 1], Structure::Dense);
    check_full(20, &[3, 3, 3, 3], Structure::Dense);
}

#[test]
fn other_storages_keep_their_structure() {
    for (name, device) in devices() {
        let structure = |storage| {
            let found = accumulate(&noise(9, 2, 2), storage, (&device, DType::F32), &[4]);
            found.expect("the gradients are finite").curvature.structure()
        };
        assert_eq!(structure(Storage::Dense), Structure::Dense, "{name}");
        assert_eq!(structure(Storage::Samples), Structure::Samples, "{name}");
        assert_eq!(structure(Storage::Diagonal), Structure::Diagonal, "{name}");
        assert_eq!(structure(Storage::Isotropic), Structure::Isotropic, "{name}");
        let gfim = Storage::OneSided { side: Side::Short, scale: Scale::Mean };
        assert_eq!(structure(gfim), Structure::OneSided, "{name}");
    }
}

/// With nothing to contract, the GFIM is the Fisher itself.
#[test]
fn the_gfim_of_a_vector_is_the_fisher() {
    for ((rows, cols), side) in
        [((1, 7), Side::Rows), ((7, 1), Side::Cols), ((1, 7), Side::Short), ((7, 1), Side::Short)]
    {
        let set = noise(5, rows, cols);
        for (name, device) in devices() {
            let storage = Storage::OneSided { side, scale: Scale::Mean };
            let found = accumulate(&set, storage, (&device, DType::F32), &[]).expect("the gradients are finite");
            let what = format!("{name}, {rows} × {cols}, {side:?}");
            let tolerance = rounding(&set, f64::from(f32::EPSILON));
            assert_close(&what, &values(found.curvature.to_dense()), &fisher(&set.samples).values, tolerance);
        }
    }
}

#[test]
fn merged_blocks_have_the_fisher_of_all_parameters() {
    for (name, device) in devices() {
        let block = |cols, seed| (Block::new(format!("b{seed}"), 2, cols), Matrix::noise(4, 2 * cols, seed));
        let (layout, samples): (Vec<_>, Vec<_>) = [block(3, 1), block(2, 2)].into_iter().unzip();
        let tensors =
            samples.iter().map(|s| tensor(s, &device, DType::F32).reshape([4, 2, s.cols as i32 / 2])).collect();
        let merged = Gradients::new(layout, tensors).expect("the shapes fit").merged();
        let whole = Matrix::from_fn(4, 10, |i, j| if j < 6 { samples[0].at(i, j) } else { samples[1].at(i, j - 6) });
        assert_close(&name, &values(merged.blocks[0].clone()), &whole.values, 0.0);
        let mut accumulator = Accumulator::new(merged.layout[0].clone(), Storage::Dense).expect("it is small");
        accumulator.add(merged.blocks[0].clone()).expect("the gradients are finite");
        let found = accumulator.finish().expect("there are samples").curvature;
        assert_close(&name, &values(found.to_dense()), &fisher(&whole).values, 1e-6);
    }
}

/// Beyond 256 rows the product is split by symmetry.
#[test]
fn large_symmetric_products_are_whole_products() {
    for (name, device) in devices() {
        for n in [256, 257, 300, 520] {
            let rows = Matrix::noise(n, 7, 5);
            let found = values(gram(tensor(&rows, &device, DType::F32)));
            assert_close(&name, &found, &rows.times(&rows.transpose()).values, 1e-6);
            let found = matrix(outer(tensor(&rows.transpose(), &device, DType::F32)));
            assert_eq!(found, found.transpose(), "{name}: exactly symmetric");
        }
    }
}

// ---- what can go wrong -------------------------------------------------------------------------------------------

/// A bad value in the sample with this index, fed in these batches, is reported under this index.
fn check_non_finite(bad: f64, sample: usize, batches: &[usize]) {
    let mut set = noise(9, 2, 3);
    set.samples.values[sample * 6 + 4] = bad;
    for (name, device) in devices() {
        for storage in storages() {
            let error = accumulate(&set, storage, (&device, DType::F32), batches).expect_err(&name);
            match &error {
                CurvatureError::NonFinite { block, sample: found, value } => {
                    assert_eq!((block.as_str(), *found), ("block", sample), "{name}, {storage:?}");
                    assert!(!value.is_finite());
                }
                other => panic!("{name}, {storage:?}: {other:?}"),
            }
            assert!(error.to_string().contains(&format!("sample {sample} in block `block`")), "{error}");
        }
    }
}

#[test]
fn nan_names_block_and_sample() {
    check_non_finite(f64::NAN, 0, &[]);
    check_non_finite(f64::NAN, 7, &[3, 3]);
}

#[test]
fn infinity_names_block_and_sample() {
    check_non_finite(f64::INFINITY, 3, &[3, 3]);
    check_non_finite(f64::NEG_INFINITY, 8, &[2]);
}

/// Squares beyond f32 are summed in f64; of f64 itself they are an error.
#[test]
fn a_norm_beyond_the_type_is_summed_or_named() {
    let mut set = noise(9, 2, 3);
    set.samples.values[5 * 6 + 4] = 1e30;
    for (name, device) in precise_devices() {
        for storage in [Storage::Dense, Storage::Samples, Storage::Diagonal, Storage::Isotropic] {
            let found = accumulate(&set, storage, (&device, DType::F32), &[4]).expect("f64 holds the squares");
            let expected = 1e60 / 54.0;
            assert!((found.mean_square - expected).abs() < 1e-6 * expected, "{name}, {storage:?}");
        }
        set.samples.values[5 * 6 + 4] = 1e200;
        let error = accumulate(&set, Storage::Dense, (&device, DType::F64), &[4]).expect_err(&name);
        assert!(matches!(error, CurvatureError::NonFinite { sample: 5, .. }), "{name}: {error}");
        set.samples.values[5 * 6 + 4] = 1e30;
    }
}

#[test]
fn no_samples_are_an_error() {
    for storage in storages() {
        let empty = Accumulator::new(Block::new("b", 2, 3), storage).expect("it is small").finish();
        assert!(matches!(empty, Err(CurvatureError::Empty { block }) if block == "b"), "{storage:?}");
    }
}

#[test]
fn a_matrix_that_cannot_fit_is_an_error_before_it_is_allocated() {
    let block = Block::new("embedding", 50_000, 768);
    let error = Accumulator::new(block.clone(), Storage::Dense).err().expect("38 million squared is too large");
    assert!(matches!(error, CurvatureError::TooLarge { rows: 38_400_000, cols: 38_400_000, .. }), "{error:?}");
    assert!(Accumulator::new(block, Storage::Samples).is_ok());
}

#[test]
fn damping_is_positive_and_finite() {
    for value in [0.0, -0.1, f64::NAN, f64::INFINITY] {
        for damping in [Damping::Relative(value), Damping::Absolute(value)] {
            let error = damping.validate().expect_err("the value is not a damping");
            assert!(matches!(error, CurvatureError::Damping { .. }), "{error:?}");
        }
    }
    assert_eq!(Damping::default(), Damping::Relative(0.1));
    assert_eq!(Damping::Relative(0.1).validate().expect("0.1 is a damping").lambda(3.0), 0.1 * 3.0);
    assert_eq!(Damping::Absolute(0.15).validate().expect("0.15 is a damping").lambda(3.0), 0.15);
}

#[test]
#[should_panic(expected = "[")]
fn gradients_of_another_shape_panic() {
    let (_, device) = devices().remove(0);
    let mut accumulator = Accumulator::new(Block::new("b", 2, 3), Storage::Dense).expect("it is small");
    let _ = accumulator.add(Tensor::zeros([4, 3, 2], &device));
}
