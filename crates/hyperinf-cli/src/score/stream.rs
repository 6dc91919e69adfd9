use std::cell::RefCell;
use std::ops::Range;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::thread;

use burn::tensor::{Device, Element, Tensor, TensorData};
use bytemuck::Zeroable;
use hyperinf::curvature::{BlockCurvature, Damping, Storage};
use hyperinf::gradients::{Block, GradientError, Gradients, Projection, Sides};
use hyperinf::linalg::ReadError;
use hyperinf::scoring::{
    self, Attribution, Contrast, Joined, Method, Moments, Options, QueryMode, ScoreError, Scorer, Set, Source,
};

use super::pair::Pair;
use super::projection;
use crate::error::CliError;
use crate::gradient_file::{FileError, GradientFile, Precision};

/// Bytes of a batch of samples, where a method does not need them all at once.
const BATCH: usize = 256 << 20;

/// Scores the training samples block by block; merged blocks are read as one.
pub(crate) fn attribute(pair: &Pair, options: &Options, device: &Device) -> Result<Attribution, CliError> {
    // Merged here, where only the merged block need be held, and not once more by the library.
    let mut scorer = Scorer::new(Options { merged: false, ..options.clone() }).map_err(CliError::Score)?;
    each_group(pair, options, device, &mut |sources| add(&mut scorer, sources, options.query))?;
    scorer.finish().map_err(|error| explain(pair, error))
}

/// [`attribute`] with a curvature that is made already, of each of the pair's blocks.
pub(crate) fn attribute_known(
    pair: &Pair,
    known: &[BlockCurvature],
    options: &Options,
    device: &Device,
) -> Result<Attribution, CliError> {
    let mut scorer = Scorer::new(options.clone()).map_err(CliError::Score)?;
    each_group(pair, options, device, &mut |sources| {
        let (train, queries) = train_and_queries(sources);
        scorer.add_known(train, of_blocks(known, &train.layout), queries)
    })?;
    scorer.finish().map_err(|error| explain(pair, error))
}

/// The curvature of these blocks.
fn of_blocks(known: &[BlockCurvature], layout: &[Block]) -> Vec<BlockCurvature> {
    layout.iter().filter_map(|block| known.iter().find(|found| found.block == *block)).cloned().collect()
}

/// [`attribute`] at every damping, of a pair without a contrast or a curvature of its own; `done` is told of every block.
pub(crate) fn sweep(
    pair: &Pair,
    options: &Options,
    dampings: &[Damping],
    device: &Device,
    done: &mut dyn FnMut(),
) -> Result<Vec<Attribution>, CliError> {
    let of_blocks = Options { merged: false, ..options.clone() };
    let mut all: Option<Vec<Attribution>> = None;
    each_group(pair, options, device, &mut |sources| {
        let (train, queries) = train_and_queries(sources);
        let found = scoring::sweep(train, queries, &of_blocks, dampings)?;
        done();
        match &mut all {
            None => all = Some(found),
            Some(all) => all.iter_mut().zip(found).try_for_each(|(sum, more)| sum.merge(more))?,
        }
        Ok(())
    })?;
    Ok(all.unwrap_or_default())
}

/// Goes through the blocks of a pair, one by one or merged.
///
/// While one block is visited the next is read, so two blocks are held. Blocks larger than a batch are read batch by
/// batch, once for every pass, unless the method holds all samples of a block anyway.
fn each_group(
    pair: &Pair,
    options: &Options,
    device: &Device,
    visit: &mut dyn FnMut(&[FileSource<'_>]) -> Result<(), ScoreError>,
) -> Result<(), CliError> {
    let precision = pair.precision(device);
    let all: Vec<usize> = (0..pair.positions.len()).collect();
    let groups: Vec<&[usize]> = if options.merged { vec![&all] } else { all.chunks(1).collect() };
    let blocks = |set| Blocks { pair, set, options, precision };
    let sets = pair.sets();
    thread::scope(|scope| {
        let (send, receive) = sync_channel(0);
        let (read, sets_read) = (&groups, &sets);
        scope.spawn(move || {
            for group in read {
                let loaded: Result<Vec<_>, _> = sets_read.iter().map(|&set| blocks(set).load(group)).collect();
                let failed = loaded.is_err();
                if send.send(loaded).is_err() || failed {
                    return;
                }
            }
        });
        for (group, loaded) in groups.iter().zip(receive) {
            let sources = sets.iter().zip(loaded?).map(|(&set, held)| blocks(set).source(group, held, device));
            let sources: Vec<FileSource<'_>> = sources.collect::<Result<_, _>>()?;
            let visited = visit(&sources);
            for source in sources {
                source.failure()?;
            }
            visited.map_err(|error| explain(pair, error))?;
        }
        Ok(())
    })
}

fn train_and_queries<'a, 'b>(sources: &'a [FileSource<'b>]) -> (&'a FileSource<'b>, &'a FileSource<'b>) {
    let of = |set| sources.iter().find(|source| source.blocks.set == set);
    of(Set::Train).zip(of(Set::Query)).expect("a pair has training gradients and queries")
}

/// Adds the scores of some blocks.
fn add(scorer: &mut Scorer, sources: &[FileSource<'_>], query: QueryMode) -> Result<(), ScoreError> {
    let of = |set| sources.iter().find(|source| source.blocks.set == set);
    let (train, queries) = train_and_queries(sources);
    let contrast = of(Set::Contrast);
    let difference = contrast.map(|harmed| Contrast { helped: queries, harmed });
    let joined = contrast.map(|contrast| Joined(vec![queries, contrast]));
    let queries: &dyn Source = match (query, &difference, &joined) {
        (QueryMode::Mean, Some(difference), _) => difference,
        (QueryMode::Each, _, Some(joined)) => joined,
        _ => queries,
    };
    match of(Set::Curvature) {
        Some(curvature) => scorer.add_with(train, curvature, queries),
        None => scorer.add(train, queries),
    }
}

/// The influence of each training sample on itself, not normalised; without curvature its squared norm. With the
/// curvature that is made already, if there is one.
pub(crate) fn self_influence(
    pair: &Pair,
    known: Option<&[BlockCurvature]>,
    options: &Options,
    device: &Device,
) -> Result<Vec<f64>, CliError> {
    let precision = pair.precision(device);
    let options = Options { query: QueryMode::Mean, ..options.clone() };
    let all: Vec<usize> = (0..pair.positions.len()).collect();
    let groups: Vec<&[usize]> = if options.merged { vec![&all] } else { all.chunks(1).collect() };
    let blocks = Blocks { pair, set: Set::Train, options: &options, precision };
    let of_blocks = Options { merged: false, ..options.clone() };
    let mut values = vec![0.0; pair.train.samples()];
    for group in groups {
        let source = blocks.source(group, blocks.load(group)?, device)?;
        let found = match known {
            Some(known) => scoring::self_influence_known(&source, self::of_blocks(known, &source.layout), &of_blocks),
            None => scoring::self_influence(&source, &of_blocks),
        };
        source.failure()?;
        let found = found.map_err(|error| explain(pair, error))?;
        values.iter_mut().zip(found.values).for_each(|(sum, value)| *sum += value);
    }
    Ok(values)
}

/// The projections of a pair's blocks on the principal directions of the training gradients, from one pass over them.
pub(super) fn principal(pair: &Pair, rank: usize, device: &Device) -> Result<Vec<Sides>, CliError> {
    let options = Options { method: Method::Identity, query: QueryMode::Mean, merged: false, ..Options::default() };
    let blocks = Blocks { pair, set: Set::Train, options: &options, precision: pair.precision(device) };
    let mut sides = Vec::new();
    for block in 0..pair.positions.len() {
        let source = blocks.source(&[block], blocks.load(&[block])?, device)?;
        let found = scoring::principal(&source, Moments::Gradients, rank);
        source.failure()?;
        sides.extend_from_slice(found.map_err(|error| explain(pair, error))?.sides());
    }
    Ok(sides)
}

/// Some blocks of one of the files.
#[derive(Clone, Copy)]
struct Blocks<'a> {
    pair: &'a Pair,
    set: Set,
    options: &'a Options,
    precision: Precision,
}

impl<'a> Blocks<'a> {
    fn file(self) -> &'a GradientFile {
        self.pair.file(self.set)
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

    /// The block that blocks are read or projected as: the one, or all merged.
    fn joined(self, blocks: &[Block]) -> Block {
        match blocks {
            [one] if !self.options.merged => one.clone(),
            _ => Block::new("merged", 1, blocks.iter().map(Block::parameters).sum()),
        }
    }

    /// Samples that are held at once.
    fn batch(self, positions: &[usize]) -> usize {
        let n = self.file().samples();
        let block = self.block(positions);
        let parameters = block.parameters();
        let held = match self.options.method {
            Method::Inverse { storage, .. } => storage.holds_samples(&block, n),
            Method::Identity => false,
        };
        let all = match self.set {
            // What is held is smaller than what is read.
            _ if self.pair.projection.is_some() => false,
            Set::Query | Set::Contrast => self.options.query == QueryMode::Each,
            // Only the samples that the curvature is made of are held by it.
            Set::Train if self.pair.curvature.is_some() => false,
            Set::Train | Set::Curvature => held,
        };
        let bytes = parameters * if self.precision == Precision::Double { 8 } else { 4 };
        if all { n } else { (BATCH / bytes).clamp(1, n) }
    }

    /// The numbers of some samples, `[samples, rows, cols]` of [`Blocks::block`].
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
    fn load(self, group: &[usize]) -> Result<Option<TensorData>, CliError> {
        let positions = self.positions(group);
        let n = self.file().samples();
        if self.batch(&positions) < n {
            return Ok(None);
        }
        self.read(&positions, 0..n).map(Some).map_err(|e| self.error(e))
    }

    fn source(self, group: &[usize], held: Option<TensorData>, device: &'a Device) -> Result<FileSource<'a>, CliError> {
        let positions = self.positions(group);
        let projection = self.pair.projection.as_ref().map(|all| projection::of(all, group)).transpose();
        let projection = projection.map_err(|e| CliError::Score(ScoreError::Projection(e)))?;
        let block = match &projection {
            Some(projection) => self.joined(projection.projected()),
            None => self.block(&positions),
        };
        let (layout, batch) = ([block].into(), self.batch(&positions));
        let (held, raw) = (None, held);
        let mut source =
            FileSource { blocks: self, positions, layout, projection, batch, device, held, failed: None.into() };
        source.held = raw.map(|raw| source.gradients(raw)).transpose().map_err(CliError::Score)?;
        Ok(source)
    }

    fn error(self, source: FileError) -> CliError {
        CliError::File { set: self.set, path: self.file().path().to_owned(), source }
    }
}

/// Blocks of a file, held or read anew in each pass.
struct FileSource<'a> {
    blocks: Blocks<'a>,
    positions: Vec<usize>,
    layout: Arc<[Block]>,
    /// Of the blocks before they are put side by side.
    projection: Option<Projection>,
    batch: usize,
    device: &'a Device,
    held: Option<Gradients>,
    /// Why reading failed; the error type of a pass has no place for it.
    failed: RefCell<Option<FileError>>,
}

impl FileSource<'_> {
    /// What was read, projected.
    fn gradients(&self, data: TensorData) -> Result<Gradients, ScoreError> {
        let dtype = data.dtype();
        let whole: Tensor<3> = Tensor::from_data(data, (self.device, dtype));
        let block = match &self.projection {
            Some(projection) => {
                projection::apply(projection, whole, self.blocks.options.merged).map_err(ScoreError::Projection)?
            }
            None => whole,
        };
        Ok(Gradients { layout: self.layout.clone(), blocks: vec![block] })
    }

    fn failure(self) -> Result<(), CliError> {
        self.failed.into_inner().map_or(Ok(()), |error| Err(self.blocks.error(error)))
    }
}

impl Source for FileSource<'_> {
    fn unprojected(&self) -> Option<Arc<[Block]>> {
        let projection = self.projection.as_ref().filter(|_| !self.blocks.options.merged)?;
        Some(projection.layout().clone())
    }

    fn pass(&self, visit: &mut dyn FnMut(Gradients) -> Result<(), ScoreError>) -> Result<(), ScoreError> {
        if let Some(held) = &self.held {
            return visit(held.clone());
        }
        let n = self.blocks.file().samples();
        for start in (0..n).step_by(self.batch) {
            let samples = start..n.min(start + self.batch);
            let data = self.blocks.read(&self.positions, samples).map_err(|error| {
                self.failed.replace(Some(error));
                let source = GradientError::Read(ReadError { reason: "the file of gradients".into() });
                ScoreError::Gradients { set: self.blocks.set, source }
            })?;
            visit(self.gradients(data)?)?;
        }
        Ok(())
    }
}

/// Blocks of `n` samples each as one block of one row of `width` columns, holding one of them at a time beside it.
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

/// The error with the file it is about, and the value where a value is at fault.
fn explain(pair: &Pair, error: ScoreError) -> CliError {
    let ScoreError::NonFinite { set, block, sample, value } = error else {
        return CliError::Score(error);
    };
    // Of queries one after the other the later ones are in the second file.
    let (set, sample) = match sample.checked_sub(pair.query.samples()) {
        Some(later) if set == Set::Query => (Set::Contrast, later),
        _ => (set, sample),
    };
    let file = pair.file(set);
    let path = file.path().to_owned();
    // The name of merged blocks is none of the file's: then any of them may be the one.
    let suspects = file.position(&block).map_or(0..file.blocks().len(), |p| p..p + 1);
    for position in suspects {
        match file.first_bad_value(position, sample) {
            Ok(Some(bad)) => return CliError::NonFinite { set, path, sample, bad },
            Ok(None) => {}
            Err(source) => return CliError::File { set, path, source },
        }
    }
    CliError::TooLarge { set, path, block, sample, square: value }
}
