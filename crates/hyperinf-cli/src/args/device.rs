use clap::Args;

/// Where to compute.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct DeviceArgs {
    /// Where to compute: cpu, gpu, flex, cuda:0, … [default: the first that was compiled in].
    #[arg(long, value_name = "DEVICE", display_order = 11)]
    pub device: Option<String>,
    /// Use a graphics card without comparing its arithmetic with the processor's first.
    #[arg(long, display_order = 12)]
    pub no_device_check: bool,
}
