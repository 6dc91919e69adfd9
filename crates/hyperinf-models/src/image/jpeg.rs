use zune_jpeg::JpegDecoder;
use zune_jpeg::zune_core::bytestream::ZCursor;
use zune_jpeg::zune_core::colorspace::ColorSpace;
use zune_jpeg::zune_core::options::DecoderOptions;

use super::decode::{Decoded, check, damaged, repeated};
use super::picture::{PictureError, PictureLimits};

/// The longest side that JPEG can declare.
const SIDE: usize = 65535;

pub(super) fn decode(bytes: &[u8], limits: &PictureLimits) -> Result<Decoded, PictureError> {
    let failed = |error| damaged("JPEG", error);
    let options = DecoderOptions::default().set_strict_mode(false).set_max_width(SIDE).set_max_height(SIDE);
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(bytes), options);
    decoder.decode_headers().map_err(failed)?;
    let info = decoder.info().ok_or_else(|| damaged("JPEG", "it has no size"))?;
    let (width, height) = (usize::from(info.width), usize::from(info.height));
    check(width as u64, height as u64, limits)?;
    // The decoder fills what is missing with grey.
    if !is_whole(bytes) {
        return Err(PictureError::Truncated { format: "JPEG" });
    }
    let exif = decoder.exif().cloned();
    let grey = decoder.input_colorspace() == Some(ColorSpace::Luma);
    let space = if grey { ColorSpace::Luma } else { ColorSpace::RGB };
    decoder.set_options(options.jpeg_set_out_colorspace(space));
    let values = decoder.decode().map_err(failed)?;
    let pixels = if grey { repeated(&values, 1) } else { values };
    Ok(Decoded { width, height, pixels, exif })
}

/// Whether the segments of a file lead to its end mark.
fn is_whole(bytes: &[u8]) -> bool {
    let mut at = 2;
    while let Some(&[first, marker]) = bytes.get(at..at + 2).and_then(<[u8]>::first_chunk) {
        match (first, marker) {
            (0xff, 0xd9) => return true,
            // A segment with its length.
            (0xff, 0x02..=0xcf | 0xda..=0xfe) => {
                let Some(&length) = bytes.get(at + 2..at + 4).and_then(<[u8]>::first_chunk) else { return false };
                at += 2 + usize::from(u16::from_be_bytes(length)).max(2);
            }
            // A mark without a length, or a stuffed byte of a scan.
            (0xff, 0x00 | 0x01 | 0xd0..=0xd8) => at += 2,
            _ => at += 1,
        }
    }
    false
}
