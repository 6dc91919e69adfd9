use std::ops::Range;
use std::path::Path;

use burn::tensor::{DType, Device, Tensor};
use hyperinf_gradients::{Block, Gradients, Projection};
use hyperinf_scoring::{Options, Set};
use safetensors::Dtype;

use crate::factors::OwnCurvature;
use crate::{BATCH_BYTES, FileError, GradientFile, Precision, Sizes, StoreError, available};

/// The gradients of training samples and of queries, with the same blocks.
pub struct GradientPair {
    /// The training samples; the pair's blocks are in the order of this file.
    pub train: GradientFile,
    /// The queries.
    pub query: MatchedFile,
    /// The samples that the curvature is taken from, if they are not the training samples.
    pub curvature: Option<MatchedFile>,
    /// Queries whose mean is subtracted from that of the others.
    pub contrast: Option<MatchedFile>,
    /// The queries that are asked; `None` for all of their file.
    pub(crate) queries: Option<Range<usize>>,
    /// The memory in bytes that scoring may take; `None` for what the system grants ([`available`]).
    pub memory: Option<f64>,
    /// Bytes of training gradients that are held at once, where not all need be. The last bits of sums depend on it.
    pub batch_bytes: usize,
    /// The projection of every block's gradients before they are scored; see [`GradientPair::project`].
    pub(crate) projection: Option<Projection>,
    /// The curvature of the training gradients, projected, where it is at hand; see [`crate::training_factors`].
    pub(crate) own: Option<OwnCurvature>,
}

/// A file with the same blocks as the training gradients, possibly in another order.
pub struct MatchedFile {
    /// The file.
    pub file: GradientFile,
    /// The position in it of each block of the training file.
    positions: Vec<usize>,
}

impl GradientPair {
    /// Opens both files and matches their blocks by name.
    ///
    /// # Errors
    ///
    /// If a file cannot be used ([`StoreError::File`]), or the two have other blocks ([`StoreError::Blocks`],
    /// [`StoreError::Sides`]).
    pub fn open(train: &Path, query: &Path) -> Result<Self, StoreError> {
        let train = open(Set::Train, train)?;
        let query = MatchedFile::open(Set::Query, query, &train)?;
        Ok(Self {
            train,
            query,
            curvature: None,
            contrast: None,
            queries: None,
            memory: None,
            batch_bytes: BATCH_BYTES,
            projection: None,
            own: None,
        })
    }

    /// The same pair with a curvature or a contrast from other files.
    ///
    /// # Errors
    ///
    /// As [`GradientPair::open`].
    pub fn with(mut self, curvature: Option<&Path>, contrast: Option<&Path>) -> Result<Self, StoreError> {
        let matched = |set, path: Option<&Path>| path.map(|path| MatchedFile::open(set, path, &self.train)).transpose();
        let (curvature, contrast) = (matched(Set::Curvature, curvature)?, matched(Set::Contrast, contrast)?);
        (self.curvature, self.contrast) = (curvature, contrast);
        Ok(self)
    }

    /// The same training gradients, with queries of another file.
    ///
    /// # Errors
    ///
    /// As [`GradientPair::open`].
    pub fn ask(&mut self, query: &Path) -> Result<(), StoreError> {
        self.query = MatchedFile::open(Set::Query, query, &self.train)?;
        self.queries = None;
        Ok(())
    }

    /// The gradients of the queries, with the blocks in the order of the training file.
    ///
    /// # Errors
    ///
    /// If the file cannot be read.
    pub fn query_gradients(&self, device: &Device) -> Result<Gradients, StoreError> {
        let MatchedFile { file, positions } = &self.query;
        let failed = |source| StoreError::File { set: Set::Query, path: file.path().to_owned(), source };
        let block = |&position: &usize| {
            let data = file.read(position, self.samples(Set::Query), self.precision(device)).map_err(failed)?;
            let dtype = data.dtype();
            Ok(Tensor::from_data(data, (device, dtype)))
        };
        let blocks = positions.iter().map(block).collect::<Result<_, _>>()?;
        Ok(Gradients { layout: self.stored_blocks().into(), blocks })
    }

    /// The sets that have a file.
    pub fn sets(&self) -> Vec<Set> {
        let mut sets = vec![Set::Train, Set::Query];
        sets.extend(self.curvature.as_ref().map(|_| Set::Curvature));
        sets.extend(self.contrast.as_ref().map(|_| Set::Contrast));
        sets
    }

    /// The file of a set. Without one, the curvature is that of the training file and the contrast the query file.
    pub fn file(&self, set: Set) -> &GradientFile {
        match set {
            Set::Train => &self.train,
            Set::Query => &self.query.file,
            Set::Curvature => self.curvature.as_ref().map_or(&self.train, |matched| &matched.file),
            Set::Contrast => self.contrast.as_ref().map_or(&self.query.file, |matched| &matched.file),
        }
    }

    /// Asks some of the queries of the file from now on; `None` for all.
    ///
    /// # Panics
    ///
    /// If the range is empty, or reaches beyond the file.
    pub fn ask_some(&mut self, queries: Option<Range<usize>>) {
        if let Some(asked) = &queries {
            let all = self.query.file.samples();
            assert!(asked.start < asked.end && asked.end <= all, "queries {asked:?} of {all}");
        }
        self.queries = queries;
    }

    /// The queries of [`GradientPair::ask_some`].
    pub fn asked(&self) -> Option<Range<usize>> {
        self.queries.clone()
    }

    /// The samples of a set's file that are used: all, but for [`GradientPair::ask_some`].
    pub fn samples(&self, set: Set) -> Range<usize> {
        let all = 0..self.file(set).samples();
        if set == Set::Query { self.queries.clone().unwrap_or(all) } else { all }
    }

    /// [`GradientFile::excerpt`] of a set's file.
    ///
    /// # Errors
    ///
    /// If the file cannot be read.
    pub fn excerpt(&self, set: Set) -> Result<String, StoreError> {
        self.file(set).excerpt().map_err(|source| self.unreadable(set, source))
    }

    /// [`GradientFile::unhashed`] of the files of all sets.
    #[must_use]
    pub fn unhashed(&self) -> u64 {
        self.sets().into_iter().map(|set| self.file(set).unhashed()).sum()
    }

    /// Reads what is left of the files for their [`GradientFile::fingerprint`], which is then at hand.
    ///
    /// # Errors
    ///
    /// If a file cannot be read.
    pub fn hash(&self) -> Result<(), StoreError> {
        let mut unhashed = self.sets().into_iter().filter(|&set| self.file(set).unhashed() > 0);
        let hash = |set| self.file(set).fingerprint().map(drop).map_err(|source| self.unreadable(set, source));
        unhashed.try_for_each(hash)
    }

    fn unreadable(&self, set: Set, source: FileError) -> StoreError {
        StoreError::File { set, path: self.file(set).path().to_owned(), source }
    }

    /// The position in a set's file of a block of the training file.
    pub(crate) fn position(&self, set: Set, block: usize) -> usize {
        let of = |matched: &Option<MatchedFile>| matched.as_ref().map_or(block, |matched| matched.positions[block]);
        match set {
            Set::Train => block,
            Set::Query => self.query.positions[block],
            Set::Curvature => of(&self.curvature),
            Set::Contrast => of(&self.contrast),
        }
    }

    /// The blocks that are scored: those of the training file, projected if there is a projection.
    pub fn scored_blocks(&self) -> Vec<Block> {
        match &self.projection {
            Some(projection) => projection.projected().to_vec(),
            None => self.stored_blocks(),
        }
    }

    /// Fails if the options need more memory than there is.
    pub(crate) fn check_memory(&self, dampings: usize, options: &Options, device: &Device) -> Result<(), StoreError> {
        // A device with memory of its own manages it itself.
        if device.memory_pool_usage().is_some() && self.memory.is_none() {
            return Ok(());
        }
        Sizes::new(self, dampings, device).check(options, self.memory.or_else(available))
    }

    /// The blocks of the training file.
    pub(crate) fn stored_blocks(&self) -> Vec<Block> {
        self.train.blocks().iter().map(|stored| stored.block.clone()).collect()
    }

    /// The type to compute in: f64 if a file has it and the device can, else f32.
    pub fn precision(&self, device: &Device) -> Precision {
        let matched = [Some(&self.query), self.curvature.as_ref(), self.contrast.as_ref()];
        let others = matched.into_iter().flatten().map(|matched| &matched.file);
        let mut blocks = std::iter::once(&self.train).chain(others).flat_map(GradientFile::blocks);
        if blocks.any(|stored| stored.dtype == Dtype::F64) && device.supports_dtype(DType::F64) {
            Precision::Double
        } else {
            Precision::Single
        }
    }
}

fn open(set: Set, path: &Path) -> Result<GradientFile, StoreError> {
    GradientFile::open(path).map_err(|source| StoreError::File { set, path: path.to_owned(), source })
}

impl MatchedFile {
    fn open(set: Set, path: &Path, train: &GradientFile) -> Result<Self, StoreError> {
        let file = open(set, path)?;
        let absent = |here: &GradientFile, there: &GradientFile| -> Vec<String> {
            let names = here.blocks().iter().map(|stored| &stored.block.name);
            names.filter(|name| there.position(name).is_none()).cloned().collect()
        };
        let (only_train, only_query) = (absent(train, &file), absent(&file, train));
        if !only_train.is_empty() || !only_query.is_empty() {
            let (train, query) = (train.path().to_owned(), file.path().to_owned());
            return Err(StoreError::Blocks { train, only_train, query, only_query });
        }
        let positions: Vec<usize> =
            train.blocks().iter().filter_map(|stored| file.position(&stored.block.name)).collect();
        for (left, &position) in train.blocks().iter().zip(&positions) {
            let right = &file.blocks()[position];
            if left.block != right.block {
                return Err(StoreError::Sides {
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
