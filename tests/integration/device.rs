use burn::module::Param;
use burn::nn::Linear;
use burn::tensor::activation::log_softmax;
use burn::tensor::{DType, Tensor};
use hyperinf::gradients::{GradientError, Tape, Target, Task, gradients};
use hyperinf::linalg::{has_f64_functions, rounds_products};
use hyperinf::{DeviceCheck, DeviceError, check_device, checked_device, compiled_devices, device, device_name};
use hyperinf_tests::compare::{assert_close, tensor, values};
use hyperinf_tests::devices;
use hyperinf_tests::oracle::Matrix;

fn error(name: &str) -> DeviceError {
    device(name).expect_err("no such device is available here")
}

#[test]
fn every_compiled_processor_backend_computes() {
    for name in ["flex", "ndarray"] {
        assert!(compiled_devices().contains(&name));
        let device = device(name).expect("it is compiled in");
        let sum = Tensor::<1>::from_floats([1.0, 2.0], &device).sum().into_scalar::<f32>();
        assert_eq!(sum, 3.0, "{name}");
    }
}

#[test]
fn an_unknown_name_gets_the_nearest_and_what_there_is() {
    for (name, meant) in [
        ("fleks", "flex"),
        ("CUDA", "cuda"),
        ("nd-array", "ndarray"),
        ("wgpu2:0", "wgpu"),
        ("", "flex"),
        ("nvidia", "cuda"),
        ("MPS", "metal"),
        ("amdgpu", "rocm"),
    ] {
        match error(name) {
            DeviceError::Unknown { nearest, compiled, .. } => {
                assert_eq!(nearest, meant, "{name}");
                assert_eq!(compiled, compiled_devices());
            }
            other => panic!("{name}: {other}"),
        }
    }
    let message = error("fleks").to_string();
    assert!(
        message.contains("`fleks`") && message.contains("`flex`") && message.contains("flex, ndarray"),
        "{message}"
    );
}

#[test]
fn a_kind_of_device_stands_for_the_first_that_is_compiled_in() {
    assert_eq!(device_name("cpu"), Ok("flex".to_owned()));
    assert_eq!(device_name("flex"), Ok("flex".to_owned()));
    assert_eq!(device_name("abacus:2"), Ok("abacus:2".to_owned()), "`device` refuses it");
    assert!(device("cpu").is_ok());
    assert!(matches!(error("cpu:1"), DeviceError::Index { name: "flex", .. }));
    let cards: Vec<&str> = compiled_devices().into_iter().filter(|name| !["flex", "ndarray"].contains(name)).collect();
    for word in ["gpu", "gpu:1"] {
        match device_name(word) {
            Ok(name) => assert!(cards.iter().any(|card| name.starts_with(card)), "{name}"),
            Err(found) => {
                let message = found.to_string();
                assert!(cards.is_empty(), "{message}");
                for needle in ["`gpu`", "`--features cuda`", "`--features wgpu`", "this build has flex, ndarray"] {
                    assert!(message.contains(needle), "{message}");
                }
            }
        }
    }
}

#[test]
fn a_device_that_is_not_compiled_in_names_its_feature() {
    let known = ["flex", "ndarray", "cuda", "rocm", "wgpu", "vulkan", "metal"];
    for name in known.into_iter().filter(|name| !compiled_devices().contains(name)) {
        for spelled in [name.to_owned(), format!("{name}:1")] {
            let message = error(&spelled).to_string();
            assert!(message.contains(&format!("--features {name}")) && message.contains("flex"), "{message}");
        }
    }
}

#[test]
fn the_processor_has_no_index() {
    for name in ["flex:0", "ndarray:1", "flex:"] {
        assert!(matches!(error(name), DeviceError::Index { .. }), "{name}");
    }
}

#[test]
fn every_device_passes_its_check() {
    for (name, device) in devices() {
        assert_eq!(check_device(&device), Ok(()), "{name}");
        for check in [DeviceCheck::Once, DeviceCheck::Skip] {
            assert!(checked_device(&name, check).is_ok(), "{name}");
        }
    }
}

/// One linear layer and cross-entropy with class 0.
struct Classifier(Linear);

impl Task for Classifier {
    type Batch = Tensor<2>;

    fn forward(&self, x: &Self::Batch, tape: &mut Tape) -> Tensor<2> {
        tape.linear("layer", &self.0, x.clone())
    }

    fn loss(&self, outputs: Tensor<2>, _: &Self::Batch) -> Tensor<1> {
        log_softmax(outputs, 1).narrow(1, 0, 1).neg().squeeze_dim(1)
    }
}

/// The gradient of weights `w` at `x` is `xᵀ(softmax(xw) − (1, 0))`.
#[test]
fn a_model_in_f64_is_right_or_refused() {
    for (name, device) in devices().into_iter().filter(|(_, device)| device.supports_dtype(DType::F64)) {
        let on = |values: &[f64]| {
            let matrix = Matrix { rows: values.len() / 2, cols: 2, values: values.to_vec() };
            tensor(&matrix, &device, DType::F64)
        };
        let model = Classifier(Linear { weight: Param::from_tensor(on(&[0.5, -0.25, 1.0, 0.75])), bias: None });
        let found = gradients(&model, &on(&[1.5, -2.0]), Target::Loss);
        match has_f64_functions(&device).expect("the device works") {
            true => {
                let wrong = 1.0 / (1.0 + f64::exp(-1.25 - (-1.875)));
                let expected = [-1.5 * wrong, 1.5 * wrong, 2.0 * wrong, -2.0 * wrong];
                let block = found.expect("a model").blocks.remove(0);
                assert_close(&name, &values(block), &expected, 1e-14);
            }
            false => assert!(matches!(found, Err(GradientError::NoF64Functions { .. })), "{name}"),
        }
    }
}

/// Products have all digits, or the device is known to round their factors.
#[test]
fn products_have_the_digits_that_are_promised() {
    for (name, device) in devices() {
        let limit = if rounds_products(&device).expect("the device works") { 2e-3 } else { 1e-5 };
        for [rows, inner, cols] in [[1, 1, 1], [3, 70, 5], [64, 64, 64], [130, 300, 200]] {
            let entry = |seed: usize| move |i: usize| ((i * (2 * seed + 7919) * 104_729) % 2003) as f64 / 1001.0 - 0.9;
            let numbers = |count: usize, seed| (0..count).map(entry(seed)).map(|x| f64::from(x as f32)).collect();
            let left = Matrix { rows, cols: inner, values: numbers(rows * inner, 1) };
            let right = Matrix { rows: inner, cols, values: numbers(inner * cols, 2) };
            let on = |matrix: &Matrix| tensor(matrix, &device, DType::F32);
            let found = values(on(&left).matmul(on(&right)));
            assert_close(&format!("{name}, {rows} × {inner} × {cols}"), &found, &left.times(&right).values, limit);
        }
    }
}
