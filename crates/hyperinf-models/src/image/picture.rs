use std::fmt;

use super::decode;
use super::resize::{Resampling, resize};

/// An image in memory: 8 bits for each of red, green and blue.
#[derive(Clone, PartialEq, Eq)]
pub struct Picture {
    width: usize,
    height: usize,
    pixels: Vec<u8>,
}

/// Limits on what is decoded.
///
/// | field | default | purpose |
/// |---|---|---|
/// | `pixels` | 89,478,485 | the most pixels that a file may declare, checked before memory is taken; Pillow's limit |
/// | `bytes` | 256 MiB | the longest file |
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PictureLimits {
    /// The most pixels.
    pub pixels: u64,
    /// The longest file, in bytes.
    pub bytes: u64,
}

impl Default for PictureLimits {
    fn default() -> Self {
        Self { pixels: 89_478_485, bytes: 256 << 20 }
    }
}

/// Why bytes are no picture.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PictureError {
    /// No bytes at all.
    #[error("it is empty")]
    Empty,
    /// A Git LFS pointer, which stands for a file that was not downloaded.
    #[error("it is a Git LFS pointer, not the image itself: run `git lfs pull`")]
    LfsPointer,
    /// An image or another file in a format that is not read.
    #[error("it is {found}: PNG, JPEG and WebP are read")]
    Format {
        /// What it seems to be.
        found: &'static str,
    },
    /// More bytes than the limit.
    #[error("it has {found} bytes, more than the limit of {limit}")]
    Bytes {
        /// Its bytes.
        found: u64,
        /// The limit.
        limit: u64,
    },
    /// More pixels than the limit.
    #[error("it declares {width} × {height} pixels, more than the limit of {limit}")]
    Pixels {
        /// Its width.
        width: u64,
        /// Its height.
        height: u64,
        /// The limit.
        limit: u64,
    },
    /// A side beyond the limit.
    #[error("it declares {width} × {height} pixels: no side may have more than {limit}")]
    Side {
        /// Its width.
        width: u64,
        /// Its height.
        height: u64,
        /// The limit.
        limit: u64,
    },
    /// More tiles than the limit.
    #[error("the image processor would make {rows} × {columns} tiles of it, more than the limit of {limit}")]
    Tiles {
        /// Rows of tiles.
        rows: usize,
        /// Columns of tiles.
        columns: usize,
        /// The limit.
        limit: usize,
    },
    /// A picture whose size in the model has more pixels than the limit.
    #[error("the image processor would make {width} × {height} pixels of it, more than the limit of {limit}")]
    Enlarged {
        /// The width.
        width: u64,
        /// The height.
        height: u64,
        /// The limit.
        limit: u64,
    },
    /// No pixels.
    #[error("it declares {width} × {height} pixels: it is empty")]
    NoPixels {
        /// Its width.
        width: u64,
        /// Its height.
        height: u64,
    },
    /// A file that ends too early.
    #[error("the {format} is cut off: it ends before its last pixel")]
    Truncated {
        /// The format.
        format: &'static str,
    },
    /// A damaged file.
    #[error("the {format} is damaged: {detail}")]
    Damaged {
        /// The format.
        format: &'static str,
        /// What the decoder says.
        detail: String,
    },
    /// Pixels that do not fill the picture.
    #[error("{width} × {height} pixels need {} bytes of RGB, found {found}", width * height * 3)]
    Count {
        /// The width.
        width: usize,
        /// The height.
        height: usize,
        /// The bytes.
        found: usize,
    },
}

impl Picture {
    /// A picture of `[height, width, 3]` values, row by row.
    ///
    /// # Errors
    ///
    /// [`PictureError::NoPixels`] or [`PictureError::Count`].
    pub fn new(width: usize, height: usize, pixels: Vec<u8>) -> Result<Self, PictureError> {
        if width == 0 || height == 0 {
            return Err(PictureError::NoPixels { width: width as u64, height: height as u64 });
        }
        let needed = width.checked_mul(height).and_then(|count| count.checked_mul(3));
        if needed != Some(pixels.len()) {
            return Err(PictureError::Count { width, height, found: pixels.len() });
        }
        Ok(Self { width, height, pixels })
    }

    /// Decodes a PNG, JPEG or WebP file, as `load_image` of transformers and `datasets` do: turned upright as its EXIF
    /// data say, then `convert("RGB")` of Pillow.
    ///
    /// Alpha is dropped, not blended; grey values are repeated; palettes are looked up; of 16 bits per colour the upper
    /// 8 count, but 16-bit grey is cut at 255; colour profiles and gamma are ignored. Of an animation the first frame
    /// counts. PNG and WebP without loss give Pillow's bytes; JPEG and lossy WebP are decoded by other programs than
    /// Pillow's, whose values differ by a few units.
    ///
    /// # Errors
    ///
    /// If the bytes are no such file, a damaged one, or beyond a limit.
    pub fn decode(bytes: &[u8], limits: &PictureLimits) -> Result<Self, PictureError> {
        decode::decode(bytes, limits)
    }

    /// The width in pixels.
    pub fn width(&self) -> usize {
        self.width
    }

    /// The height in pixels.
    pub fn height(&self) -> usize {
        self.height
    }

    /// The values `[height, width, 3]`, row by row.
    pub fn pixels(&self) -> &[u8] {
        &self.pixels
    }

    /// The picture in another size, equal to `resize` of Pillow up to version 12.
    ///
    /// # Panics
    ///
    /// If a side is 0.
    pub fn resized(&self, width: usize, height: usize, resampling: Resampling) -> Self {
        assert!(width > 0 && height > 0, "a picture of {width} × {height} pixels");
        Self { width, height, pixels: resize(&self.pixels, (self.width, self.height), (width, height), resampling) }
    }

    /// A part of the picture whose upper left corner is at `(left, top)`; what lies outside of the picture is black.
    ///
    /// # Panics
    ///
    /// If a side is 0.
    pub fn cropped(&self, left: isize, top: isize, width: usize, height: usize) -> Self {
        assert!(width > 0 && height > 0, "a picture of {width} × {height} pixels");
        let mut pixels = vec![0; width * height * 3];
        // The columns of the part that lie in the picture.
        let first = left.min(0).unsigned_abs().min(width);
        let from = left.max(0).unsigned_abs().min(self.width);
        let count = (width - first).min(self.width - from);
        for (row, line) in pixels.chunks_exact_mut(width * 3).enumerate() {
            let Some(y) = top.checked_add_unsigned(row).and_then(|y| usize::try_from(y).ok()) else { continue };
            if y < self.height {
                let start = (y * self.width + from) * 3;
                line[first * 3..(first + count) * 3].copy_from_slice(&self.pixels[start..start + count * 3]);
            }
        }
        Self { width, height, pixels }
    }

    /// Pictures in rows of `⌈√n⌉`, each in a cell of the size of the largest; the rest is black.
    ///
    /// # Panics
    ///
    /// If there are none.
    pub fn grid(pictures: &[Self]) -> Self {
        assert!(!pictures.is_empty(), "a grid of no pictures");
        let most = |side: fn(&Self) -> usize| pictures.iter().map(side).max().unwrap_or(1);
        let (cell, high) = (most(Self::width), most(Self::height));
        let columns = (pictures.len() as f64).sqrt().ceil() as usize;
        let (width, height) = (columns * cell, pictures.len().div_ceil(columns) * high);
        let mut pixels = vec![0; width * height * 3];
        for (at, picture) in pictures.iter().enumerate() {
            let (left, top) = (at % columns * cell, at / columns * high);
            for (y, line) in picture.pixels.chunks_exact(picture.width * 3).enumerate() {
                let start = ((top + y) * width + left) * 3;
                pixels[start..start + line.len()].copy_from_slice(line);
            }
        }
        Self { width, height, pixels }
    }

    /// The bytes of a PNG file with this picture.
    ///
    /// # Errors
    ///
    /// [`PictureError::Damaged`] if a side is beyond PNG's 2^31.
    pub fn to_png(&self) -> Result<Vec<u8>, PictureError> {
        let damaged = |detail: String| PictureError::Damaged { format: "PNG", detail };
        let side = |side: usize| u32::try_from(side).map_err(|error| damaged(error.to_string()));
        let mut bytes = Vec::new();
        let mut encoder = png::Encoder::new(&mut bytes, side(self.width)?, side(self.height)?);
        encoder.set_color(png::ColorType::Rgb);
        encoder.set_depth(png::BitDepth::Eight);
        let mut writer = encoder.write_header().map_err(|error| damaged(error.to_string()))?;
        writer.write_image_data(&self.pixels).map_err(|error| damaged(error.to_string()))?;
        writer.finish().map_err(|error| damaged(error.to_string()))?;
        Ok(bytes)
    }
}

impl fmt::Debug for Picture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Picture({} × {})", self.width, self.height)
    }
}
