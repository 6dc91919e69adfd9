//! [`Query`]s of one kind of model.

use std::time::Instant;

use burn::tensor::Device;
use hyperinf_scoring::Set;
use hyperinf_store::{
    FactorOptions, GradientPair, IndexError, IndexFolder, RunKey, StoreError, TemporaryFolder, score, training_factors,
};

use super::key::{LAST_BITS, key_of};
use super::query::{Answer, Asked, Query, QuerySeconds, answers, write_row};
use crate::RunError;
use crate::dataset::Dataset;
use crate::event::Event;
use crate::gradients::Extractor;
use crate::influence::Rows;
use crate::kind::{Kind, Prepared};
use crate::model_files::ModelFiles;
use crate::run::{GRADIENT_FILES, Run, unchanged};
use crate::run_of_kind::{Loaded, device_kind, load, predictions};
use crate::samples::{Samples, notify};

/// Takes the gradients of the queries, and scores the rows of the index for them.
pub(crate) fn query<K: Kind>(
    query: &Query,
    mut run: Run,
    files: ModelFiles,
    index: IndexFolder,
    device: &Device,
    observe: &mut dyn FnMut(Event),
) -> Result<Answer, RunError> {
    let (began, mut seconds) = (Instant::now(), QuerySeconds::default());
    // Queries are few: an index on a disk that cannot be written is asked like any other.
    let folder = TemporaryFolder::new().map_err(|e| StoreError::output(&std::env::temp_dir(), e))?;
    folder.path().clone_into(&mut run.out);
    if let Asked::Row(cells) = &query.asked {
        run.query = write_row(folder.path(), cells).map_err(|e| StoreError::output(folder.path(), e))?;
    }
    let data = unchanged(&run.query, || {
        let failed = RunError::of_rows(Set::Query, &run.query);
        Dataset::<K::Content>::read(Set::Query, &run.query, &run.read).map_err(failed)
    })?;
    let Loaded { prepared, limit } = load::<K>(&run, &files, &data, device, observe)?;
    let set = Samples::<K>::new(&prepared, data, limit, run.read.skip_bad_rows)?;
    notify(&prepared.processor, &set, observe);
    let Prepared { model, .. } = prepared;
    let mut differences = index.manifest().key.differences(&key_of::<K>(&run, &files, &model, limit, device));
    differences.retain(|field| !LAST_BITS.contains(&field.what.as_str()));
    if !differences.is_empty() {
        return Err(IndexError::Differs { path: index.path().to_owned(), differences }.into());
    }
    seconds.load = began.elapsed().as_secs_f64();
    let began = Instant::now();
    let extractor = Extractor::<K> { run: &run, model: &model, key: RunKey::default() };
    let gradients = extractor.write(GRADIENT_FILES[1], 1, &set, observe)?;
    let found = predictions::<K>(&run, &model, &set, 0..set.samples.len(), &gradients, &mut |_| {})?;
    seconds.gradients = began.elapsed().as_secs_f64();
    let began = Instant::now();
    let mut pair = GradientPair::open(index.path(), gradients.path())?;
    pair.memory = run.memory;
    pair.project(run.projection, device)?;
    let how = FactorOptions { keep: query.keep_factors, device_kind: device_kind(&run, device) };
    let factors = training_factors(&mut pair, &run.options, run.projection, &how, device)?;
    seconds.curvature = began.elapsed().as_secs_f64();
    let began = Instant::now();
    let attribution = score(&pair, None, &run.options, device)?;
    let facts = set.facts();
    let rows = Rows::new(set, facts, found);
    let mode = run.options.query;
    let answers = answers(&index, &rows, &attribution, mode, (query.rank_by, query.top))?;
    seconds.scores = began.elapsed().as_secs_f64();
    Ok(Answer { index, query: rows, attribution, pair, query_mode: mode, answers, factors, seconds })
}
