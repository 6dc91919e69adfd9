use burn::module::Module;

use crate::init::Init;
use crate::{LoraConfig, ModelError, Projection};

/// A model whose linear layers can be adapted.
///
/// Layers have the names that PEFT gives them in an adapter's file, the prefix included:
/// `base_model.model.model.layers.3.self_attn.q_proj`. With `.lora_A.weight` behind them they are the names of blocks.
pub trait Adaptable: Module {
    /// Calls `visit` with every such layer and its name, in the order of their first use.
    fn projections(&mut self, visit: &mut dyn FnMut(&str, &mut Projection));

    /// The model with everything frozen that stays as it is while adapters are trained; a head of its own, which
    /// PEFT calls a module to save, is not.
    fn freeze_base(self) -> Self {
        self.no_grad()
    }
}

/// Every linear layer, as PEFT's `target_modules = "all-linear"`.
pub const ALL_LINEAR: &str = "all-linear";

/// Freezes a model and adds new adapters to the layers whose names end in one of `targets`.
///
/// As PEFT's `target_modules`: `query` fits `…attention.self.query`, `self_attn.q_proj` fits
/// `…layers.0.self_attn.q_proj`, and [`ALL_LINEAR`] fits every layer. A layer that has an adapter already keeps it.
///
/// # Errors
///
/// If there are no targets, one of them fits no layer (the error lists the names that exist), or the configuration is
/// invalid.
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
    model.projections(&mut |name, layer| {
        let last = name.rsplit('.').next().unwrap_or(name);
        if !known.iter().any(|other| other == last) {
            known.push(last.to_owned());
        }
        let mut wanted = false;
        for (target, used) in targets.iter().zip(&mut used) {
            if fits(name, target) {
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

/// Whether a layer's name ends in the target, at a dot.
fn fits(name: &str, target: &str) -> bool {
    target == ALL_LINEAR
        || name == target
        || name.strip_suffix(target).is_some_and(|stem| !target.is_empty() && stem.ends_with('.'))
}
