use std::path::PathBuf;

use clap::Args;

use super::DeviceArgs;

/// Arguments of `hyperinf generate`.
#[derive(Debug, Args)]
pub(crate) struct GenerateArgs {
    /// The model: diffusers' folder, or its name on the hub.
    #[arg(long, value_name = "MODEL", display_order = 1)]
    pub model: String,
    /// A LoRA file, or the folder of an adapter.
    #[arg(long, value_name = "PATH", display_order = 2)]
    pub adapter: Option<PathBuf>,
    /// What to draw; several are drawn side by side.
    #[arg(long, value_name = "TEXT", required = true, display_order = 3)]
    pub prompt: Vec<String>,
    /// Where to write the picture: .png.
    #[arg(long, value_name = "FILE.png", value_parser = png, display_order = 4)]
    pub out: PathBuf,
    /// Evaluations of the model.
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..), display_order = 5)]
    pub steps: u32,
    /// How strongly the prompt counts: 1 for the model's own share.
    #[arg(long, default_value_t = 3.0, display_order = 6)]
    pub guidance: f64,
    /// The seed of the noise.
    #[arg(long, default_value_t = 0, display_order = 7)]
    pub seed: u64,
    /// The side of a picture in pixels [default: the model's].
    #[arg(long, value_name = "PIXELS", value_parser = clap::value_parser!(u32).range(1..), display_order = 8)]
    pub size: Option<u32>,
    #[command(flatten)]
    pub device: DeviceArgs,
}

fn png(path: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(path);
    let ending = path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("png"));
    if ending { Ok(path) } else { Err("the file must end in .png".to_owned()) }
}
