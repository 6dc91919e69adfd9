use crate::error::check;
use crate::{Activation, ModelError};

/// The sizes and the form of a [`VisionEncoder`](crate::VisionEncoder).
///
/// | field | range |
/// |---|---|
/// | `image_size` | a multiple of `patch_size` |
/// | `patch_size`, `channels`, `width`, `layers`, `feed_forward` | ≥ 1 |
/// | `used_layers` | at most `layers` |
/// | `heads` | a divisor of `width` |
/// | `norm_epsilon` | finite, > 0 |
///
/// A value outside its range is a [`ModelError::Setting`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct VisionConfig {
    /// What comes before and after the layers.
    pub form: VisionForm,
    /// Height and width of an image, in pixels.
    pub image_size: usize,
    /// Height and width of a patch, in pixels.
    pub patch_size: usize,
    /// Colours of a pixel.
    pub channels: usize,
    /// Width of the hidden states, `d`.
    pub width: usize,
    /// Number of layers.
    pub layers: usize,
    /// The layers that run: the features are the output of the last of them.
    pub used_layers: usize,
    /// Number of attention heads.
    pub heads: usize,
    /// Inner width of the feed-forward part.
    pub feed_forward: usize,
    /// The activation of the feed-forward part.
    pub activation: Activation,
    /// The `ε` of the normalisations.
    pub norm_epsilon: f64,
}

/// What comes before and after the layers of a vision encoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VisionForm {
    /// CLIP: a class token in front, a normalisation before the first layer, none after the last, no bias of patches.
    Clip {
        /// Whether the class token's state is one of the features.
        class_feature: bool,
    },
    /// SigLIP, as in Idefics3 and SmolVLM: patches only, with a bias, and a normalisation after the last layer.
    Siglip,
}

impl VisionConfig {
    /// Fails if a value is outside its range.
    ///
    /// # Errors
    ///
    /// [`ModelError::Setting`] with the first such value.
    pub fn validate(&self) -> Result<(), ModelError> {
        for (name, value) in [
            ("image_size", self.image_size),
            ("patch_size", self.patch_size),
            ("num_channels", self.channels),
            ("width", self.width),
            ("layers", self.layers),
            ("heads", self.heads),
            ("feed_forward", self.feed_forward),
        ] {
            check(value >= 1, name, value as f64, "at least 1")?;
        }
        let image = self.image_size;
        check(image.is_multiple_of(self.patch_size), "image_size", image as f64, "a multiple of `patch_size`")?;
        check(self.used_layers <= self.layers, "used_layers", self.used_layers as f64, "at most `layers`")?;
        check(self.width.is_multiple_of(self.heads), "heads", self.heads as f64, "a divisor of `width`")?;
        let epsilon = self.norm_epsilon;
        check(epsilon.is_finite() && epsilon > 0.0, "norm_epsilon", epsilon, "positive and finite")
    }

    /// Patches along a side of an image.
    pub fn side(&self) -> usize {
        self.image_size / self.patch_size
    }

    /// Rows of the table of positions.
    pub fn positions(&self) -> usize {
        self.side() * self.side() + usize::from(matches!(self.form, VisionForm::Clip { .. }))
    }

    /// Features of an image.
    pub fn features(&self) -> usize {
        self.side() * self.side() + usize::from(self.form == VisionForm::Clip { class_feature: true })
    }

    /// The row of the table of positions of each patch along a side, as Idefics3 finds it: the number of boundaries
    /// `1/n, 2/n, …` up to the patch's place in the image, in f32, where rounding may move a patch to its neighbour.
    pub(super) fn buckets(&self) -> Vec<usize> {
        let n = self.side();
        let step = 1.0 / n as f64;
        let count = ((1.0 - step) / step).ceil() as usize;
        let boundaries: Vec<f32> = (0..count).map(|i| (step + i as f64 * step) as f32).collect();
        let place = |patch: usize| (patch as f32 * (1.0 / n as f32)).min((1.0 - 1e-6) as f32);
        let bucket = |patch| boundaries.iter().filter(|boundary| **boundary <= place(patch)).count();
        (0..n).map(bucket).collect()
    }
}
