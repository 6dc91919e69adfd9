use burn::module::Module;
use burn::tensor::Tensor;
use hyperinf_gradients::Tape;

use super::builder::Builder;
use crate::{Activation, AdaptableLinear, ModelError, VisionConfig};

/// How the features of a vision encoder become vectors of a language model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectorConfig {
    /// A block of `scale × scale` patches becomes one vector, by one linear layer without bias: Idefics3, SmolVLM.
    PixelShuffle {
        /// Patches along the side of a block.
        scale: usize,
    },
    /// Two linear layers with an activation between them, for every patch: LLaVA.
    Projector {
        /// The activation.
        activation: Activation,
        /// Whether the layers have a bias.
        bias: bool,
    },
}

/// The layers between a vision encoder and a language model.
#[derive(Module, Debug)]
pub struct Connector {
    first: AdaptableLinear,
    second: Option<AdaptableLinear>,
    #[module(skip)]
    config: ConnectorConfig,
    #[module(skip)]
    side: usize,
}

impl Connector {
    pub(super) fn build(
        builder: &mut Builder<'_>,
        prefix: &str,
        config: ConnectorConfig,
        vision: &VisionConfig,
        width: usize,
    ) -> Result<Self, ModelError> {
        let side = vision.side();
        let (input, bias) = match config {
            ConnectorConfig::PixelShuffle { scale } => {
                let fits = scale >= 1 && side.is_multiple_of(scale);
                crate::error::check(fits, "scale_factor", scale as f64, "a divisor of `image_size` / `patch_size`")?;
                (vision.width * scale * scale, false)
            }
            ConnectorConfig::Projector { bias, .. } => (vision.width, bias),
        };
        let [first, second] = names(config);
        let first = AdaptableLinear::Plain(builder.linear(&format!("{prefix}{first}"), input, width, bias)?);
        let second = match config {
            ConnectorConfig::PixelShuffle { .. } => None,
            ConnectorConfig::Projector { .. } => {
                Some(AdaptableLinear::Plain(builder.linear(&format!("{prefix}{second}"), width, width, bias)?))
            }
        };
        Ok(Self { first, second, config, side })
    }

    /// The kind of connector.
    pub fn config(&self) -> ConnectorConfig {
        self.config
    }

    /// Vectors per image with `features` features.
    pub(crate) fn vectors(config: ConnectorConfig, features: usize) -> usize {
        match config {
            ConnectorConfig::PixelShuffle { scale } => features / (scale * scale),
            ConnectorConfig::Projector { .. } => features,
        }
    }

    /// `[rows, t, d_vision]` to `[rows, t', d]`; rows belong to `samples` samples, as many to each.
    ///
    /// # Panics
    ///
    /// If the last dimension is not the vision encoder's.
    pub fn forward(&self, features: Tensor<3>, samples: usize, tape: &mut Tape) -> Tensor<3> {
        match self.config {
            ConnectorConfig::PixelShuffle { scale } => {
                self.first.forward_grouped(shuffled(features, self.side, scale), samples, tape)
            }
            ConnectorConfig::Projector { activation, .. } => {
                let inner = activation.apply(self.first.forward_grouped(features, samples, tape));
                match &self.second {
                    Some(second) => second.forward_grouped(inner, samples, tape),
                    None => inner,
                }
            }
        }
    }

    /// The layers with their names.
    pub(super) fn linears(&mut self) -> Vec<(&'static str, &mut AdaptableLinear)> {
        let [first, second] = names(self.config);
        std::iter::once((first, &mut self.first)).chain(self.second.as_mut().map(|layer| (second, layer))).collect()
    }

    /// Whether a layer leaves a capture or is trained.
    pub(super) fn is_plain(&self) -> bool {
        std::iter::once(&self.first).chain(&self.second).all(|layer| matches!(layer, AdaptableLinear::Plain(_)))
    }

    /// The name in a checkpoint of a parameter by its path.
    pub(super) fn checkpoint_name(&self, path: &str) -> String {
        let [first, second] = names(self.config);
        match path.split_once('.') {
            Some(("first", leaf)) => format!("{first}.{leaf}"),
            Some(("second", leaf)) => format!("{second}.{leaf}"),
            _ => path.to_owned(),
        }
    }
}

fn names(config: ConnectorConfig) -> [&'static str; 2] {
    match config {
        ConnectorConfig::PixelShuffle { .. } => ["modality_projection.proj", ""],
        ConnectorConfig::Projector { .. } => ["linear_1", "linear_2"],
    }
}

/// Each block of `scale × scale` patches as one position, its rows one after the other: `[rows, side², d]` to
/// `[rows, (side/scale)², scale² · d]`.
fn shuffled(x: Tensor<3>, side: usize, scale: usize) -> Tensor<3> {
    let [rows, _, d] = x.dims();
    let small = side / scale;
    let x = x.reshape([rows, side, small, scale * d]).swap_dims(1, 2);
    let x = x.reshape([rows, small, small, scale * scale * d]).swap_dims(1, 2);
    x.reshape([rows, small * small, scale * scale * d])
}
