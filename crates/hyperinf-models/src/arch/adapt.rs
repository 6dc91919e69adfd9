use burn::module::Module;

use super::init::Init;
use super::lora::Recorded;
use crate::{AdaptableEmbedding, AdaptableLinear, LoraConfig, ModelError};

/// A model whose linear layers can be adapted.
///
/// Layers have the names that PEFT gives them in an adapter's file, including the prefix:
/// `base_model.model.model.layers.3.self_attn.q_proj`. Followed by `.lora_A.weight` or `.lora_B.weight`, they name the
/// blocks of gradients.
pub trait Adaptable: Module {
    /// Calls `visit` with every adaptable layer and its name, in the order of first use.
    fn visit_layers(&mut self, visit: &mut dyn FnMut(&str, &mut AdaptableLinear));

    /// The model with every parameter frozen that adapters leave unchanged. A classification head, which PEFT lists
    /// in `modules_to_save`, stays trainable.
    #[must_use]
    fn freeze_base(self) -> Self {
        self.no_grad()
    }

    /// Calls `visit` with the output layer and its name, if it is a layer that only named adapters are added to, as
    /// PEFT's: the head of a language model.
    fn visit_head(&mut self, _visit: &mut dyn FnMut(&str, &mut AdaptableLinear)) {}

    /// The token embedding and its name, if it can be adapted.
    fn embedding(&mut self) -> Option<(&'static str, &mut AdaptableEmbedding)> {
        None
    }

    /// Whether the model draws images. Its new adapters begin with a normal first factor of standard deviation `1/r`,
    /// as is usual there (PEFT's `init_lora_weights = "gaussian"`), and PEFT has no name for its task.
    fn generates_images(&self) -> bool {
        false
    }

    /// The part that a layer belongs to, by its name.
    fn part(&self, _name: &str) -> Option<ModelPart> {
        None
    }

    /// Whether the output layer is the token embedding.
    fn is_tied(&self) -> bool {
        false
    }

    /// The model with an output layer of its own, which starts as a copy of the token embedding that it was tied to. A
    /// model that is not tied stays as it is.
    #[must_use]
    fn untied(self) -> Self {
        self
    }
}

/// A part of a model whose own weights can be recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ModelPart {
    /// The layers between a vision encoder and a language model.
    Connector,
    /// The last layer of a language model.
    LastLayer,
}

/// The layers whose gradients are taken: HyperINF's three choices for vision-language models, and adapters alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RecordedParts {
    /// The factors of all adapters.
    #[default]
    Adapters,
    /// The weights and biases of the connector.
    Connector,
    /// The weights and biases of the language model's last layer, and the factors of its adapters. Gains of its
    /// normalisations are left out.
    LastLayer,
    /// The connector's weights and biases, and the factors of all adapters.
    ConnectorAndAdapters,
}

impl RecordedParts {
    /// All, with their names.
    pub const NAMES: [(&'static str, Self); 4] = [
        ("adapters", Self::Adapters),
        ("connector", Self::Connector),
        ("last-layer", Self::LastLayer),
        ("connector+adapters", Self::ConnectorAndAdapters),
    ];

    /// The name, as in [`NAMES`](Self::NAMES).
    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(_, parts)| *parts == self).map_or("", |(name, _)| name)
    }

    fn of(self, part: Option<ModelPart>) -> Recorded {
        let (factors, part_wanted) = match self {
            Self::Adapters => (true, None),
            Self::Connector => (part == Some(ModelPart::Connector), Some(ModelPart::Connector)),
            Self::LastLayer => (part == Some(ModelPart::LastLayer), Some(ModelPart::LastLayer)),
            Self::ConnectorAndAdapters => (true, Some(ModelPart::Connector)),
        };
        Recorded { factors, weight: part_wanted.is_some() && part == part_wanted }
    }
}

/// The model with tapes recording these parts and nothing else.
///
/// # Errors
///
/// [`ModelError::NoPart`] if the model lacks a part.
pub fn record<M: Adaptable>(model: M, parts: RecordedParts) -> Result<M, ModelError> {
    let names = model.clone();
    let mut model = model;
    let mut found = parts == RecordedParts::Adapters;
    let mut visit = |name: &str, layer: &mut AdaptableLinear| {
        let recorded = parts.of(names.part(name));
        found |= recorded.weight;
        layer.record(name, recorded);
    };
    model.visit_layers(&mut visit);
    model.visit_head(&mut visit);
    if found { Ok(model) } else { Err(ModelError::NoPart { part: parts.name() }) }
}

/// The model with adapters that drop nothing, not even in training: its losses in training are those of predictions.
#[must_use]
pub fn without_dropout<M: Adaptable>(mut model: M) -> M {
    let mut stop = |_: &str, layer: &mut AdaptableLinear| {
        if let AdaptableLinear::Lora(lora) = layer {
            lora.stop_dropout();
        }
    };
    model.visit_layers(&mut stop);
    model.visit_head(&mut stop);
    model
}

/// The target that matches every linear layer, as PEFT's `target_modules = "all-linear"`.
pub const ALL_LINEAR: &str = "all-linear";

/// Freezes a model and adds new adapters to the layers whose names end in one of `targets`.
///
/// Targets match as in PEFT's `target_modules`: `query` matches `…attention.self.query`, `self_attn.q_proj` matches
/// `…layers.0.self_attn.q_proj`, and [`ALL_LINEAR`] matches every layer. In a target with `*`, which stands for any
/// text, the whole name must fit: `*text_model*q_proj`. A layer that already has an adapter keeps it.
/// Equal seeds give equal adapters on every device.
///
/// # Errors
///
/// If there are no targets, one matches no layer (the error lists the existing names), or the configuration is invalid.
pub fn adapt<M: Adaptable>(model: M, targets: &[&str], config: &LoraConfig, seed: u64) -> Result<M, ModelError> {
    config.validate()?;
    if targets.is_empty() {
        return Err(ModelError::Empty { what: "layers to adapt" });
    }
    let device = model.devices().into_iter().next().ok_or(ModelError::Empty { what: "parameters of the model" })?;
    let mut init = Init::new(seed, &device);
    let mut model = model.freeze_base();
    let gaussian = model.generates_images();
    let mut used = vec![false; targets.len()];
    let mut known: Vec<String> = Vec::new();
    let mut failed = None;
    model.visit_layers(&mut |name, layer| {
        let last = name.rsplit('.').next().unwrap_or(name);
        if !known.iter().any(|other| other == last) {
            known.push(last.to_owned());
        }
        let mut wanted = false;
        for (target, used) in targets.iter().zip(&mut used) {
            if matches(name, target) {
                (wanted, *used) = (true, true);
            }
        }
        if wanted && let Err(error) = layer.adapt_from(name, config, init.seed(), gaussian) {
            failed.get_or_insert(error);
        }
    });
    if let Some(error) = failed {
        return Err(error);
    }
    match used.iter().position(|used| !used) {
        Some(target) => Err(ModelError::Target { target: targets[target].to_owned(), known }),
        None => Ok(model),
    }
}

/// Whether a layer's name is the target, ends in `.` and the target, or fits a target with `*` as a whole.
fn matches(name: &str, target: &str) -> bool {
    if let Some((start, rest)) = target.split_once('*') {
        let Some(mut left) = name.strip_prefix(start) else { return false };
        let mut parts: Vec<&str> = rest.split('*').collect();
        let end = parts.pop().unwrap_or_default();
        for part in parts {
            let Some((_, after)) = left.split_once(part) else { return false };
            left = after;
        }
        return left.ends_with(end);
    }
    target == ALL_LINEAR
        || name == target
        || name.strip_suffix(target).is_some_and(|stem| !target.is_empty() && stem.ends_with('.'))
}
