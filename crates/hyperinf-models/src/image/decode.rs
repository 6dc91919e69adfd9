use std::io::{Cursor, ErrorKind};

use image_webp::WebPDecoder;
use png::{BitDepth, ColorType, Decoder, DecodingError, Limits, Transformations};

use super::exif::Turn;
use super::jpeg;
use super::picture::{Picture, PictureError, PictureLimits};
use super::xmp;
use crate::files::guarded;

/// What a decoder gives: RGB values, and EXIF data.
pub(super) struct Decoded {
    pub(super) width: usize,
    pub(super) height: usize,
    pub(super) pixels: Vec<u8>,
    pub(super) exif: Option<Vec<u8>>,
}

/// Beginnings of files that are often taken for images.
const OTHERS: [(&[u8], &str); 14] = [
    (b"GIF8", "a GIF image"),
    (b"BM", "a BMP image"),
    (b"II*\0", "a TIFF image"),
    (b"MM\0*", "a TIFF image"),
    (b"\0\0\x01\0", "an icon (ICO)"),
    (b"\xff\x0a", "a JPEG XL image"),
    (b"%PDF", "a PDF document"),
    (b"PK\x03\x04", "a ZIP archive"),
    (b"\x1f\x8b", "a gzip file"),
    (b"<svg", "an SVG drawing"),
    (b"<?xml", "an XML file"),
    (b"<!DOCTYPE html", "a web page"),
    (b"<html", "a web page"),
    (b"{", "a JSON text"),
];
const LFS: &[u8] = b"version https://git-lfs.github.com/spec/";
/// The longest side: that of JPEG. The weights for resizing, and pictures between two steps of it, grow with it.
const SIDE: u64 = 65_535;
/// What a PNG decoder may hold beyond the pixels.
const PNG_EXTRA: u64 = 16 << 20;

pub(super) fn decode(bytes: &[u8], limits: &PictureLimits) -> Result<Picture, PictureError> {
    if bytes.len() as u64 > limits.bytes {
        return Err(PictureError::Bytes { found: bytes.len() as u64, limit: limits.bytes });
    }
    let decoder = match bytes {
        [] => return Err(PictureError::Empty),
        [0x89, b'P', b'N', b'G', 0x0d, 0x0a, 0x1a, 0x0a, ..] => png,
        [0xff, 0xd8, 0xff, ..] => jpeg::decode,
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => webp,
        _ if bytes.starts_with(LFS) => return Err(PictureError::LfsPointer),
        _ => return Err(PictureError::Format { found: name(bytes) }),
    };
    let panicked = |detail| PictureError::Damaged { format: "image", detail };
    let decoded = guarded(|| decoder(bytes, limits)).unwrap_or_else(|panic| Err(panicked(panic.message)))?;
    let Decoded { width, height, pixels, exif } = decoded;
    let turn = Turn::of(exif.as_deref().unwrap_or_default(), || xmp::orientation(bytes));
    let (width, height, pixels) = turn.apply(width, height, pixels);
    Picture::new(width, height, pixels)
}

/// What a file that is not read seems to be.
fn name(bytes: &[u8]) -> &'static str {
    match bytes.get(4..12) {
        Some(b"ftypavif" | b"ftypavis") => return "an AVIF image",
        Some(b"ftypheic" | b"ftypheix" | b"ftypmif1") => return "a HEIC image",
        _ => {}
    }
    let text = bytes.trim_ascii_start();
    let known = OTHERS.iter().find(|(begin, _)| bytes.starts_with(begin) || text.starts_with(begin));
    known.map_or("no image", |(_, name)| name)
}

/// Refuses sizes beyond the limit before memory is taken for them.
pub(super) fn check(width: u64, height: u64, limits: &PictureLimits) -> Result<(), PictureError> {
    if width == 0 || height == 0 {
        return Err(PictureError::NoPixels { width, height });
    }
    match width.checked_mul(height) {
        Some(pixels) if pixels <= limits.pixels => {}
        _ => return Err(PictureError::Pixels { width, height, limit: limits.pixels }),
    }
    if width.max(height) > SIDE { Err(PictureError::Side { width, height, limit: SIDE }) } else { Ok(()) }
}

fn png(bytes: &[u8], limits: &PictureLimits) -> Result<Decoded, PictureError> {
    // The decoder has no error of its own for sizes of 0.
    if let Some(&[.., w3, w2, w1, w0, h3, h2, h1, h0]) = bytes.get(..24) {
        let side = |bytes| u64::from(u32::from_be_bytes(bytes));
        check(side([w3, w2, w1, w0]), side([h3, h2, h1, h0]), limits)?;
    }
    let allowed = usize::try_from(limits.pixels.saturating_mul(8).saturating_add(PNG_EXTRA)).unwrap_or(usize::MAX);
    let mut decoder = Decoder::new_with_limits(Cursor::new(bytes), Limits { bytes: allowed });
    decoder.set_transformations(Transformations::EXPAND);
    decoder.set_ignore_text_chunk(true);
    decoder.set_ignore_iccp_chunk(true);
    let header = decoder.read_header_info().map_err(of_png)?;
    let (width, height) = (header.width, header.height);
    check(width.into(), height.into(), limits)?;
    let deep_grey = header.color_type == ColorType::Grayscale && header.bit_depth == BitDepth::Sixteen;
    let mut reader = decoder.read_info().map_err(of_png)?;
    let size = reader.output_buffer_size().ok_or_else(|| damaged("PNG", "its size overflows"))?;
    let mut values = vec![0; size];
    let frame = reader.next_frame(&mut values).map_err(of_png)?;
    values.truncate(frame.buffer_size());
    // Metadata may follow the pixels; what is wrong with them is not the picture's fault.
    let _ = reader.finish();
    let exif = reader.info().exif_metadata.as_ref().map(|exif| exif.to_vec());
    if frame.bit_depth == BitDepth::Sixteen {
        // Pillow cuts 16-bit grey, and takes the upper byte of everything else.
        let byte = |pair: &[u8]| if deep_grey && pair[0] > 0 { 255 } else { pair[usize::from(deep_grey)] };
        values = values.chunks_exact(2).map(byte).collect();
    }
    let pixels = match frame.color_type {
        ColorType::Rgb => values,
        ColorType::Rgba => without_alpha(&values),
        ColorType::Grayscale => repeated(&values, 1),
        ColorType::GrayscaleAlpha => repeated(&values, 2),
        ColorType::Indexed => return Err(damaged("PNG", "its palette is missing")),
    };
    Ok(Decoded { width: width as usize, height: height as usize, pixels, exif })
}

fn webp(bytes: &[u8], limits: &PictureLimits) -> Result<Decoded, PictureError> {
    let mut decoder = WebPDecoder::new(Cursor::new(bytes)).map_err(of_webp)?;
    let (width, height) = decoder.dimensions();
    check(width.into(), height.into(), limits)?;
    decoder.set_memory_limit(bytes.len());
    let size = decoder.output_buffer_size().ok_or_else(|| damaged("WebP", "its size overflows"))?;
    let mut values = vec![0; size];
    decoder.read_image(&mut values).map_err(of_webp)?;
    let pixels = if decoder.has_alpha() { without_alpha(&values) } else { values };
    let exif = decoder.exif_metadata().ok().flatten();
    Ok(Decoded { width: width as usize, height: height as usize, pixels, exif })
}

/// RGB of RGBA.
fn without_alpha(values: &[u8]) -> Vec<u8> {
    values.chunks_exact(4).flat_map(|value| [value[0], value[1], value[2]]).collect()
}

/// RGB of grey, which is the first of `channels` values.
pub(super) fn repeated(values: &[u8], channels: usize) -> Vec<u8> {
    values.chunks_exact(channels).flat_map(|value| [value[0]; 3]).collect()
}

pub(super) fn damaged(format: &'static str, detail: impl ToString) -> PictureError {
    PictureError::Damaged { format, detail: detail.to_string() }
}

fn of_png(error: DecodingError) -> PictureError {
    match error {
        DecodingError::IoError(error) if error.kind() == ErrorKind::UnexpectedEof => {
            PictureError::Truncated { format: "PNG" }
        }
        error => damaged("PNG", error),
    }
}

fn of_webp(error: image_webp::DecodingError) -> PictureError {
    match error {
        image_webp::DecodingError::IoError(error) if error.kind() == ErrorKind::UnexpectedEof => {
            PictureError::Truncated { format: "WebP" }
        }
        error => damaged("WebP", error),
    }
}
