//! The device by its name.

use burn::tensor::Device;
use hyperinf::linalg::rounds_products;
use hyperinf::{DeviceCheck, checked_device, compiled_devices, device_name};

use crate::args::DeviceArgs;
use crate::error::CliError;
use crate::models::cache;
use crate::progress::warn;
use crate::team::own_device;

/// The device of that name, or the first that was compiled in, with its name: results never say `cpu` or `gpu`.
pub(crate) fn open_device(args: &DeviceArgs) -> Result<(String, Device), CliError> {
    let name = args.device.as_deref().or_else(|| compiled_devices().first().copied()).unwrap_or("flex");
    let name = device_name(&own_device(name)?)?;
    let passed = cache().map(|folder| folder.join("checked-devices.txt"));
    let check = match (args.no_device_check, &passed) {
        (true, _) => DeviceCheck::Skip,
        (false, Some(path)) => DeviceCheck::Remembered(path),
        (false, None) => DeviceCheck::Once,
    };
    let device = checked_device(&name, check)?;
    if rounds_products(&device).unwrap_or(false) {
        warn(&format!(
            "`{name}` rounds the factors of products to 10 bits (TF32): gradients are off by about a thousandth of the \
             largest; a processor has all digits"
        ));
    }
    Ok((name, device))
}
