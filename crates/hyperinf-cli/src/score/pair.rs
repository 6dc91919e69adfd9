use std::path::Path;

use burn::tensor::{DType, Device};
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
}

impl Pair {
    /// Opens both files; the blocks count in the order of the training file.
    pub(crate) fn open(train: &Path, query: &Path) -> Result<Self, CliError> {
        let open = |set, path: &Path| {
            GradientFile::open(path).map_err(|source| CliError::File { set, path: path.to_owned(), source })
        };
        let (train, query) = (open(Set::Train, train)?, open(Set::Query, query)?);
        let absent = |here: &GradientFile, there: &GradientFile| -> Vec<String> {
            let names = here.blocks().iter().map(|stored| &stored.block.name);
            names.filter(|name| there.position(name).is_none()).cloned().collect()
        };
        let (only_train, only_query) = (absent(&train, &query), absent(&query, &train));
        if !only_train.is_empty() || !only_query.is_empty() {
            let (train, query) = (train.path().to_owned(), query.path().to_owned());
            return Err(CliError::Blocks { train, only_train, query, only_query });
        }
        let positions: Vec<usize> =
            train.blocks().iter().filter_map(|stored| query.position(&stored.block.name)).collect();
        for (left, &position) in train.blocks().iter().zip(&positions) {
            let right = &query.blocks()[position];
            if left.block != right.block {
                return Err(CliError::Sides {
                    block: left.block.name.clone(),
                    train: train.path().to_owned(),
                    train_shape: left.shape.clone(),
                    query: query.path().to_owned(),
                    query_shape: right.shape.clone(),
                });
            }
        }
        Ok(Self { train, query, positions })
    }

    /// The file of a set.
    pub(crate) fn file(&self, set: Set) -> &GradientFile {
        match set {
            Set::Train | Set::Curvature => &self.train,
            Set::Query => &self.query,
        }
    }

    /// The type to compute in: f64 if a file has it and the device, too; else f32.
    pub(crate) fn precision(&self, device: &Device) -> Precision {
        let mut blocks = self.train.blocks().iter().chain(self.query.blocks());
        if blocks.any(|stored| stored.dtype == Dtype::F64) && device.supports_dtype(DType::F64) {
            Precision::Double
        } else {
            Precision::Single
        }
    }
}
