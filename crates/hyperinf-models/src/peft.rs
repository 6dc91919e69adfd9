mod config;
mod files;
mod place;

use std::collections::BTreeMap;

use burn::module::Param;
use burn::tensor::{Tensor, TensorData};

use crate::load::LoadError;
use crate::shards::transposed;
use crate::{Adaptable, CheckpointNames, LoraConfig, LoraLinear, LoraScaling, Projection};
use config::ends_in;
use place::{Saved, place_saved, read_saved};

pub use config::{AdapterConfig, AdapterTask, TargetModules};

/// What every name in an adapter's file begins with.
const PREFIX: &str = "base_model.model.";
const A: &str = ".lora_A.weight";
const B: &str = ".lora_B.weight";
/// The modules beside the encoder or decoder that are trained as a whole.
const HEADS: [&str; 2] = ["classifier", "score"];

/// A LoRA adapter as PEFT keeps it: settings and tensors.
///
/// The tensors have PEFT's names and layout: `….lora_A.weight` `[r, d_input]` and `….lora_B.weight` `[d_output, r]`,
/// the transposes of [`LoraLinear`]'s, and `base_model.model.classifier.weight` `[classes, d]` for a head. Numbers are
/// f32.
#[derive(Clone, Debug, PartialEq)]
pub struct Adapter {
    /// The settings.
    pub config: AdapterConfig,
    /// The tensors by name.
    pub tensors: BTreeMap<String, TensorData>,
}

impl Adapter {
    /// The number of classes of the head that is in the adapter, if there is one.
    pub fn classes(&self) -> Option<usize> {
        let ends = ["classifier.weight", "classifier.out_proj.weight", "score.weight"];
        ends.iter().find_map(|end| self.tensors.get(&format!("{PREFIX}{end}"))).and_then(|t| t.shape().first().copied())
    }

    /// A model with this adapter: its base frozen, its layers adapted, its head replaced by the adapter's.
    ///
    /// A layer that is adapted already gets this adapter instead. An adapter of a bare encoder or decoder, whose names
    /// have no `bert.`, `roberta.` or `model.`, is taken as one of the model that has it.
    ///
    /// # Errors
    ///
    /// If a factor's shape is not its layer's, which is how an adapter of another base model shows; if a rank is not
    /// the one in the settings; if tensors fit no layer, or are missing for layers that the settings name. All such
    /// tensors are listed.
    pub fn apply<M: Adaptable + CheckpointNames>(&self, model: M) -> Result<M, LoadError> {
        let mut model = model.freeze_base();
        if let Some(within) = self.within_model(&mut model) {
            return within.apply(model);
        }
        let mut used: Vec<String> = Vec::new();
        let mut missing: Vec<String> = Vec::new();
        let mut failed = None;
        model.projections(&mut |name, layer| {
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
                        Ok(lora) => *layer = Projection::Lora(lora),
                        Err(error) => drop(failed.get_or_insert(error)),
                    }
                    used.extend([a, b]);
                }
            }
        });
        if let Some(error) = failed {
            return Err(error);
        }
        let saved = Saved { tensors: &self.tensors, modules: &self.config.modules_to_save };
        let model = place_saved(model, &saved, &mut used, &mut missing)?;
        let unused: Vec<String> = self.tensors.keys().filter(|name| !used.contains(name)).cloned().collect();
        if missing.is_empty() && unused.is_empty() {
            Ok(model)
        } else {
            Err(LoadError::AdapterTensors { missing, unused })
        }
    }

    /// The adapter of a model, with its head if it has one.
    ///
    /// `config` is what the layers were adapted with; `base_model` is written down for those who load it.
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
        model.clone().projections(&mut |name, layer| {
            layers.push((name.to_owned(), layer.adapter().is_some()));
            let Some(lora) = layer.adapter() else { return };
            for (end, factor) in [(A, &lora.lora_a), (B, &lora.lora_b)] {
                match turned(factor.weight.val()) {
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
            // Equal up to the rounding of the division that made the scale.
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
        let head = read_saved(model, &HEADS)?;
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

    /// The adapter with the names of this model's layers, if it is one of the bare encoder or decoder in the model.
    fn within_model<M: Adaptable>(&self, model: &mut M) -> Option<Self> {
        const BARE: [&str; 3] = ["encoder.layer.", "pooler.", "layers."];
        let bare = |name: &String| BARE.iter().any(|part| without_prefix(name).starts_with(part));
        if self.tensors.is_empty() || !self.tensors.keys().all(bare) {
            return None;
        }
        let mut part = None;
        model.projections(&mut |name, _| {
            part = part.take().or_else(|| without_prefix(name).split_once('.').map(|(part, _)| part.to_owned()));
        });
        let part = part?;
        let named =
            |(name, data): (&String, &TensorData)| (format!("{PREFIX}{part}.{}", without_prefix(name)), data.clone());
        Some(Self { config: self.config.clone(), tensors: self.tensors.iter().map(named).collect() })
    }

    /// Whether the settings ask for an adapter of this layer.
    fn names_layer(&self, name: &str) -> bool {
        match &self.config.target_modules {
            TargetModules::Names(names) if !self.config.excludes => {
                names.iter().any(|end| ends_in(without_prefix(name), end))
            }
            _ => false,
        }
    }
}

/// A layer with the factors of a file.
fn adapted(
    layer: &Projection,
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

/// A matrix in f32, transposed.
fn turned(matrix: Tensor<2>) -> Result<TensorData, LoadError> {
    let data = matrix.without_autodiff().try_into_data().map_err(|e| crate::ModelError::Read(e.to_string()))?;
    transposed_data(&data)
}

/// The transpose of a matrix, as f32.
fn transposed_data(data: &TensorData) -> Result<TensorData, LoadError> {
    let shape = data.shape().to_vec();
    let (rows, cols) = (shape[0], shape[1]);
    let values: Vec<f32> = data.iter::<f32>().collect();
    Ok(TensorData::new(transposed(&values, rows, cols), [cols, rows]))
}

fn without_prefix(name: &str) -> &str {
    name.strip_prefix(PREFIX).unwrap_or(name)
}

/// The shortest ends of names that fit exactly the adapted of these layers.
///
/// `dense` alone would fit layers beside the encoder's too, and is never one.
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
