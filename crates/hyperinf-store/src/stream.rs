use std::sync::mpsc::sync_channel;
use std::thread;

use burn::tensor::Device;
use hyperinf_curvature::{BlockCurvature, Damping};
use hyperinf_gradients::Sides;
use hyperinf_scoring::{
    Attribution, Contrast, CurvatureFrom, Joined, Method, Moments, Options, Picked, PositionScorer, Products,
    QueryMode, ScoreError, Scorer, SelfInfluence, Set, Source, Sweep, between,
};

use crate::source::{FileSource, Reader};
use crate::{GradientPair, Sizes, StoreError, available};

/// Scores every training sample for every query, block by block; merged blocks are read as one.
///
/// The curvature is that of the training samples ([`crate::training_factors`] may have it), of the pair's curvature
/// file, or `known`: one per block of the pair, by [`hyperinf_scoring::curvature`] of the model itself. A contrast is subtracted from the mean of the queries;
/// with [`QueryMode::Each`] its rows follow those of the queries.
///
/// # Errors
///
/// As [`hyperinf_scoring::attribute`], with the file and, for a value that is not finite, its place; or
/// [`StoreError::Memory`] before anything is read.
pub fn score(
    pair: &GradientPair,
    known: Option<&[BlockCurvature]>,
    options: &Options,
    device: &Device,
) -> Result<Attribution, StoreError> {
    // The blocks are merged as they are read, where only the merged block need be held.
    pair.check_memory(1, options, device)?;
    let mut scorer = Scorer::new(Options { merged: false, ..options.clone() }).map_err(StoreError::Score)?;
    each_group(pair, &pair.sets(), options, device, &mut |sources| {
        as_sets(sources, known, options.query, &mut |train, query, curvature| scorer.add(train, query, curvature))
    })?;
    scorer.finish().map_err(|error| explain(pair, error))
}

/// The queries of [`score`], preconditioned for [`PositionScorer::finish`]: then the model runs over the samples whose
/// positions are scored. The pair must not be projected.
///
/// # Errors
///
/// As [`score`].
pub fn position_scorer(
    pair: &GradientPair,
    known: Option<&[BlockCurvature]>,
    options: &Options,
    device: &Device,
) -> Result<PositionScorer, StoreError> {
    pair.check_memory(1, options, device)?;
    let mut scorer = PositionScorer::new(options.clone()).map_err(StoreError::Score)?;
    each_group(pair, &pair.sets(), options, device, &mut |sources| {
        as_sets(sources, known, options.query, &mut |train, query, curvature| scorer.add(train, query, curvature))
    })?;
    Ok(scorer)
}

/// [`score`] at every damping, from one curvature; `done` is called after every block.
///
/// # Errors
///
/// As [`score`], for the first damping that fails.
pub fn sweep(
    pair: &GradientPair,
    options: &Options,
    dampings: &[Damping],
    device: &Device,
    done: &mut dyn FnMut(),
) -> Result<Vec<Attribution>, StoreError> {
    pair.check_memory(dampings.len(), options, device)?;
    let unmerged = Options { merged: false, ..options.clone() };
    let mut sweep = Sweep::new(unmerged, dampings.to_vec()).map_err(StoreError::Score)?;
    each_group(pair, &pair.sets(), options, device, &mut |sources| {
        as_sets(sources, None, options.query, &mut |train, query, curvature| sweep.add(train, query, curvature))?;
        done();
        Ok(())
    })?;
    sweep.finish().map_err(|error| explain(pair, error))
}

/// The influence of each training sample on itself, `[n]`, not normalised; without curvature its squared norm.
///
/// The curvature is that of the training samples, or `known` as for [`score`].
///
/// # Errors
///
/// As [`hyperinf_scoring::self_influence`], with the file.
pub fn self_influence(
    pair: &GradientPair,
    known: Option<&[BlockCurvature]>,
    options: &Options,
    device: &Device,
) -> Result<Vec<f64>, StoreError> {
    let options = Options { query: QueryMode::Mean, ..options.clone() };
    pair.check_memory(1, &options, device)?;
    let unmerged = Options { merged: false, ..options.clone() };
    let mut total = SelfInfluence::default();
    each_group(pair, &[Set::Train], &options, device, &mut |sources| {
        let train = &sources[0];
        total.merge(hyperinf_scoring::self_influence(train, curvature(train, known), &unmerged)?)
    })?;
    Ok(total.values)
}

/// The products of some training samples with each other, block by block, as [`hyperinf_scoring::products`].
///
/// The curvature is that of [`score`]. `samples` ascend.
///
/// # Errors
///
/// As [`score`].
///
/// # Panics
///
/// If the samples do not ascend, or there are fewer in the file.
pub fn products(
    pair: &GradientPair,
    known: Option<&[BlockCurvature]>,
    samples: &[usize],
    options: &Options,
    device: &Device,
) -> Result<Products, StoreError> {
    let options = between(options);
    check_products(pair, samples, &options, device)?;
    let mut scorer = Scorer::new(Options { merged: false, ..options.clone() }).map_err(StoreError::Score)?;
    each_group(pair, &product_sets(pair, known), &options, device, &mut |sources| {
        let picked = Picked { source: &sources[0], samples };
        scorer.add(&picked, &picked, product_curvature(pair, sources, known, &options))
    })?;
    let found = scorer.finish().map_err(|error| explain(pair, error))?;
    Ok(Products::new(samples, &found.scores))
}

/// Fails if products of so many samples need more memory than there is.
pub(crate) fn check_products(
    pair: &GradientPair,
    samples: &[usize],
    options: &Options,
    device: &Device,
) -> Result<(), StoreError> {
    if device.memory_pool_usage().is_some() && pair.memory.is_none() {
        return Ok(());
    }
    let sizes = Sizes { train: samples.len(), queries: samples.len(), ..Sizes::new(pair, 1, device) };
    sizes.check(options, pair.memory.or_else(available))
}

/// The sets that products are computed from.
pub(crate) fn product_sets(pair: &GradientPair, known: Option<&[BlockCurvature]>) -> Vec<Set> {
    let of_file = pair.curvature.as_ref().filter(|_| known.is_none()).map(|_| Set::Curvature);
    [Set::Train].into_iter().chain(of_file).collect()
}

/// The curvature of products: never that of the picked samples.
pub(crate) fn product_curvature<'a>(
    pair: &GradientPair,
    sources: &'a [FileSource<'_>],
    known: Option<&[BlockCurvature]>,
    options: &Options,
) -> CurvatureFrom<'a> {
    match known {
        None if pair.own_curvature(options).is_none() => CurvatureFrom::Source(&sources[sources.len() - 1]),
        _ => curvature(&sources[0], known),
    }
}

/// The curvature of every block, or of all merged, of the training gradients.
///
/// # Errors
///
/// As [`score`].
pub fn curvatures(pair: &GradientPair, options: &Options, device: &Device) -> Result<Vec<BlockCurvature>, StoreError> {
    pair.check_memory(1, options, device)?;
    let (unmerged, mut all) = (Options { merged: false, ..options.clone() }, Vec::new());
    each_group(pair, &[Set::Train], options, device, &mut |sources| {
        all.extend(hyperinf_scoring::curvature(&sources[0], &unmerged)?);
        Ok(())
    })?;
    Ok(all)
}

/// The sides of every block's projection on the principal directions of the training gradients, from one pass.
pub(crate) fn principal(pair: &GradientPair, rank: usize, device: &Device) -> Result<Vec<Sides>, StoreError> {
    let options = Options { method: Method::Identity, query: QueryMode::Mean, merged: false, ..Options::default() };
    let mut sides = Vec::new();
    each_group(pair, &[Set::Train], &options, device, &mut |sources| {
        sides.extend_from_slice(hyperinf_scoring::principal(&sources[0], Moments::Gradients, rank)?.sides());
        Ok(())
    })?;
    Ok(sides)
}

/// Visits the blocks of some sets, one by one or merged.
///
/// While one block is visited the next is read, so two blocks are held. Blocks larger than a batch are read batch by
/// batch, once for every pass, unless the method holds all samples of a block anyway.
pub(crate) fn each_group(
    pair: &GradientPair,
    sets: &[Set],
    options: &Options,
    device: &Device,
    visit: &mut dyn FnMut(&[FileSource<'_>]) -> Result<(), ScoreError>,
) -> Result<(), StoreError> {
    let all: Vec<usize> = (0..pair.train.blocks().len()).collect();
    let groups: Vec<&[usize]> = if options.merged { vec![&all] } else { all.chunks(1).collect() };
    some_groups(pair, &groups, sets, options, device, visit)
}

/// [`each_group`] of some groups of blocks.
pub(crate) fn some_groups(
    pair: &GradientPair,
    groups: &[&[usize]],
    sets: &[Set],
    options: &Options,
    device: &Device,
    visit: &mut dyn FnMut(&[FileSource<'_>]) -> Result<(), ScoreError>,
) -> Result<(), StoreError> {
    let precision = pair.precision(device);
    let reader = |set| Reader { pair, set, options, precision };
    thread::scope(|scope| {
        let (send, receive) = sync_channel(0);
        scope.spawn(move || {
            for group in groups {
                let loaded: Result<Vec<_>, _> = sets.iter().map(|&set| reader(set).load(group)).collect();
                let failed = loaded.is_err();
                if send.send(loaded).is_err() || failed {
                    return;
                }
            }
        });
        for (group, loaded) in groups.iter().zip(receive) {
            let sources = sets.iter().zip(loaded?).map(|(&set, loaded)| reader(set).source(group, loaded, device));
            let sources: Vec<FileSource<'_>> = sources.collect::<Result<_, _>>()?;
            visit(&sources).map_err(|error| explain(pair, error))?;
        }
        Ok(())
    })
}

/// Sees training samples, queries and curvature of some blocks.
pub(crate) type VisitSets<'a> = dyn FnMut(&dyn Source, &dyn Source, CurvatureFrom<'_>) -> Result<(), ScoreError> + 'a;

/// Visits the sources of some blocks as training samples, queries and curvature.
pub(crate) fn as_sets(
    sources: &[FileSource<'_>],
    known: Option<&[BlockCurvature]>,
    query: QueryMode,
    visit: &mut VisitSets<'_>,
) -> Result<(), ScoreError> {
    let of = |set| sources.iter().find(|source| source.reader.set == set);
    let (train, queries) = of(Set::Train).zip(of(Set::Query)).expect("a pair has training gradients and queries");
    let contrast = of(Set::Contrast);
    let difference = contrast.map(|harmed| Contrast { helped: queries, harmed });
    let joined = contrast.map(|contrast| Joined(vec![queries, contrast]));
    let queries: &dyn Source = match (query, &difference, &joined) {
        (QueryMode::Mean, Some(difference), _) => difference,
        (QueryMode::Each, _, Some(joined)) => joined,
        _ => queries,
    };
    let curvature = match (known, of(Set::Curvature)) {
        (None, Some(source)) => CurvatureFrom::Source(source),
        (known, _) => curvature(train, known),
    };
    visit(train, queries, curvature)
}

/// The known curvature of the source's blocks, or that of its samples.
pub(crate) fn curvature<'a>(source: &FileSource<'_>, known: Option<&[BlockCurvature]>) -> CurvatureFrom<'a> {
    let of = |known: &[BlockCurvature]| {
        let blocks = source.layout.iter().filter_map(|block| known.iter().find(|found| found.block == *block));
        blocks.cloned().collect()
    };
    match (known, source.reader.pair.own_curvature(source.reader.options)) {
        (Some(known), _) => CurvatureFrom::Known(of(known)),
        (None, Some(own)) => CurvatureFrom::KnownTraining(of(own)),
        (None, None) => CurvatureFrom::Training,
    }
}

/// The error with the file it is about, and the value where a value is at fault.
pub(crate) fn explain(pair: &GradientPair, error: ScoreError) -> StoreError {
    let (set, block, sample, value) = match error {
        ScoreError::NonFinite { set, block, sample, value } => (set, block, sample, value),
        // A file that cannot be read, wrapped for its way through a pass.
        ScoreError::Source(source) => {
            let other = |source| StoreError::Score(ScoreError::Source(source));
            return source.downcast().map_or_else(other, |error| *error);
        }
        error => return StoreError::Score(error),
    };
    // Of joined queries the later ones are in the contrast file.
    let asked = pair.samples(Set::Query);
    let (set, sample) = match sample.checked_sub(asked.len()) {
        _ if set != Set::Query => (set, sample),
        Some(later) => (Set::Contrast, later),
        None => (set, asked.start + sample),
    };
    let file = pair.file(set);
    let path = file.path().to_owned();
    // A merged block is not in the file under this name: then any of its blocks may hold the value.
    let suspects = file.position(&block).map_or(0..file.blocks().len(), |p| p..p + 1);
    for position in suspects {
        match file.first_bad_value(position, sample) {
            Ok(Some(bad)) => return StoreError::NonFinite { set, path, sample, bad },
            Ok(None) => {}
            Err(source) => return StoreError::File { set, path, source },
        }
    }
    StoreError::TooLarge { set, path, block, sample, square: value }
}
