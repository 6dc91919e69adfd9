//! The device by its name.

use burn::tensor::Device;
use hyperinf::{compiled_devices, device, device_name};

use crate::error::CliError;

/// The device of that name, or the first that was compiled in, with its name: results never say `cpu` or `gpu`.
pub(crate) fn open_device(name: Option<&str>) -> Result<(String, Device), CliError> {
    let name = name.or_else(|| compiled_devices().first().copied()).unwrap_or("flex");
    let name = device_name(name)?;
    let device = device(&name)?;
    Ok((name, device))
}
