//! The numbers of `tests/fixtures/digits_mlp` for structures of the curvature, from the labels of the data (`emp`) and
//! from the expectation over classes (`true`).

use burn::tensor::DType;
use hyperinf::curvature::{Damping, Storage};
use hyperinf::gradients::Estimate;
use hyperinf::scoring::{CurvatureFrom, Method, Options, QueryMode, TaskSource, attribute};
use hyperinf::solvers::Exact;
use hyperinf_tests::compare::{assert_close, precisions};
use hyperinf_tests::devices;
use hyperinf_tests::digits::{Digits, arrays, expected, images};
use hyperinf_tests::fixtures::load;

const LAMBDA: Damping = Damping::Absolute(0.15);

/// The scores of the mean query with the curvature of an estimate are the expected ones.
fn check_scores(
    name: &str,
    expected: &[f64],
    (estimate, storage, damping): (Estimate, Storage, Damping),
    tolerance: impl Fn(DType) -> f64,
) {
    let arrays = arrays();
    for (device_name, device) in devices() {
        for (dtype, _) in precisions(&device) {
            let task = Digits::new(&arrays, "", &device, dtype);
            let (train, query) = (images(&arrays, "train", &device, dtype), images(&arrays, "val", &device, dtype));
            let curvature = TaskSource::curvature(&task, &train, estimate);
            let options = Options {
                method: Method::inverse(storage, Exact),
                damping,
                query: QueryMode::Mean,
                ..Options::default()
            };
            let (train, query) = (TaskSource::train(&task, &train), TaskSource::query(&task, &query));
            let found = attribute(&train, &query, CurvatureFrom::Source(&curvature), &options)
                .expect("the fixture can be inverted");
            let what = format!("{name}, {device_name}, {dtype:?}");
            assert_close(&what, &found.scores.rows[0], expected, tolerance(dtype));
            assert!(found.blocks.iter().all(|b| b.residual < 1e-9), "{what}: {:?}", found.blocks);
        }
    }
}

/// `{name}_emp` and `{name}_true` with λ = 0.15. f32: what the project promises; f64: closed forms, to rounding.
fn check(name: &str, storage: Storage) {
    for (kind, estimate) in [("emp", Estimate::Empirical), ("true", Estimate::GaussNewton { sketch: None })] {
        let name = format!("{name}_{kind}");
        let tolerance = |dtype| if dtype == DType::F32 { 1e-4 } else { 1e-9 };
        check_scores(&name, &expected(&name), (estimate, storage, LAMBDA), tolerance);
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

/// Another program's scores, which it computed in f32; its heuristic damping is ours, a tenth of the mean eigenvalue.
#[test]
fn digits_kronfluence() {
    let expected = load("digits_mlp/kronfluence.safetensors");
    let (kfac, ekfac) = (Storage::Kronecker { corrected: false }, Storage::Kronecker { corrected: true });
    for (name, storage, damping) in [
        ("kfac_empirical", kfac, LAMBDA),
        ("ekfac_empirical", ekfac, LAMBDA),
        ("ekfac_empirical_heuristic_damping", ekfac, Damping::Relative(0.1)),
    ] {
        let tolerance = |dtype| if dtype == DType::F32 { 1e-4 } else { 1e-6 };
        check_scores(name, &expected[name].values, (Estimate::Empirical, storage, damping), tolerance);
    }
}
