//! Sheets of pictures as PNG files.

use std::path::Path;

use resvg::tiny_skia::{Pixmap, PremultipliedColorU8};

use super::pictures::SIDE;
use crate::Failure;

/// Pixels of the sheet per pixel of a picture, and between pictures.
const ZOOM: usize = 2;
const GAP: usize = 4;

/// Writes pictures, `[n, 3, SIDE, SIDE]` in `[−1, 1]`, in rows of `columns`.
pub fn write(path: &Path, values: &[f32], columns: usize) -> Result<(), Failure> {
    let size = SIDE * SIDE;
    let count = values.len() / (3 * size);
    let cell = ZOOM * SIDE + GAP;
    let (width, height) = (columns * cell + GAP, count.div_ceil(columns) * cell + GAP);
    let mut sheet = Pixmap::new(width as u32, height as u32).ok_or("an empty sheet")?;
    let byte = |value: f32| ((value + 1.0) * 127.5).round().clamp(0.0, 255.0) as u8;
    let opaque = |[red, green, blue]: [u8; 3]| PremultipliedColorU8::from_rgba(red, green, blue, 255);
    let ground = opaque([232; 3]).ok_or("no colour")?;
    sheet.pixels_mut().fill(ground);
    for (index, picture) in values.chunks_exact(3 * size).enumerate() {
        let (left, top) = (GAP + index % columns * cell, GAP + index / columns * cell);
        for y in 0..ZOOM * SIDE {
            for x in 0..ZOOM * SIDE {
                let from = y / ZOOM * SIDE + x / ZOOM;
                let colour = opaque([0, 1, 2].map(|channel| byte(picture[channel * size + from])));
                sheet.pixels_mut()[(top + y) * width + left + x] = colour.ok_or("no colour")?;
            }
        }
    }
    Ok(sheet.save_png(path)?)
}
