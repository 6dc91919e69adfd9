//! Inputs that the accumulation of Kronecker structures refuses.

use burn::tensor::{DType, Tensor};
use hyperinf::curvature::{Accumulator, CurvatureError};
use hyperinf::gradients::{Block, Capture};
use hyperinf_tests::devices;

use crate::kronecker::{CORRECTED, EKFAC, KFAC, Layer, TWO_SIDED, accumulate};
use crate::solvers::precise_devices;

#[test]
fn a_kronecker_product_cannot_be_had_from_gradients() {
    let (_, device) = devices().remove(0);
    for storage in [KFAC, EKFAC] {
        let mut sum = Accumulator::new(Block::new("b", 2, 3), storage).expect("it is small");
        assert!(storage.needs_captures());
        let error = sum.add(Tensor::ones([1, 2, 3], &device)).expect_err("there are no inputs");
        assert!(matches!(&error, CurvatureError::NeedsCaptures { block } if block == "b"), "{error:?}");
    }
    assert!(!CORRECTED.needs_captures());
}

#[test]
fn a_second_pass_must_be_made_with_the_same_samples() {
    let layer = Layer::noise([4, 2, 3, 2], 1);
    let (_, device) = devices().remove(0);
    let all = layer.capture(&device, DType::F32);
    let few = layer.part(0, 3).capture(&device, DType::F32);
    for storage in [EKFAC, CORRECTED] {
        let check = |passes: &[&Capture], expected: usize| {
            let mut sum = Accumulator::new(layer.block(), storage).expect("it is small");
            for capture in passes {
                sum.add_capture(capture).expect("it is finite");
                sum.end_pass().expect("it is finite");
            }
            match sum.finish() {
                Err(CurvatureError::SecondPass { found, expected: 4, .. }) => assert_eq!(found, expected),
                other => panic!("{other:?}"),
            }
        };
        check(&[&all], 0);
        check(&[&all, &few], 3);
        let mut early = Accumulator::new(layer.block(), storage).expect("it is small");
        early.add_capture(&all).expect("it is finite");
        assert!(matches!(early.finish(), Err(CurvatureError::SecondPass { found: 0, .. })));
    }
}

#[test]
fn a_second_pass_is_asked_for_once_and_only_where_needed() {
    let (_, device) = devices().remove(0);
    let capture = Layer::noise([3, 1, 2, 2], 1).capture(&device, DType::F32);
    for (storage, expected) in [(KFAC, false), (EKFAC, true), (TWO_SIDED, false), (CORRECTED, true)] {
        let mut sum = Accumulator::new(capture.block.clone(), storage).expect("it is small");
        sum.add_capture(&capture).expect("it is finite");
        assert_eq!(sum.end_pass().expect("it is finite"), expected, "{storage:?}");
        sum.add_capture(&capture).expect("it is finite");
        assert!(!sum.end_pass().expect("it is finite"), "{storage:?}");
    }
}

/// A bad value in an input or an output gradient is found, under its sample's index.
#[test]
fn values_that_are_not_finite_name_block_and_sample() {
    for (name, device) in devices() {
        for bad in [f64::NAN, f64::INFINITY] {
            for (t, in_delta) in [(1, false), (1, true), (2, false), (2, true)] {
                let mut layer = Layer::noise([5, t, 3, 2], 2);
                let place = if in_delta { &mut layer.deltas[3] } else { &mut layer.inputs[3] };
                place.values[0] = bad;
                // Where the other factor is zero the gradient is finite; no position here is padding.
                for storage in [KFAC, EKFAC, TWO_SIDED, CORRECTED] {
                    let error = accumulate(&layer, storage, (&device, DType::F32), &[2]).expect_err(&name);
                    let expected = matches!(error, CurvatureError::NonFinite { sample: 3, .. });
                    assert!(expected, "{name}, {storage:?}, {bad}, t = {t}: {error:?}");
                }
            }
        }
    }
}

/// Gradients of size 1 from inputs of size 1e25: the squares of `A` leave f32, not f64.
#[test]
fn factors_beyond_f32_are_summed_in_f64() {
    let (_, device) = precise_devices().remove(0);
    let capture = Capture {
        block: Block::new("layer", 2, 2),
        input: Tensor::full([3, 2, 2], 1e25_f32, &device),
        delta: Tensor::full([3, 2, 2], 1e-25_f32, &device),
    };
    // A ⊗ S has the trace 2e50 · 4e-50; the corrected eigenvalues that of the gradients, 2 in each of four entries.
    for (storage, expected) in [(KFAC, 8.0), (EKFAC, 16.0)] {
        let mut sum = Accumulator::new(capture.block.clone(), storage).expect("it is small");
        for _ in 0..storage.passes() {
            sum.add_capture(&capture).expect("f64 holds the squares");
            sum.end_pass().expect("f64 holds the squares");
        }
        let trace = sum.finish().and_then(|found| Ok(found.curvature.trace()?)).expect("f64 holds the squares");
        assert!((trace - expected).abs() < 1e-5 * expected, "{storage:?}: {trace}");
    }
}

#[test]
fn no_samples_are_an_error() {
    for storage in [KFAC, EKFAC, TWO_SIDED, CORRECTED] {
        let mut sum = Accumulator::new(Block::new("b", 2, 3), storage).expect("it is small");
        let found = sum.end_pass().and_then(|_| sum.finish().map(|_| ()));
        assert!(matches!(found, Err(CurvatureError::Empty { block }) if block == "b"), "{storage:?}");
    }
}

#[test]
fn a_factor_that_cannot_fit_is_an_error_before_it_is_allocated() {
    for storage in [KFAC, EKFAC, TWO_SIDED, CORRECTED] {
        let error = Accumulator::new(Block::new("embedding", 50_000, 768), storage).err();
        assert!(matches!(error, Some(CurvatureError::TooLarge { rows: 50_000, cols: 50_000, .. })), "{error:?}");
        assert!(Accumulator::new(Block::new("layer", 40_000, 768), storage).is_ok());
    }
}
