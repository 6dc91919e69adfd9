use std::hash::{Hash, Hasher};
use std::path::PathBuf;
use std::sync::Arc;

use burn::tensor::{Int, Tensor};

use crate::{LmBatch, LmSample};

/// Text with images, for a vision-language model.
///
/// Every image, or tile of one, takes as many image tokens as the model makes vectors of it; these follow in the order
/// of the tiles.
#[derive(Clone, Debug, PartialEq, Hash)]
pub struct VlmSample {
    /// The tokens, image tokens among them, and which of them are predicted.
    pub text: LmSample,
    /// The number of images or tiles.
    pub tiles: usize,
    /// The images or tiles.
    pub images: Images,
}

/// The images of a sample: their pixels, or what a frozen part of the model made of them.
#[derive(Clone, Debug)]
pub enum Images {
    /// There are none.
    None,
    /// `[tiles, channels, size, size]`.
    Pixels(Arc<Vec<f32>>),
    /// Features of all tiles.
    Features(FeatureStage, Arc<Vec<f32>>),
    /// Features in a file of a [`FeatureCache`](crate::FeatureCache), read for each batch.
    Stored(FeatureStage, PathBuf),
}

/// The part of a model that features were computed by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FeatureStage {
    /// The vision encoder: `[tiles, t, d_vision]`.
    Encoder,
    /// The connector: `[tiles, t', d]`.
    Connector,
}

impl Hash for Images {
    fn hash<H: Hasher>(&self, state: &mut H) {
        std::mem::discriminant(self).hash(state);
        match self {
            Self::None => {}
            Self::Pixels(values) => bits(values, state),
            Self::Features(stage, values) => {
                stage.hash(state);
                bits(values, state);
            }
            Self::Stored(stage, path) => (stage, path).hash(state),
        }
    }
}

impl PartialEq for Images {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::None, Self::None) => true,
            (Self::Pixels(a), Self::Pixels(b)) => a == b,
            (Self::Features(stage, a), Self::Features(other, b)) => stage == other && a == b,
            (Self::Stored(stage, a), Self::Stored(other, b)) => stage == other && a == b,
            _ => false,
        }
    }
}

fn bits<H: Hasher>(values: &[f32], state: &mut H) {
    values.len().hash(state);
    values.iter().for_each(|value| value.to_bits().hash(state));
}

/// A batch of [`VlmSample`]s.
#[derive(Clone, Debug)]
pub struct VlmBatch {
    /// The text.
    pub text: LmBatch,
    /// The images, as many tiles for every sample; missing tiles are zero.
    pub visual: Visual,
    /// Where the vector of each position comes from, `[n · t]`: row `i` of the embedded tokens `[n · t, d]`, or row
    /// `i − n · t` of the images' vectors.
    pub places: Tensor<1, Int>,
}

/// The images of a batch.
#[derive(Clone, Debug)]
pub enum Visual {
    /// There are none.
    None,
    /// `[n · tiles, channels, size, size]`.
    Pixels(Tensor<4>),
    /// Features, `[n · tiles, t, d]`.
    Features(FeatureStage, Tensor<3>),
}
