//! Questions of one kind of model, one after the other: what they share is loaded once.

use std::time::Instant;

use burn::tensor::{Device, Tensor, TensorData};
use hyperinf_gradients::{Gradients, Target};
use hyperinf_models::Limit;
use hyperinf_scoring::{Attribution, Method, Normalisation, PreconditionedQueries, Preconditioner, QueryMode, Scores};
use hyperinf_store::{
    Ends, FactorOptions, Factors, GradientPair, IndexError, IndexFolder, RunKey, Sketches, StoreError, TemporaryFolder,
    check_writable, score, top_rows, training_factors,
};

use super::key::{LAST_BITS, key_of};
use super::query::{AnsweredQuery, Query, QuerySeconds, Reading, answers};
use crate::RunError;
use crate::dataset::Dataset;
use crate::event::Event;
use crate::gradients::Extractor;
use crate::influence::Rows;
use crate::kind::{Kind, Prepared};
use crate::model_files::ModelFiles;
use crate::prediction::{Predicted, Prediction};
use crate::run::{GRADIENT_FILES, Run};
use crate::run_of_kind::{Loaded, device_kind, load, predictions};
use crate::samples::{Samples, by_length, notify};

/// Bytes of the queries' gradients up to which they are held at once.
const HELD: usize = 256 << 20;

/// A model and an index that are asked.
pub(crate) struct Session<K: Kind> {
    query: Query,
    run: Run,
    prepared: Prepared<K>,
    limit: Limit,
    pub(super) index: IndexFolder,
    _folder: TemporaryFolder,
    pub(super) ready: Option<Ready>,
}

/// What the first question has found.
pub(super) struct Ready {
    pub(super) pair: GradientPair,
    pub(super) factors: Factors,
    /// How few rows are read in full, or why all are.
    nearest: Result<Nearest, &'static str>,
}

struct Nearest {
    sketches: Sketches,
    preconditioner: Preconditioner,
}

/// The answer to one question.
pub(super) struct Asked {
    pub(super) rows: Rows,
    pub(super) attribution: Attribution,
    pub(super) answers: Vec<AnsweredQuery>,
    pub(super) reading: Reading,
    pub(super) seconds: QuerySeconds,
}

impl<K: Kind> Session<K> {
    /// Loads the model; fails if the index is that of another one. `first` are the rows of the first question.
    pub(super) fn open(
        query: &Query,
        mut run: Run,
        files: &ModelFiles,
        index: IndexFolder,
        first: &Dataset<K::Content>,
        device: &Device,
        observe: &mut dyn FnMut(Event),
    ) -> Result<Self, RunError> {
        // Queries are few: an index on a disk that cannot be written is asked like any other.
        let folder = TemporaryFolder::new().map_err(|e| StoreError::output(&std::env::temp_dir(), e))?;
        folder.path().clone_into(&mut run.out);
        let Loaded { prepared, limit } = load::<K>(&run, files, first, device, observe)?;
        let mut differences =
            index.manifest().key.differences(&key_of::<K>(&run, files, &prepared.model, limit, device));
        differences.retain(|field| !LAST_BITS.contains(&field.what.as_str()));
        if !differences.is_empty() {
            return Err(IndexError::Differs { path: index.path().to_owned(), differences }.into());
        }
        Ok(Self { query: query.clone(), run, prepared, limit, index, _folder: folder, ready: None })
    }

    /// Holds what is read of the index in memory for further questions, where there is room.
    pub(super) fn hold(&mut self) -> Result<(), RunError> {
        if let Some(Ready { pair, nearest: Ok(nearest), .. }) = &mut self.ready {
            nearest.sketches.hold(&pair.train)?;
        }
        Ok(())
    }

    pub(super) fn ask(
        &mut self,
        data: Dataset<K::Content>,
        device: &Device,
        observe: &mut dyn FnMut(Event),
    ) -> Result<Asked, RunError> {
        let (began, mut seconds) = (Instant::now(), QuerySeconds::default());
        let later = self.ready.is_some();
        let set = Samples::<K>::new(&self.prepared, data, self.limit, self.run.read.skip_bad_rows)?;
        notify(&self.prepared.processor, &set, observe);
        let extractor =
            Extractor::<K> { run: &self.run, model: &self.prepared.model, key: RunKey::default(), metric: None };
        let (found, gradients) = match later {
            false => {
                let written = extractor.write(GRADIENT_FILES[1], 1, &set, observe)?;
                let all = 0..set.samples.len();
                let found = predictions::<K>(&self.run, extractor.model, (1, &set), all, &written, &mut |_| {})?;
                seconds.gradients = began.elapsed().as_secs_f64();
                let began = Instant::now();
                let mut pair = GradientPair::open(self.index.path(), written.path())?;
                pair.memory = self.run.memory;
                pair.project(self.run.projection, device)?;
                let how = FactorOptions { keep: self.query.keep_factors, device_kind: device_kind(&self.run, device) };
                let factors = training_factors(&mut pair, &self.run.options, self.run.projection, &how, device)?;
                let nearest = nearest(&self.query, &self.run, &self.index, &pair, &factors)?;
                let gradients = nearest.is_ok().then(|| pair.query_gradients(device)).transpose()?;
                self.ready = Some(Ready { pair, factors, nearest });
                seconds.curvature = began.elapsed().as_secs_f64();
                (found, gradients)
            }
            true => {
                let (losses, gradients) = in_memory(&extractor, &set, &self.index, device)?;
                let of_loss = |loss| Prediction { loss, target: Predicted::Tokens(0) };
                seconds.gradients = began.elapsed().as_secs_f64();
                (losses.into_iter().map(of_loss).collect(), Some(gradients))
            }
        };
        let began = Instant::now();
        let Some(Ready { pair, nearest, .. }) = &mut self.ready else { unreachable!("it was made ready above") };
        let options = &self.run.options;
        let (rank_by, top) = (self.query.rank_by, self.query.top);
        let few = match (nearest, gradients) {
            (Ok(nearest), Some(gradients)) => {
                let PreconditionedQueries { rows, blocks } =
                    nearest.preconditioner.apply(&gradients).map_err(StoreError::Score)?;
                let built = nearest.sketches.built();
                let found = top_rows(&pair.train, &nearest.sketches, &rows, (top, rank_by))?;
                let sketched = nearest.sketches.built() - built;
                found.map(|found| (found, blocks, sketched)).ok_or("the bounds of the sketches leave too many rows")
            }
            (Err(reason), _) => Err(*reason),
            (Ok(_), None) => Err("the gradients of the queries are not at hand"),
        };
        let (attribution, ends, reading) = match few {
            Ok((found, blocks, sketched)) => {
                let reading = Reading::Few { rows: found.read, sketched };
                let scores = Scores { rows: vec![Vec::new(); found.ends.len()] };
                (Attribution { scores, blocks, ..Attribution::default() }, found.ends, reading)
            }
            Err(reason) => {
                if later {
                    let written = extractor.write(GRADIENT_FILES[1], 1, &set, observe)?;
                    pair.ask(written.path())?;
                }
                let attribution = score(pair, None, options, device)?;
                let ends = attribution.scores.rows.iter().map(|scores| Ends::of(scores, top, rank_by)).collect();
                (attribution, ends, Reading::Every { reason })
            }
        };
        let facts = set.facts();
        let rows = Rows::new(set, facts, found);
        let answers = answers(&self.index, &rows, &ends, options.query)?;
        seconds.scores = began.elapsed().as_secs_f64();
        Ok(Asked { rows, attribution, answers, reading, seconds })
    }
}

/// How few rows can be read for a question, or why all must be.
fn nearest(
    query: &Query,
    run: &Run,
    index: &IndexFolder,
    pair: &GradientPair,
    factors: &Factors,
) -> Result<Result<Nearest, &'static str>, RunError> {
    let options = &run.options;
    if query.every_row {
        return Ok(Err("all scores were asked for"));
    }
    if options.normalisation != Normalisation::None {
        return Ok(Err("scores are divided by a norm of each row"));
    }
    if options.block_scores || run.projection.is_some() {
        return Ok(Err("gradients are projected, or scores are of blocks"));
    }
    let queries = if options.query == QueryMode::Mean { 1 } else { pair.query.file.samples() };
    let parameters: usize = pair.train.blocks().iter().map(|stored| stored.block.parameters()).sum();
    if queries.saturating_mul(parameters).saturating_mul(size_of::<f64>()) > HELD
        || pair.query.file.samples().saturating_mul(parameters).saturating_mul(size_of::<f32>()) > HELD
    {
        return Ok(Err("the gradients of so many queries are read block by block"));
    }
    let curvature = match (&options.method, pair.own_curvature(options), factors) {
        (Method::Identity, _, _) => Vec::new(),
        (Method::Inverse { .. }, Some(own), _) => own.to_vec(),
        (Method::Inverse { .. }, None, Factors::Nothing { reason }) => return Ok(Err(reason)),
        (Method::Inverse { .. }, None, _) => return Ok(Err("the method works on the gradients themselves")),
    };
    // Sketches that are not kept would cost more than they save.
    let keep = query.keep_factors && check_writable(&index.path().join(GRADIENT_FILES[1])).is_ok();
    if !keep && index.sketches().len() < index.manifest().leaves.len() {
        return Ok(Err("the index has no sketches, and none are kept"));
    }
    let preconditioner = Preconditioner::new(curvature, options).map_err(StoreError::Score)?;
    Ok(Ok(Nearest { sketches: Sketches::new(index, keep), preconditioner }))
}

/// The losses of rows, and their gradients, with the blocks in the order of the index.
fn in_memory<K: Kind>(
    extractor: &Extractor<'_, K>,
    set: &Samples<K>,
    index: &IndexFolder,
    device: &Device,
) -> Result<(Vec<f64>, Gradients), RunError> {
    let mut order = by_length::<K::Model>(&set.samples);
    order.reverse();
    let (blocks, projection) = extractor.blocks(&set.samples[order[0]], Target::Measure)?;
    let n = set.samples.len();
    let mut losses = vec![0.0; n];
    let mut all: Vec<Vec<f32>> = blocks.iter().map(|block| vec![0.0; n * block.parameters()]).collect();
    for batch in order.chunks(extractor.run.batch_size) {
        let found = extractor.batch(set, 0, batch, Target::Measure, &projection)?;
        batch.iter().zip(found.losses).for_each(|(&sample, loss)| losses[sample] = loss);
        for ((all, block), values) in all.iter_mut().zip(&blocks).zip(&found.values) {
            let own = block.parameters();
            for (&sample, values) in batch.iter().zip(values.chunks(own)) {
                all[sample * own..(sample + 1) * own].copy_from_slice(values);
            }
        }
    }
    let layout = index.manifest().layout();
    let mut tensors = Vec::with_capacity(layout.len());
    for block in &layout {
        let Some(place) = blocks.iter().position(|own| own == block) else {
            let reason = format!("it has a block `{}` that the model has not", block.name);
            return Err(IndexError::Damaged { path: index.path().to_owned(), reason }.into());
        };
        let data = TensorData::new(std::mem::take(&mut all[place]), [n, block.rows, block.cols]);
        tensors.push(Tensor::from_data(data, device));
    }
    Ok((losses, Gradients { layout: layout.into(), blocks: tensors }))
}
