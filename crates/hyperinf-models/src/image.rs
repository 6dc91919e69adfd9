//! From image files to the numbers that a model gets.

mod decode;
mod exif;
mod jpeg;
mod picture;
mod processor;
mod processor_config;
mod resize;
mod tiles;
mod xmp;

pub use picture::{Picture, PictureError, PictureLimits};
pub use processor::{Crop, ImageProcessor, Pixels, Processed, TargetSize};
pub use resize::Resampling;
pub use tiles::Tiling;
