//! The numbers of `tests/fixtures` through the library.

use burn::tensor::{DType, Device, Tensor};
use hyperinf::curvature::{Accumulator, Damping, Scale, Side, Storage};
use hyperinf::gradients::{Block, Gradients};
use hyperinf::scoring::{CurvatureFrom, Gfim, Method, MethodInfo, Options, QueryMode, Source, TaskSource, attribute};
use hyperinf::solvers::Exact;
use hyperinf_tests::compare::{assert_close, precisions, tensor, values};
use hyperinf_tests::devices;
use hyperinf_tests::digits::{Digits, arrays, expected, images, per_sample_gradients};
use hyperinf_tests::fixtures::{Array, Arrays, load};

/// The relative error that the scores may have. f32: what the project promises. f64: closed forms agree to rounding,
/// amplified by the condition; Schulz stops at a residual of 1e-6.
fn tolerance(dtype: DType, method: &str) -> f64 {
    match dtype {
        DType::F32 => 1e-4,
        _ if method.starts_with("hyperinf") => 1e-5,
        _ => 1e-9,
    }
}

fn named(name: &str, scale: Scale, side: Side) -> Method {
    let method = MethodInfo::named(name).expect("the tests name methods that exist");
    method.options(Gfim { side, scale }).method
}

// ---- gradients given: lora_tiny, lora_small ----------------------------------------------------------------------

fn from_file(arrays: &Arrays, device: &Device, dtype: DType) -> Gradients {
    let block = |(name, array): (&String, &Array)| {
        let [n, rows, cols] = array.shape[..] else { panic!("the fixtures hold blocks of rank 3") };
        let values = tensor(&array.matrix(), device, dtype).reshape([n, rows, cols]);
        (Block::new(name.clone(), rows, cols), values)
    };
    let (layout, blocks): (Vec<_>, Vec<_>) = arrays.iter().map(block).unzip();
    Gradients::new(layout, blocks).expect("the fixtures are consistent")
}

/// A method's scores for the mean query of a fixture are its expected values.
///
/// `exactness` is how exact the expected values themselves are: 2e-7 for `lora_tiny`, whose query mean is rounded.
fn check_lora(fixture: &str, exactness: f64, expected: &str, method: &str, scale: Scale) {
    let file = |name: &str| load(&format!("{fixture}/{name}.safetensors"));
    let expected = &file("expected")[expected].values;
    for (name, device) in devices() {
        for (dtype, _) in precisions(&device) {
            let (train, query) = (from_file(&file("train"), &device, dtype), from_file(&file("query"), &device, dtype));
            let method_of = named(method, scale, Side::Short);
            let options = Options { method: method_of, query: QueryMode::Mean, ..Options::default() };
            let found =
                attribute(&train, &query, CurvatureFrom::Training, &options).expect("the fixture can be inverted");
            let what = format!("{fixture}, {method}, {name}, {dtype:?}");
            assert_eq!(found.scores.queries(), 1, "{what}");
            assert_close(&what, &found.scores.rows[0], expected, tolerance(dtype, method).max(exactness));
        }
    }
}

fn check_both(expected: &str, method: &str, scale: Scale) {
    check_lora("lora_tiny", 2e-7, expected, method, scale);
    check_lora("lora_small", 0.0, expected, method, scale);
}

#[test]
fn lora_identity() {
    check_both("identity", "identity", Scale::Mean);
}

#[test]
fn lora_datainf() {
    check_both("datainf", "datainf", Scale::Mean);
}

#[test]
fn lora_exact() {
    check_both("exact_block", "exact", Scale::Mean);
}

#[test]
fn lora_hyperinf_unscaled() {
    check_both("hyperinf_unscaled", "hyperinf", Scale::Sum);
}

#[test]
fn lora_hyperinf_authors() {
    check_both("hyperinf_authors", "hyperinf-authors", Scale::Mean);
}

/// The authors' LiSSA, which is not ours, from the parts that are: it shows `apply` and `λ` on real gradients.
#[test]
fn lora_ten_unscaled_lissa_steps() {
    for fixture in ["lora_tiny", "lora_small"] {
        let file = |name: &str| load(&format!("{fixture}/{name}.safetensors"));
        for (name, device) in devices() {
            for (dtype, _) in precisions(&device) {
                let train = from_file(&file("train"), &device, dtype);
                let query = from_file(&file("query"), &device, dtype);
                let mut total = vec![0.0; train.samples()];
                for l in 0..train.layout.len() {
                    let mut sum = Accumulator::new(train.layout[l].clone(), Storage::Samples).expect("it is small");
                    sum.add(train.blocks[l].clone()).expect("the fixture is finite");
                    let found = sum.finish().expect("there are samples");
                    let lambda = Damping::default().lambda(found.mean_square);
                    let v: Tensor<2> = query.blocks[l].clone().mean_dim(0).flatten(1, 2);
                    let mut r = v.clone();
                    for _ in 0..10 {
                        r = v.clone() + r.clone() - (found.curvature.apply(r.clone()) + r.mul_scalar(lambda));
                    }
                    let part = values(train.blocks[l].clone().flatten::<2>(1, 2).matmul(r.transpose()));
                    total.iter_mut().zip(part).for_each(|(sum, part)| *sum += part);
                }
                // Ten steps amplify rounding no more than the largest values themselves.
                let tolerance = if dtype == DType::F32 { 1e-4 } else { 2e-7 };
                let what = format!("{fixture}, {name}, {dtype:?}");
                assert_close(&what, &total, &file("expected")["lissa_unscaled_10_steps"].values, tolerance);
            }
        }
    }
}

// ---- a model given: digits_mlp -----------------------------------------------------------------------------------

/// The model with its data on every device in every type.
fn each_digits(check: impl Fn(&str, DType, &dyn Source, &dyn Source)) {
    let arrays = arrays();
    for (name, device) in devices() {
        for (dtype, _) in precisions(&device) {
            let task = Digits::new(&arrays, "", &device, dtype);
            let batches = |set| images(&arrays, set, &device, dtype);
            let (train, query) = (batches("train"), batches("val"));
            let what = format!("{name}, {dtype:?}");
            check(&what, dtype, &TaskSource::train(&task, &train), &TaskSource::query(&task, &query));
        }
    }
}

const LAMBDA: Damping = Damping::Absolute(0.15);
const AUTO: Damping = Damping::Relative(0.1);

/// The scores of the mean query under these options are the expected ones.
fn check_digits(name: &str, method: impl Fn() -> Method, damping: Damping, merged: bool) {
    let expected = expected(name);
    each_digits(|what, dtype, train, query| {
        let options = Options { method: method(), damping, query: QueryMode::Mean, merged, ..Options::default() };
        let found = attribute(train, query, CurvatureFrom::Training, &options).expect("the fixture can be inverted");
        assert_close(&format!("{name}, {what}"), &found.scores.rows[0], &expected, tolerance(dtype, name));
    });
}

fn per_layer(name: &str, method: &str, damping: Damping) {
    check_digits(name, || named(method, Scale::Sum, Side::Cols), damping, false);
}

#[test]
fn digits_grad_dot() {
    per_layer("grad_dot", "identity", AUTO);
}

#[test]
fn digits_empfisher() {
    check_digits("empfisher", || named("exact", Scale::Mean, Side::Short), LAMBDA, true);
}

#[test]
fn digits_empfisher_block_layer() {
    per_layer("empfisher_block_layer", "exact", LAMBDA);
}

#[test]
fn digits_exact_layer_auto() {
    per_layer("exact_layer_auto", "exact", AUTO);
}

#[test]
fn digits_datainf_block_layer() {
    per_layer("datainf_block_layer_lam", "datainf", LAMBDA);
    per_layer("datainf_block_layer_auto", "datainf", AUTO);
}

#[test]
fn digits_hyperinf() {
    per_layer("hyperinf_lam", "hyperinf", LAMBDA);
    per_layer("hyperinf_auto", "hyperinf", AUTO);
}

/// Both layers are wider than they are long, so the default side is the outside program's.
#[test]
fn digits_hyperinf_by_the_default_side() {
    check_digits("hyperinf_auto", || named("hyperinf", Scale::Sum, Side::Short), AUTO, false);
}

#[test]
fn digits_hyperinf_auto_plus_0_001() {
    per_layer("hyperinf_auto_plus0_001", "hyperinf-authors", AUTO);
}

#[test]
fn digits_diagonal() {
    check_digits("diag_emp", || Method::inverse(Storage::Diagonal, Exact), LAMBDA, false);
}

/// The mean of the cosines with each query, not the cosine with their mean.
#[test]
fn digits_mean_cosine() {
    let expected = expected("grad_cos_mean");
    each_digits(|what, dtype, train, query| {
        let options = Options::named("cosine").expect("it has a name");
        let found = attribute(train, query, CurvatureFrom::Training, &options).expect("no gradient is zero").scores;
        let queries = found.queries() as f64;
        let mean: Vec<f64> =
            (0..found.samples()).map(|i| found.rows.iter().map(|row| row[i]).sum::<f64>() / queries).collect();
        assert_close(what, &mean, &expected, tolerance(dtype, "cosine"));
    });
}

/// TracIn: dot products at five checkpoints, each times the learning rate.
#[test]
fn digits_tracin() {
    let expected = expected("tracin_5ckpt");
    let arrays = arrays();
    for (name, device) in devices() {
        for (dtype, _) in precisions(&device) {
            let (train, query) = (images(&arrays, "train", &device, dtype), images(&arrays, "val", &device, dtype));
            let options = Options { method: Method::Identity, query: QueryMode::Mean, ..Options::default() };
            let mut total = vec![0.0; expected.len()];
            for checkpoint in 0..5 {
                let task = Digits::new(&arrays, &format!("ckpt{checkpoint}."), &device, dtype);
                let found = attribute(
                    &TaskSource::train(&task, &train),
                    &TaskSource::query(&task, &query),
                    CurvatureFrom::Training,
                    &options,
                );
                let found = found.expect("the dot product always exists").scores;
                total.iter_mut().zip(&found.rows[0]).for_each(|(sum, score)| *sum += 3e-3 * score);
            }
            assert_close(&format!("{name}, {dtype:?}"), &total, &expected, tolerance(dtype, "tracin"));
        }
    }
}

/// Gradients in PyTorch's parameter order from ours: each layer is transposed, and its bias comes after it.
fn pytorch_order(gradients: &Gradients) -> Vec<f64> {
    let n = gradients.samples();
    let parts = gradients.blocks.iter().flat_map(|block| {
        let [_, rows, cols] = block.dims();
        let weight = block.clone().narrow(1, 0, rows - 1).swap_dims(1, 2);
        [weight.reshape([n, (rows - 1) * cols]), block.clone().narrow(1, rows - 1, 1).reshape([n, cols])]
    });
    values(Tensor::cat(parts.collect(), 1))
}

#[test]
fn digits_gradients() {
    for (name, device) in devices() {
        for (dtype, epsilon) in precisions(&device) {
            // Sums of at most 64 products at each of two layers, and of 200 samples for the mean.
            let tolerance = 200.0 * epsilon;
            let what = format!("{name}, {dtype:?}");
            let all = |set| per_sample_gradients(set, &device, dtype);
            let train = pytorch_order(&all("train"));
            assert_close(&what, &train[..8 * 2410], &expected("grads_train_first8"), tolerance);
            let mean: Vec<f64> = pytorch_order(&all("val").sum()).into_iter().map(|sum| sum / 200.0).collect();
            assert_close(&what, &mean, &expected("grad_val_mean"), tolerance);
        }
    }
}
