use std::collections::BTreeMap;

use burn::module::Param;
use burn::tensor::{Tensor, TensorData};

use super::layout::transposed;
use super::peft_config::ends_in;
use super::peft_modules::{SavedModules, read_modules};
use crate::{
    Adaptable, AdaptableLinear, AdapterConfig, AdapterTask, CheckpointNames, LoadError, LoraConfig, LoraLinear,
    LoraScaling, TargetModules,
};

/// The beginning of every name in an adapter's file.
pub(super) const PREFIX: &str = "base_model.model.";
pub(super) const A: &str = ".lora_A.weight";
pub(super) const B: &str = ".lora_B.weight";
/// The modules next to the encoder or decoder that are trained as a whole.
const HEADS: [&str; 2] = ["classifier", "score"];

/// A LoRA adapter in PEFT's format: settings and tensors.
///
/// The tensors are f32 and have PEFT's names and layout: `….lora_A.weight` is `[r, d_input]` and `….lora_B.weight` is
/// `[d_output, r]`, the transposes of [`LoraLinear`]'s factors; `base_model.model.classifier.weight` `[classes, d]`
/// belongs to a head.
#[derive(Clone, Debug, PartialEq)]
pub struct Adapter {
    /// The settings.
    pub config: AdapterConfig,
    /// The tensors by name.
    pub tensors: BTreeMap<String, TensorData>,
}

impl Adapter {
    /// The number of classes of the adapter's head, if it has one.
    pub fn classes(&self) -> Option<usize> {
        let ends = ["classifier.weight", "classifier.out_proj.weight", "score.weight"];
        ends.iter().find_map(|end| self.tensors.get(&format!("{PREFIX}{end}"))).and_then(|t| t.shape().first().copied())
    }

    /// The model with this adapter: its base frozen, its layers adapted, its head replaced by the adapter's.
    ///
    /// An adapter that a layer already has is replaced. An adapter of a bare encoder or decoder, whose names lack
    /// `bert.`, `roberta.` or `model.`, also fits a model that contains it.
    ///
    /// # Errors
    ///
    /// If a factor does not have the shape of its layer, usually because the adapter has another base model; if a rank
    /// is not the one in the settings; if tensors match no layer or are missing for layers that the settings name (all
    /// such tensors are listed).
    pub fn apply<M: Adaptable + CheckpointNames>(&self, model: M) -> Result<M, LoadError> {
        let mut model = model.freeze_base();
        if let Some(within) = self.within_model(&mut model) {
            return within.apply(model);
        }
        let mut used: Vec<String> = Vec::new();
        let mut missing: Vec<String> = Vec::new();
        let mut failed = None;
        model.visit_layers(&mut |name, layer| {
            let (a, b) = (format!("{name}{A}"), format!("{name}{B}"));
            match (self.tensors.get(&a), self.tensors.get(&b)) {
                (None, None) => {
                    if self.names_layer(name) {
                        missing.extend([a, b]);
                    }
                }
                (Some(_), None) => missing.push(b),
                (None, Some(_)) => missing.push(a),
                (Some(factor_a), Some(factor_b)) => {
                    let lora = self.config.of_layer(name);
                    match lora.and_then(|lora| adapted(layer, name, &lora, factor_a, factor_b)) {
                        Ok(lora) => *layer = AdaptableLinear::Lora(lora),
                        Err(error) => drop(failed.get_or_insert(error)),
                    }
                    used.extend([a, b]);
                }
            }
        });
        if let Some(error) = failed {
            return Err(error);
        }
        let saved = SavedModules { tensors: &self.tensors, names: &self.config.modules_to_save };
        let model = saved.put_into(model, &mut used, &mut missing)?;
        let unused: Vec<String> = self.tensors.keys().filter(|name| !used.contains(name)).cloned().collect();
        if missing.is_empty() && unused.is_empty() {
            Ok(model)
        } else {
            Err(LoadError::AdapterTensors { missing, unused })
        }
    }

    /// The adapter of a model, including its head if it has one.
    ///
    /// `config` holds the settings of its layers; `base_model` names the base model for those who load the adapter.
    ///
    /// # Errors
    ///
    /// [`LoadError::NotAdapted`] if no layer is adapted; if a device fails.
    pub fn from_model<M: Adaptable + CheckpointNames>(
        model: &M,
        config: &LoraConfig,
        base_model: Option<&str>,
    ) -> Result<Self, LoadError> {
        let mut tensors = BTreeMap::new();
        let (mut layers, mut ranks, mut alphas) = (Vec::new(), BTreeMap::new(), BTreeMap::new());
        let mut failed = None;
        model.clone().visit_layers(&mut |name, layer| {
            layers.push((name.to_owned(), layer.adapter().is_some()));
            let Some(lora) = layer.adapter() else { return };
            for (end, factor) in [(A, &lora.lora_a), (B, &lora.lora_b)] {
                match stored_factor(factor.weight.val()) {
                    Ok(data) => drop(tensors.insert(format!("{name}{end}"), data)),
                    Err(error) => drop(failed.get_or_insert(error)),
                }
            }
            let [_, rank] = lora.lora_a.weight.dims();
            let alpha = match config.scaling {
                LoraScaling::Standard => lora.scale() * rank as f64,
                LoraScaling::RankStabilized => lora.scale() * (rank as f64).sqrt(),
            };
            let name = without_prefix(name).to_owned();
            if rank != config.rank {
                ranks.insert(name.clone(), rank);
            }
            // Equal up to rounding: the scale comes from a division by the rank.
            if (alpha - config.alpha).abs() > 1e-12 * config.alpha {
                alphas.insert(name, alpha);
            }
        });
        if let Some(error) = failed {
            return Err(error);
        }
        if tensors.is_empty() {
            return Err(LoadError::NotAdapted);
        }
        let head = read_modules(model, &HEADS)?;
        let modules_to_save: Vec<String> = HEADS
            .iter()
            .filter(|head_name| head.keys().any(|name| without_prefix(name).starts_with(&format!("{head_name}."))))
            .map(|&name| name.to_owned())
            .collect();
        let task = if modules_to_save.is_empty() { AdapterTask::CausalLm } else { AdapterTask::Classification };
        tensors.extend(head);
        let config = AdapterConfig {
            lora: *config,
            ranks,
            alphas,
            target_modules: TargetModules::Names(targets(&layers)),
            modules_to_save,
            task,
            base_model: base_model.map(str::to_owned),
            excludes: false,
        };
        Ok(Self { config, tensors })
    }

    /// The adapter with the names of this model's layers, if it belongs to the bare encoder or decoder inside it.
    fn within_model<M: Adaptable>(&self, model: &mut M) -> Option<Self> {
        const BARE: [&str; 3] = ["encoder.layer.", "pooler.", "layers."];
        let bare = |name: &String| BARE.iter().any(|part| without_prefix(name).starts_with(part));
        if self.tensors.is_empty() || !self.tensors.keys().all(bare) {
            return None;
        }
        let mut part = None;
        model.visit_layers(&mut |name, _| {
            part = part.take().or_else(|| without_prefix(name).split_once('.').map(|(part, _)| part.to_owned()));
        });
        let part = part?;
        let named =
            |(name, data): (&String, &TensorData)| (format!("{PREFIX}{part}.{}", without_prefix(name)), data.clone());
        Some(Self { config: self.config.clone(), tensors: self.tensors.iter().map(named).collect() })
    }

    /// Whether the settings name this layer.
    fn names_layer(&self, name: &str) -> bool {
        match &self.config.target_modules {
            TargetModules::Names(names) => {
                !self.config.excludes && names.iter().any(|end| ends_in(without_prefix(name), end))
            }
            TargetModules::Pattern(_) => false,
        }
    }
}

/// The layer adapted with factors from a file.
fn adapted(
    layer: &AdaptableLinear,
    name: &str,
    config: &LoraConfig,
    a: &TensorData,
    b: &TensorData,
) -> Result<LoraLinear, LoadError> {
    let base = layer.base().clone();
    let [d_input, d_output] = base.weight.dims();
    let rank = a.shape().first().copied().unwrap_or(0);
    for (end, found, expected) in [(A, a.shape(), [rank, d_input]), (B, b.shape(), [d_output, rank])] {
        if found.to_vec() != expected {
            let (name, found) = (format!("{name}{end}"), found.to_vec());
            return Err(LoadError::AdapterShape { name, found, expected: expected.to_vec() });
        }
    }
    if rank != config.rank {
        return Err(LoadError::AdapterRank { name: format!("{name}{A}"), found: rank, expected: config.rank });
    }
    let mut lora = LoraLinear::new(base, name, config, 0)?;
    for (factor, data) in [(&mut lora.lora_a, a), (&mut lora.lora_b, b)] {
        let data = transposed_data(data)?;
        let old = factor.weight.val();
        let value = Tensor::<2>::from_data(data.convert_dtype(old.dtype()), &old.device());
        factor.weight = Param::from_tensor(value);
    }
    Ok(lora)
}

/// A factor in f32 and in the layout of a file.
fn stored_factor(matrix: Tensor<2>) -> Result<TensorData, LoadError> {
    let data = matrix.without_autodiff().try_into_data().map_err(|e| crate::ModelError::Read(e.to_string()))?;
    transposed_data(&data)
}

/// The transpose of a matrix in f32.
pub(super) fn transposed_data(data: &TensorData) -> Result<TensorData, LoadError> {
    let shape = data.shape().to_vec();
    let (rows, cols) = (shape[0], shape[1]);
    let values: Vec<f32> = data.iter::<f32>().collect();
    Ok(TensorData::new(transposed(&values, rows, cols), [cols, rows]))
}

pub(super) fn without_prefix(name: &str) -> &str {
    name.strip_prefix(PREFIX).unwrap_or(name)
}

/// The shortest ends of names that match exactly the adapted layers.
///
/// `dense` is never used alone: it would also match layers outside the encoder.
fn targets(layers: &[(String, bool)]) -> Vec<String> {
    let mut targets: Vec<String> = Vec::new();
    for (name, _) in layers.iter().filter(|(_, adapted)| *adapted) {
        let name = without_prefix(name);
        if targets.iter().any(|end| ends_in(name, end)) {
            continue;
        }
        let starts = std::iter::once(0).chain(name.match_indices('.').map(|(at, _)| at + 1));
        let ends: Vec<&str> = starts.map(|start| &name[start..]).collect();
        let exact =
            |end: &&str| *end != "dense" && layers.iter().all(|(other, adapted)| *adapted || !ends_in(other, end));
        targets.push(ends.into_iter().rev().find(exact).unwrap_or(name).to_owned());
    }
    targets.sort_unstable();
    targets
}
