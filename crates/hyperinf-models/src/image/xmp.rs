//! The orientation in XMP data, which Pillow takes where EXIF data have none.

/// What comes before the data in a segment of a JPEG, and in a text of a PNG.
const OF_JPEG: &[u8] = b"http://ns.adobe.com/xap/1.0/\0";
const OF_PNG: &[u8] = b"XML:com.adobe.xmp\0\0";
const TAG: &[u8] = b"tiff:Orientation";

/// The orientation in the XMP data of a JPEG, a PNG or a WebP, unless they are compressed.
pub(super) fn orientation(file: &[u8]) -> Option<u16> {
    let data = match file {
        [0xff, 0xd8, ..] => of_jpeg(file),
        [0x89, ..] => of_png(file),
        _ => of_webp(file),
    }?;
    let mut rest = data;
    loop {
        rest = &rest[find(rest, TAG)? + TAG.len()..];
        let value = rest.strip_prefix(b"=\"").or_else(|| rest.strip_prefix(b">"));
        if let Some(digit @ b'0'..=b'9') = value.and_then(<[u8]>::first) {
            return Some(u16::from(digit - b'0'));
        }
    }
}

fn find(text: &[u8], word: &[u8]) -> Option<usize> {
    text.windows(word.len()).position(|part| part == word)
}

/// The last of several.
fn of_jpeg(file: &[u8]) -> Option<&[u8]> {
    let (mut at, mut found) = (2, None);
    while let Some(&[0xff, marker, high, low]) = file.get(at..at + 4).and_then(<[u8]>::first_chunk) {
        if marker == 0xda {
            break;
        }
        let length = usize::from(u16::from_be_bytes([high, low])).max(2);
        let segment = file.get(at + 4..at + 2 + length)?;
        if marker == 0xe1 {
            found = segment.strip_prefix(OF_JPEG).or(found);
        }
        at += 2 + length;
    }
    found
}

fn of_png(file: &[u8]) -> Option<&[u8]> {
    let mut at = 8;
    loop {
        let length = usize::try_from(u32::from_be_bytes(*file.get(at..)?.first_chunk()?)).ok()?;
        let end = at.checked_add(8)?.checked_add(length)?;
        let (kind, data) = (file.get(at + 4..at + 8)?, file.get(at + 8..end)?);
        if kind == b"iTXt"
            && let Some(text) = data.strip_prefix(OF_PNG)
        {
            return Some(text);
        }
        at = end.checked_add(4)?;
    }
}

fn of_webp(file: &[u8]) -> Option<&[u8]> {
    let mut at = 12;
    loop {
        let length = usize::try_from(u32::from_le_bytes(*file.get(at + 4..)?.first_chunk()?)).ok()?;
        let end = at.checked_add(8)?.checked_add(length)?;
        if file.get(at..at + 4)? == b"XMP " {
            return file.get(at + 8..end);
        }
        at = end.checked_add(length % 2)?;
    }
}
