//! Work that ranks share: the gradients of batches and the scores of blocks.

use std::path::absolute;

use burn::tensor::Device;
use hyperinf_curvature::{BlockCurvature, Storage};
use hyperinf_gradients::{Block, Target};
use hyperinf_scoring::{Attribution, BlockScores, Method, Options, Scorer, TeamError, owners};
use hyperinf_store::{GradientPair, RunKey, StoreError, curvature_from_bytes, curvature_to_bytes, score_blocks};
use serde::{Deserialize, Serialize};

use crate::RunError;
use crate::crew::{Crew, Work};
use crate::crew_curvature;
use crate::crew_message::{Unread, packed};
use crate::gradients::{BatchGradients, Extractor};
use crate::kind::Kind;
use crate::run::Run;
use crate::samples::Samples;
use crate::stage::Stage;

/// The crew of a run, if there are several ranks.
pub(crate) fn several(run: &Run) -> Option<&Crew> {
    run.crew.as_ref().filter(|crew| crew.size() > 1)
}

/// What all ranks must agree on; of an index without its method.
pub(crate) fn common_key<K: Kind>(key: &RunKey, run: Option<&Run>, sets: &[&Samples<K>]) -> RunKey {
    let mut key = key.clone();
    key.0.extend(run.map(|run| (METHOD.to_owned(), method(run))));
    for (place, set) in sets.iter().enumerate() {
        key.0.insert(format!("content of {} rows", place_name(place)), set.fingerprint(0..set.samples.len()));
    }
    key
}

const METHOD: &str = "method and its settings";

/// Everything that a run's scores depend on besides its gradients.
pub(crate) fn method(run: &Run) -> String {
    let Options { method, normalisation, damping, query, merged, block_scores } = &run.options;
    let method = match method {
        Method::Identity => "identity".to_owned(),
        Method::Inverse { storage, solver } => format!("{storage:?} by {}", solver.name()),
    };
    format!(
        "{method}, {normalisation:?}, {damping:?}, {query:?}, merged {merged}, block scores {block_scores}, {:?}, {:?}, \
         seeds {:?}",
        run.estimate, run.projection, run.seeds
    )
}

/// The run of a method, if it has the settings of rank 0.
fn agreed<'a>(crew: &Crew, runs: &'a [Run], place: usize, leader: String) -> Result<&'a Run, RunError> {
    let missing = || TeamError::Garbled { rank: 0, reason: format!("there is no method {place}") };
    let run = runs.get(place).ok_or_else(missing)?;
    let theirs = method(run);
    if theirs == leader {
        return Ok(run);
    }
    Err(TeamError::Differs { rank: crew.rank(), what: METHOD.to_owned(), theirs, ours: leader }.into())
}

fn place_name(place: usize) -> String {
    match place {
        0 => "training".to_owned(),
        1 => "query".to_owned(),
        other => format!("target {other}"),
    }
}

/// Does what rank 0 gives out until there is nothing more.
pub(crate) fn serve<K: Kind>(
    runs: &[Run],
    extractor: &Extractor<'_, K>,
    sets: &[&Samples<K>],
    device: &Device,
) -> Result<(), RunError> {
    let Some(crew) = several(extractor.run) else { return Ok(()) };
    crew.meet(&common_key(&extractor.key, runs.first(), sets))?;
    let garbled = |reason: String| RunError::Team(TeamError::Garbled { rank: 0, reason });
    let stop = &extractor.run.stop;
    loop {
        match crew.next()? {
            Work::End => return crew.leave(),
            Work::Curvature { place, method, estimate } => {
                let run = agreed(crew, runs, place, method)?;
                crew.computing(|| crew_curvature::serve(crew, run, estimate, extractor.model, &sets[0].samples))?;
            }
            Work::Pieces { .. } => return Err(garbled("its work is that of fine-tuning".to_owned())),
            Work::Gradients { set: place, first, batches } => {
                let set = *sets.get(place).ok_or_else(|| garbled(format!("there is no set {place}")))?;
                let (target, stage) = match place {
                    0 => (Target::Loss, Stage::TrainGradients),
                    _ => (Target::Measure, Stage::QueryGradients),
                };
                let sample = set.samples.get(first).ok_or_else(|| garbled(format!("there is no row {first}")))?;
                let projection = extractor.blocks(sample, target)?.1;
                let (total, _listening) = (batches.len(), stop.listen());
                for (done, batch) in batches.iter().enumerate().filter(|(n, _)| crew.owner(*n) == crew.rank()) {
                    if stop.is_requested() {
                        return Err(RunError::Stopped { stage, done, total, kept: None });
                    }
                    let found = crew.computing(|| extractor.batch(set, first, batch, target, &projection))?;
                    crew.send(0, &to_bytes(&found))?;
                }
            }
            Work::Scores { place, method, draw, train, query, owners, known } => {
                let run = agreed(crew, runs, place, method)?;
                let mut pair = GradientPair::open(&train, &query)?;
                pair.memory = run.memory;
                pair.project(run.projection_of(draw)?, device)?;
                let known = match known {
                    false => None,
                    true => {
                        let known = curvature_from_bytes(&crew.receive(0, "the curvature of blocks")?, device);
                        Some(known.ok_or_else(|| garbled("it is no curvature".to_owned()))?)
                    }
                };
                let mut found = Vec::new();
                let own = owned(&owners, crew.rank());
                let mut keep = |_, scores| found.push(scores);
                crew.computing(|| score_blocks(&pair, known.as_deref(), &run.options, device, &own, &mut keep))?;
                found.iter().try_for_each(|scores: &BlockScores| crew.send(0, &scores.to_bytes()))?;
            }
        }
    }
}

fn owned(owners: &[usize], rank: usize) -> Vec<usize> {
    (0..owners.len()).filter(|&block| owners[block] == rank).collect()
}

/// [`hyperinf_store::score`] by all ranks, a block by each. Blocks that are merged, or whose curvature is known as
/// samples, are scored by rank 0.
pub(crate) fn score(
    run: &Run,
    pair: &GradientPair,
    known: Option<&[BlockCurvature]>,
    draw: usize,
    device: &Device,
) -> Result<Attribution, RunError> {
    let blocks = pair.scored_blocks();
    let Some(crew) = several(run).filter(|_| !run.options.merged && blocks.len() > 1) else {
        return Ok(hyperinf_store::score(pair, known, &run.options, device)?);
    };
    let (n, q) = (pair.train.samples(), pair.query.file.samples());
    let weights: Vec<f64> = blocks.iter().map(|block| weight(&run.options, block, n, q)).collect();
    let owners = owners(&weights, crew.size());
    let of = |known: &[BlockCurvature], rank: usize| {
        let own = owned(&owners, rank);
        let is_own = |found: &&BlockCurvature| own.iter().any(|&place| blocks[place] == found.block);
        curvature_to_bytes(&known.iter().filter(is_own).cloned().collect::<Vec<_>>())
    };
    let shares = match known {
        None => Vec::new(),
        Some(known) => match (1..crew.size()).map(|rank| of(known, rank)).collect::<Option<Vec<_>>>() {
            Some(shares) => shares,
            None => return Ok(hyperinf_store::score(pair, Some(known), &run.options, device)?),
        },
    };
    let path = |path| absolute(path).map_err(|e| StoreError::output(path, e));
    let (train, query) = (path(pair.train.path())?, path(pair.query.file.path())?);
    crew.order(&Work::Scores {
        place: crew.method,
        method: method(run),
        draw,
        train,
        query,
        owners: owners.clone(),
        known: known.is_some(),
    })?;
    shares.iter().zip(1..).try_for_each(|(share, rank)| crew.send(rank, share))?;
    let mut found: Vec<Option<BlockScores>> = blocks.iter().map(|_| None).collect();
    let mut keep = |block: usize, scores| found[block] = Some(scores);
    crew.computing(|| score_blocks(pair, known, &run.options, device, &owned(&owners, 0), &mut keep))?;
    let mut scorer = Scorer::new(run.options.clone())?;
    for ((found, rank), block) in found.into_iter().zip(owners).zip(&blocks) {
        let scores = match found {
            Some(scores) => scores,
            None => BlockScores::from_bytes(&crew.receive(rank, "the scores of a block")?, block)
                .map_err(|reason| TeamError::Garbled { rank, reason })?,
        };
        scorer.merge(scores)?;
    }
    Ok(scorer.finish()?)
}

/// The multiplications that a block's scores take, roughly.
fn weight(options: &Options, block: &Block, n: usize, q: usize) -> f64 {
    let [n, q, rows, cols] = [n, q, block.rows, block.cols].map(|size| size as f64);
    let parameters = rows * cols;
    let scores = n * q * parameters;
    let Method::Inverse { storage, .. } = &options.method else { return scores };
    scores
        + match storage.by_sides_of(block) {
            Storage::OneSided { .. } => n * parameters * rows.min(cols) + rows.min(cols).powi(3),
            Storage::Kronecker { .. } | Storage::TwoSided { .. } => {
                n * parameters * (rows + cols) + rows.powi(3) + cols.powi(3)
            }
            Storage::Full | Storage::Dense | Storage::Samples | Storage::LowRank { .. } => {
                let side = n.min(parameters);
                n * parameters * side + side.powi(3)
            }
            Storage::Diagonal | Storage::Isotropic => n * parameters,
        }
}

/// What is sent of a batch's gradients before its numbers.
#[derive(Serialize, Deserialize)]
struct Sizes {
    samples: usize,
    /// The numbers of each block.
    blocks: Vec<usize>,
}

/// A batch's gradients as a message.
fn to_bytes(found: &BatchGradients) -> Vec<u8> {
    let BatchGradients { losses, values } = found;
    let sizes = Sizes { samples: losses.len(), blocks: values.iter().map(Vec::len).collect() };
    let losses: Vec<u8> = losses.iter().flat_map(|loss| loss.to_le_bytes()).collect();
    let values: Vec<u8> = values.iter().flatten().flat_map(|value| value.to_le_bytes()).collect();
    packed(&sizes, [&*losses, &*values])
}

/// From [`to_bytes`] of another rank, for a batch of so many samples.
pub(crate) fn from_bytes(rank: usize, bytes: &[u8], samples: usize) -> Result<BatchGradients, RunError> {
    let (sizes, mut unread) = Unread::new::<Sizes>(rank, bytes)?;
    if sizes.samples != samples {
        let reason = format!("it has {} samples, and the batch {samples}", sizes.samples);
        return Err(unread.garbled(&reason).into());
    }
    let losses = unread.take(samples * 8)?.as_chunks::<8>().0.iter().map(|bytes| f64::from_le_bytes(*bytes)).collect();
    let mut block = |size: usize| {
        let bytes = unread.take(size.saturating_mul(4))?;
        Ok(bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect())
    };
    let values = sizes.blocks.into_iter().map(&mut block).collect::<Result<Vec<Vec<f32>>, TeamError>>()?;
    unread.end()?;
    Ok(BatchGradients { losses, values })
}
