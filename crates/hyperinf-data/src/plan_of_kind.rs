//! [`Run::plan`](crate::Run::plan) of one kind of model: the measurement.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use burn::tensor::{Device, Distribution, Tensor};
use hyperinf_curvature::Storage;
use hyperinf_gradients::{Block, Capture, Projection, Target, capture};
use hyperinf_linalg::{gram_precise, host};
use hyperinf_models::SampleModel;
use hyperinf_scoring::{Method, QueryMode, Set};
use hyperinf_store::{
    GradientWriter, RunKey, Sizes, StoreError, available, factor_bytes, free_space, peak_resident, reset_peak, resident,
};
use tempfile::TempDir;

use crate::dataset::Dataset;
use crate::event::Event;
use crate::gradients::{Extractor, numbers};
use crate::kind::{Kind, Prepared};
use crate::model_files::ModelFiles;
use crate::plan::{Goal, PlannedBatch, PlannedDisk, PlannedMemory, PlannedRows, PlannedStep, RunPlan};
use crate::plan_scores::{ScoreCosts, Stored};
use crate::run::{Run, unchanged};
use crate::run_of_kind::{Loaded, load};
use crate::samples::{Samples, notify};
use crate::{RunError, estimate};

/// Seconds after which no other batch is measured.
const PATIENCE: f64 = 1.5;
/// The share of free memory that batches may take.
const SHARE: f64 = 0.8;
/// The largest batch that is measured.
const LARGEST: usize = 256;
/// A batch size must be faster by this share to be taken instead of a smaller one.
const GAIN: f64 = 0.03;
/// Bytes of a score in a file: an upper bound for Parquet.
const SCORE: u64 = 16;

pub(crate) fn plan<K: Kind>(
    run: &Run,
    goal: Goal,
    files: ModelFiles,
    device: &Device,
    observe: &mut dyn FnMut(Event),
) -> Result<RunPlan, RunError> {
    let began = Instant::now();
    K::check_estimate(run.estimate)?;
    let read = |set, path: &PathBuf| {
        unchanged(path, || Dataset::<K::Content>::read(set, path, &run.read).map_err(RunError::of_rows(set, path)))
    };
    let (train, query) = (read(Set::Train, &run.train)?, read(Set::Query, &run.query)?);
    let Loaded { prepared, limit } = load::<K>(run, &files, &train, device, observe)?;
    let samples = |data| Samples::<K>::new(&prepared, data, limit, run.read.skip_bad_rows);
    let (train, query) = (samples(train)?, samples(query)?);
    notify(&prepared.processor, &train, observe);
    notify(&prepared.processor, &query, observe);
    let Prepared { model, .. } = prepared;
    let mut steps = vec![step("loading", began.elapsed().as_secs_f64(), String::new())];

    let began = Instant::now();
    let _listening = run.stop.listen();
    let extractor = Extractor::<K> { run, model: &model, key: RunKey::default() };
    let order = train.by_length();
    let (blocks, projection) = extractor.blocks(&train.samples[order[0]], Target::Loss)?;
    let mut probe = Probe::new(&extractor, &train, &blocks, projection)?;
    let (before, of_loading) = (resident(), peak_resident());
    reset_peak();
    let curve = probe.curve(&order)?;
    let most = peak_resident();
    let batch = probe.batches(&order, &curve, before.zip(most))?;
    let of_set = |set: &Samples<K>, name, work: &str| {
        let (seconds, batches) = curve.of::<K>(set, run.batch_size);
        step(name, seconds, format!("{batches} {work}"))
    };
    steps.push(of_set(&train, "training gradients", "batches"));
    steps.push(of_set(&query, "query gradients", "batches"));
    if let Some(seconds) = probe.prediction(&order)? {
        let share = seconds / curve.seconds(K::Model::length(&train.samples[order[order.len() / 2]]), 1);
        let all = curve.of::<K>(&train, run.batch_size).0 + curve.of::<K>(&query, run.batch_size).0;
        steps.push(step("predictions", share * all, format!("{} rows", train.samples.len() + query.samples.len())));
    }
    let seeds = run.seeds.unwrap_or(1) as f64;
    let known = probe.curvature(&order)?;
    if let Some((_, first, each)) = &known {
        let reference = curve.seconds(K::Model::length(&train.samples[order[order.len() / 2]]), run.batch_size);
        let weight = curve.of::<K>(&train, run.batch_size).0 / reference.max(f64::MIN_POSITIVE);
        let seconds = seeds * (first + each * weight);
        steps.push(step("curvature", seconds, format!("{} training rows", train.samples.len())));
    }
    let stored = Stored { blocks: &blocks, kept: &probe.kept, folder: probe.folder.path() };
    let (n, q) = (train.samples.len(), query.samples.len());
    let costs = ScoreCosts::measure(run, goal, &stored, [n, q], known.as_ref().map(|known| &*known.0), device)?;
    let rate = if needs_rate(run) { rate(device)? } else { f64::INFINITY };
    let queries = if run.options.query == QueryMode::Mean { 1 } else { q };
    let seconds = seeds * (costs.seconds(n, q) + held(run, &blocks, n) / rate);
    steps.push(step("scores", seconds, format!("{n} rows for {queries}")));
    if let Some(seconds) = costs.self_influence(n) {
        steps.push(step("self-influence", seconds, format!("{n} rows")));
    }

    let parameters = blocks.iter().map(Block::parameters).sum();
    let projected = run.projection.is_some();
    let sizes = Sizes { blocks: costs.blocks, train: n, curvature: n, queries: q, dampings: 1, width: 4, projected };
    let held = resident().unwrap_or(0.0);
    let memory = PlannedMemory {
        gradients: most.into_iter().chain(of_loading).reduce(f64::max),
        scores: held + sizes.needed(&run.options).bytes,
        available: run.memory.or_else(available).map(|free| free + held),
    };
    let of_gradients = (n + q) as u64 * parameters as u64 * size_of::<f32>() as u64;
    let of_factors = match run.index {
        Some(_) if run.keep_factors => factor_bytes(&run.options, &sizes.blocks, n) as u64,
        _ => 0,
    };
    let needed = of_gradients + of_factors + n as u64 * queries as u64 * SCORE;
    let disk = PlannedDisk { folder: run.out.clone(), needed, free: free_space(&run.out) };
    let (train, query) = (rows(&train), rows(&query));
    let measured = began.elapsed().as_secs_f64();
    Ok(RunPlan { train, query, blocks: blocks.len(), parameters, batch, steps, memory, disk, measured })
}

fn step(name: &'static str, seconds: f64, work: String) -> PlannedStep {
    PlannedStep { name, seconds, work }
}

fn rows<K: Kind>(set: &Samples<K>) -> PlannedRows {
    let lengths = || set.samples.iter().map(K::Model::length);
    PlannedRows { rows: set.samples.len(), tokens: lengths().sum(), longest: lengths().max().unwrap_or(0) }
}

/// Whether the method holds all samples of a block, so that its time grows faster than their number.
fn needs_rate(run: &Run) -> bool {
    match &run.options.method {
        Method::Inverse { storage: Storage::Full, solver } => ["exact", "auto"].contains(&solver.name()),
        Method::Inverse { .. } | Method::Identity => false,
    }
}

/// Multiplications of the matrix that `exact` factorises and of its factor.
fn held(run: &Run, blocks: &[Block], samples: usize) -> f64 {
    if !needs_rate(run) {
        return 0.0;
    }
    let of_block = |parameters: usize| {
        let (n, d) = (samples as f64, parameters as f64);
        let side = n.min(d);
        n * d * side + side.powi(3) / 3.0
    };
    match run.options.merged {
        true => of_block(blocks.iter().map(Block::parameters).sum()),
        false => blocks.iter().map(|block| of_block(block.parameters())).sum(),
    }
}

/// Multiplications per second of products in f64.
fn rate(device: &Device) -> Result<f64, RunError> {
    const SIDES: [usize; 2] = [384, 2048];
    let rows = Tensor::<2>::random(SIDES, Distribution::Default, device);
    let product = || host(gram_precise(rows.clone()).sum_dim(0));
    product()?;
    let began = Instant::now();
    product()?;
    Ok((SIDES[0] * SIDES[0] * SIDES[1]) as f64 / began.elapsed().as_secs_f64())
}

/// Seconds of a batch by the length of its longest row.
struct Curve {
    /// Lengths with seconds per row, by length.
    points: Vec<(f64, f64)>,
}

impl Curve {
    fn seconds(&self, length: usize, rows: usize) -> f64 {
        let length = length as f64;
        let after = self.points.partition_point(|point| point.0 < length);
        let before = after.checked_sub(1).and_then(|before| self.points.get(before));
        let per_row = match (before, self.points.get(after)) {
            (Some(a), Some(b)) => a.1 + (b.1 - a.1) * (length - a.0) / (b.0 - a.0),
            (None, Some(only)) | (Some(only), None) => only.1 * length.max(1.0) / only.0.max(1.0),
            (None, None) => 0.0,
        };
        per_row * rows as f64
    }

    /// The seconds of a set, and its batches.
    fn of<K: Kind>(&self, set: &Samples<K>, batch_size: usize) -> (f64, usize) {
        let mut order = set.by_length();
        order.reverse();
        let batches = order.chunks(batch_size);
        let count = batches.len();
        let seconds = batches.map(|batch| self.seconds(K::Model::length(&set.samples[batch[0]]), batch.len()));
        (seconds.sum(), count)
    }
}

/// Gradients of some rows, into files that are removed again.
struct Probe<'a, K: Kind> {
    extractor: &'a Extractor<'a, K>,
    set: &'a Samples<K>,
    projection: Option<Projection>,
    folder: TempDir,
    writer: GradientWriter,
    /// The gradients of a batch: for each block `[rows, parameters]`.
    kept: Vec<Vec<f32>>,
}

impl<'a, K: Kind> Probe<'a, K> {
    fn new(
        extractor: &'a Extractor<'a, K>,
        set: &'a Samples<K>,
        blocks: &[Block],
        projection: Option<Projection>,
    ) -> Result<Self, RunError> {
        let folder = scratch(&extractor.run.out)?;
        let most = extractor.run.batch_size.max(LARGEST).min(set.samples.len());
        let writer = GradientWriter::open(folder.path(), "batches", &RunKey::default(), most, blocks)
            .map_err(|source| StoreError::output(folder.path(), source))?;
        Ok(Self { extractor, set, projection, folder, writer, kept: Vec::new() })
    }

    /// Takes the gradients of a batch as a run does. Returns its seconds.
    fn batch(&mut self, batch: &[usize]) -> Result<f64, RunError> {
        let Extractor { run, model, .. } = self.extractor;
        if run.stop.is_requested() {
            let stage = crate::Stage::TrainGradients;
            return Err(RunError::Stopped { stage, done: 0, total: self.set.samples.len(), kept: None });
        }
        let began = Instant::now();
        let samples: Vec<_> = batch.iter().map(|&sample| &self.set.samples[sample]).collect();
        let captures = capture(*model, &model.collate(&samples)?, Target::Loss)?;
        let losses = host(captures.values)?;
        let wanted = captures.blocks.into_iter().filter(|captured| self.extractor.wanted(&captured.block)).collect();
        let wanted: Vec<Capture> = match &self.projection {
            Some(projection) => projection.captures(wanted)?,
            None => wanted,
        };
        let values = wanted.iter().map(numbers).collect::<Result<Vec<_>, _>>()?;
        let places: Vec<usize> = (0..batch.len()).collect();
        self.writer
            .write(&places, &losses, &values)
            .map_err(|source| StoreError::output(self.folder.path(), source))?;
        let seconds = began.elapsed().as_secs_f64();
        let bad = values.iter().zip(&wanted).find_map(|(values, captured)| {
            let at = values.iter().position(|value| !value.is_finite())?;
            Some((at / captured.block.parameters(), format!("gradient in block `{}`", captured.block.name), values[at]))
        });
        if let Some((place, what, value)) = bad {
            let (data, row) = (&self.set.data, self.set.data.rows[batch[place]].row);
            return Err(RunError::NotFinite { set: data.set, path: data.path.clone(), row, what, value: value.into() });
        }
        self.kept = values;
        Ok(seconds)
    }

    /// Seconds per row of batches of different lengths: the longest first, which also shows the memory.
    fn curve(&mut self, order: &[usize]) -> Result<Curve, RunError> {
        let mut order = order.to_vec();
        order.reverse();
        let batches: Vec<&[usize]> = order.chunks(self.extractor.run.batch_size).collect();
        let last = batches.len() - 1;
        // A smaller last batch says little of the others.
        let last = if last > 0 && batches[last].len() < batches[0].len() { last - 1 } else { last };
        let began = Instant::now();
        let places = [0, last / 2, last, 0, last / 4, last * 3 / 4, last / 2, last, 0];
        let mut measured = Vec::new();
        for (turn, place) in places.into_iter().enumerate() {
            // Two lengths at least, whatever they take.
            if turn > 1 && began.elapsed().as_secs_f64() > PATIENCE {
                break;
            }
            let batch = batches[place];
            let seconds = self.batch(batch)? / batch.len() as f64;
            measured.push((K::Model::length(&self.set.samples[batch[0]]), seconds));
        }
        // The first one is slower, where anything is prepared, but better than none.
        let skip = usize::from(measured.len() > 3);
        let mut found: BTreeMap<usize, Vec<f64>> = BTreeMap::new();
        for (length, seconds) in measured.into_iter().skip(skip) {
            found.entry(length).or_default().push(seconds);
        }
        let mean = |all: Vec<f64>| all.iter().sum::<f64>() / all.len() as f64;
        Ok(Curve { points: found.into_iter().map(|(length, all)| (length as f64, mean(all))).collect() })
    }

    /// The speed of batches of several sizes, and how many of the longest rows fit. `memory` is what was held before and
    /// at most during a batch of these.
    fn batches(
        &mut self,
        order: &[usize],
        curve: &Curve,
        memory: Option<(f64, f64)>,
    ) -> Result<PlannedBatch, RunError> {
        let (run, all) = (self.extractor.run, order.len());
        let rows = run.batch_size.min(all);
        let largest = memory.zip(available()).map(|((before, most), free)| {
            let each = ((most - before) / rows as f64).max(1.0);
            ((SHARE * (free + most - before) / each) as usize).clamp(1, all)
        });
        let fits = largest.unwrap_or(LARGEST).min(LARGEST).min(all);
        let began = Instant::now();
        let middle = K::Model::length(&self.set.samples[order[all / 2]]);
        let own = (rows, 1.0 / curve.seconds(middle, 1).max(1e-9));
        let mut speeds: Vec<(usize, f64)> = Vec::new();
        let mut size = 4.min(fits);
        loop {
            let first = (all - size) / 2;
            let batch = &order[first..first + size];
            let mut seconds = self.batch(batch)?;
            if seconds < PATIENCE / 30.0 {
                seconds = seconds.min(self.batch(batch)?);
            }
            speeds.push((size, size as f64 / seconds));
            let next = (2 * size).min(fits);
            let expected = 2.0 * seconds;
            let slower = speeds.len() > 2 && speeds[speeds.len() - 1].1 < speeds[speeds.len() - 3].1 * (1.0 + GAIN);
            if next == size || slower || began.elapsed().as_secs_f64() + expected > PATIENCE {
                break;
            }
            size = next;
        }
        if speeds.iter().all(|speed| speed.0 != rows) {
            speeds.push(own);
            speeds.sort_by_key(|speed| speed.0);
        }
        let best = speeds.iter().map(|speed| speed.1).fold(0.0, f64::max);
        // The smallest that is as fast: a larger one takes memory.
        let fastest = speeds.iter().find(|speed| speed.1 >= best * (1.0 - GAIN)).map_or(rows, |speed| speed.0);
        Ok(PlannedBatch { rows: run.batch_size, largest, fastest, speeds })
    }

    /// Seconds per row of predictions in a pass of their own, where the losses do not say them.
    fn prediction(&self, order: &[usize]) -> Result<Option<f64>, RunError> {
        let model = self.extractor.model;
        let first = (order.len() - self.extractor.run.batch_size.min(order.len())) / 2;
        let batch = order[first..].iter().take(self.extractor.run.batch_size);
        let samples: Vec<_> = batch.map(|&sample| &self.set.samples[sample]).collect();
        if samples.iter().all(|sample| K::prediction_of_loss(model, sample, 1.0).is_some()) {
            return Ok(None);
        }
        let began = Instant::now();
        K::predict(model, &samples)?;
        Ok(Some(began.elapsed().as_secs_f64() / samples.len() as f64))
    }

    /// The curvature of a few rows, where the model is run for it, the seconds that do not depend on the number of rows,
    /// and those of a batch of middle length.
    fn curvature(&self, order: &[usize]) -> Result<Option<Known>, RunError> {
        let (run, model) = (self.extractor.run, self.extractor.model);
        let size = run.batch_size.min(order.len());
        let middle = (order.len() - size) / 2;
        let samples: Vec<_> =
            order[middle..middle + size].iter().map(|&sample| self.set.samples[sample].clone()).collect();
        let two: Vec<_> = samples.iter().chain(&samples).cloned().collect();
        let began = Instant::now();
        if estimate::of_model(run, run.estimate, model, &samples, &mut |_| ())?.is_none() {
            return Ok(None);
        }
        let one = began.elapsed().as_secs_f64();
        let began = Instant::now();
        let Some(known) = estimate::of_model(run, run.estimate, model, &two, &mut |_| ())? else { return Ok(None) };
        let each = (began.elapsed().as_secs_f64() - one).max(0.1 * one);
        Ok(Some((known, (one - each).max(0.0), each * run.batch_size as f64 / size as f64)))
    }
}

/// A curvature, the seconds for it whatever the number of rows, and those of each batch.
type Known = (Vec<hyperinf_curvature::BlockCurvature>, f64, f64);

/// A folder on the disk of the results, removed at the end.
fn scratch(out: &Path) -> Result<TempDir, RunError> {
    let there = out.ancestors().find(|folder| folder.is_dir());
    let there = there.unwrap_or(Path::new("."));
    let new = || tempfile::Builder::new().prefix(".hyperinf-plan-").tempdir_in(there);
    new().or_else(|_| tempfile::tempdir()).map_err(|source| StoreError::output(there, source).into())
}
