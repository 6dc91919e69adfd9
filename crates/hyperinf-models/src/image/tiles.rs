//! Idefics3's and SmolVLM's tiles.

use super::picture::{Picture, PictureError, PictureLimits};
use super::resize::Resampling;

/// How a picture becomes tiles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tiling {
    /// The side of a tile (`max_image_size.longest_edge`).
    pub side: usize,
    /// Whether a picture is split (`do_image_splitting`); otherwise it is one tile.
    pub split: bool,
}

/// Tiles, and the numbers of their rows and columns.
type Tiles = (Vec<Picture>, usize, usize);

/// No picture is brought to a longer edge than this.
const LONGEST: usize = 4096;

/// The most tiles of a picture.
const MOST: usize = 1024;

impl Tiling {
    /// The tiles row by row and then the whole picture as one, with the numbers of rows and columns; or the whole
    /// picture alone, with no rows and columns.
    pub(super) fn tiles(self, picture: &Picture, resampling: Resampling) -> Result<Tiles, PictureError> {
        let Self { side, split } = self;
        bounded(side, side)?;
        let whole = |picture: &Picture| picture.resized(side, side, resampling);
        if !split {
            bounded(side, picture.height())?;
            return Ok((vec![whole(picture)], 0, 0));
        }
        let (width, height) = multiples(picture.width(), picture.height(), side);
        bounded(width, height)?;
        bounded(width, picture.height())?;
        let picture = picture.resized(width, height, resampling);
        if width <= side && height <= side {
            return Ok((vec![picture], 0, 0));
        }
        let (rows, columns) = (height / side, width / side);
        if rows * columns > MOST {
            return Err(PictureError::Tiles { rows, columns, limit: MOST });
        }
        let places = (0..rows).flat_map(|row| (0..columns).map(move |column| (row, column)));
        let corner = |place: usize| (place * side).cast_signed();
        let tile = |(row, column)| picture.cropped(corner(column), corner(row), side, side);
        let mut tiles: Vec<Picture> = places.map(tile).collect();
        tiles.push(whole(&picture));
        Ok((tiles, rows, columns))
    }
}

/// Width and height with this longest edge; the other edge is even, as far as it was rounded.
pub(super) fn with_longest_edge(width: usize, height: usize, edge: usize) -> (usize, usize) {
    let ratio = width as f64 / height as f64;
    let (width, height) = if width >= height {
        let height = (edge as f64 / ratio) as usize;
        (edge, height + height % 2)
    } else {
        let width = (edge as f64 * ratio) as usize;
        (width + width % 2, edge)
    };
    let (width, height) = (width.max(1), height.max(1));
    let ratio = width as f64 / height as f64;
    match (width, height) {
        (width, height) if width >= height && width > LONGEST => (LONGEST, ((LONGEST as f64 / ratio) as usize).max(1)),
        (_, height) if height > LONGEST => (((LONGEST as f64 * ratio) as usize).max(1), LONGEST),
        size => size,
    }
}

/// Width and height up to multiples of a tile's side.
fn multiples(width: usize, height: usize, side: usize) -> (usize, usize) {
    let up = |edge: usize| edge.div_ceil(side) * side;
    let ratio = width as f64 / height as f64;
    if width >= height {
        let width = up(width);
        (width, up((width as f64 / ratio) as usize))
    } else {
        let height = up(height);
        (up((height as f64 * ratio) as usize), height)
    }
}

/// Refuses sizes that a narrow picture would be enlarged to.
pub(super) fn bounded(width: usize, height: usize) -> Result<(), PictureError> {
    let limit = PictureLimits::default().pixels;
    let (width, height) = (width as u64, height as u64);
    match width.checked_mul(height) {
        Some(pixels) if pixels <= limit => Ok(()),
        _ => Err(PictureError::Enlarged { width, height, limit }),
    }
}
