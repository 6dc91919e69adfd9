use std::ops::Range;
use std::sync::Arc;

use burn::tensor::{Device, Element, Tensor, TensorData};
use bytemuck::Zeroable;
use hyperinf_gradients::{Block, Gradients, Projection};
use hyperinf_scoring::{Batch, Method, Options, QueryMode, Samples, ScoreError, Set, Source};

use crate::{FileError, GradientFile, GradientPair, Precision, StoreError, projection};

/// Bytes of a batch of samples, for methods that do not need all samples at once: see [`GradientPair::batch_bytes`].
pub const BATCH_BYTES: usize = 256 << 20;

/// Reads the blocks of one set for a method.
#[derive(Clone, Copy)]
pub(crate) struct Reader<'a> {
    pub(crate) pair: &'a GradientPair,
    pub(crate) set: Set,
    pub(crate) options: &'a Options,
    pub(crate) precision: Precision,
}

impl<'a> Reader<'a> {
    fn file(self) -> &'a GradientFile {
        self.pair.file(self.set)
    }

    /// The samples that are read.
    fn samples(self) -> Range<usize> {
        self.pair.samples(self.set)
    }

    /// The positions in this file of blocks given by their position in the training file.
    fn positions(self, group: &[usize]) -> Vec<usize> {
        group.iter().map(|&block| self.pair.position(self.set, block)).collect()
    }

    /// The block that these blocks are read as.
    fn block(self, positions: &[usize]) -> Block {
        let blocks: Vec<Block> = positions.iter().map(|&p| self.file().blocks()[p].block.clone()).collect();
        self.joined(&blocks)
    }

    /// The block that blocks are read or projected as: the single one, or all merged.
    fn joined(self, blocks: &[Block]) -> Block {
        match blocks {
            [one] if !self.options.merged => one.clone(),
            _ => Block::new("merged", 1, blocks.iter().map(Block::parameters).sum()),
        }
    }

    /// The samples of each batch of some blocks.
    pub(crate) fn batches(self, group: &[usize]) -> Vec<Range<usize>> {
        let (samples, batch) = (self.samples(), self.batch(&self.positions(group)));
        let end = samples.end;
        samples.step_by(batch).map(|start| start..end.min(start + batch)).collect()
    }

    /// The number of samples that are held at once.
    fn batch(self, positions: &[usize]) -> usize {
        let n = self.samples().len();
        let block = self.block(positions);
        let held = match self.options.method {
            Method::Inverse { storage, .. } => storage.holds_samples(&block, n),
            Method::Identity => false,
        };
        let all = match self.set {
            // Projected gradients are smaller than the gradients that are read.
            _ if self.pair.projection.is_some() => false,
            Set::Query | Set::Contrast => self.options.query == QueryMode::Each,
            // The curvature holds only the samples it is computed from.
            Set::Train if self.pair.curvature.is_some() => false,
            Set::Train | Set::Curvature => held,
        };
        let bytes = block.parameters() * if self.precision == Precision::Double { 8 } else { 4 };
        if all { n } else { (self.pair.batch_bytes / bytes).clamp(1, n) }
    }

    /// The numbers of some samples, `[samples, rows, cols]` of [`Reader::block`].
    fn read(self, positions: &[usize], samples: Range<usize>) -> Result<TensorData, FileError> {
        let parts = positions.iter().map(|&p| self.file().read(p, samples.clone(), self.precision));
        let (n, width) = (samples.len(), self.block(positions).parameters());
        match (positions, self.precision) {
            ([one], _) if !self.options.merged => self.file().read(*one, samples.clone(), self.precision),
            (_, Precision::Single) => side_by_side::<f32>(parts, n, width),
            (_, Precision::Double) => side_by_side::<f64>(parts, n, width),
        }
    }

    /// All samples, if they are held whole.
    pub(crate) fn load(self, group: &[usize]) -> Result<Option<TensorData>, StoreError> {
        let positions = self.positions(group);
        let samples = self.samples();
        if self.batch(&positions) < samples.len() {
            return Ok(None);
        }
        self.read(&positions, samples).map(Some).map_err(|e| self.error(e))
    }

    /// The blocks as a source, of which [`Reader::load`] may have given all samples.
    pub(crate) fn source(
        self,
        group: &[usize],
        loaded: Option<TensorData>,
        device: &'a Device,
    ) -> Result<FileSource<'a>, StoreError> {
        let positions = self.positions(group);
        let projection = self.pair.projection.as_ref().map(|all| projection::of(all, group)).transpose();
        let projection = projection.map_err(|e| StoreError::Score(ScoreError::Projection(e)))?;
        let block = match &projection {
            Some(projection) => self.joined(projection.projected()),
            None => self.block(&positions),
        };
        let (layout, batch) = ([block].into(), self.batch(&positions));
        let samples = self.samples();
        let mut source =
            FileSource { reader: self, positions, layout, projection, samples, batch, device, whole: None };
        source.whole = loaded.map(|data| source.gradients(data)).transpose().map_err(StoreError::Score)?;
        Ok(source)
    }

    fn error(self, source: FileError) -> StoreError {
        StoreError::File { set: self.set, path: self.file().path().to_owned(), source }
    }
}

/// Blocks of a file of gradients, held whole or read again in each pass.
pub(crate) struct FileSource<'a> {
    pub(crate) reader: Reader<'a>,
    positions: Vec<usize>,
    pub(crate) layout: Arc<[Block]>,
    /// The projection of the blocks before they are put side by side.
    projection: Option<Projection>,
    /// Those that a pass visits.
    samples: Range<usize>,
    batch: usize,
    device: &'a Device,
    whole: Option<Gradients>,
}

impl FileSource<'_> {
    /// The same of some samples only, which are read in each pass.
    pub(crate) fn of_samples(self, samples: Range<usize>) -> Self {
        Self { samples, whole: None, ..self }
    }

    /// The gradients on the device, projected.
    fn gradients(&self, data: TensorData) -> Result<Gradients, ScoreError> {
        let dtype = data.dtype();
        let whole: Tensor<3> = Tensor::from_data(data, (self.device, dtype));
        let block = match &self.projection {
            Some(projection) => {
                projection::apply(projection, whole, self.reader.options.merged).map_err(ScoreError::Projection)?
            }
            None => whole,
        };
        Ok(Gradients { layout: self.layout.clone(), blocks: vec![block] })
    }

    /// The gradients as a batch with the blocks before the projection.
    fn batch(&self, gradients: Gradients) -> Batch {
        let projection = self.projection.as_ref().filter(|_| !self.reader.options.merged);
        Batch { samples: Samples::Gradients(gradients), unprojected: projection.map(|p| p.layout().clone()) }
    }
}

impl Source for FileSource<'_> {
    fn pass(&self, visit: &mut dyn FnMut(Batch) -> Result<(), ScoreError>) -> Result<(), ScoreError> {
        if let Some(whole) = &self.whole {
            return visit(self.batch(whole.clone()));
        }
        for start in self.samples.clone().step_by(self.batch) {
            let samples = start..self.samples.end.min(start + self.batch);
            let data = self.reader.read(&self.positions, samples);
            let data = data.map_err(|error| ScoreError::source(self.reader.error(error)))?;
            visit(self.batch(self.gradients(data)?))?;
        }
        Ok(())
    }
}

/// Blocks of `n` samples each as one block of one row of `width` columns, read one at a time.
fn side_by_side<T: Element + Zeroable>(
    parts: impl Iterator<Item = Result<TensorData, FileError>>,
    n: usize,
    width: usize,
) -> Result<TensorData, FileError> {
    let mut all = vec![T::zeroed(); n * width];
    let mut column = 0;
    for part in parts {
        let part = part?;
        let values = part.as_slice::<T>().expect("the values were read as this type");
        let taken = values.len() / n;
        for (row, values) in all.chunks_mut(width).zip(values.chunks(taken)) {
            row[column..column + taken].copy_from_slice(values);
        }
        column += taken;
    }
    Ok(TensorData::new(all, [n, 1, width]))
}
