use std::ops::Range;
use std::path::Path;
use std::time::Instant;

use burn::tensor::{DType, Device};
use hyperinf_gradients::{Block, Capture, GradientError, Projection, Target, capture};
use hyperinf_linalg::{ReadError, host};
use hyperinf_models::{RecordedParts, SampleModel};
use hyperinf_store::{GradientWriter, Resumption, RunKey, Sizes, StoreError, StoredType, available};

use crate::RunError;
use crate::crew::Step;
use crate::crew_batches::{Deal, Given};
use crate::crew_orders::Work;
use crate::crew_work::{checked, from_bytes, several};
use crate::event::{Detail, Event, Notice, Progress};
use crate::kind::Kind;
use crate::metric::Metric;
use crate::pattern::Pattern;
use crate::plan::PlannedDisk;
use crate::room::Growth;
use crate::run::Run;
use crate::samples::{Samples, by_length};
use crate::stage::Stage;

/// Takes the gradients of samples into files.
pub(crate) struct Extractor<'a, K: Kind> {
    pub(crate) run: &'a Run,
    pub(crate) model: &'a K::Model,
    /// Everything that the gradients depend on besides the samples.
    pub(crate) key: RunKey,
    /// The metric that they are taken in.
    pub(crate) metric: Option<Metric>,
}

/// Consecutive samples of a set, and what is taken of them.
pub(crate) struct Part<'a> {
    /// The set's place: 0 for training rows, 1 for queries, then further targets.
    pub(crate) place: usize,
    /// The samples.
    pub(crate) rows: Range<usize>,
    /// Samples that are finished already, and all that are to be.
    pub(crate) before: usize,
    pub(crate) total: usize,
    pub(crate) target: Target,
    /// The projection of blocks as they are taken.
    pub(crate) projection: &'a Option<Projection>,
    /// Where finished gradients are kept.
    pub(crate) folder: &'a Path,
}

/// The losses of a batch of samples, and the gradients of each block, `[samples, rows, cols]`.
pub(crate) struct BatchGradients {
    pub(crate) losses: Vec<f64>,
    pub(crate) values: Vec<Vec<f32>>,
}

impl<K: Kind> Extractor<'_, K> {
    /// Computes the gradients of all samples that the file lacks, batch by batch.
    ///
    /// Samples of similar length share a batch, so that little is padded; in the file they are in order. Batches are
    /// those of an undisturbed run, because the last bits of a gradient may depend on its batch. `place` is the set's:
    /// 0 for training rows, 1 for queries, then further targets.
    pub(crate) fn write(
        &self,
        file: &str,
        place: usize,
        set: &Samples<K>,
        observe: &mut dyn FnMut(Event),
    ) -> Result<GradientWriter, RunError> {
        let target = if place == 0 { Target::Loss } else { Target::Measure };
        let order = set.by_length();
        let (blocks, projection) = self.blocks(&set.samples[order[0]], target)?;
        let mut key = self.key.clone();
        let more = [("target", format!("{target:?}")), ("rows' content", set.fingerprint(0..set.samples.len()))];
        key.0.extend(more.map(|(name, value)| (name.to_owned(), value)));
        let folder = &self.run.out;
        let failed = |source: std::io::Error| StoreError::output(folder, source);
        let opened = checked(self.run, |check| {
            GradientWriter::open_checked(StoredType::F32, (folder, file), &key, set.samples.len(), &blocks, check)
        });
        let mut writer = opened?.map_err(failed)?;
        let total = set.samples.len();
        if *writer.found() != Resumption::default() {
            observe(Event::Notice(Notice::Earlier { stage: stage(target), found: writer.found().clone(), total }));
        }
        let missing = total - writer.found().samples;
        if missing > 0 {
            let parameters: usize = blocks.iter().map(Block::parameters).sum();
            let bytes = (missing * parameters * size_of::<f32>()) as u64;
            self.warn_of_room(set, &projection, PlannedDisk::new(folder, bytes), observe)?;
        }
        self.fill(
            &mut writer,
            set,
            Part { place, rows: 0..total, before: 0, total, target, projection: &projection, folder },
            observe,
        )?;
        Ok(writer)
    }

    /// Computes the gradients of some consecutive samples that the file lacks.
    pub(crate) fn fill(
        &self,
        writer: &mut GradientWriter,
        set: &Samples<K>,
        part: Part<'_>,
        observe: &mut dyn FnMut(Event),
    ) -> Result<(), RunError> {
        let Part { place, rows, before, total, target, projection, folder } = part;
        let failed = |source: std::io::Error| StoreError::output(folder, source);
        let mut order = by_length::<K::Model>(&set.samples[rows.clone()]);
        // The longest first: if memory is too small for them, no work is lost.
        order.reverse();
        let stage = stage(target);
        let missing: Vec<&[usize]> =
            order.chunks(self.run.batch_size).filter(|batch| !writer.has_batch(batch)).collect();
        let mut done = before + rows.len() - missing.iter().map(|batch| batch.len()).sum::<usize>();
        let (began, mut tokens) = (Instant::now(), 0);
        let _listening = self.run.stop.listen();
        let crew = several(self.run).filter(|_| !missing.is_empty());
        let batches = || missing.iter().map(|batch| batch.to_vec()).collect();
        let work = match crew {
            Some(crew) => Some(crew.order(&Work::Gradients { set: place, first: rows.start, batches: batches() })?),
            None => None,
        };
        let mut deal = Deal::new(crew, "the gradients of a batch", missing.len());
        while let Some(given) = deal.next()? {
            if self.run.stop.is_requested() {
                return Err(RunError::Stopped { stage, done, total, kept: Some(folder.to_owned()) });
            }
            let batch = missing[given.number()];
            let compute = || self.batch(set, rows.start, batch, target, projection);
            let BatchGradients { losses, values } = match (given, crew) {
                (Given::Own(_), None) => compute()?,
                (Given::Own(_), Some(crew)) => crew.computing(compute)?,
                (Given::Arrived { rank, bytes, .. }, _) => from_bytes(rank, &bytes, batch.len())?,
            };
            writer.write(batch, &losses, &values).map_err(failed)?;
            done += batch.len();
            tokens += batch.iter().map(|sample| K::Model::length(&set.samples[rows.start + sample])).sum::<usize>();
            let detail = Detail::Speed(tokens as f64 / began.elapsed().as_secs_f64(), K::UNIT);
            observe(Event::Progress(Progress { stage, done, total, detail }));
        }
        work.into_iter().for_each(Step::end);
        writer.sync().map_err(failed)?;
        Ok(())
    }

    /// The losses and gradients of a batch of samples, numbered from `first`.
    pub(crate) fn batch(
        &self,
        set: &Samples<K>,
        first: usize,
        batch: &[usize],
        target: Target,
        projection: &Option<Projection>,
    ) -> Result<BatchGradients, RunError> {
        let samples: Vec<_> = batch.iter().map(|&sample| &set.samples[first + sample]).collect();
        let captures = capture(self.model, &self.model.collate(&samples)?, target)?;
        let losses = host(captures.values)?;
        let not_finite = |place: usize, what, value| {
            let row = set.data.rows[first + batch[place]].row;
            let (set, path) = (set.data.set, set.data.path.clone());
            Err(RunError::NotFinite { set, path, row, what, value })
        };
        if let Some(place) = losses.iter().position(|loss| !loss.is_finite()) {
            return not_finite(place, "loss".into(), losses[place]);
        }
        let mut values = Vec::with_capacity(captures.blocks.len());
        let wanted = captures.blocks.into_iter().filter(|captured| self.wanted(&captured.block)).collect();
        let wanted: Vec<Capture> = match projection {
            Some(projection) => projection.captures(wanted)?,
            None => wanted,
        };
        for captured in &wanted {
            let mut numbers = numbers(captured)?;
            if let Some(metric) = &self.metric {
                metric.scale(&captured.block.name, &mut numbers)?;
            }
            if let Some(at) = numbers.iter().position(|value| !value.is_finite()) {
                let what = format!("gradient in block `{}`", captured.block.name);
                return not_finite(at / captured.block.parameters(), what, numbers[at].into());
            }
            values.push(numbers);
        }
        Ok(BatchGradients { losses, values })
    }

    /// Fails if the scores will need more memory than there is: before hours of gradients, not after. Projected blocks
    /// are known later.
    pub(crate) fn check_memory(&self, train: &Samples<K>, query: &Samples<K>, device: &Device) -> Result<(), RunError> {
        let (Some(first), None) = (train.samples.first(), self.run.projection) else { return Ok(()) };
        if device.memory_pool_usage().is_some() && self.run.memory.is_none() {
            return Ok(());
        }
        let sizes = Sizes {
            blocks: self.blocks(first, Target::Loss)?.0,
            train: train.samples.len(),
            curvature: train.samples.len(),
            queries: query.samples.len(),
            dampings: 1,
            width: size_of::<f32>(),
            projected: false,
        };
        Ok(sizes.check(&self.run.options, self.run.memory.or_else(available))?)
    }

    /// Warns if batches have no room in memory, or the gradients none on the disk.
    pub(crate) fn warn_of_room(
        &self,
        set: &Samples<K>,
        projection: &Option<Projection>,
        disk: PlannedDisk,
        observe: &mut dyn FnMut(Event),
    ) -> Result<(), RunError> {
        let (order, rows) = (set.by_length(), self.run.batch_size.min(set.samples.len()));
        let growth = Growth::of(&self.model.device(), rows, &mut |rows| {
            let samples: Vec<_> = order[order.len() - rows..].iter().map(|&sample| &set.samples[sample]).collect();
            let captures = capture(self.model, &self.model.collate(&samples)?, Target::Loss)?;
            let wanted = captures.blocks.into_iter().filter(|captured| self.wanted(&captured.block)).collect();
            let wanted = match projection {
                Some(projection) => projection.captures(wanted)?,
                None => wanted,
            };
            Ok(wanted.iter().try_for_each(|captured| numbers(captured).map(drop))?)
        })?;
        let batches = growth.and_then(|growth| growth.shortage(rows));
        let all = batches.into_iter().chain(disk.shortage());
        all.for_each(|shortage| observe(Event::Notice(Notice::Shortage(shortage))));
        Ok(())
    }

    /// The blocks that are projected when their gradients are taken.
    pub(crate) fn large_blocks(&self, train: &Samples<K>) -> Result<Vec<Block>, RunError> {
        if self.run.layers == RecordedParts::Adapters && !self.run.large_blocks.adapters {
            return Ok(Vec::new());
        }
        let Some(first) = train.samples.first() else { return Ok(Vec::new()) };
        let (_, projection) = self.blocks(first, Target::Loss)?;
        let all = projection.map(|projection| projection.layout().to_vec()).unwrap_or_default();
        Ok(all.into_iter().filter(|block| self.run.large_blocks.includes(block)).collect())
    }

    pub(crate) fn wanted(&self, block: &Block) -> bool {
        self.run.blocks.as_ref().is_none_or(|pattern| pattern.matches(&block.name))
    }

    /// The blocks whose gradients are written, found by taking those of one sample, and how large ones are projected.
    pub(crate) fn blocks(
        &self,
        sample: &<K::Model as SampleModel>::Sample,
        target: Target,
    ) -> Result<(Vec<Block>, Option<Projection>), RunError> {
        let captures = match capture(self.model, &self.model.collate(&[sample])?, target) {
            Err(GradientError::NothingRecorded) => {
                return Err(RunError::NoAdapter { model: self.run.model.clone() });
            }
            captures => captures?,
        };
        let place = captures.values.device();
        let dtype = captures.values.dtype();
        let all: Vec<Block> = captures.blocks.into_iter().map(|captured| captured.block).collect();
        let blocks: Vec<Block> = all.iter().filter(|block| self.wanted(block)).cloned().collect();
        match &self.run.blocks {
            Some(pattern) if blocks.is_empty() => {
                let known = all.into_iter().map(|block| block.name).collect();
                Err(RunError::NoBlock { pattern: Pattern::text(pattern).to_owned(), known })
            }
            _ => match self.run.large_blocks.projection(&blocks, (&place, dtype))? {
                Some(projection) => Ok((projection.projected().to_vec(), Some(projection))),
                None => Ok((blocks, None)),
            },
        }
    }
}

fn stage(target: Target) -> Stage {
    match target {
        Target::Loss => Stage::TrainGradients,
        Target::Measure => Stage::QueryGradients,
    }
}

pub(crate) fn numbers(captured: &Capture) -> Result<Vec<f32>, GradientError> {
    let data = captured.gradients().into_data_dtype(DType::F32);
    data.try_into_vec::<f32>().map_err(|error| ReadError { reason: format!("{error:?}") }.into())
}
