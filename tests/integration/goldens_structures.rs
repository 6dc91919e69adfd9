//! The numbers of `tests/fixtures/digits_mlp` for structures of the curvature, from the labels of the data (`emp`) and
//! from the expectation over classes (`true`).

use burn::tensor::DType;
use hyperinf::curvature::{Damping, Storage};
use hyperinf::gradients::Estimate;
use hyperinf::scoring::{Method, Options, QueryMode, TaskSource, attribute_with};
use hyperinf::solvers::Exact;
use hyperinf_tests::compare::{assert_close, precisions};
use hyperinf_tests::devices;
use hyperinf_tests::digits::{Digits, arrays, expected, images};

/// The scores with λ = 0.15 are the expected ones of `{name}_emp` and `{name}_true`.
fn check(name: &str, storage: Storage) {
    let arrays = arrays();
    for (kind, estimate) in [("emp", Estimate::Empirical), ("true", Estimate::GaussNewton { sketch: None })] {
        let expected = expected(&format!("{name}_{kind}"));
        for (device_name, device) in devices() {
            for (dtype, _) in precisions(&device) {
                let task = Digits::new(&arrays, "", &device, dtype);
                let (train, query) = (images(&arrays, "train", &device, dtype), images(&arrays, "val", &device, dtype));
                let curvature = TaskSource::curvature(&task, &train, estimate);
                let options = Options {
                    method: Method::inverse(storage, Exact),
                    damping: Damping::Absolute(0.15),
                    query: QueryMode::Mean,
                    ..Options::default()
                };
                let found = attribute_with(
                    &TaskSource::train(&task, &train),
                    &curvature,
                    &TaskSource::query(&task, &query),
                    &options,
                );
                let found = found.expect("the fixture can be inverted");
                let what = format!("{name}_{kind}, {device_name}, {dtype:?}");
                let tolerance = if dtype == DType::F32 { 1e-4 } else { 1e-9 };
                assert_close(&what, &found.scores.rows[0], &expected, tolerance);
                assert!(found.blocks.iter().all(|b| b.residual < 1e-9), "{what}: {:?}", found.blocks);
            }
        }
    }
}

#[test]
fn digits_diagonal_of_both_estimates() {
    check("diag", Storage::Diagonal);
}

#[test]
fn digits_kfac() {
    check("kfac", Storage::Kronecker { corrected: false });
}

#[test]
fn digits_ekfac() {
    check("ekfac", Storage::Kronecker { corrected: true });
}
