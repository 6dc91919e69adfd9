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

/// The tag of the orientation, and the type of its value: an integer of 16 bits.
const ORIENTATION: u16 = 0x0112;
const SHORT: u16 = 3;
/// The length of an entry of a directory.
const ENTRY: usize = 12;

impl Turn {
    /// The turn that EXIF data ask for; none if they are damaged.
    pub(super) fn of(exif: &[u8]) -> Self {
        let turn = |transposed, mirrored, flipped| Self { transposed, mirrored, flipped };
        match orientation(exif.strip_prefix(b"Exif\0\0").unwrap_or(exif)) {
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

/// The value of the orientation in the first directory of a TIFF header.
fn orientation(tiff: &[u8]) -> Option<u16> {
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
    let entry = (0..entries).map(|entry| first + 2 + ENTRY * entry).find(|&at| short(at) == Some(ORIENTATION))?;
    if short(entry + 2)? == SHORT { short(entry + 8) } else { None }
}
