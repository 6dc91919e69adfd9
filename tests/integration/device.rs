use burn::tensor::Tensor;
use hyperinf::{DeviceError, compiled_devices, device};

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
    for (name, meant) in
        [("fleks", "flex"), ("CUDA", "cuda"), ("nd-array", "ndarray"), ("wgpu2:0", "wgpu"), ("", "flex")]
    {
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
