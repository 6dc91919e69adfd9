use burn::tensor::Device;

/// The devices of every case that computes on one, each with its name: `flex` and `ndarray`, or those that the environment
/// variable `HYPERINF_TEST_DEVICE` names (`flex`, or `ndarray,cuda:0`).
///
/// Which cases need which device:
///
/// * Numbers that a backend computes: each case loops over all of these devices, so one run covers every backend.
/// * Files, arguments, messages and exit codes of the program: the device has no part in them, and the case runs once,
///   on the program's default device.
/// * The choice of a device: the case names its devices itself.
///
/// # Panics
///
/// If a device is not available: a test on no device would prove nothing.
pub fn devices() -> Vec<(String, Device)> {
    let names = std::env::var("HYPERINF_TEST_DEVICE").unwrap_or_else(|_| "flex,ndarray".to_owned());
    names.split(',').map(|name| (name.to_owned(), device(name))).collect()
}

fn device(name: &str) -> Device {
    hyperinf::device(name).unwrap_or_else(|error| panic!("{error}"))
}
