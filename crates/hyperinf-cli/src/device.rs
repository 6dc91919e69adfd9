//! The device by its name.

use burn::tensor::Device;
use hyperinf::{compiled_devices, device};

use crate::error::CliError;

/// The device of that name, or the first that was compiled in, with its name.
pub(crate) fn open_device(name: Option<&str>) -> Result<(String, Device), CliError> {
    let name = name.or_else(|| compiled_devices().first().copied()).unwrap_or("flex");
    Ok((name.to_owned(), device(name)?))
}
