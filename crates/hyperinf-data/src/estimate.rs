use std::cell::{Cell, RefCell};

use hyperinf_curvature::{BlockCurvature, Storage};
use hyperinf_gradients::{Block, Estimate, Gradients, Projection, Sketch, Tape};
use hyperinf_models::{ModelError, SampleModel};
use hyperinf_scoring::{Batch, CurvatureSource, Method, Options, ScaledSource, ScoreError, Source, curvature};

use crate::crew_curvature::SharedCurvature;
use crate::crew_work::{method, several};
use crate::event::{Detail, Event, Progress};
use crate::large_blocks::LargeBlocks;
use crate::pattern::Pattern;
use crate::run::Run;
use crate::samples::by_length;
use crate::stage::Stage;
use crate::{Choice, RunError};

/// Refuses an estimate that the method, its partition or a projection rules out.
pub(crate) fn check(estimate: Estimate, options: &Options, projected: bool) -> Result<(), RunError> {
    let first = Choice::Estimate(estimate);
    let refused = |second, reason| Err(RunError::Conflict { first, second, reason });
    let (merged, empirical) = (options.merged, estimate == Estimate::Empirical);
    match &options.method {
        Method::Inverse { storage, .. } if storage.needs_captures() => {
            if merged {
                return refused(Choice::Merged, "the method needs each layer's inputs");
            }
            if projected {
                return refused(Choice::Projection, "the method needs each layer's inputs, which no gradient file has");
            }
        }
        Method::Inverse { .. } | Method::Identity => {}
    }
    match &options.method {
        _ if empirical => Ok(()),
        _ if projected => refused(Choice::Projection, "only gradients that lie in a file are projected"),
        Method::Identity => refused(Choice::Method, "the method has no curvature"),
        Method::Inverse { storage: Storage::Samples, .. } => {
            refused(Choice::Method, "the method needs the training gradients themselves")
        }
        Method::Inverse { .. } if merged => refused(Choice::Merged, "the model's curvature is taken block by block"),
        Method::Inverse { .. } => Ok(()),
    }
}

/// The next `count` estimates, with consecutive seeds; none if nothing is drawn.
pub(crate) fn further(estimate: Estimate, count: usize) -> Vec<Estimate> {
    let Some(first) = estimate.seed() else { return Vec::new() };
    let with = |more| {
        let seed = first.wrapping_add(more);
        match estimate {
            Estimate::Sampled { draws, .. } => Estimate::Sampled { seed, draws },
            Estimate::GaussNewton { sketch: Some(sketch) } => {
                Estimate::GaussNewton { sketch: Some(Sketch { seed, ..sketch }) }
            }
            Estimate::Empirical | Estimate::GaussNewton { sketch: None } => estimate,
        }
    };
    (1..=count as u64).map(with).collect()
}

/// Whether the curvature is that of the model: no stored gradients have it.
pub(crate) fn needs_model(options: &Options, estimate: Estimate) -> bool {
    match &options.method {
        Method::Identity => false,
        Method::Inverse { storage, .. } => estimate != Estimate::Empirical || storage.needs_captures(),
    }
}

/// The curvature of each block of the model over all samples, of gradients times `factors` if there are some; `None`
/// where it is computed from the stored gradients.
pub(crate) fn of_model<M: SampleModel>(
    run: &Run,
    estimate: Estimate,
    (model, samples): (&M, &[M::Sample]),
    factors: Option<&Gradients>,
    observe: &mut dyn FnMut(Event),
) -> Result<Option<Vec<BlockCurvature>>, RunError> {
    let Method::Inverse { storage, .. } = &run.options.method else { return Ok(None) };
    if !needs_model(&run.options, estimate) {
        return Ok(None);
    }
    let batches = batches(run, model, samples)?;
    let backward = match estimate {
        Estimate::Empirical => 1,
        Estimate::Sampled { draws, .. } => draws,
        Estimate::GaussNewton { sketch: Some(Sketch { draws, .. }) } => draws,
        Estimate::GaussNewton { sketch: None } => model.forward(&batches[0], &mut Tape::off()).dims()[1],
    };
    let all = CurvatureSource { task: model, batches: batches.as_slice(), estimate };
    let total = storage.passes() * batches.len() * backward;
    if let Some(factors) = factors {
        let source = Blocks::new(run, all, Stage::Curvature, total, observe);
        let factors = some_of(factors, |block| run.blocks.as_ref().is_none_or(|only| only.matches(&block.name)))?;
        return Ok(Some(curvature(&ScaledSource { source: &source, factors: &factors }, &run.options)?));
    }
    let found = match (several(run), model.devices().into_iter().next()) {
        (Some(crew), Some(device)) => {
            let all = SharedCurvature { crew, source: all, method: method(crew, run), device };
            curvature(&Blocks::new(run, all, Stage::Curvature, total, observe), &run.options)
        }
        _ => curvature(&Blocks::new(run, all, Stage::Curvature, total, observe), &run.options),
    };
    found.map(Some).map_err(of_team)
}

/// Some blocks.
fn some_of(all: &Gradients, wanted: impl Fn(&Block) -> bool) -> Result<Gradients, RunError> {
    let found = all.layout.iter().zip(&all.blocks).filter(|(block, _)| wanted(block));
    let (layout, blocks): (Vec<Block>, Vec<_>) = found.map(|(block, rows)| (block.clone(), rows.clone())).unzip();
    Ok(Gradients::new(layout, blocks)?)
}

/// The batches of a model's samples, in the order of their passes.
pub(crate) fn batches<M: SampleModel>(
    run: &Run,
    model: &M,
    samples: &[M::Sample],
) -> Result<Vec<M::Batch>, ModelError> {
    by_length::<M>(samples)
        .chunks(run.batch_size)
        .map(|rows| model.collate(&rows.iter().map(|&row| &samples[row]).collect::<Vec<_>>()))
        .collect()
}

/// The error of a team that a source has wrapped.
fn of_team(error: ScoreError) -> RunError {
    match error {
        ScoreError::Source(source) => match source.downcast::<RunError>() {
            Ok(error) => *error,
            Err(source) => ScoreError::Source(source).into(),
        },
        error => error.into(),
    }
}

/// The captures of some of a model's blocks.
pub(crate) struct Blocks<'a, 'o, S> {
    all: S,
    pattern: Option<&'a Pattern>,
    large: LargeBlocks,
    /// That of the blocks, once they are known.
    projection: RefCell<Option<Option<Projection>>>,
    stage: Stage,
    /// Backward passes done.
    done: Cell<usize>,
    total: usize,
    observe: RefCell<&'o mut dyn FnMut(Event)>,
}

impl<'a, 'o, S: Source> Blocks<'a, 'o, S> {
    /// The blocks of a run's gradients; `total` backward passes are reported as a stage.
    pub(crate) fn new(run: &'a Run, all: S, stage: Stage, total: usize, observe: &'o mut dyn FnMut(Event)) -> Self {
        Self {
            all,
            pattern: run.blocks.as_ref(),
            large: run.large_blocks,
            projection: RefCell::new(None),
            stage,
            done: Cell::new(0),
            total,
            observe: RefCell::new(observe),
        }
    }
}

impl<S: Source> Source for Blocks<'_, '_, S> {
    fn pass(&self, visit: &mut dyn FnMut(Batch) -> Result<(), ScoreError>) -> Result<(), ScoreError> {
        self.all.pass(&mut |batch| {
            let mut captures = batch.into_captures()?;
            captures.retain(|capture| self.pattern.is_none_or(|pattern| pattern.matches(&capture.block.name)));
            let mut projection = self.projection.borrow_mut();
            if projection.is_none()
                && let Some(first) = captures.first()
            {
                let layout: Vec<Block> = captures.iter().map(|capture| capture.block.clone()).collect();
                let place = (&first.input.device(), first.input.dtype());
                *projection = Some(self.large.projection(&layout, place).map_err(ScoreError::Projection)?);
            }
            if let Some(Some(projection)) = projection.as_ref() {
                captures = projection.captures(captures).map_err(ScoreError::Projection)?;
            }
            visit(captures.into())?;
            let (done, total) = (self.done.get() + 1, self.total);
            self.done.set(done);
            let detail = Detail::BackwardPasses;
            (self.observe.borrow_mut())(Event::Progress(Progress { stage: self.stage, done, total, detail }));
            Ok(())
        })
    }
}
