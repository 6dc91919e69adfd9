use crate::{Crop, ImageProcessor, ModelError, Picture, PictureError, Resampling, TargetSize};

/// Turns pictures into what a denoiser sees, and back: values in `[−1, 1]`.
///
/// A picture is brought to the model's size with its shorter edge (bilinear, as Pillow), and cut around its centre.
#[derive(Clone, Debug)]
pub struct ImageCoder {
    /// The side of pictures in pixels.
    side: usize,
    processor: ImageProcessor,
}

impl ImageCoder {
    /// For a denoiser of pictures themselves, of this side.
    pub fn of_pixels(side: usize) -> Self {
        let processor = ImageProcessor {
            size: Some(TargetSize::ShortestEdge(side)),
            resampling: Resampling::Bilinear,
            crop: Some(Crop { height: side, width: side }),
            factor: Some(1.0 / 255.0),
            normal: Some([(0.5, 0.5); 3]),
            ..ImageProcessor::default()
        };
        Self { side, processor }
    }

    /// The side of pictures in pixels.
    pub fn side(&self) -> usize {
        self.side
    }

    /// Whether [`encode`](Self::encode) runs a model, so that its results are worth keeping.
    pub fn has_encoder(&self) -> bool {
        false
    }

    /// The values of a picture, `[3, side, side]` in `[−1, 1]`.
    ///
    /// # Errors
    ///
    /// [`PictureError::Enlarged`] if a narrow picture would become too large.
    pub fn pixels(&self, picture: &Picture) -> Result<Vec<f32>, PictureError> {
        let mut tiles = self.processor.process(picture)?.tiles;
        Ok(tiles.pop().map(|tile| tile.values).unwrap_or_default())
    }

    /// What the denoiser sees of a picture's values, in the denoiser's shape.
    ///
    /// # Errors
    ///
    /// If the values are not those of a picture, or the device fails.
    pub fn encode(&self, pixels: Vec<f32>) -> Result<Vec<f32>, ModelError> {
        self.check(pixels.len())?;
        Ok(pixels)
    }

    /// The picture of what a denoiser sees.
    ///
    /// # Errors
    ///
    /// If the values are not those of a picture, or the device fails.
    pub fn decode(&self, values: &[f32]) -> Result<Picture, ModelError> {
        self.check(values.len())?;
        let (size, side) = (self.side * self.side, self.side);
        let byte = |value: f32| ((value + 1.0) * 127.5).round().clamp(0.0, 255.0) as u8;
        let pixels = (0..size).flat_map(|at| [0, 1, 2].map(|colour| byte(values[colour * size + at]))).collect();
        Picture::new(side, side, pixels).map_err(|error| ModelError::Read(error.to_string()))
    }

    fn check(&self, found: usize) -> Result<(), ModelError> {
        let expected = 3 * self.side * self.side;
        if found == expected {
            return Ok(());
        }
        let name = "picture".to_owned();
        Err(ModelError::WeightShape { name, found: vec![found], expected: vec![3, self.side, self.side] })
    }
}
