//! Work that ranks share: the gradients of batches and the scores of blocks.

use std::path::absolute;

use burn::tensor::Device;
use hyperinf_curvature::{BlockCurvature, Storage};
use hyperinf_gradients::{Block, Target};
use hyperinf_scoring::{Attribution, BlockScores, Method, Options, Scorer, TeamError, owners};
use hyperinf_store::{GradientPair, RunKey, StoreError, curvature_from_bytes, curvature_to_bytes, score_blocks};

use crate::RunError;
use crate::crew::{Crew, Work};
use crate::crew_curvature;
use crate::gradients::{BatchGradients, Extractor};
use crate::kind::Kind;
use crate::run::Run;
use crate::samples::Samples;
use crate::stage::Stage;

/// The crew of a run, if there are several ranks.
pub(crate) fn several(run: &Run) -> Option<&Crew> {
    run.crew.as_ref().filter(|crew| crew.size() > 1)
}

/// What all ranks must agree on.
pub(crate) fn common_key<K: Kind>(key: &RunKey, sets: &[&Samples<K>]) -> RunKey {
    let mut key = key.clone();
    for (place, set) in sets.iter().enumerate() {
        key.0.insert(format!("content of {} rows", place_name(place)), set.fingerprint(0..set.samples.len()));
    }
    key
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
    crew.meet(&common_key(&extractor.key, sets))?;
    let garbled = |reason: String| RunError::Team(TeamError::Garbled { rank: 0, reason });
    let stop = &extractor.run.stop;
    loop {
        match crew.next()? {
            Work::End => return crew.leave(),
            Work::Curvature { method, estimate } => {
                let run = runs.get(method).ok_or_else(|| garbled(format!("there is no method {method}")))?;
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
            Work::Scores { method, draw, train, query, owners, known } => {
                let run = runs.get(method).ok_or_else(|| garbled(format!("there is no method {method}")))?;
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
        method: crew.method,
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

/// A batch's gradients as a message: the numbers of samples, of blocks and of each block's numbers, then all of them.
pub(crate) fn to_bytes(found: &BatchGradients) -> Vec<u8> {
    let BatchGradients { losses, values } = found;
    let sizes = [losses.len(), values.len()].into_iter().chain(values.iter().map(Vec::len));
    let mut bytes: Vec<u8> = sizes.flat_map(|size| (size as u64).to_le_bytes()).collect();
    bytes.extend(losses.iter().flat_map(|loss| loss.to_le_bytes()));
    values.iter().flatten().for_each(|value| bytes.extend(value.to_le_bytes()));
    bytes
}

/// From [`to_bytes`] of another rank, for a batch of so many samples.
pub(crate) fn from_bytes(rank: usize, bytes: &[u8], samples: usize) -> Result<BatchGradients, RunError> {
    let garbled = || TeamError::Garbled { rank, reason: format!("{} bytes are no batch of {samples}", bytes.len()) };
    let mut rest = bytes;
    let mut number = || {
        let (number, after) = rest.split_first_chunk::<8>()?;
        rest = after;
        Some(u64::from_le_bytes(*number))
    };
    let (found, blocks) = number().zip(number()).ok_or_else(garbled)?;
    let sizes = (0..blocks).map(|_| number()).collect::<Option<Vec<u64>>>().ok_or_else(garbled)?;
    let losses: Option<Vec<f64>> = (0..samples).map(|_| number().map(f64::from_bits)).collect();
    let losses = losses.filter(|_| found == samples as u64).ok_or_else(garbled)?;
    let mut values = Vec::with_capacity(sizes.len());
    for size in sizes {
        let bytes = usize::try_from(size).ok().and_then(|size| rest.split_at_checked(size.checked_mul(4)?));
        let (block, after) = bytes.ok_or_else(garbled)?;
        values.push(block.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect());
        rest = after;
    }
    if rest.is_empty() { Ok(BatchGradients { losses, values }) } else { Err(garbled().into()) }
}
