use std::collections::BTreeMap;
use std::path::Path;

use burn::module::Param;
use burn::tensor::{Tensor, TensorData};

use super::layout::transposed;
use super::peft_files::CONFIG;
use super::peft_modules::{SavedModules, read_modules};
use super::peft_names::{feature, targets};
use super::peft_rules::Rules;
use crate::{
    Adaptable, AdaptableEmbedding, AdaptableLinear, AdapterConfig, AdapterTask, CheckpointNames, LoadError, LoraConfig,
    LoraEmbedding, LoraLinear, LoraScaling, TargetModules,
};

/// The beginning of every name in an adapter's file.
pub(super) const PREFIX: &str = "base_model.model.";
pub(super) const A: &str = ".lora_A.weight";
pub(super) const B: &str = ".lora_B.weight";
const EMBEDDING_A: &str = ".lora_embedding_A";
const EMBEDDING_B: &str = ".lora_embedding_B";
/// The output layer of a language model.
const HEAD: &str = "lm_head";
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

    /// Whether the adapter brings every parameter of a classification head, so that the model's own is not needed.
    pub fn has_head(&self) -> bool {
        let has = |name: &str| {
            ["weight", "bias"].iter().all(|part| self.tensors.contains_key(&format!("{PREFIX}{name}.{part}")))
        };
        has("classifier") || (has("classifier.dense") && has("classifier.out_proj"))
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
        let mut used: Vec<String> = Vec::new();
        let (model, tied) = self.tied(model, &mut used)?;
        let mut model = model.freeze_base();
        let tensors = tied.as_ref().unwrap_or(&self.tensors);
        let place = Place { part: self.part(&mut model) };
        let rules = Rules::new(&self.config).map_err(|bad| bad.error(Path::new(CONFIG)))?;
        let mut missing: Vec<String> = Vec::new();
        let mut failed = None;
        let mut visit = |layer_name: &str, layer: &mut AdaptableLinear, named: bool| {
            let key = place.within(without_prefix(layer_name));
            let (a, b) = (format!("{PREFIX}{key}{A}"), format!("{PREFIX}{key}{B}"));
            match pair(tensors, [a, b], key, named, &mut missing, &mut used) {
                Ok(Some([a, b])) => match adapted(layer, layer_name, &rules.of(key), a, b) {
                    Ok(lora) => *layer = AdaptableLinear::Lora(lora),
                    Err(error) => drop(failed.get_or_insert(error)),
                },
                Ok(None) => {}
                Err(error) => drop(failed.get_or_insert(error)),
            }
        };
        model.visit_layers(&mut |name, layer| visit(name, layer, rules.name(place.within(without_prefix(name)))));
        model.visit_head(&mut |name, layer| visit(name, layer, rules.name_apart(without_prefix(name))));
        if let Some(error) = failed {
            return Err(error);
        }
        if let Some((name, table)) = model.embedding() {
            let key = place.within(without_prefix(name));
            let names = [EMBEDDING_A, EMBEDDING_B].map(|end| format!("{PREFIX}{key}{end}"));
            let found = pair(tensors, names, key, rules.name_apart(key), &mut missing, &mut used)?;
            if let Some([a, b]) = found {
                *table = AdaptableEmbedding::Lora(adapted_embedding(table, name, &rules.of(key), a, b)?);
            }
        }
        let saved = SavedModules {
            tensors,
            names: &self.config.modules_to_save,
            tokens: self.config.trained_tokens.as_ref(),
            place: &place,
        };
        let model = saved.put_into(model, &mut used, &mut missing)?;
        let unused: Vec<String> = self.tensors.keys().filter(|name| !used.contains(name)).cloned().collect();
        match unused.iter().find_map(|name| feature(name)) {
            Some(what) => {
                let names = unused.into_iter().filter(|name| feature(name) == Some(what)).collect();
                Err(LoadError::AdapterPart { what, names })
            }
            None if missing.is_empty() && unused.is_empty() => Ok(model),
            None => Err(LoadError::AdapterTensors { missing, unused }),
        }
    }

    /// The model with its output layer tied to the token embedding or not, as PEFT would have it, and the adapter's
    /// tensors for it if they differ.
    ///
    /// PEFT puts a copy into the place of a module to save, which unties it. Tensors of an embedding that is not a
    /// module to save belong to the shared one.
    fn tied<M: Adaptable>(
        &self,
        mut model: M,
        used: &mut Vec<String>,
    ) -> Result<(M, Option<BTreeMap<String, TensorData>>), LoadError> {
        if !model.is_tied() {
            return Ok((model, None));
        }
        let Some((table, _)) = model.embedding() else { return Ok((model, None)) };
        let table = without_prefix(table);
        let adapted = |module: &str, end: &str| self.tensors.contains_key(&format!("{PREFIX}{module}{end}"));
        let both = [(table, EMBEDDING_A), (HEAD, A)].map(|(module, end)| adapted(module, end));
        if self.config.ensure_weight_tying && both.contains(&true) {
            let names = vec![format!("{PREFIX}{table}{EMBEDDING_A}"), format!("{PREFIX}{HEAD}{A}")];
            return Err(LoadError::AdapterPart { what: "LoRA that is tied (`ensure_weight_tying`)", names });
        }
        let saved = |module: &str| self.config.modules_to_save.iter().any(|name| module.ends_with(name.as_str()));
        if both[1] || ((saved(table) || saved(HEAD)) && !self.config.ensure_weight_tying) {
            return Ok((model.untied(), None));
        }
        let [embedding, head] = [table, HEAD].map(|module| format!("{PREFIX}{module}.weight"));
        let Some(found) = self.tensors.get(&head) else { return Ok((model, None)) };
        used.push(head.clone());
        match self.tensors.get(&embedding) {
            Some(same) if same == found => Ok((model, None)),
            Some(_) => Err(LoadError::AdapterTied { embedding, head }),
            None => {
                let mut tensors = self.tensors.clone();
                tensors.insert(embedding, found.clone());
                Ok((model, Some(tensors)))
            }
        }
    }

    /// The LoRA factors of a model, and its classification head if it has one.
    ///
    /// What else [`apply`](Self::apply) replaced is not written, because the model does not tell it from its own: an
    /// embedding or output layer of a language model that was saved as a whole, and trained tokens. Keep the adapter
    /// that brought them.
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
        let (mut layers, mut ranks, mut alphas) = (Vec::new(), Vec::new(), Vec::new());
        let mut failed = None;
        let mut model_copy = model.clone();
        let mut note = |name: &str, ends: [&str; 2], factors: [Tensor<2>; 2], scale: f64| {
            let [_, rank] = factors[0].dims();
            for (end, factor) in ends.into_iter().zip(factors) {
                match stored_factor(factor) {
                    Ok(data) => drop(tensors.insert(format!("{name}{end}"), data)),
                    Err(error) => drop(failed.get_or_insert(error)),
                }
            }
            let alpha = match config.scaling {
                LoraScaling::Standard => scale * rank as f64,
                LoraScaling::RankStabilized => scale * (rank as f64).sqrt(),
            };
            let name = without_prefix(name).to_owned();
            if rank != config.rank {
                ranks.push((name.clone(), rank));
            }
            // Equal up to rounding: the scale comes from a division by the rank.
            if (alpha - config.alpha).abs() > 1e-12 * config.alpha {
                alphas.push((name, alpha));
            }
        };
        let mut visit = |name: &str, layer: &mut AdaptableLinear| {
            layers.push((name.to_owned(), layer.adapter().is_some()));
            if let Some(lora) = layer.adapter() {
                note(name, [A, B], [lora.lora_a.weight.val(), lora.lora_b.weight.val()], lora.scale());
            }
        };
        model_copy.visit_layers(&mut visit);
        model_copy.visit_head(&mut visit);
        if let Some((name, table)) = model_copy.embedding() {
            layers.push((name.to_owned(), table.adapter().is_some()));
            if let Some(lora) = table.adapter() {
                let factors = [lora.lora_a.weight.val(), lora.lora_b.weight.val()];
                note(name, [EMBEDDING_A, EMBEDDING_B], factors, lora.scale());
            }
        }
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
        let task = match modules_to_save.is_empty() {
            true if model.generates_images() => AdapterTask::Other,
            true => AdapterTask::CausalLm,
            false => AdapterTask::Classification,
        };
        tensors.extend(head);
        // As they are read back.
        ranks.sort_by(|a, b| a.0.cmp(&b.0));
        alphas.sort_by(|a, b| a.0.cmp(&b.0));
        let config = AdapterConfig {
            lora: *config,
            ranks,
            alphas,
            target_modules: TargetModules::Names(targets(&layers)),
            modules_to_save,
            task,
            base_model: base_model.map(str::to_owned),
            ..AdapterConfig::default()
        };
        Ok(Self { config, tensors })
    }

    /// The part of the model that the adapter belongs to, if that is the bare encoder or decoder inside it.
    fn part<M: Adaptable>(&self, model: &mut M) -> Option<String> {
        const BARE: [&str; 6] = ["encoder.layer.", "embeddings.", "pooler.", "layers.", "embed_tokens.", "norm."];
        let bare = |name: &String| BARE.iter().any(|part| without_prefix(name).starts_with(part));
        if self.tensors.is_empty() || !self.tensors.keys().all(bare) {
            return None;
        }
        let mut part = None;
        model.visit_layers(&mut |name, _| {
            part = part.take().or_else(|| without_prefix(name).split_once('.').map(|(part, _)| part.to_owned()));
        });
        part
    }
}

/// The part of a model that an adapter belongs to.
pub(super) struct Place {
    /// `None` for the whole model.
    part: Option<String>,
}

impl Place {
    /// The name within the part, which is the adapter's for a module.
    pub(super) fn within<'a>(&self, name: &'a str) -> &'a str {
        let part = self.part.as_deref().and_then(|part| name.strip_prefix(part));
        part.and_then(|rest| rest.strip_prefix('.')).unwrap_or(name)
    }
}

/// The two factors of a layer, if the settings name it; fails if it has factors and they do not.
fn pair<'a>(
    tensors: &'a BTreeMap<String, TensorData>,
    names: [String; 2],
    layer: &str,
    named: bool,
    missing: &mut Vec<String>,
    used: &mut Vec<String>,
) -> Result<Option<[&'a TensorData; 2]>, LoadError> {
    let [a, b] = names;
    match (tensors.get(&a), tensors.get(&b)) {
        (None, None) if named => missing.extend([a, b]),
        (None, None) => {}
        (Some(_), None) => missing.push(b),
        (None, Some(_)) => missing.push(a),
        (Some(_), Some(_)) if !named => return Err(LoadError::AdapterLayer { layer: layer.to_owned() }),
        (Some(factor_a), Some(factor_b)) => {
            used.extend([a, b]);
            return Ok(Some([factor_a, factor_b]));
        }
    }
    Ok(None)
}

/// The table adapted with factors from a file.
fn adapted_embedding(
    table: &AdaptableEmbedding,
    name: &str,
    config: &LoraConfig,
    a: &TensorData,
    b: &TensorData,
) -> Result<LoraEmbedding, LoadError> {
    let base = table.base().clone();
    let [vocabulary, width] = base.weight.dims();
    check_factors(name, config, [EMBEDDING_A, EMBEDDING_B], [a, b], [vocabulary, width])?;
    let mut lora = LoraEmbedding::new(base, name, config, 0)?;
    for (factor, data) in [(&mut lora.lora_a.weight, a), (&mut lora.lora_b.weight, b)] {
        *factor = stored_factor_of(factor, data)?;
    }
    Ok(lora)
}

/// Fails unless the factors are `[r, d_input]` and `[d_output, r]`.
fn check_factors(
    name: &str,
    config: &LoraConfig,
    ends: [&str; 2],
    factors: [&TensorData; 2],
    [d_input, d_output]: [usize; 2],
) -> Result<(), LoadError> {
    let rank = factors[0].shape().first().copied().unwrap_or(0);
    for ((end, factor), expected) in ends.iter().zip(factors).zip([[rank, d_input], [d_output, rank]]) {
        let found = factor.shape().to_vec();
        if found != expected {
            let name = format!("{name}{end}");
            return Err(LoadError::AdapterShape { name, found, expected: expected.to_vec() });
        }
    }
    if rank == config.rank {
        return Ok(());
    }
    Err(LoadError::AdapterRank { name: format!("{name}{}", ends[0]), found: rank, expected: config.rank })
}

/// A factor of a file in place of another, in this crate's layout.
fn stored_factor_of(old: &Param<Tensor<2>>, data: &TensorData) -> Result<Param<Tensor<2>>, LoadError> {
    let (data, old) = (transposed_data(data)?, old.val());
    Ok(Param::from_tensor(Tensor::<2>::from_data(data.convert_dtype(old.dtype()), &old.device())))
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
    check_factors(name, config, [A, B], [a, b], [d_input, d_output])?;
    let mut lora = LoraLinear::new(base, name, config, 0)?;
    for (factor, data) in [(&mut lora.lora_a.weight, a), (&mut lora.lora_b.weight, b)] {
        *factor = stored_factor_of(factor, data)?;
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
