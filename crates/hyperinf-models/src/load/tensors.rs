use std::collections::{BTreeMap, BTreeSet};
use std::path::Path as FilePath;

use burn::module::{ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{Tensor, TensorData};

use super::{LoadError, LoadReport};
use crate::shards::{Shards, transposed};
use crate::weights::Path;
use crate::{CheckpointNames, ModelError};

/// The tensors that a model does not use and that mean nothing for it.
pub(super) struct Unused {
    /// How their names begin.
    pub(super) prefixes: &'static [&'static str],
    /// How their names end.
    pub(super) suffixes: &'static [&'static str],
}

impl Unused {
    fn fits(&self, name: &str) -> bool {
        self.prefixes.iter().any(|prefix| name.starts_with(prefix))
            || self.suffixes.iter().any(|suffix| name.ends_with(suffix))
    }
}

/// A module with the tensors of a checkpoint, but for those that `created` says, by path, to keep as they are.
pub(super) fn fill<M: CheckpointNames>(
    module: M,
    shards: &mut Shards,
    path: &FilePath,
    unused: &Unused,
    created: impl Fn(&str) -> bool,
    report: &mut LoadReport,
) -> Result<M, LoadError> {
    let mut names = Names { path: Path::default(), paths: Vec::new() };
    module.visit(&mut names);
    let names: BTreeMap<String, String> = names
        .paths
        .into_iter()
        .map(|path| {
            let name = module.checkpoint_name(&path);
            (path, name)
        })
        .collect();
    let (kept, names): (BTreeMap<_, _>, BTreeMap<_, _>) = names.into_iter().partition(|(path, _)| created(path));
    report.created = kept.into_values().collect();
    let mut source = Source { shards, path, used: BTreeSet::new(), missing: Vec::new() };
    let mut filler = Filler { place: Path::default(), names, source: &mut source, failed: None };
    let module = module.map(&mut filler);
    match filler.failed {
        Some(error) => Err(error),
        None => source.finish(unused, report).map(|()| module),
    }
}

/// A model made of weights that it asks for by name, in the layout of `Linear`.
pub(super) fn pull<M>(
    shards: &mut Shards,
    path: &FilePath,
    unused: &Unused,
    report: &mut LoadReport,
    make: impl FnOnce(&mut dyn FnMut(&str, &[usize]) -> Result<TensorData, ModelError>) -> Result<M, ModelError>,
) -> Result<M, LoadError> {
    let mut source = Source { shards, path, used: BTreeSet::new(), missing: Vec::new() };
    let mut failed = None;
    let made = make(&mut |name, shape| {
        let layout = match shape {
            [_, _] if !name.ends_with("embed_tokens.weight") => Layout::Transposed,
            _ => Layout::Same,
        };
        let found = source.read(name, shape, layout).unwrap_or_else(|error| {
            failed.get_or_insert(error);
            None
        });
        match (found, &failed) {
            (Some(data), _) => Ok(data),
            (None, Some(_)) => Err(ModelError::Empty { what: "readable weights" }),
            // All that is missing is to be listed, so the model is made nevertheless.
            (None, None) => Ok(TensorData::zeros::<f32, _>(shape.to_vec())),
        }
    });
    if let Some(error) = failed {
        return Err(error);
    }
    let model = made?;
    source.finish(unused, report).map(|()| model)
}

/// How a parameter lies in a checkpoint.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Layout {
    Same,
    /// Outputs × inputs, where ours are inputs × outputs.
    Transposed,
}

/// A checkpoint of which it is noted what was used.
struct Source<'a> {
    shards: &'a mut Shards,
    path: &'a FilePath,
    used: BTreeSet<String>,
    missing: Vec<String>,
}

impl Source<'_> {
    /// The parameter of a name in our layout; `None`, noted as missing, if there is none.
    fn read(&mut self, name: &str, shape: &[usize], layout: Layout) -> Result<Option<TensorData>, LoadError> {
        let Some(stored) = spellings(name).into_iter().find(|name| self.shards.shape(name).is_some()) else {
            self.missing.push(name.to_owned());
            return Ok(None);
        };
        let mut expected = shape.to_vec();
        if layout == Layout::Transposed {
            expected.reverse();
        }
        let found = self.shards.shape(&stored).unwrap_or_default().to_vec();
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

    /// Fails if tensors were missing or are left over.
    fn finish(mut self, unused: &Unused, report: &mut LoadReport) -> Result<(), LoadError> {
        self.missing.sort_unstable();
        let left = self.shards.names().filter(|&name| !self.used.contains(name)).map(str::to_owned);
        let (ignored, unused): (Vec<String>, Vec<String>) = left.partition(|name| unused.fits(name));
        if self.missing.is_empty() && unused.is_empty() {
            report.ignored = ignored;
            Ok(())
        } else {
            Err(LoadError::TensorNames { path: self.path.to_owned(), missing: self.missing, unused })
        }
    }
}

/// The names that a parameter may have: with and without the model's prefix, and with BERT's old names for the parts
/// of a normalisation.
fn spellings(name: &str) -> Vec<String> {
    let mut names = vec![name.to_owned()];
    let old = name.strip_suffix("LayerNorm.weight").map(|stem| format!("{stem}LayerNorm.gamma"));
    names.extend(old.or_else(|| name.strip_suffix("LayerNorm.bias").map(|stem| format!("{stem}LayerNorm.beta"))));
    let bare = |name: &String| {
        ["bert.", "roberta.", "model."].iter().find_map(|prefix| name.strip_prefix(prefix).map(str::to_owned))
    };
    let without: Vec<String> = names.iter().filter_map(bare).collect();
    names.extend(without);
    names
}

/// Collects the paths of all parameters.
struct Names {
    path: Path,
    paths: Vec<String>,
}

impl ModuleVisitor for Names {
    fn enter_module(&mut self, name: &str, container_type: &str) {
        self.path.enter(name, container_type);
    }

    fn exit_module(&mut self, _name: &str, container_type: &str) {
        self.path.exit(container_type);
    }

    fn visit_float<const D: usize>(&mut self, _param: &Param<Tensor<D>>) {
        self.paths.push(self.path.name());
    }
}

/// Puts tensors in the place of parameters.
struct Filler<'a, 'b> {
    place: Path,
    names: BTreeMap<String, String>,
    source: &'a mut Source<'b>,
    failed: Option<LoadError>,
}

impl ModuleMapper for Filler<'_, '_> {
    fn enter_module(&mut self, name: &str, container_type: &str) {
        self.place.enter(name, container_type);
    }

    fn exit_module(&mut self, _name: &str, container_type: &str) {
        self.place.exit(container_type);
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let Some(name) = self.names.get(&self.place.name()).filter(|_| self.failed.is_none()) else {
            return param;
        };
        let layout = if D == 2 && self.place.is_linear() { Layout::Transposed } else { Layout::Same };
        let shape = param.lazy_shape().to_vec();
        match self.source.read(name, &shape, layout) {
            Ok(Some(data)) => param.map(|old| {
                let trained = old.is_require_grad();
                Tensor::from_data(data.convert_dtype(old.dtype()), &old.device()).set_require_grad(trained)
            }),
            Ok(None) => param,
            Err(error) => {
                self.failed = Some(error);
                param
            }
        }
    }
}
