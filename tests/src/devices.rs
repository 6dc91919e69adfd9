use burn::tensor::Device;

/// The devices that every case runs on, each with its name: `flex` and `ndarray`, or those that the environment
/// variable `HYPERINF_TEST_DEVICE` names (`flex`, or `ndarray,cuda:0`).
///
/// # Panics
///
/// If a device cannot be had: a test on no device would prove nothing.
pub fn devices() -> Vec<(String, Device)> {
    let names = std::env::var("HYPERINF_TEST_DEVICE").unwrap_or_else(|_| "flex,ndarray".to_owned());
    names.split(',').map(|name| (name.to_owned(), device(name))).collect()
}

fn device(name: &str) -> Device {
    hyperinf::device(name).unwrap_or_else(|error| panic!("{error}"))
}
