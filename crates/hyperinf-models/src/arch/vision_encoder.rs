use burn::module::{Module, Param};
use burn::nn::{LayerNorm, Linear};
use burn::tensor::{Bool, Device, Int, Tensor, TensorData, assert_shape};
use hyperinf_gradients::Tape;
use hyperinf_ops as ops;

use super::builder::Builder;
use super::encoder_layer::EncoderLayer;
use crate::{AdaptableLinear, EncoderConfig, ModelError, NormPlacement, VisionConfig, VisionForm};

/// A vision transformer (Dosovitskiy et al. 2021) that normalises before each part: the encoders of CLIP (Radford et
/// al. 2021) and SigLIP (Zhai et al. 2023).
///
/// A patch is a linear layer on its pixels, which equals a convolution whose stride is its kernel.
#[derive(Module, Debug)]
pub struct VisionEncoder {
    /// `[channels · patch², d]`.
    patch_embedding: Linear,
    class_embedding: Option<Param<Tensor<1>>>,
    position_embedding: Param<Tensor<2>>,
    /// Before the first layer.
    pre_norm: Option<LayerNorm>,
    layers: Vec<EncoderLayer>,
    /// After the last layer.
    post_norm: Option<LayerNorm>,
    #[module(skip)]
    config: VisionConfig,
}

impl VisionEncoder {
    pub(super) fn build(builder: &mut Builder<'_>, prefix: &str, config: VisionConfig) -> Result<Self, ModelError> {
        config.validate()?;
        let clip = matches!(config.form, VisionForm::Clip { .. });
        let width = config.width;
        let pixels = config.channels * config.patch_size * config.patch_size;
        let layer = EncoderConfig {
            width,
            heads: config.heads,
            feed_forward: config.feed_forward,
            norm: NormPlacement::Pre,
            norm_epsilon: config.norm_epsilon,
            activation: config.activation,
            ..EncoderConfig::default()
        };
        let name = |part: &str| format!("{prefix}{part}");
        let class = name("embeddings.class_embedding");
        Ok(Self {
            patch_embedding: builder.linear(&name("embeddings.patch_embedding"), pixels, width, !clip)?,
            class_embedding: if clip { Some(builder.vector(&class, width)?) } else { None },
            position_embedding: builder
                .embedding(&name("embeddings.position_embedding"), [config.positions(), width])?
                .weight,
            pre_norm: if clip {
                Some(builder.layer_norm(&name("pre_layrnorm"), width, config.norm_epsilon)?)
            } else {
                None
            },
            layers: (0..config.layers)
                .map(|index| EncoderLayer::build(builder, &name(&format!("encoder.layers.{index}")), &layer))
                .collect::<Result<_, _>>()?,
            post_norm: if clip {
                None
            } else {
                Some(builder.layer_norm(&name("post_layernorm"), width, config.norm_epsilon)?)
            },
            config,
        })
    }

    /// The features of images, which belong to `samples` samples, as many to each.
    ///
    /// # Shapes
    ///
    /// `pixels`: `[rows, channels, size, size]`; output: `[rows, t, d]` with [`VisionConfig::features`] `t`.
    ///
    /// # Panics
    ///
    /// If an image has another shape, or `samples` does not divide the rows.
    pub fn forward(&self, pixels: Tensor<4>, samples: usize, tape: &mut Tape) -> Tensor<3> {
        let (side, patch, channels) = (self.config.side(), self.config.patch_size, self.config.channels);
        assert_shape!(pixels, [_, channels, self.config.image_size, self.config.image_size]);
        let [rows, ..] = pixels.dims();
        let device = pixels.device();
        let patches = pixels.reshape([rows, channels, side, patch, side, patch]).permute([0, 2, 4, 1, 3, 5]);
        let patches = patches.reshape([rows, side * side, channels * patch * patch]);
        let mut x = ops::linear(&self.patch_embedding, patches);
        let d = self.config.width;
        if let Some(class) = &self.class_embedding {
            x = Tensor::cat(vec![class.val().reshape([1, 1, d]).expand([rows, 1, d]), x], 1);
        }
        x = x + self.positions(&device).unsqueeze();
        if let Some(norm) = &self.pre_norm {
            x = ops::layer_norm(norm, self.config.norm_epsilon, x);
        }
        let nothing = Tensor::<4, Bool>::from_data(TensorData::new(vec![false], [1, 1, 1, 1]), &device);
        for layer in &self.layers[..self.config.used_layers] {
            x = layer.forward(x, &nothing, samples, tape);
        }
        if let Some(norm) = &self.post_norm {
            x = ops::layer_norm(norm, self.config.norm_epsilon, x);
        }
        match self.config.form {
            VisionForm::Clip { class_feature: false } => x.narrow(1, 1, side * side),
            VisionForm::Clip { class_feature: true } | VisionForm::Siglip => x,
        }
    }

    /// The position of each patch, `[t, d]`.
    fn positions(&self, device: &Device) -> Tensor<2> {
        let table = self.position_embedding.val();
        if self.config.form != VisionForm::Siglip {
            return table;
        }
        let (side, buckets) = (self.config.side(), self.config.buckets());
        let rows: Vec<i64> =
            buckets.iter().flat_map(|row| buckets.iter().map(move |col| (row * side + col) as i64)).collect();
        let t = rows.len();
        table.select(0, Tensor::<1, Int>::from_data(TensorData::new(rows, [t]), device))
    }

    /// The encoder's sizes.
    pub fn config(&self) -> &VisionConfig {
        &self.config
    }

    /// Calls `visit` with every linear layer and its name, which starts with `prefix`, in the order of use.
    pub(super) fn visit_layers(&mut self, prefix: &str, visit: &mut dyn FnMut(&str, &mut AdaptableLinear)) {
        for (index, layer) in self.layers.iter_mut().enumerate() {
            for (part, linear) in layer.linears() {
                visit(&format!("{prefix}encoder.layers.{index}.{}", published(part)), linear);
            }
        }
    }
}

/// The published name of a part of a layer.
fn published(part: &str) -> &str {
    match part {
        "q_proj" => "self_attn.q_proj",
        "k_proj" => "self_attn.k_proj",
        "v_proj" => "self_attn.v_proj",
        "out_proj" => "self_attn.out_proj",
        "fc1" => "mlp.fc1",
        "fc2" => "mlp.fc2",
        "attention_norm" => "layer_norm1",
        "feed_forward_norm" => "layer_norm2",
        other => other,
    }
}

/// The name in a checkpoint of a parameter by its path in [`VisionEncoder`].
pub(super) fn checkpoint_name(path: &str) -> String {
    let path = path.replace(".gamma", ".weight").replace(".beta", ".bias");
    if let Some((index, rest)) = path.strip_prefix("layers.").and_then(|rest| rest.split_once('.')) {
        let (part, leaf) = rest.split_once('.').unwrap_or((rest, ""));
        return format!("encoder.layers.{index}.{}.{leaf}", published(part));
    }
    match path.split_once('.') {
        Some(("pre_norm", leaf)) => format!("pre_layrnorm.{leaf}"),
        Some(("post_norm", leaf)) => format!("post_layernorm.{leaf}"),
        None if path == "position_embedding" => format!("embeddings.{path}.weight"),
        _ => format!("embeddings.{path}"),
    }
}
