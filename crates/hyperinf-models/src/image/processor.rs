use super::picture::{Picture, PictureError};
use super::resize::Resampling;
use super::tiles::{Tiling, bounded, with_longest_edge};

/// What is done with a picture before a model gets it, in this order: a square, another size, tiles, a part around
/// the centre, a factor, and normal values.
///
/// [`ImageProcessor::load`] reads it from a model's folder. The default changes nothing but the type: values from 0 to
/// 255.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ImageProcessor {
    /// The colour that fills a picture up to a square (LLaVA's `do_pad`).
    pub square: Option<[u8; 3]>,
    /// The size that it is brought to.
    pub size: Option<TargetSize>,
    /// How.
    pub resampling: Resampling,
    /// How it becomes tiles.
    pub tiling: Option<Tiling>,
    /// The part around the centre that is kept; what it lacks is black.
    pub crop: Option<Crop>,
    /// The factor of the values from 0 to 255.
    pub factor: Option<f64>,
    /// Mean and standard deviation of each colour, for `(value − mean) / deviation`.
    pub normal: Option<[(f32, f32); 3]>,
}

/// A size that pictures are brought to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TargetSize {
    /// This size.
    Exact {
        /// The height.
        height: usize,
        /// The width.
        width: usize,
    },
    /// The shorter edge gets this length, the ratio of the edges stays.
    ShortestEdge(usize),
    /// The longer edge gets this length, the ratio of the edges stays (Idefics3: the other edge becomes even).
    LongestEdge(usize),
}

/// The part around the centre of a picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Crop {
    /// Its height.
    pub height: usize,
    /// Its width.
    pub width: usize,
}

/// The values of a tile, `[3, height, width]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Pixels {
    /// Colours, rows, columns.
    pub shape: [usize; 3],
    /// The values, row by row, of one colour after the other.
    pub values: Vec<f32>,
}

/// A picture as a model gets it.
#[derive(Clone, Debug, PartialEq)]
pub struct Processed {
    /// Its tiles row by row, then the whole picture as one tile; or one tile alone.
    pub tiles: Vec<Pixels>,
    /// Rows of tiles; 0 for one tile alone.
    pub rows: usize,
    /// Columns of tiles; 0 for one tile alone.
    pub columns: usize,
}

impl TargetSize {
    /// Width and height for a picture of a width and height.
    fn of(self, width: usize, height: usize) -> (usize, usize) {
        // Zero for a picture that is so narrow that nothing would be left of it.
        let other = |edge: usize, long: usize, short: usize| (edge * long / short).max(1);
        match self {
            Self::Exact { height, width } => (width, height),
            Self::ShortestEdge(edge) if width <= height => (edge, other(edge, height, width)),
            Self::ShortestEdge(edge) => (other(edge, width, height), edge),
            Self::LongestEdge(edge) => with_longest_edge(width, height, edge),
        }
    }
}

impl ImageProcessor {
    /// The values of a picture, equal to transformers' processors that use Pillow.
    ///
    /// Every picture of a processor with an exact size, a crop or tiles gives tiles of one shape.
    ///
    /// # Errors
    ///
    /// [`PictureError::Enlarged`] if a narrow picture would become too large.
    pub fn process(&self, picture: &Picture) -> Result<Processed, PictureError> {
        let squared = self.square.map(|colour| square(picture, colour)).transpose()?;
        let picture = squared.as_ref().unwrap_or(picture);
        let resized = |size: TargetSize| {
            let (width, height) = size.of(picture.width(), picture.height());
            bounded(width, height)?;
            // Between the two steps of resizing.
            bounded(width, picture.height())?;
            Ok(picture.resized(width, height, self.resampling))
        };
        let sized = self.size.map(resized).transpose()?;
        let picture = sized.as_ref().unwrap_or(picture);
        let (tiles, rows, columns) = match self.tiling {
            Some(tiling) => tiling.tiles(picture, self.resampling)?,
            None => (vec![picture.clone()], 0, 0),
        };
        if let Some(Crop { height, width }) = self.crop {
            bounded(width, height)?;
        }
        let table = self.table();
        Ok(Processed { tiles: tiles.iter().map(|tile| self.pixels(tile, &table)).collect(), rows, columns })
    }

    /// What each value from 0 to 255 of each colour becomes.
    fn table(&self) -> [[f32; 256]; 3] {
        let entry = |colour: usize, value: usize| {
            let value = self.factor.map_or(value as f32, |factor| (value as f64 * factor) as f32);
            self.normal.map_or(value, |normal| (value - normal[colour].0) / normal[colour].1)
        };
        std::array::from_fn(|colour| std::array::from_fn(|value| entry(colour, value)))
    }

    fn pixels(&self, tile: &Picture, table: &[[f32; 256]; 3]) -> Pixels {
        let cropped = self.crop.map(|Crop { height, width }| {
            let middle = |whole: usize, part: usize| (whole.cast_signed() - part.cast_signed()).div_euclid(2);
            tile.cropped(middle(tile.width(), width), middle(tile.height(), height), width, height)
        });
        let tile = cropped.as_ref().unwrap_or(tile);
        let mut values = Vec::with_capacity(tile.pixels().len());
        for (colour, table) in table.iter().enumerate() {
            values.extend(tile.pixels().iter().skip(colour).step_by(3).map(|&value| table[usize::from(value)]));
        }
        Pixels { shape: [3, tile.height(), tile.width()], values }
    }
}

/// The picture in the middle of a square of a colour.
fn square(picture: &Picture, colour: [u8; 3]) -> Result<Picture, PictureError> {
    let (width, height) = (picture.width(), picture.height());
    let side = width.max(height);
    bounded(side, side)?;
    let (left, top) = ((side - width) / 2, (side - height) / 2);
    let mut pixels: Vec<u8> = colour.iter().copied().cycle().take(side * side * 3).collect();
    for (row, line) in picture.pixels().chunks_exact(width * 3).enumerate() {
        let start = ((top + row) * side + left) * 3;
        pixels[start..start + width * 3].copy_from_slice(line);
    }
    Picture::new(side, side, pixels)
}
