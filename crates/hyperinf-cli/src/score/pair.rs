use std::path::Path;

use burn::tensor::{DType, Device};
use hyperinf::gradients::Projection;
use hyperinf::scoring::Set;
use safetensors::Dtype;

use crate::error::CliError;
use crate::gradient_file::{GradientFile, Precision};

/// The gradients of the training samples and of the queries, with the same blocks.
pub(crate) struct Pair {
    pub(crate) train: GradientFile,
    pub(crate) query: GradientFile,
    /// The position in `query` of each block of `train`.
    pub(crate) positions: Vec<usize>,
    /// Samples that the curvature is taken from, if not the training samples.
    pub(crate) curvature: Option<Matched>,
    /// Queries that are taken away from the others.
    pub(crate) contrast: Option<Matched>,
    /// What every block's gradients are projected on before they are scored.
    pub(super) projection: Option<Projection>,
}

/// A file with the blocks of the training gradients.
pub(crate) struct Matched {
    pub(crate) file: GradientFile,
    /// The position in it of each of their blocks.
    positions: Vec<usize>,
}

impl Pair {
    /// Opens both files; the blocks count in the order of the training file.
    pub(crate) fn open(train: &Path, query: &Path) -> Result<Self, CliError> {
        let train = open(Set::Train, train)?;
        let Matched { file: query, positions } = Matched::open(Set::Query, query, &train)?;
        Ok(Self { train, query, positions, curvature: None, contrast: None, projection: None })
    }

    /// With a curvature and a contrast from other files.
    pub(crate) fn with(mut self, curvature: Option<&Path>, contrast: Option<&Path>) -> Result<Self, CliError> {
        let matched = |set, path: Option<&Path>| path.map(|path| Matched::open(set, path, &self.train)).transpose();
        let (curvature, contrast) = (matched(Set::Curvature, curvature)?, matched(Set::Contrast, contrast)?);
        (self.curvature, self.contrast) = (curvature, contrast);
        Ok(self)
    }

    /// The sets that have files.
    pub(crate) fn sets(&self) -> Vec<Set> {
        let mut sets = vec![Set::Train, Set::Query];
        sets.extend(self.curvature.as_ref().map(|_| Set::Curvature));
        sets.extend(self.contrast.as_ref().map(|_| Set::Contrast));
        sets
    }

    /// The file of a set; of the training samples if the set has none of its own.
    pub(crate) fn file(&self, set: Set) -> &GradientFile {
        match set {
            Set::Train => &self.train,
            Set::Query => &self.query,
            Set::Curvature => self.curvature.as_ref().map_or(&self.train, |matched| &matched.file),
            Set::Contrast => self.contrast.as_ref().map_or(&self.query, |matched| &matched.file),
        }
    }

    /// The position in a set's file of a block of the training file.
    pub(crate) fn position(&self, set: Set, block: usize) -> usize {
        let of = |matched: &Option<Matched>| matched.as_ref().map_or(block, |matched| matched.positions[block]);
        match set {
            Set::Train => block,
            Set::Query => self.positions[block],
            Set::Curvature => of(&self.curvature),
            Set::Contrast => of(&self.contrast),
        }
    }

    /// The type to compute in: f64 if a file has it and the device, too; else f32.
    pub(crate) fn precision(&self, device: &Device) -> Precision {
        let others = [&self.curvature, &self.contrast].into_iter().flatten().map(|matched| &matched.file);
        let mut blocks = [&self.train, &self.query].into_iter().chain(others).flat_map(GradientFile::blocks);
        if blocks.any(|stored| stored.dtype == Dtype::F64) && device.supports_dtype(DType::F64) {
            Precision::Double
        } else {
            Precision::Single
        }
    }
}

fn open(set: Set, path: &Path) -> Result<GradientFile, CliError> {
    GradientFile::open(path).map_err(|source| CliError::File { set, path: path.to_owned(), source })
}

impl Matched {
    fn open(set: Set, path: &Path, train: &GradientFile) -> Result<Self, CliError> {
        let file = open(set, path)?;
        let absent = |here: &GradientFile, there: &GradientFile| -> Vec<String> {
            let names = here.blocks().iter().map(|stored| &stored.block.name);
            names.filter(|name| there.position(name).is_none()).cloned().collect()
        };
        let (only_train, only_query) = (absent(train, &file), absent(&file, train));
        if !only_train.is_empty() || !only_query.is_empty() {
            let (train, query) = (train.path().to_owned(), file.path().to_owned());
            return Err(CliError::Blocks { train, only_train, query, only_query });
        }
        let positions: Vec<usize> =
            train.blocks().iter().filter_map(|stored| file.position(&stored.block.name)).collect();
        for (left, &position) in train.blocks().iter().zip(&positions) {
            let right = &file.blocks()[position];
            if left.block != right.block {
                return Err(CliError::Sides {
                    block: left.block.name.clone(),
                    train: train.path().to_owned(),
                    train_shape: left.shape.clone(),
                    query: file.path().to_owned(),
                    query_shape: right.shape.clone(),
                });
            }
        }
        Ok(Self { file, positions })
    }
}
