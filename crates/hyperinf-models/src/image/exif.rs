//! The orientation in EXIF data.

/// How a picture must be turned to stand upright.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Turn {
    /// Rows and columns change places, first.
    pub(super) transposed: bool,
    /// Then left and right change places.
    pub(super) mirrored: bool,
    /// Then top and bottom change places.
    pub(super) flipped: bool,
}

/// The tag of the orientation, and the types that integers may have: of 16 or 32 bits, with and without a sign.
const ORIENTATION: u16 = 0x0112;
const INTEGERS: [u16; 4] = [3, 4, 8, 9];
/// The length of an entry of a directory.
const ENTRY: usize = 12;

impl Turn {
    /// The turn that EXIF data ask for, or else `otherwise`; none if they are damaged.
    pub(super) fn of(mut exif: &[u8], otherwise: impl FnOnce() -> Option<u16>) -> Self {
        while let Some(rest) = exif.strip_prefix(b"Exif\0\0") {
            exif = rest;
        }
        let turn = |transposed, mirrored, flipped| Self { transposed, mirrored, flipped };
        match orientation(exif).unwrap_or_else(otherwise) {
            Some(2) => turn(false, true, false),
            Some(3) => turn(false, true, true),
            Some(4) => turn(false, false, true),
            Some(5) => turn(true, false, false),
            Some(6) => turn(true, true, false),
            Some(7) => turn(true, true, true),
            Some(8) => turn(true, false, true),
            _ => Self::default(),
        }
    }

    /// The upright picture, with its width and height.
    pub(super) fn apply(self, width: usize, height: usize, pixels: Vec<u8>) -> (usize, usize, Vec<u8>) {
        if self == Self::default() {
            return (width, height, pixels);
        }
        let (wide, high) = if self.transposed { (height, width) } else { (width, height) };
        let mut out = Vec::with_capacity(pixels.len());
        for y in 0..high {
            for x in 0..wide {
                let x = if self.mirrored { wide - 1 - x } else { x };
                let y = if self.flipped { high - 1 - y } else { y };
                let (x, y) = if self.transposed { (y, x) } else { (x, y) };
                let start = (y * width + x) * 3;
                out.extend_from_slice(&pixels[start..start + 3]);
            }
        }
        (wide, high, out)
    }
}

/// The orientation in the first directory of a TIFF header: `None` if it has no such entry, `Some(None)` if that is
/// not a number.
fn orientation(tiff: &[u8]) -> Option<Option<u16>> {
    let little = match tiff.get(..4)? {
        b"II*\0" => true,
        b"MM\0*" => false,
        _ => return None,
    };
    let bytes = |at: usize, count: usize| tiff.get(at..at.checked_add(count)?);
    let short = |at: usize| {
        let two = bytes(at, 2)?.try_into().ok()?;
        Some(if little { u16::from_le_bytes(two) } else { u16::from_be_bytes(two) })
    };
    let four: [u8; 4] = bytes(4, 4)?.try_into().ok()?;
    let first = usize::try_from(if little { u32::from_le_bytes(four) } else { u32::from_be_bytes(four) }).ok()?;
    let entries = usize::from(short(first)?);
    let mut places = (0..entries).rev().map(|entry| first + 2 + ENTRY * entry);
    // The last of several, as for Pillow.
    let entry = places.find(|&at| short(at) == Some(ORIENTATION))?;
    let long = |at: usize| Some((short(at)?, short(at + 2)?));
    let one = long(entry + 4) == Some(if little { (1, 0) } else { (0, 1) });
    let kind = short(entry + 2)?;
    let value = match kind {
        4 | 9 => long(entry + 8).map(|(first, second)| if little { (first, second) } else { (second, first) }),
        _ => short(entry + 8).map(|value| (value, 0)),
    };
    Some(value.filter(|(_, high)| one && *high == 0 && INTEGERS.contains(&kind)).map(|(value, _)| value))
}
