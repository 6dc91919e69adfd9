use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use burn::tensor::TensorData;

use super::layout::transposed;
use super::shards::Shards;
use super::sizes::{Disagreement, Expected};
use crate::arch::parameters::{Change, map_parameters, parameter_paths};
use crate::{CheckpointNames, LoadError, LoadReport, ModelError};

/// Tensors that a checkpoint may hold and the model does not need.
pub(super) struct IgnoredTensors {
    /// The beginnings of their names.
    pub(super) prefixes: &'static [&'static str],
    /// The ends of their names.
    pub(super) suffixes: &'static [&'static str],
}

impl IgnoredTensors {
    fn includes(&self, name: &str) -> bool {
        self.prefixes.iter().any(|prefix| name.starts_with(prefix))
            || self.suffixes.iter().any(|suffix| name.ends_with(suffix))
    }
}

/// Fails unless a checkpoint holds the expected tensors, in the shapes that its settings call for.
///
/// This comes before a model is built: what settings alone call for may not fit into memory.
pub(super) fn check(
    shards: &Shards,
    path: &Path,
    expected: &[Expected],
    ignored: &IgnoredTensors,
) -> Result<(), LoadError> {
    let mut stored = BTreeMap::new();
    let mut missing = Vec::new();
    for tensor in expected {
        match stored_name(shards, &tensor.name) {
            Some(name) => drop(stored.insert(name, tensor)),
            None => missing.push(tensor.name.clone()),
        }
    }
    missing.sort_unstable();
    let unused = |name: &&str| !stored.contains_key(*name) && !ignored.includes(name);
    let unused: Vec<String> = shards.names().filter(unused).map(str::to_owned).collect();
    if !missing.is_empty() || !unused.is_empty() {
        return Err(LoadError::TensorNames { path: path.to_owned(), missing, unused });
    }
    for (name, tensor) in stored {
        let found = shards.shape(&name).unwrap_or_default();
        if let Err(Disagreement { settings, expected }) = tensor.agrees(found, str::to_owned) {
            let expected = format!("[{}]", expected.join(", "));
            return Err(LoadError::Size { path: path.to_owned(), name, found: found.to_vec(), settings, expected });
        }
    }
    Ok(())
}

/// A module with the tensors of a checkpoint. Parameters whose path is `created` keep their values.
pub(super) fn fill<M: CheckpointNames>(
    module: M,
    shards: &mut Shards,
    path: &Path,
    ignored: &IgnoredTensors,
    created: impl Fn(&str) -> bool,
    report: &mut LoadReport,
) -> Result<M, LoadError> {
    let named = parameter_paths(&module).into_iter().map(|path| {
        let name = module.checkpoint_name(&path);
        (path, name)
    });
    let (kept, names): (BTreeMap<_, _>, BTreeMap<_, _>) = named.partition(|(path, _)| created(path));
    report.created = kept.into_values().collect();
    let mut source = Source { shards, path, used: BTreeSet::new(), missing: Vec::new() };
    let mut failed = None;
    let module = map_parameters(module, |parameter| {
        let Some(name) = names.get(&parameter.path).filter(|_| failed.is_none()) else { return Change::Keep };
        let layout = if parameter.is_linear_weight { Layout::Transposed } else { Layout::Same };
        match source.read(name, &parameter.shape, layout) {
            Ok(Some(data)) => Change::Data(data),
            Ok(None) => Change::Keep,
            Err(error) => {
                failed = Some(error);
                Change::Keep
            }
        }
    });
    match failed {
        Some(error) => Err(error),
        None => source.finish(ignored, report).map(|()| module),
    }
}

/// Matrices that are stored as they are.
const TABLES: [&str; 4] =
    ["embed_tokens.weight", "token_embedding.weight", "position_embedding.weight", "scale_shift_table"];
/// The convolution whose stride is its kernel, a linear layer here.
const PATCHES: &str = "patch_embedding.weight";

/// A model built by `make` from weights that it requests by name, in the layout of Burn's `Linear`.
pub(super) fn pull<M>(
    shards: &mut Shards,
    path: &Path,
    ignored: &IgnoredTensors,
    report: &mut LoadReport,
    make: impl FnOnce(&mut dyn FnMut(&str, &[usize]) -> Result<TensorData, ModelError>) -> Result<M, ModelError>,
) -> Result<M, LoadError> {
    let mut source = Source { shards, path, used: BTreeSet::new(), missing: Vec::new() };
    let mut failed = None;
    let made = make(&mut |name, shape| {
        let layout = match shape {
            [_, _] if !TABLES.iter().any(|table| name.ends_with(table)) => Layout::Transposed,
            _ => Layout::Same,
        };
        let found = source.read(name, shape, layout).unwrap_or_else(|error| {
            failed.get_or_insert(error);
            None
        });
        found.ok_or(ModelError::Empty { what: "readable weights" })
    });
    if let Some(error) = failed {
        return Err(error);
    }
    let model = made?;
    source.finish(ignored, report).map(|()| model)
}

/// The layout of a parameter in a checkpoint.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Layout {
    /// As here.
    Same,
    /// Outputs × inputs instead of inputs × outputs.
    Transposed,
}

/// A checkpoint that keeps track of the tensors used.
struct Source<'a> {
    shards: &'a mut Shards,
    path: &'a Path,
    used: BTreeSet<String>,
    missing: Vec<String>,
}

impl Source<'_> {
    /// The parameter with this name, in the layout used here; `None`, and listed as missing, if there is no tensor.
    fn read(&mut self, name: &str, shape: &[usize], layout: Layout) -> Result<Option<TensorData>, LoadError> {
        let Some(stored) = stored_name(self.shards, name) else {
            self.missing.push(name.to_owned());
            return Ok(None);
        };
        let mut expected = shape.to_vec();
        if layout == Layout::Transposed {
            expected.reverse();
        }
        let mut found = self.shards.shape(&stored).unwrap_or_default().to_vec();
        if name.ends_with(PATCHES)
            && let &[outputs, channels, height, width] = &found[..]
        {
            found = vec![outputs, channels * height * width];
        }
        if found != expected {
            return Err(LoadError::TensorShape { path: self.path.to_owned(), name: stored, found, expected });
        }
        let Some(mut values) = self.shards.read(&stored)? else {
            return Ok(None);
        };
        if layout == Layout::Transposed {
            values = transposed(&values, expected[0], expected[1]);
        }
        self.used.insert(stored);
        Ok(Some(TensorData::new(values, shape.to_vec())))
    }

    /// Fails if tensors are missing or unused.
    fn finish(mut self, known: &IgnoredTensors, report: &mut LoadReport) -> Result<(), LoadError> {
        self.missing.sort_unstable();
        let left = self.shards.names().filter(|&name| !self.used.contains(name)).map(str::to_owned);
        let (ignored, unused): (Vec<String>, Vec<String>) = left.partition(|name| known.includes(name));
        if self.missing.is_empty() && unused.is_empty() {
            report.ignored = ignored;
            Ok(())
        } else {
            Err(LoadError::TensorNames { path: self.path.to_owned(), missing: self.missing, unused })
        }
    }
}

/// The name of a parameter's tensor in a checkpoint.
fn stored_name(shards: &Shards, name: &str) -> Option<String> {
    spellings(name).into_iter().find(|name| shards.shape(name).is_some())
}

/// Today's beginnings of the names of LLaVA's parts, and earlier ones.
const LLAVA: [(&str, &[&str]); 4] = [
    ("model.language_model.", &["language_model.model."]),
    ("lm_head.", &["language_model.lm_head."]),
    ("model.vision_tower.", &["model.vision_tower.vision_model.", "vision_tower.vision_model."]),
    ("model.multi_modal_projector.", &["multi_modal_projector."]),
];

/// Today's names of the attention in an autoencoder, and earlier ones.
const AUTOENCODER: [(&str, &str); 4] =
    [("to_q.", "query."), ("to_k.", "key."), ("to_v.", "value."), ("to_out.0.", "proj_attn.")];

/// The names that a parameter may have: with and without the model's prefix, and with the old names of BERT's
/// normalisations, of LLaVA's parts and of an autoencoder's attention.
fn spellings(name: &str) -> Vec<String> {
    let mut names = vec![name.to_owned()];
    let old = name.strip_suffix("LayerNorm.weight").map(|stem| format!("{stem}LayerNorm.gamma"));
    names.extend(old.or_else(|| name.strip_suffix("LayerNorm.bias").map(|stem| format!("{stem}LayerNorm.beta"))));
    let bare = |name: &String| {
        ["bert.", "roberta.", "model.", "text_model."]
            .iter()
            .find_map(|prefix| name.strip_prefix(prefix).map(str::to_owned))
    };
    let without: Vec<String> = names.iter().filter_map(bare).collect();
    names.extend(without);
    for (new, earlier) in LLAVA {
        if let Some(rest) = name.strip_prefix(new) {
            names.extend(earlier.iter().map(|old| format!("{old}{rest}")));
        }
    }
    if let Some((stem, part)) = name.split_once("mid_block.attentions.0.") {
        let old = AUTOENCODER.iter().find_map(|(new, old)| Some((old, part.strip_prefix(new)?)));
        names.extend(old.map(|(old, leaf)| format!("{stem}mid_block.attentions.0.{old}{leaf}")));
    }
    names
}
