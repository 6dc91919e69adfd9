use burn::tensor::{Tensor, TensorData};

use super::autoencoder::Autoencoder;
use crate::{Crop, ImageProcessor, ModelError, Picture, PictureError, Resampling, TargetSize};

/// Turns pictures into what a denoiser sees, and back: values in `[−1, 1]`, or an autoencoder's latents of them.
///
/// A picture is brought to the model's size with its shorter edge (bilinear, as Pillow), and cut around its centre.
#[derive(Clone, Debug)]
pub struct ImageCoder {
    /// The side of pictures in pixels.
    side: usize,
    processor: ImageProcessor,
    autoencoder: Option<Autoencoder>,
}

impl ImageCoder {
    /// For a denoiser of pictures themselves, of this side.
    pub fn of_pixels(side: usize) -> Self {
        Self::of(side, None)
    }

    /// For a denoiser of an autoencoder's latents, of this side.
    pub fn of_latents(autoencoder: Autoencoder, side: usize) -> Self {
        Self::of(side * autoencoder.config().factor(), Some(autoencoder))
    }

    fn of(side: usize, autoencoder: Option<Autoencoder>) -> Self {
        let processor = ImageProcessor {
            size: Some(TargetSize::ShortestEdge(side)),
            resampling: Resampling::Bilinear,
            crop: Some(Crop { height: side, width: side }),
            factor: Some(1.0 / 255.0),
            normal: Some([(0.5, 0.5); 3]),
            ..ImageProcessor::default()
        };
        Self { side, processor, autoencoder }
    }

    /// The side of pictures in pixels.
    pub fn side(&self) -> usize {
        self.side
    }

    /// Pixels for each value of what the denoiser sees, along a side: 1 without an autoencoder.
    pub fn factor(&self) -> usize {
        self.autoencoder.as_ref().map_or(1, |model| model.config().factor())
    }

    /// Whether [`encode`](Self::encode) runs a model, so that its results are worth keeping.
    pub fn has_encoder(&self) -> bool {
        self.autoencoder.is_some()
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
        let side = self.side;
        check(pixels.len(), [3, side, side])?;
        let Some(model) = &self.autoencoder else { return Ok(pixels) };
        read(model.encode(Tensor::from_data(TensorData::new(pixels, [1, 3, side, side]), &model.device())))
    }

    /// The picture of what a denoiser sees.
    ///
    /// # Errors
    ///
    /// If the values are not those of a picture, or the device fails.
    pub fn decode(&self, values: &[f32]) -> Result<Picture, ModelError> {
        self.decode_square(values, self.side / self.factor())
    }

    /// As [`decode`](Self::decode), for a denoiser's square of another side.
    pub(super) fn decode_square(&self, values: &[f32], side: usize) -> Result<Picture, ModelError> {
        let Some(model) = &self.autoencoder else {
            check(values.len(), [3, side, side])?;
            return picture(values, side);
        };
        let channels = model.config().latent_channels;
        check(values.len(), [channels, side, side])?;
        let data = TensorData::new(values.to_vec(), [1, channels, side, side]);
        picture(&read(model.decode(Tensor::from_data(data, &model.device())))?, side * self.factor())
    }
}

fn picture(values: &[f32], side: usize) -> Result<Picture, ModelError> {
    let size = side * side;
    let byte = |value: f32| ((value + 1.0) * 127.5).round().clamp(0.0, 255.0) as u8;
    let pixels = (0..size).flat_map(|at| [0, 1, 2].map(|colour| byte(values[colour * size + at]))).collect();
    Picture::new(side, side, pixels).map_err(|error| ModelError::Read(error.to_string()))
}

fn read(tensor: Tensor<4>) -> Result<Vec<f32>, ModelError> {
    let data = tensor.try_into_data().map_err(|e| ModelError::Read(e.to_string()))?;
    Ok(data.iter().collect())
}

fn check(found: usize, expected: [usize; 3]) -> Result<(), ModelError> {
    if found == expected.iter().product::<usize>() {
        return Ok(());
    }
    let name = "picture".to_owned();
    Err(ModelError::WeightShape { name, found: vec![found], expected: expected.to_vec() })
}
