//! Batches for [`VisionLanguage`].

use burn::tensor::{DType, Device, Tensor, TensorData};

use crate::{
    FeatureCache, FeatureStage, Images, LmBatch, ModelError, SampleModel, VisionLanguage, Visual, VlmBatch, VlmSample,
};

/// What the images of a batch are.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Pixels,
    Features(FeatureStage),
}

impl VlmBatch {
    /// Pads samples to the longest text and to the most tiles of them.
    ///
    /// # Errors
    ///
    /// As [`LmBatch::new`]; if the image tokens of a sample are not as many as the vectors of its images, images have
    /// other sizes than the model's, samples hold images in several forms, or features were computed by a part of the
    /// model that is adapted or recorded.
    pub fn new(samples: &[&VlmSample], model: &VisionLanguage) -> Result<Self, ModelError> {
        let (config, device) = (model.config(), model.device());
        let texts: Vec<_> = samples.iter().map(|sample| &sample.text).collect();
        let text = LmBatch::new(&texts, &config.text, &device)?;
        let stage = model.frozen_stage();
        let form = form(samples, stage)?;
        // A recorded layer must be run even where no sample has an image: every batch has the same blocks.
        let needed = usize::from(stage != Some(FeatureStage::Connector));
        let tiles = samples.iter().map(|sample| sample.tiles).max().unwrap_or(0).max(needed);
        let places = places(samples, &text, tiles, model)?;
        if tiles == 0 {
            return Ok(Self { text, visual: Visual::None, places });
        }
        let shape = match form {
            Form::Pixels => vec![config.vision.channels, config.vision.image_size, config.vision.image_size],
            Form::Features(stage) => model.feature_shape(stage).to_vec(),
        };
        let values = values(samples, tiles, shape.iter().product())?;
        let (n, place) = (samples.len(), (&device, model.dtype()));
        let visual = match (form, &shape[..]) {
            (Form::Features(stage), &[t, d]) => Visual::Features(stage, tensor(values, [n * tiles, t, d], place)),
            (_, &[channels, height, width]) => {
                Visual::Pixels(tensor(values, [n * tiles, channels, height, width], place))
            }
            _ => Visual::None,
        };
        Ok(Self { text, visual, places })
    }
}

fn tensor<const D: usize>(values: Vec<f32>, shape: [usize; D], place: (&Device, DType)) -> Tensor<D> {
    Tensor::from_data(TensorData::new(values, shape), place)
}

/// The form that all samples with images share.
fn form(samples: &[&VlmSample], frozen: Option<FeatureStage>) -> Result<Form, ModelError> {
    let mut found: Option<(usize, Form)> = None;
    for (sample, one) in samples.iter().enumerate() {
        let form = match &one.images {
            Images::None => continue,
            Images::Pixels(_) => Form::Pixels,
            Images::Features(stage, _) | Images::Stored(stage, _) => Form::Features(*stage),
        };
        let fits = match (form, frozen) {
            (Form::Pixels, _) | (Form::Features(_), Some(FeatureStage::Connector)) => true,
            (Form::Features(stage), Some(FeatureStage::Encoder)) => stage == FeatureStage::Encoder,
            (Form::Features(_), None) => false,
        };
        if !fits {
            return Err(ModelError::StaleFeatures { sample });
        }
        match found {
            None => found = Some((sample, form)),
            Some((_, other)) if other == form => {}
            Some((first, _)) => return Err(ModelError::MixedImages { first, second: sample }),
        }
    }
    Ok(match (found, frozen) {
        (Some((_, form)), _) => form,
        (None, Some(stage)) => Form::Features(stage),
        (None, None) => Form::Pixels,
    })
}

/// Where the vector of each position comes from.
fn places(
    samples: &[&VlmSample],
    text: &LmBatch,
    tiles: usize,
    model: &VisionLanguage,
) -> Result<Tensor<1, burn::tensor::Int>, ModelError> {
    let ([n, t], vectors, token) = (text.tokens.dims(), model.config().vectors(), model.config().image_token);
    let mut places = Vec::with_capacity(n * t);
    for (sample, one) in samples.iter().enumerate() {
        let mut seen = 0;
        for position in 0..t {
            if one.text.tokens.get(position) == Some(&token) {
                places.push((n * t + sample * tiles * vectors + seen) as i64);
                seen += 1;
            } else {
                places.push((sample * t + position) as i64);
            }
        }
        if seen != one.tiles * vectors {
            return Err(ModelError::ImageTokens { sample, tokens: seen, tiles: one.tiles, vectors });
        }
    }
    Ok(Tensor::from_data(TensorData::new(places, [n * t]), &model.device()))
}

/// The numbers of all samples' tiles, zeros for missing ones.
fn values(samples: &[&VlmSample], tiles: usize, tile: usize) -> Result<Vec<f32>, ModelError> {
    let mut all = vec![0.0; samples.len() * tiles * tile];
    for (sample, one) in samples.iter().enumerate() {
        let start = sample * tiles * tile;
        let mut put = |values: &[f32]| {
            if values.len() != one.tiles * tile {
                return Err(ModelError::Pixels { sample, found: values.len(), tile: one.tiles * tile });
            }
            all[start..start + values.len()].copy_from_slice(values);
            Ok(())
        };
        match &one.images {
            Images::None => put(&[])?,
            Images::Pixels(values) | Images::Features(_, values) => put(values)?,
            Images::Stored(_, path) => put(&FeatureCache::read(path)?)?,
        }
    }
    Ok(all)
}
