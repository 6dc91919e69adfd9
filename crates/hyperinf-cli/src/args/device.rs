use clap::Args;

/// Where to compute.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct DeviceArgs {
    /// Where to compute: cpu, gpu, flex, cuda:0, … [default: the first that was compiled in]. attribute, detect, select,
    /// index, score and finetune share their work between several: cuda:0,cuda:1.
    #[arg(long, value_name = "DEVICE", display_order = 11)]
    pub device: Option<String>,
    /// Use a graphics card without comparing its arithmetic with the processor's first.
    #[arg(long, display_order = 12)]
    pub no_device_check: bool,
    /// How long a rank waits for another one before it gives up, where several share the work.
    #[arg(long, value_name = "SECONDS", default_value_t = 7200, display_order = 12, hide_short_help = true)]
    pub deadline: u64,
}
