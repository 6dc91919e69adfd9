//! Work that ranks share, on the side of those that help; the gradients of batches on both sides.

use std::io;

use burn::tensor::Device;
use hyperinf_gradients::Target;
use hyperinf_scoring::{Options, TeamError};
use hyperinf_store::{Check, RunKey};
use serde::{Deserialize, Serialize};

use crate::RunError;
use crate::crew::{Crew, METHOD};
use crate::crew_message::{Unread, packed, read_json, written};
use crate::crew_orders::{Method, Work};
use crate::gradients::{BatchGradients, Extractor};
use crate::kind::Kind;
use crate::run::Run;
use crate::samples::Samples;
use crate::stage::Stage;
use crate::{crew_batches, crew_blocks, crew_curvature, crew_products, crew_rows, crew_tokens, prediction};

/// The crew of a run, if there are several ranks.
pub(crate) fn several(run: &Run) -> Option<&Crew> {
    run.crew.as_ref().filter(|crew| crew.size() > 1)
}

/// What all ranks must agree on; of an index without its method.
pub(crate) fn common_key<K: Kind>(key: &RunKey, run: Option<&Run>, sets: &[&Samples<K>]) -> RunKey {
    let mut key = key.clone();
    key.0.extend(run.map(|run| (METHOD.to_owned(), settings(run))));
    for (place, set) in sets.iter().enumerate() {
        key.0.insert(format!("content of {} rows", place_name(place)), set.fingerprint(0..set.samples.len()));
    }
    key
}

/// Everything that a run's scores depend on besides its gradients, and whether queries are scored one by one: rank 0 says
/// so with each work, since detection and selection are for their mean whatever the run says.
pub(crate) fn settings(run: &Run) -> String {
    let Options { method, normalisation, damping, query: _, merged, block_scores } = &run.options;
    let method = match method {
        hyperinf_scoring::Method::Identity => "identity".to_owned(),
        hyperinf_scoring::Method::Inverse { storage, solver } => format!("{storage:?} by {}", solver.name()),
    };
    format!(
        "{method}, {normalisation:?}, {damping:?}, merged {merged}, block scores {block_scores}, {:?}, {:?}, seeds {:?}, \
         batches of {} bytes, {:?}",
        run.estimate, run.projection, run.seeds, run.batch_bytes, run.refine
    )
}

/// A run's method, as it is given out.
pub(crate) fn method(crew: &Crew, run: &Run) -> Method {
    Method { place: crew.method, settings: settings(run) }
}

/// The run of a method, if it has the settings of rank 0.
pub(crate) fn agreed<'a>(crew: &Crew, runs: &'a [Run], of: Method) -> Result<&'a Run, RunError> {
    let missing = || TeamError::Garbled { rank: 0, reason: format!("there is no method {}", of.place) };
    let run = runs.get(of.place).ok_or_else(missing)?;
    let theirs = settings(run);
    if theirs == of.settings {
        return Ok(run);
    }
    Err(TeamError::Differs { rank: crew.rank(), what: METHOD.to_owned(), theirs, ours: of.settings }.into())
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
    let set_of = |place: usize| sets.get(place).copied().ok_or_else(|| garbled(format!("there is no set {place}")));
    loop {
        match crew.next()? {
            Work::End => return crew.leave(),
            Work::Check(recorded) => {
                let own: Vec<usize> = recorded.all().into_iter().filter(|&n| crew.owner(n) == crew.rank()).collect();
                let intact = crew.computing(|| recorded.intact(&own));
                crew.send(0, &written(&intact))?;
            }
            Work::Curvature { of, estimate } => {
                let run = agreed(crew, runs, of)?;
                crew.computing(|| crew_curvature::serve(crew, run, estimate, extractor.model, &sets[0].samples))?;
            }
            Work::Products { of, sample, measured } => {
                let run = agreed(crew, runs, of)?;
                crew_products::serve(crew, run, (sample, measured), (extractor.model, &sets[0].samples), device)?;
            }
            Work::Pieces { .. } => return Err(garbled("its work is that of fine-tuning".to_owned())),
            Work::Gradients { set, first, batches } => {
                gradients(crew, extractor, (set, set_of(set)?), first, &batches, &garbled)?
            }
            Work::Predictions { set, batches } => {
                let set = set_of(set)?;
                crew_batches::serve(crew, batches.len(), |number| {
                    Ok(prediction::to_bytes(&prediction::of_batch::<K>(extractor.model, set, &batches[number])?))
                })?;
            }
            Work::Tokens { of, rows, blocks } => {
                let run = agreed(crew, runs, of)?;
                crew_tokens::serve(crew, run, extractor.model, &sets[0].samples, (&rows, &blocks), device)?;
            }
            Work::Blocks(work) => crew_blocks::serve(crew, agreed(crew, runs, work.scoring.of.clone())?, work, device)?,
            Work::Rows(work) => crew_rows::serve(crew, agreed(crew, runs, work.scoring.of.clone())?, &work, device)?,
        }
    }
}

/// Takes the gradients of this rank's batches of a set.
fn gradients<K: Kind>(
    crew: &Crew,
    extractor: &Extractor<'_, K>,
    (place, set): (usize, &Samples<K>),
    first: usize,
    batches: &[Vec<usize>],
    garbled: &dyn Fn(String) -> RunError,
) -> Result<(), RunError> {
    let (target, stage) = match place {
        0 => (Target::Loss, Stage::TrainGradients),
        _ => (Target::Measure, Stage::QueryGradients),
    };
    let sample = set.samples.get(first).ok_or_else(|| garbled(format!("there is no row {first}")))?;
    let projection = extractor.blocks(sample, target)?.1;
    let stop = &extractor.run.stop;
    let (total, _listening) = (batches.len(), stop.listen());
    let mut done = 0;
    crew_batches::serve(crew, total, |number| {
        if stop.is_requested() {
            return Err(RunError::Stopped { stage, done, total, kept: None });
        }
        done += 1;
        Ok(to_bytes(&extractor.batch(set, first, &batches[number], target, &projection)?))
    })
}

/// Calls `open` with a check of recorded batches that all ranks share, if there are several.
pub(crate) fn checked<T>(
    run: &Run,
    open: impl FnOnce(&mut Check<'_>) -> io::Result<T>,
) -> Result<io::Result<T>, RunError> {
    let mut failed = None;
    let opened = open(&mut |recorded| {
        let all = recorded.all();
        let Some(crew) = several(run).filter(|crew| all.len() > 1 && crew.has_met()) else {
            return Ok(recorded.intact(&all));
        };
        share_check(crew, recorded).map_err(|error| {
            failed = Some(error);
            io::Error::other("ranks could not check it together")
        })
    });
    match failed {
        Some(error) => Err(error),
        None => Ok(opened),
    }
}

fn share_check(crew: &Crew, recorded: &hyperinf_store::RecordedBatches) -> Result<Vec<bool>, RunError> {
    let work = crew.order(&Work::Check(recorded.clone()))?;
    let all = recorded.all();
    let of = |rank: usize| all.iter().copied().filter(|&n| crew.owner(n) == rank).collect::<Vec<_>>();
    let mut intact = vec![false; all.len()];
    for rank in 0..crew.size() {
        let places = of(rank);
        let found = match rank {
            0 => crew.computing(|| recorded.intact(&places)),
            rank => read_json::<Vec<bool>>(rank, &crew.receive(rank, "the check of recorded batches")?)?,
        };
        if found.len() != places.len() {
            let reason = format!("it checked {} batches, not {}", found.len(), places.len());
            return Err(TeamError::Garbled { rank, reason }.into());
        }
        places.into_iter().zip(found).for_each(|(place, found)| intact[place] = found);
    }
    work.end();
    Ok(intact)
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
