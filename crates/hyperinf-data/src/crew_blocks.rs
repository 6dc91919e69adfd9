//! Blocks that ranks share: their scores, the influence of samples on themselves, products of samples, curvature.

use std::collections::VecDeque;
use std::path::absolute;

use burn::tensor::Device;
use hyperinf_curvature::{BlockCurvature, Storage};
use hyperinf_gradients::Block;
use hyperinf_linalg::has_own_memory;
use hyperinf_scoring::{
    Attribution, BlockScores, Method, Normalisation, Options, PositionScorer, Products, QueryMode, ScoreError, Set,
    TeamError, between, owners_beside,
};
use hyperinf_store::{
    GradientPair, StoreError, can_be_sent, curvature_blocks, curvature_from_bytes, curvature_to_bytes, curvatures,
    position_blocks, product_blocks, score_blocks, self_influence_blocks,
};

use crate::RunError;
use crate::crew::{Crew, Step};
use crate::crew_gather::{Gather, Outgoing};
use crate::crew_orders::{BlockWork, Located, Origin, Scoring, What, Work};
use crate::crew_rows;
use crate::crew_work::{method, several};
use crate::run::Run;

/// What reading a number costs, and hashing it, too, in multiplications.
const READ: f64 = 8.0;
const HASHED: f64 = 16.0;
/// Products of a factor's side in a hyperpower solver, whose number depends on the curvature.
const SCHULZ: f64 = 20.0;
/// Multiplications in f64 take twice as long.
const F64: f64 = 2.0;

/// Gradients that are scored by a run's method, by all its ranks.
#[derive(Clone, Copy)]
pub(crate) struct Job<'a> {
    pub(crate) run: &'a Run,
    pub(crate) pair: &'a GradientPair,
    /// The curvature of the model.
    pub(crate) known: Option<&'a [BlockCurvature]>,
    /// Those of the run, but for the mode of the queries and the scores of blocks.
    pub(crate) options: &'a Options,
    /// Which of the run's random choices.
    pub(crate) draw: usize,
    pub(crate) device: &'a Device,
}

/// The blocks and their owners.
struct Shares {
    blocks: Vec<Block>,
    owners: Vec<usize>,
}

impl<'a> Job<'a> {
    /// [`hyperinf_store::score`] by all ranks, a block by each, or batches of merged blocks.
    pub(crate) fn score(&self) -> Result<Attribution, RunError> {
        self.score_with(false)
    }

    /// [`Job::score`]; with `hash` rank 0 also takes the hashes of the files while others compute, and fewer blocks.
    pub(crate) fn score_with(&self, hash: bool) -> Result<Attribution, RunError> {
        let Self { pair, known, options, device, .. } = *self;
        let hash_files = || if hash { pair.hash() } else { Ok(()) };
        if let Some(found) = crew_rows::score(self, || Ok(hash_files()?))? {
            return Ok(found);
        }
        let Some((crew, work, shares)) = self.give_out(What::Scores, options, hash)? else {
            return Ok(hyperinf_store::score(pair, known, options, device)?);
        };
        let mut gather = Gather::new(crew, options, &shares.blocks, &shares.owners)?;
        let mut keep = |scores| gather.keep(scores).map_err(ScoreError::source);
        let done = crew.computing(|| score_blocks(pair, known, options, device, &shares.of(0), &mut keep));
        done.map_err(unwrapped)?;
        crew.computing(hash_files)?;
        let found = gather.finish()?;
        work.end();
        Ok(found)
    }

    /// [`hyperinf_store::self_influence`] by all ranks.
    pub(crate) fn self_influence(&self) -> Result<Vec<f64>, RunError> {
        let Self { pair, known, options, device, .. } = *self;
        let Some((crew, work, shares)) = self.give_out(What::SelfInfluence, options, false)? else {
            return Ok(hyperinf_store::self_influence(pair, known, options, device)?);
        };
        let plain = Options { normalisation: Normalisation::None, block_scores: false, ..options.clone() };
        let mut gather = Gather::new(crew, &plain, &shares.blocks, &shares.owners)?;
        let done = crew.computing(|| {
            self_influence_blocks(pair, known, options, device, &shares.of(0), &mut |found| {
                gather.keep(BlockScores::of_values(found.values)).map_err(ScoreError::source)
            })
        });
        done.map_err(unwrapped)?;
        let found = gather.finish()?.scores.rows.pop().unwrap_or_default();
        work.end();
        Ok(found)
    }

    /// [`hyperinf_store::products`] of some training samples by all ranks; of cosines `options` are those of inner
    /// products.
    pub(crate) fn products(&self, samples: &[usize], cosines: bool) -> Result<Products, RunError> {
        let Self { pair, known, device, .. } = *self;
        let of_method = between(self.options);
        let options = if cosines { &cosine() } else { &of_method };
        let known = known.filter(|_| !cosines);
        let what = What::Products { samples: samples.to_vec(), cosines };
        let Some((crew, work, shares)) = Job { known, ..*self }.give_out(what, options, false)? else {
            return Ok(hyperinf_store::products(pair, known, samples, options, device)?);
        };
        let mut gather = Gather::new(crew, options, &shares.blocks, &shares.owners)?;
        let mut keep = |scores| gather.keep(scores).map_err(ScoreError::source);
        let done = crew.computing(|| product_blocks(pair, known, samples, options, device, &shares.of(0), &mut keep));
        done.map_err(unwrapped)?;
        let found = Products::new(samples, &gather.finish()?.scores);
        work.end();
        Ok(found)
    }

    /// The curvature of the training gradients by all ranks.
    pub(crate) fn curvature(&self) -> Result<Vec<BlockCurvature>, RunError> {
        let Self { pair, options, device, .. } = *self;
        if let Some(found) = crew_rows::curvature(self)? {
            return Ok(vec![found]);
        }
        let Some((crew, work, shares)) = self.give_out(What::Curvature, options, false)? else {
            return Ok(curvatures(pair, options, device)?);
        };
        let mut found = crew.computing(|| curvature_blocks(pair, options, device, &shares.of(0)))?;
        for rank in 1..crew.size() {
            let bytes = crew.receive(rank, "the curvature of blocks")?;
            found.extend(curvature_from_bytes(&bytes, device).ok_or_else(|| no_curvature(rank))?);
        }
        let of = |block: &Block| found.iter().find(|found| found.block == *block).cloned();
        let all: Option<Vec<BlockCurvature>> = shares.blocks.iter().map(of).collect();
        let all = all.ok_or_else(|| no_curvature(crew.size() - 1))?;
        work.end();
        Ok(all)
    }

    /// [`hyperinf_store::position_scorer`] by all ranks.
    pub(crate) fn position_scorer(&self) -> Result<PositionScorer, RunError> {
        let Self { pair, known, options, device, .. } = *self;
        let with_inverse = matches!(options.normalisation, Normalisation::LossRelatif | Normalisation::ThetaRelatif);
        let shares = if with_inverse { None } else { self.give_out(What::Queries, options, false)? };
        let Some((crew, work, shares)) = shares else {
            return Ok(hyperinf_store::position_scorer(pair, known, options, device)?);
        };
        let mut own = VecDeque::new();
        let mut keep = |scorer| {
            own.push_back(scorer);
            Ok(())
        };
        crew.computing(|| position_blocks(pair, known, options, device, &shares.of(0), &mut keep))?;
        let mut all = PositionScorer::new(options.clone())?;
        for &rank in &shares.owners {
            let next = match (rank, own.pop_front_if(|_| rank == 0)) {
                (_, Some(own)) => own,
                _ => PositionScorer::from_bytes(&crew.receive(rank, "the queries of a block")?, options, device)
                    .map_err(|reason| TeamError::Garbled { rank, reason })?,
            };
            all.merge(next)?;
        }
        work.end();
        Ok(all)
    }

    /// The work as it is given out.
    pub(crate) fn scoring(&self, crew: &Crew, options: &Options) -> Result<Scoring, RunError> {
        let pair = self.pair;
        let located = |set| {
            let path = pair.file(set).path();
            let path = absolute(path).map_err(|e| StoreError::output(path, e))?;
            Ok::<_, StoreError>(Located { path, excerpt: pair.excerpt(set)? })
        };
        Ok(Scoring {
            of: method(crew, self.run),
            draw: self.draw,
            train: located(Set::Train)?,
            query: located(Set::Query)?,
            queries: pair.asked(),
            curvature: pair.curvature.as_ref().map(|_| located(Set::Curvature)).transpose()?,
            contrast: pair.contrast.as_ref().map(|_| located(Set::Contrast)).transpose()?,
            each: options.query == QueryMode::Each,
            block_scores: options.block_scores,
        })
    }

    /// Gives out work on blocks with what is known of their curvature; `None` if rank 0 does it alone.
    fn give_out(
        &self,
        what: What,
        options: &Options,
        hash: bool,
    ) -> Result<Option<(&'a Crew, Step<'a>, Shares)>, RunError> {
        let blocks = self.pair.scored_blocks();
        let Some(crew) = several(self.run).filter(|_| !options.merged && blocks.len() > 1) else { return Ok(None) };
        let known = match (self.known, self.pair.own_curvature(options)) {
            (Some(known), _) => Some((Origin::Model, known)),
            (None, Some(own)) => Some((Origin::TrainingGradients, own)),
            (None, None) => None,
        };
        if known.is_some_and(|(_, known)| !can_be_sent(known)) {
            return Ok(None);
        }
        let (n, q) = match &what {
            What::Scores | What::Queries => (self.pair.train.samples(), self.pair.samples(Set::Query).len()),
            What::SelfInfluence | What::Curvature => (self.pair.train.samples(), 1),
            What::Products { samples, .. } => (self.pair.train.samples(), samples.len()),
        };
        let stored = self.pair.train.blocks().iter().map(|stored| (n * stored.block.parameters()) as f64);
        let of_block = |(block, stored)| weight(options, block, n, q, self.device) + READ * stored;
        let weights: Vec<f64> = blocks.iter().zip(stored).map(of_block).collect();
        let mut others = vec![0.0; crew.size()];
        if hash {
            others[0] = HASHED * self.pair.unhashed() as f64 / size_of::<f32>() as f64;
        }
        let shares = Shares { owners: owners_beside(&weights, others), blocks };
        let work = crew.order(&Work::Blocks(BlockWork {
            what,
            scoring: self.scoring(crew, options)?,
            owners: shares.owners.clone(),
            known: known.map(|(origin, _)| origin),
        }))?;
        for rank in 1..crew.size() {
            let Some((_, known)) = known else { break };
            let own = shares.of(rank);
            let is_own = |found: &&BlockCurvature| own.iter().any(|&place| shares.blocks[place] == found.block);
            let share: Vec<BlockCurvature> = known.iter().filter(is_own).cloned().collect();
            crew.send(rank, &curvature_to_bytes(&share).ok_or_else(|| no_curvature(0))?)?;
        }
        Ok(Some((crew, work, shares)))
    }
}

impl Shares {
    /// The blocks of a rank.
    fn of(&self, rank: usize) -> Vec<usize> {
        owned(&self.owners, rank)
    }
}

fn owned(owners: &[usize], rank: usize) -> Vec<usize> {
    (0..owners.len()).filter(|&block| owners[block] == rank).collect()
}

fn no_curvature(rank: usize) -> TeamError {
    TeamError::Garbled { rank, reason: "it is no curvature of the blocks".to_owned() }
}

/// The options for cosines of gradients.
fn cosine() -> Options {
    Options {
        method: Method::Identity,
        normalisation: Normalisation::Cosine,
        query: QueryMode::Each,
        ..Options::default()
    }
}

/// The gradients of a scoring, as a rank that helps opens them, and its options.
pub(crate) fn opened(
    crew: &Crew,
    run: &Run,
    scoring: &Scoring,
    device: &Device,
) -> Result<(GradientPair, Options), RunError> {
    let Scoring { draw, train, query, queries, curvature, contrast, each, block_scores, .. } = scoring;
    let path = |located: &Option<Located>| located.as_ref().map(|located| located.path.clone());
    let pair = GradientPair::open(&train.path, &query.path)?;
    let mut pair = pair.with(path(curvature).as_deref(), path(contrast).as_deref())?;
    let (of_curvature, of_contrast) = ((Set::Curvature, curvature.as_ref()), (Set::Contrast, contrast.as_ref()));
    for (set, located) in [(Set::Train, Some(train)), (Set::Query, Some(query)), of_curvature, of_contrast] {
        let Some(Located { path, excerpt }) = located else { continue };
        let theirs = pair.excerpt(set)?;
        if theirs != *excerpt {
            let (what, ours) = (format!("content of `{}`", path.display()), excerpt.clone());
            return Err(TeamError::Differs { rank: crew.rank(), what, theirs, ours }.into());
        }
    }
    (pair.memory, pair.batch_bytes) = (run.memory, run.batch_bytes);
    pair.ask_some(queries.clone());
    pair.project(run.projection_of(*draw)?, device)?;
    let query = if *each { QueryMode::Each } else { QueryMode::Mean };
    Ok((pair, Options { query, block_scores: *block_scores, ..run.options.clone() }))
}

/// Does this rank's part of work on blocks.
pub(crate) fn serve(crew: &Crew, run: &Run, work: BlockWork, device: &Device) -> Result<(), RunError> {
    let BlockWork { what, scoring, owners, known } = work;
    let (mut pair, mut options) = opened(crew, run, &scoring, device)?;
    if matches!(what, What::Products { cosines: true, .. }) {
        options = cosine();
    }
    let mut of_model = None;
    if let Some(origin) = known {
        let bytes = crew.receive(0, "the curvature of blocks")?;
        let found = curvature_from_bytes(&bytes, device).ok_or_else(|| no_curvature(0))?;
        match origin {
            Origin::Model => of_model = Some(found),
            Origin::TrainingGradients => pair.take_curvature(&options, found),
        }
    }
    let (known, own) = (of_model.as_deref(), owned(&owners, crew.rank()));
    let mut outgoing = Outgoing::new(crew);
    let keep = &mut |scores| outgoing.keep(scores).map_err(ScoreError::source);
    let done = match what {
        What::Scores => crew.computing(|| score_blocks(&pair, known, &options, device, &own, keep)),
        What::SelfInfluence => crew.computing(|| {
            let keep = &mut |found: hyperinf_scoring::SelfInfluence| keep(BlockScores::of_values(found.values));
            self_influence_blocks(&pair, known, &options, device, &own, keep)
        }),
        What::Products { samples, .. } => {
            crew.computing(|| product_blocks(&pair, known, &samples, &options, device, &own, keep))
        }
        What::Curvature => {
            let found = crew.computing(|| curvature_blocks(&pair, &options, device, &own))?;
            return crew.send(0, &curvature_to_bytes(&found).ok_or_else(|| no_curvature(crew.rank()))?);
        }
        What::Queries => {
            let mut send = |scorer: PositionScorer| match scorer.to_bytes()? {
                Some(bytes) => crew.send(0, &bytes).map_err(ScoreError::source),
                None => Ok(()),
            };
            crew.computing(|| position_blocks(&pair, known, &options, device, &own, &mut send))
        }
    };
    done.map_err(|error| of_query(unwrapped(error), pair.samples(Set::Query).start))?;
    outgoing.finish()
}

/// The error of a rank that has travelled through a scoring.
pub(crate) fn unwrapped(error: StoreError) -> RunError {
    match error {
        StoreError::Score(ScoreError::Source(source)) => match source.downcast::<RunError>() {
            Ok(error) => *error,
            Err(source) => StoreError::Score(ScoreError::Source(source)).into(),
        },
        error => error.into(),
    }
}

/// An error about one of the queries from `first` on, counted among all.
pub(crate) fn of_query(error: RunError, first: usize) -> RunError {
    let moved = |error| match error {
        ScoreError::Overflow { query, sample, value } => ScoreError::Overflow { query: first + query, sample, value },
        ScoreError::Underflow { query, largest, power } => {
            ScoreError::Underflow { query: first + query, largest, power }
        }
        ScoreError::Divisor { set: Set::Query, sample, value } => {
            ScoreError::Divisor { set: Set::Query, sample: first + sample, value }
        }
        other => other,
    };
    match error {
        RunError::Score(error) => RunError::Score(moved(error)),
        RunError::Store(StoreError::Score(error)) => RunError::Store(StoreError::Score(moved(error))),
        other => other,
    }
}

/// Whether a solver inverts a factor by products.
fn iterates(solver: &str, device: &Device) -> bool {
    match solver {
        "exact" | "spectral" => false,
        // It chooses by cost: Cholesky wins on a processor.
        "auto" => has_own_memory(device),
        _ => true,
    }
}

/// The multiplications that a block's scores take, roughly.
fn weight(options: &Options, block: &Block, n: usize, q: usize, device: &Device) -> f64 {
    let [n, q, rows, cols] = [n, q, block.rows, block.cols].map(|size| size as f64);
    let parameters = rows * cols;
    let scores = n * q * parameters;
    let Method::Inverse { storage, solver } = &options.method else { return scores };
    scores
        + match storage.by_sides_of(block) {
            Storage::OneSided { side, .. } => {
                let left = if side.contracts_rows(block.rows, block.cols) { cols } else { rows };
                let inverse = if iterates(solver.name(), device) {
                    SCHULZ * left.powi(3)
                } else {
                    left.powi(3) + F64 * q * parameters * left
                };
                n * parameters * left + inverse
            }
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
