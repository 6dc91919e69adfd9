//! Accumulators of parts of the samples, merged, are the accumulator of all samples.

use burn::tensor::{DType, Device, Tensor};
use hyperinf::curvature::{Accumulator, BlockCurvature, CurvatureError, Scale, Side, Storage};
use hyperinf::gradients::{Block, Capture};
use hyperinf_tests::compare::{assert_close, precisions, tensor, values};
use hyperinf_tests::devices;
use hyperinf_tests::oracle::Matrix;

const SAMPLES: usize = 13;
const ROWS: usize = 3;
const COLS: usize = 4;

/// Every storage; the last ones need a second pass.
const STORAGES: [Storage; 10] = [
    Storage::Dense,
    Storage::Samples,
    Storage::Full,
    Storage::OneSided { side: Side::Cols, scale: Scale::Mean },
    Storage::Diagonal,
    Storage::Isotropic,
    Storage::LowRank { rank: 5, seed: 3 },
    Storage::Kronecker { corrected: false },
    Storage::Kronecker { corrected: true },
    Storage::TwoSided { corrected: true },
];

fn block() -> Block {
    Block::new("block", ROWS, COLS)
}

/// Captures of samples `start..end`, of two positions each.
fn part(start: usize, end: usize, device: &Device, dtype: DType) -> Capture {
    let of = |width: usize, seed| {
        let all = Matrix::noise(2 * SAMPLES, width, seed);
        let rows = Matrix::from_fn(2 * (end - start), width, |i, j| all.at(2 * start + i, j));
        tensor(&rows, device, dtype).reshape([end - start, 2, width])
    };
    Capture { block: block(), input: of(ROWS, 1), delta: of(COLS, 2) }
}

/// The curvature of the samples in parts that end at these places, each summed alone and merged in order.
fn merged(storage: Storage, ends: &[usize], (device, dtype): (&Device, DType)) -> BlockCurvature {
    let mut begun = Accumulator::new(block(), storage).expect("it is small");
    loop {
        let mut all = begun.clone();
        let mut start = 0;
        for (place, &end) in ends.iter().enumerate() {
            let mut sum = begun.clone();
            sum.add_capture(&part(start, end, device, dtype)).expect("it is finite");
            if place == 0 {
                all = sum
            } else {
                all.merge(sum).expect("it is the same storage")
            }
            start = end;
        }
        if !all.end_pass().expect("there are samples") {
            return all.finish().expect("there are samples");
        }
        begun = all;
    }
}

#[test]
fn merged_parts_are_the_whole() {
    for (name, device) in devices() {
        for (dtype, epsilon) in precisions(&device) {
            for storage in STORAGES {
                let what = format!("{name}, {dtype:?}, {storage:?}");
                let whole = merged(storage, &[SAMPLES], (&device, dtype));
                let parts = merged(storage, &[2, 9, SAMPLES], (&device, dtype));
                assert_eq!(parts.samples, SAMPLES, "{what}");
                assert_eq!(parts.curvature.structure(), whole.curvature.structure(), "{what}");
                // Eigenvectors amplify rounding by the inverse of the gaps between eigenvalues.
                let tolerance = 3000.0 * epsilon;
                assert_close(&what, &[parts.mean_square], &[whole.mean_square], tolerance);
                let dense = |found: &BlockCurvature| values(found.curvature.to_dense());
                assert_close(&what, &dense(&parts), &dense(&whole), tolerance);
                let again = merged(storage, &[2, 9, SAMPLES], (&device, dtype));
                assert_eq!(dense(&again), dense(&parts), "{what}: the same cut gives the same bits");
            }
        }
    }
}

/// Held samples and a sum that is dense already: whichever comes first.
#[test]
fn full_parts_merge_in_any_form() {
    let (_, device) = devices().remove(0);
    let to = (&device, DType::F32);
    let whole = values(merged(Storage::Full, &[SAMPLES], to).curvature.to_dense());
    for ends in [[1, SAMPLES], [12, SAMPLES], [6, SAMPLES]] {
        let parts = merged(Storage::Full, &ends, to).curvature;
        assert_close(&format!("{ends:?}"), &values(parts.to_dense()), &whole, 1e-5);
    }
}

#[test]
fn what_does_not_belong_together_is_an_error() {
    let (_, device) = devices().remove(0);
    let with = |block: Block, storage| {
        let mut sum = Accumulator::new(block.clone(), storage).expect("it is small");
        sum.add(Tensor::ones([2, block.rows, block.cols], &device)).expect("it is finite");
        sum
    };
    let check = |mut first: Accumulator, later: Accumulator, expected: &str| {
        let error = first.merge(later).err();
        assert!(matches!(error, Some(CurvatureError::Merge { what, .. }) if what == expected), "{error:?}");
    };
    let fitted = Storage::TwoSided { corrected: true };
    let two_sided = || with(block(), fitted);
    check(two_sided(), with(Block::new("block", COLS, ROWS), fitted), "block");
    check(two_sided(), with(block(), Storage::Diagonal), "storage");
    let mut second = two_sided();
    assert!(second.end_pass().expect("there are samples"));
    check(second, two_sided(), "pass");
}
