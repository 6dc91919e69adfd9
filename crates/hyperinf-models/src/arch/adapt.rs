use burn::module::Module;

use super::init::Init;
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

/// The target that matches every linear layer, as PEFT's `target_modules = "all-linear"`.
pub const ALL_LINEAR: &str = "all-linear";

/// Freezes a model and adds new adapters to the layers whose names end in one of `targets`.
///
/// Targets match as in PEFT's `target_modules`: `query` matches `…attention.self.query`, `self_attn.q_proj` matches
/// `…layers.0.self_attn.q_proj`, and [`ALL_LINEAR`] matches every layer. A layer that already has an adapter keeps it.
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
        if wanted && let Err(error) = layer.adapt(name, config, init.seed()) {
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

/// Whether a layer's name is the target or ends in `.` and the target.
fn matches(name: &str, target: &str) -> bool {
    target == ALL_LINEAR
        || name == target
        || name.strip_suffix(target).is_some_and(|stem| !target.is_empty() && stem.ends_with('.'))
}
