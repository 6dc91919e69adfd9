use std::path::Path;

use burn::tensor::Device;

use crate::WrongResult;

/// Every name that [`device`] accepts, which is also its cargo feature, and whether it is compiled in.
const KINDS: [(&str, bool); 7] = [
    ("flex", cfg!(feature = "flex")),
    ("ndarray", cfg!(feature = "ndarray")),
    ("cuda", cfg!(feature = "cuda")),
    ("rocm", cfg!(feature = "rocm")),
    ("wgpu", cfg!(feature = "wgpu")),
    ("vulkan", cfg!(feature = "vulkan")),
    ("metal", cfg!(feature = "metal")),
];

/// Words for a kind of device, and the names they stand for: the first that is compiled in.
const FAMILIES: [(&str, &[&str]); 2] =
    [("cpu", &["flex", "ndarray"]), ("gpu", &["cuda", "rocm", "metal", "vulkan", "wgpu"])];

/// What people call a device, and its name here.
const USUAL: [(&str, &str); 6] =
    [("nvidia", "cuda"), ("amd", "rocm"), ("hip", "rocm"), ("apple", "metal"), ("mps", "metal"), ("webgpu", "wgpu")];

/// Why a device is not available.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum DeviceError {
    /// No device has this name.
    #[error("there is no device `{name}`: did you mean `{nearest}`? This build has {}", listed(.compiled))]
    Unknown {
        /// The name given.
        name: String,
        /// The known name most like it.
        nearest: &'static str,
        /// The devices compiled in.
        compiled: Vec<&'static str>,
    },
    /// A word for a kind of device of which none is compiled in.
    #[error(
        "no device of the kind `{kind}` is compiled in: build with `--features {}`; this build has {}",
        listed_or(.names), listed(.compiled)
    )]
    NoneOfKind {
        /// The word: `cpu` or `gpu`.
        kind: &'static str,
        /// The names of that kind, each also its feature.
        names: &'static [&'static str],
        /// The devices compiled in.
        compiled: Vec<&'static str>,
    },
    /// The device exists, but its cargo feature was off when this program was built.
    #[error("device `{name}` is not compiled in: build with `--features {name}`; this build has {}", listed(.compiled))]
    NotCompiled {
        /// The name of the device and of its feature.
        name: &'static str,
        /// The devices compiled in.
        compiled: Vec<&'static str>,
    },
    /// What follows the colon is not an index, or the device takes none.
    #[error("`{index}` is not an index of device `{name}`: {expected}")]
    Index {
        /// The device's name.
        name: &'static str,
        /// The text after the colon.
        index: String,
        /// The accepted values.
        expected: &'static str,
    },
    /// The machine has fewer devices of this kind.
    #[error("there is no device `{name}:{index}`: this machine has {found} of that kind (indices count from 0)")]
    OutOfRange {
        /// The device's name.
        name: &'static str,
        /// The requested index.
        index: usize,
        /// The number of devices.
        found: usize,
    },
    /// The device's library, driver or hardware is missing or failed at its first use.
    #[error("device `{name}` cannot be used: {missing}{}", reason(.cause))]
    Unusable {
        /// The device's name.
        name: &'static str,
        /// The part that is probably missing, and its source.
        missing: &'static str,
        /// The message of the device's library, if any.
        cause: String,
    },
    /// The device answers, but its arithmetic is wrong.
    #[error("device `{name}` computes wrong results: {wrong}")]
    WrongResults {
        /// The device's name.
        name: &'static str,
        /// The first operation that is wrong.
        wrong: WrongResult,
    },
}

/// When a graphics card's arithmetic is compared with the processor's ([`check_device`](crate::check_device)).
///
/// Drivers and shader compilers have faults that show as wrong numbers, not as errors. The check takes a few seconds
/// where kernels must be compiled or measured first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeviceCheck<'a> {
    /// Once in a process.
    #[default]
    Once,
    /// Once for each device, driver and version of this crate: those that passed are listed in this file, which is made
    /// if necessary. Where the driver's version cannot be told, or the file not be written, once in a process.
    Remembered(&'a Path),
    /// Never.
    Skip,
}

fn listed(names: &[&str]) -> String {
    if names.is_empty() { "no device at all".to_owned() } else { names.join(", ") }
}

fn listed_or(names: &[&str]) -> String {
    names.join("` or `--features ")
}

fn reason(cause: &str) -> String {
    if cause.is_empty() { String::new() } else { format!(" ({cause})") }
}

/// The names that [`device`] accepts in this build.
pub fn compiled_devices() -> Vec<&'static str> {
    KINDS.iter().filter(|(_, compiled)| *compiled).map(|(name, _)| *name).collect()
}

/// The name of the device that a word stands for: of `cpu` and `gpu` the first of its kind that is compiled in, of any
/// other word the word itself.
///
/// # Errors
///
/// [`DeviceError::NoneOfKind`].
pub fn device_name(word: &str) -> Result<String, DeviceError> {
    let (kind, index) = word.split_at(word.find(':').unwrap_or(word.len()));
    let Some(&(kind, names)) = FAMILIES.iter().find(|(family, _)| *family == kind) else {
        return Ok(word.to_owned());
    };
    let compiled = compiled_devices();
    match names.iter().find(|name| compiled.contains(name)) {
        Some(name) => Ok(format!("{name}{index}")),
        None => Err(DeviceError::NoneOfKind { kind, names, compiled }),
    }
}

/// A device by its name, without autodiff (call `.autodiff()` on it to train).
///
/// | name | device |
/// |---|---|
/// | `flex` | the processor, Burn's own backend: the default and the fastest one |
/// | `ndarray` | the processor, an independent backend: results to compare with |
/// | `cuda`, `cuda:1` | an NVIDIA card, by index |
/// | `rocm`, `rocm:1` | an AMD card, by index |
/// | `wgpu`, `vulkan`, `metal` | the best adapter of any, or of one, graphics interface |
/// | `wgpu:1`, `vulkan:1`, `metal:1` | that adapter, in the order in which the interface lists them |
/// | `cpu`, `gpu`, `gpu:1` | the first of its kind that is compiled in ([`device_name`] says which) |
///
/// A graphics card is tried with one small sum before it is returned, because its library panics at the first
/// use when a driver is missing; then its arithmetic is checked, once in a process ([`checked_device`] has other
/// choices). The panic hook of the process is silenced meanwhile. (A program built with `panic = "abort"` cannot be
/// protected in this way.)
///
/// # Errors
///
/// If the name is unknown or not compiled in, the index is wrong, the card or its driver is missing, or it computes
/// wrong results. Each says what to do.
pub fn device(name: &str) -> Result<Device, DeviceError> {
    checked_device(name, DeviceCheck::Once)
}

/// As [`device`], with a choice of when a graphics card's arithmetic is checked; processors are not checked.
///
/// # Errors
///
/// As [`device`].
pub fn checked_device(name: &str, check: DeviceCheck<'_>) -> Result<Device, DeviceError> {
    let name = &device_name(name)?;
    let (kind, index) = match name.split_once(':') {
        Some((kind, index)) => (kind, Some(index)),
        None => (name.as_str(), None),
    };
    let Some(&(kind, compiled)) = KINDS.iter().find(|(known, _)| *known == kind) else {
        return Err(DeviceError::Unknown {
            name: name.to_owned(),
            nearest: nearest(kind),
            compiled: compiled_devices(),
        });
    };
    if !compiled {
        return Err(DeviceError::NotCompiled { name: kind, compiled: compiled_devices() });
    }
    match kind {
        #[cfg(feature = "flex")]
        "flex" => no_index(kind, index).map(|()| Device::flex()),
        #[cfg(feature = "ndarray")]
        "ndarray" => no_index(kind, index).map(|()| {
            // Deprecated upstream in favour of flex; it stays useful as a second, independent implementation.
            #[allow(deprecated)]
            Device::ndarray()
        }),
        _ => gpu::open(kind, index, check),
    }
}

fn nearest(name: &str) -> &'static str {
    let name = name.to_lowercase();
    if let Some((_, usual)) = USUAL.iter().find(|(word, _)| name.starts_with(word)) {
        return usual;
    }
    let [first, rest @ ..] = KINDS.map(|(known, _)| known);
    let likeness = |known: &str| strsim::jaro_winkler(&name, known);
    rest.into_iter().fold(first, |best, known| if likeness(known) > likeness(best) { known } else { best })
}

#[cfg(any(feature = "flex", feature = "ndarray"))]
fn no_index(name: &'static str, index: Option<&str>) -> Result<(), DeviceError> {
    match index {
        None => Ok(()),
        Some(index) => Err(DeviceError::Index {
            name,
            index: index.to_owned(),
            expected: "the processor is one device, so give the name alone",
        }),
    }
}

#[cfg(not(any(feature = "cuda", feature = "rocm", feature = "wgpu")))]
mod gpu {
    use burn::tensor::Device;

    use super::{DeviceCheck, DeviceError, compiled_devices};

    pub(super) fn open(name: &'static str, _: Option<&str>, _: DeviceCheck<'_>) -> Result<Device, DeviceError> {
        Err(DeviceError::NotCompiled { name, compiled: compiled_devices() })
    }
}

#[cfg(any(feature = "cuda", feature = "rocm", feature = "wgpu"))]
mod gpu {
    use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
    use std::sync::{Arc, Mutex, PoisonError};

    #[cfg(any(feature = "cuda", feature = "rocm"))]
    use burn::tensor::DeviceIndex;
    #[cfg(feature = "wgpu")]
    use burn::tensor::DeviceKind;
    use burn::tensor::{Device, DeviceType, Tensor};

    use super::{DeviceCheck, DeviceError};
    use crate::WrongResult;
    use crate::device_check::check_device;
    use crate::passed_checks::{Passed, driver};

    pub(super) fn open(name: &'static str, index: Option<&str>, check: DeviceCheck<'_>) -> Result<Device, DeviceError> {
        let wrong = |index: &str| DeviceError::Index {
            name,
            index: index.to_owned(),
            expected: "write a whole number, counting from 0",
        };
        let index = index.map(|text| text.parse::<usize>().map_err(|_| wrong(text))).transpose()?;
        let unusable = |cause: String| DeviceError::Unusable { name, missing: missing(name, &cause), cause };
        let found = quietly(|| Ok(Device::enumerate(kind(name)).into_vec())).map_err(unusable)?;
        // A device that fails to start spoils the others of the process, so devices are opened only if some are listed.
        if found.is_empty() {
            return Err(unusable(String::new()));
        }
        let out_of_range = |index: usize| DeviceError::OutOfRange { name, index, found: found.len() };
        let device = match index {
            Some(index) => found.get(index).cloned().ok_or_else(|| out_of_range(index))?,
            None => default_of(name),
        };
        quietly(|| try_out(&device)).map_err(unusable)?;
        if check != DeviceCheck::Skip {
            passes(&device, check).map_err(|wrong| DeviceError::WrongResults { name, wrong })?;
        }
        Ok(device)
    }

    fn passes(device: &Device, check: DeviceCheck<'_>) -> Result<(), WrongResult> {
        let identity = device.identity().map(|identity| format!("{} {}", identity.name, identity.fingerprint));
        let file = match check {
            DeviceCheck::Remembered(file) => Some(file),
            DeviceCheck::Once | DeviceCheck::Skip => None,
        };
        let passed = Passed::new(format!("{device:?}"), identity, driver(), file);
        if passed.before() {
            return Ok(());
        }
        // A library that panics in an operation has not computed it.
        let failed = |reason| WrongResult::Failed { operation: "the check of the device", reason };
        quietly(|| Ok(check_device(device))).map_err(failed)??;
        passed.remember();
        Ok(())
    }

    fn kind(name: &str) -> DeviceType {
        match name {
            #[cfg(feature = "cuda")]
            "cuda" => DeviceType::Cuda,
            #[cfg(feature = "rocm")]
            "rocm" => DeviceType::Rocm,
            #[cfg(feature = "vulkan")]
            "vulkan" => DeviceType::Vulkan,
            #[cfg(feature = "metal")]
            "metal" => DeviceType::Metal,
            #[cfg(feature = "wgpu")]
            "wgpu" => DeviceType::Wgpu,
            _ => unreachable!("`device` passes on the names of compiled graphics devices only"),
        }
    }

    /// The first card, or the adapter that the graphics interface ranks first.
    fn default_of(name: &str) -> Device {
        match name {
            #[cfg(feature = "cuda")]
            "cuda" => Device::cuda(DeviceIndex::Default),
            #[cfg(feature = "rocm")]
            "rocm" => Device::rocm(DeviceIndex::Default),
            #[cfg(feature = "vulkan")]
            "vulkan" => Device::vulkan(DeviceKind::DefaultDevice),
            #[cfg(feature = "metal")]
            "metal" => Device::metal(DeviceKind::DefaultDevice),
            #[cfg(feature = "wgpu")]
            "wgpu" => Device::wgpu(DeviceKind::DefaultDevice),
            _ => unreachable!("`device` passes on the names of compiled graphics devices only"),
        }
    }

    /// One sum there and back: enough to load the driver and compile a kernel. (A product would have its kernel
    /// chosen by measurement first, which takes seconds.)
    fn try_out(device: &Device) -> Result<(), String> {
        let sum = Tensor::<1>::ones([4], device) + 1.0;
        let data = sum.try_into_data().map_err(|e| format!("{e:?}"))?;
        device.sync().map_err(|e| e.to_string())?;
        let values = data.convert::<f32>().try_into_vec::<f32>().map_err(|e| format!("{e:?}"))?;
        if values == [2.0; 4] { Ok(()) } else { Err(format!("1 + 1 gave {values:?}")) }
    }

    /// Runs `work` with the panic hook silenced; what fails or panics gives its reason, the first panic's if any.
    ///
    /// The hook belongs to the whole process and the libraries panic on their own threads, so the message is
    /// taken from the hook, and one call at a time may exchange it.
    fn quietly<T>(work: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
        static HOOK: Mutex<()> = Mutex::new(());
        let guard = HOOK.lock().unwrap_or_else(PoisonError::into_inner);
        let first = Arc::new(Mutex::new(None));
        let note = Arc::clone(&first);
        let usual = take_hook();
        set_hook(Box::new(move |panic| {
            let said = panic.payload_as_str().unwrap_or("it panicked without a message").to_owned();
            note.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(said);
        }));
        let outcome = catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| Err("it panicked".to_owned()));
        set_hook(usual);
        drop(guard);
        let first = first.lock().unwrap_or_else(PoisonError::into_inner).take();
        outcome.map_err(|reason| first.unwrap_or(reason))
    }

    /// The part that is probably missing, with the way to find out. Without a reason, no device was listed.
    fn missing(name: &str, reason: &str) -> &'static str {
        match name {
            "cuda" if reason.is_empty() => "the NVIDIA driver is missing or finds no card: `nvidia-smi` must list one",
            "cuda" if reason.to_lowercase().contains("nvrtc") => {
                "NVRTC is missing: install that part of NVIDIA's CUDA toolkit and put its folder on the library path"
            }
            "cuda" => "the NVIDIA driver or a part of CUDA failed: compare its version in `nvidia-smi` with the card",
            "rocm" => "the AMD driver or ROCm is missing or finds no card: `rocminfo` must list one",
            "metal" => "Metal finds no card: it needs macOS and a card that supports it",
            "vulkan" => "no Vulkan driver is installed or it finds no card: `vulkaninfo` must list one",
            _ => "no graphics adapter is found, or its driver failed: Vulkan, Metal or DirectX 12 is needed",
        }
    }
}
