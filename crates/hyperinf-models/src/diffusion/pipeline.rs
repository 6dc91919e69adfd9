use super::image_coder::ImageCoder;
use super::task::TextToImage;
use super::text_encoder::TextEncoder;

/// A text-to-image model with all its parts, as [`load_pipeline`](crate::load_pipeline) reads it from diffusers' folder.
#[derive(Clone, Debug)]
pub struct Pipeline {
    /// The denoiser with its noise and loss.
    pub model: TextToImage,
    /// Turns captions into states.
    pub text: TextEncoder,
    /// Turns pictures into what the denoiser sees, and back.
    pub images: ImageCoder,
}
