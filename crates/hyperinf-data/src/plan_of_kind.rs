//! [`Run::plan`](crate::Run::plan) of one kind of model: the measurement.

use std::path::PathBuf;
use std::time::Instant;

use burn::tensor::{Device, Distribution, Tensor};
use hyperinf_curvature::Storage;
use hyperinf_gradients::Block;
use hyperinf_linalg::{gram_precise, host};
use hyperinf_scoring::{Method, Options, QueryMode, Set};
use hyperinf_store::{RunKey, Sizes, available, factor_bytes, free_space, resident};

use crate::dataset::Dataset;
use crate::error::size;
use crate::event::Event;
use crate::gradients::Extractor;
use crate::kind::{Kind, Prepared};
use crate::model_files::ModelFiles;
use crate::plan::{Goal, PlannedDisk, PlannedMemory, PlannedRows, RunPlan};
use crate::plan_gradients::{Probe, middle};
use crate::plan_probe::{Measured, sorted, step};
use crate::plan_scores::{ScoreCosts, Stored};
use crate::run::{Run, unchanged};
use crate::run_of_kind::{Loaded, load};
use crate::samples::{Samples, notify};
use crate::select::Duplicates;
use crate::{RunError, estimate, refined};

/// Bytes of a score in a file: an upper bound for Parquet.
pub(crate) const SCORE: u64 = 16;

pub(crate) fn plan<K: Kind>(
    run: &Run,
    goal: &Goal,
    files: ModelFiles,
    device: &Device,
    observe: &mut dyn FnMut(Event),
) -> Result<RunPlan, RunError> {
    let began = Instant::now();
    K::check_estimate(run.estimate)?;
    if let Goal::Select(select) = goal {
        run.check_select(select)?;
    }
    let read = |set, path: &PathBuf| {
        unchanged(path, || Dataset::<K::Content>::read(set, path, &run.read).map_err(RunError::of_rows(set, path)))
    };
    let train = read(Set::Train, &run.train)?;
    let paths = std::iter::once(&run.query).chain(goal.targets());
    let queries = paths.map(|path| read(Set::Query, path)).collect::<Result<Vec<_>, _>>()?;
    let Loaded { prepared, limit } = load::<K>(run, &files, &train, device, observe)?;
    let samples = |data| Samples::<K>::new(&prepared, data, limit, run.read.skip_bad_rows);
    let train = samples(train)?;
    let queries = queries.into_iter().map(samples).collect::<Result<Vec<_>, _>>()?;
    std::iter::once(&train).chain(&queries).for_each(|set| notify(&prepared.processor, set, observe));
    let Prepared { model, .. } = prepared;
    let mut steps = vec![step("loading", began.elapsed().as_secs_f64(), String::new())];

    let began = Instant::now();
    let _listening = run.stop.listen();
    let extractor = Extractor::<K> { run, model: &model, key: RunKey::default(), metric: None };
    let mut probe = Probe::new(&extractor, &train, usize::MAX)?;
    let Measured { curve, batch, memory: most, order } = probe.measure()?;
    let of_set = |set: &Samples<K>| curve.total(sorted(&set.lengths(), run.batch_size));
    let (of_train, batches) = of_set(&train);
    steps.push(step("training gradients", of_train, format!("{batches} batches")));
    let (mut of_queries, mut batches) = (0.0, 0);
    for set in &queries {
        let (seconds, count) = of_set(set);
        (of_queries, batches) = (of_queries + seconds, batches + count);
    }
    steps.push(step("query gradients", of_queries, format!("{batches} batches")));
    let (n, q) = (train.samples.len(), queries[0].samples.len());
    let parameters: usize = probe.blocks.iter().map(Block::parameters).sum();
    let written = (n * parameters * size_of::<f32>()) as f64;
    steps.push(step("gradients to disk", written * probe.sync_rate()?, size(written as u64)));
    let asked: usize = queries.iter().map(|set| set.samples.len()).sum();
    if let Some(share) = probe.prediction(&order, &curve)? {
        steps.push(step("predictions", share * (of_train + of_queries), format!("{} rows", n + asked)));
    }
    let seeds = run.seeds.unwrap_or(1) as f64;
    let known = curvature(&extractor, &train, &order)?;
    if let Some((_, first, each)) = &known {
        let weight = of_train / curve.seconds(probe.middle(&order), run.batch_size).max(f64::MIN_POSITIVE);
        steps.push(step("curvature", seeds * (first + each * weight), format!("{n} training rows")));
    }
    let stored = Stored { blocks: &probe.blocks, kept: &probe.kept, folder: probe.folder.path() };
    let costs = ScoreCosts::measure(run, goal, &stored, [n, q], known.as_ref().map(|known| &*known.0), device)?;
    let rate = if needs_rate(run) { rate(device)? } else { f64::INFINITY };
    let of_mean = run.options.query == QueryMode::Mean;
    let rows_of = |set: &Samples<K>| if of_mean { 1 } else { set.samples.len() };
    let passes: f64 = queries.iter().map(|set| costs.seconds(n, set.samples.len())).sum();
    let exact = held(run, &probe.blocks, n) / rate;
    let scored: usize = queries.iter().map(rows_of).sum();
    steps.push(step("scores", seeds * (passes + queries.len() as f64 * exact), format!("{n} rows for {scored}")));
    if let Some(refine) = run.refine {
        refined::check_inputs(run, n, !extractor.large_blocks(&train)?.is_empty())?;
        let batch = middle(&order, run.batch_size);
        let samples: Vec<_> = batch.iter().map(|&sample| &train.samples[sample]).collect();
        // The first time anything may have to be prepared.
        let once = refined::seconds(&model, &samples)?.min(refined::seconds(&model, &samples)?);
        let weight = of_train / curve.seconds(probe.middle(&order), batch.len()).max(f64::MIN_POSITIVE);
        let rows = refine.rows.drawn().unwrap_or(n);
        let all = once * weight * rows as f64 / n as f64 * (refined::products(refine) * scored) as f64;
        steps.push(step("refinement", all, format!("{} steps for {scored}, {rows} rows", refine.steps)));
    }
    if let Some(seconds) = costs.self_influence(n) {
        steps.push(step("self-influence", seconds, format!("{n} rows")));
    }
    let tokens = train.lengths().iter().sum::<usize>();
    let pool = goal.pool(n, tokens);
    if let (Some(pool), Goal::Select(select)) = (pool, goal) {
        let work = format!("{pool} rows with each other");
        if select.diverse.is_some() {
            steps.push(step("products", costs.products(n, pool) + exact, work.clone()));
        }
        if let Duplicates::Near(_) = select.duplicates {
            let options = Options { method: Method::Identity, ..Options::default() };
            let plain = Run { options, ..run.clone() };
            let costs = ScoreCosts::measure(&plain, goal, &stored, [n, pool], None, device)?;
            steps.push(step("cosines", costs.seconds(pool, pool), work));
        }
    }

    let projected = run.projection.is_some();
    let most_queries = queries.iter().map(|set| set.samples.len()).max().unwrap_or(0);
    let sizes =
        Sizes { blocks: costs.blocks, train: n, curvature: n, queries: most_queries, dampings: 1, width: 4, projected };
    let of_pool =
        pool.map_or(0.0, |pool| Sizes { train: pool, queries: pool, ..sizes.clone() }.needed(&run.options).bytes);
    let refusal = sizes.check(&run.options, run.memory.or_else(available)).err().map(|error| error.to_string());
    let held = resident().unwrap_or(0.0);
    let memory = PlannedMemory {
        batches: most,
        scores: Some(held + sizes.needed(&run.options).bytes.max(of_pool)),
        available: run.memory.or_else(available).map(|free| free + held),
    };
    let of_gradients = (n + asked) as u64 * parameters as u64 * size_of::<f32>() as u64;
    let of_factors = match run.index {
        Some(_) if run.keep_factors => factor_bytes(&run.options, &sizes.blocks, n) as u64,
        _ => 0,
    };
    let needed = of_gradients + of_factors + (n * scored) as u64 * SCORE;
    let disk = PlannedDisk { folder: run.out.clone(), needed, free: free_space(&run.out) };
    Ok(RunPlan {
        command: goal.name(),
        train: rows(&train),
        query: queries.iter().map(rows).collect(),
        blocks: probe.blocks.len(),
        parameters,
        batch,
        steps,
        memory,
        disk,
        refusal,
        measured: began.elapsed().as_secs_f64(),
    })
}

/// The rows of a set.
pub(crate) fn rows<K: Kind>(set: &Samples<K>) -> PlannedRows {
    let lengths = set.lengths();
    PlannedRows { rows: lengths.len(), tokens: lengths.iter().sum(), longest: lengths.into_iter().max().unwrap_or(0) }
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

/// The curvature of a few rows, where the model is run for it, the seconds that do not depend on the number of rows, and
/// those of a batch of middle length.
fn curvature<K: Kind>(
    extractor: &Extractor<'_, K>,
    set: &Samples<K>,
    order: &[usize],
) -> Result<Option<Known>, RunError> {
    let (run, model) = (extractor.run, extractor.model);
    let batch = middle(order, run.batch_size);
    let samples: Vec<_> = batch.iter().map(|&sample| set.samples[sample].clone()).collect();
    let two: Vec<_> = samples.iter().chain(&samples).cloned().collect();
    let began = Instant::now();
    if estimate::of_model(run, run.estimate, (model, &samples), None, &mut |_| ())?.is_none() {
        return Ok(None);
    }
    let one = began.elapsed().as_secs_f64();
    let began = Instant::now();
    let Some(known) = estimate::of_model(run, run.estimate, (model, &two), None, &mut |_| ())? else { return Ok(None) };
    let each = (began.elapsed().as_secs_f64() - one).max(0.1 * one);
    Ok(Some((known, (one - each).max(0.0), each * run.batch_size as f64 / batch.len() as f64)))
}

/// A curvature, the seconds for it whatever the number of rows, and those of each batch.
type Known = (Vec<hyperinf_curvature::BlockCurvature>, f64, f64);
