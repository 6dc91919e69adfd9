//! Curvature taken from the model itself, where gradients that lie in a file are not what it is made of.

use std::cell::RefCell;

use hyperinf::curvature::{BlockCurvature, Storage};
use hyperinf::gradients::{Block, Capture, Estimate, Gradients, Sketch, Tape, Task};
use hyperinf::scoring::{self, CurvatureSource, Method, Options, ScoreError, Source};
use serde::Serialize;

use crate::args::{EstimateArg, EstimateArgs};
use crate::data::TextTask;
use crate::error::CliError;
use crate::pattern::Pattern;
use crate::progress::Progress;
use crate::samples::RowModel;
use crate::score::Settings;

/// What was typed about the curvature, checked.
#[derive(Clone, Copy, Serialize)]
pub(crate) struct Chosen {
    estimate: &'static str,
    /// Draws of labels or of the sketch; `null` where nothing is drawn.
    draws: Option<u32>,
    seed: Option<u64>,
    #[serde(skip)]
    sent: Estimate,
}

impl Chosen {
    pub(crate) fn new(args: &EstimateArgs, settings: &Settings) -> Result<Self, CliError> {
        let estimate = args.estimate.unwrap_or_default();
        let refused = |second, reason| {
            let name = |arg| match arg {
                EstimateArg::Empirical => "--estimate empirical",
                EstimateArg::Sampled => "--estimate sampled",
                EstimateArg::GaussNewton => "--estimate gauss-newton",
            };
            Err(CliError::Combination { first: name(estimate).into(), second, reason })
        };
        let merged = settings.options.merged;
        match settings.options.method {
            Method::Inverse { storage, .. } if merged && storage.needs_captures() => {
                return refused("--structure merged", "the method is made of each layer's inputs");
            }
            _ => {}
        }
        if settings.projection.is_some() {
            match settings.options.method {
                Method::Inverse { storage, .. } if storage.needs_captures() => {
                    return refused("--project", "the method is made of each layer's inputs, which lie in no file");
                }
                _ if estimate != EstimateArg::Empirical => {
                    return refused("--project", "only gradients that lie in a file are projected");
                }
                _ => {}
            }
        }
        if estimate == EstimateArg::Empirical {
            return match (args.draws, args.estimate_seed) {
                (Some(_), _) => refused("--draws", "nothing is drawn for it"),
                (None, Some(_)) => refused("--estimate-seed", "nothing is drawn for it"),
                (None, None) => Ok(Self { estimate: "empirical", draws: None, seed: None, sent: Estimate::Empirical }),
            };
        }
        match settings.options.method {
            Method::Identity => return refused("--method", "the method has no curvature"),
            Method::Inverse { storage: Storage::Samples, .. } => {
                return refused("--method", "the method is made of the training gradients themselves");
            }
            Method::Inverse { .. } if merged => {
                return refused("--structure merged", "the model's curvature is taken block by block");
            }
            Method::Inverse { .. } => {}
        }
        let seed = args.estimate_seed.unwrap_or(0);
        Ok(match (estimate, args.draws) {
            (EstimateArg::GaussNewton, None) if args.estimate_seed.is_some() => {
                return refused("--estimate-seed", "without --draws it is exact and nothing is drawn");
            }
            (EstimateArg::GaussNewton, None) => {
                let sent = Estimate::GaussNewton { sketch: None };
                Self { estimate: "gauss-newton", draws: None, seed: None, sent }
            }
            (EstimateArg::GaussNewton, Some(draws)) => {
                let sent = Estimate::GaussNewton { sketch: Some(Sketch { draws: draws as usize, seed }) };
                Self { estimate: "gauss-newton", draws: Some(draws), seed: Some(seed), sent }
            }
            (_, draws) => {
                let draws = draws.unwrap_or(1);
                let sent = Estimate::Sampled { seed, draws: draws as usize };
                Self { estimate: "sampled", draws: Some(draws), seed: Some(seed), sent }
            }
        })
    }

    /// Fails if it is out of reach for models of the task.
    pub(crate) fn check_task(self, task: TextTask) -> Result<(), CliError> {
        if task == TextTask::LanguageModel && matches!(self.sent, Estimate::GaussNewton { sketch: None }) {
            return Err(CliError::Combination {
                first: "--estimate gauss-newton without --draws".into(),
                second: "a language model",
                reason: "it is a backward pass per scored token and word of the vocabulary; --draws sketches it",
            });
        }
        Ok(())
    }

    /// So many more, with seeds that count on; none where nothing is drawn.
    pub(crate) fn further(self, count: usize) -> Vec<Self> {
        let with = |seed: u64| {
            let sent = match self.sent {
                Estimate::Sampled { draws, .. } => Estimate::Sampled { seed, draws },
                Estimate::GaussNewton { sketch: Some(sketch) } => {
                    Estimate::GaussNewton { sketch: Some(Sketch { seed, ..sketch }) }
                }
                other => other,
            };
            Self { seed: Some(seed), sent, ..self }
        };
        let of = |first: u64| (1..=count as u64).map(move |more| with(first.wrapping_add(more)));
        self.seed.into_iter().flat_map(of).collect()
    }

    /// The curvature of each block of the model, over all samples; `None` where it is made of the gradients that lie
    /// in the file anyway.
    pub(crate) fn of_model<M: RowModel>(
        self,
        model: &M,
        samples: &[M::Sample],
        batch: usize,
        pattern: Option<&Pattern>,
        options: &Options,
    ) -> Result<Option<Vec<BlockCurvature>>, CliError> {
        let Method::Inverse { storage, .. } = options.method else { return Ok(None) };
        if self.sent == Estimate::Empirical && !storage.needs_captures() {
            return Ok(None);
        }
        let mut order: Vec<usize> = (0..samples.len()).collect();
        order.sort_by_key(|&sample| M::tokens(&samples[sample]));
        let batches = order
            .chunks(batch)
            .map(|rows| model.collate(&rows.iter().map(|&row| &samples[row]).collect::<Vec<_>>()))
            .collect::<Result<Vec<_>, _>>()?;
        let sent = match self.sent {
            Estimate::GaussNewton { sketch: None } => model.forward(&batches[0], &mut Tape::off()).dims()[1] as u64,
            _ => u64::from(self.draws.unwrap_or(1)),
        };
        let backward = storage.passes() as u64 * batches.len() as u64 * sent;
        let source = Blocks {
            all: CurvatureSource { task: model, batches: batches.as_slice(), estimate: self.sent },
            pattern,
            done: RefCell::new((0, Progress::new("curvature", backward))),
        };
        let found = scoring::curvature(&source, options).map_err(CliError::Score)?;
        source.done.into_inner().1.finish();
        Ok(Some(found))
    }
}

/// The blocks of a model that are wanted.
struct Blocks<'a, T: Task> {
    all: CurvatureSource<'a, T, &'a [T::Batch]>,
    pattern: Option<&'a Pattern>,
    /// Backward passes done.
    done: RefCell<(u64, Progress)>,
}

impl<T: Task> Source for Blocks<'_, T> {
    fn pass(&self, visit: &mut dyn FnMut(Gradients) -> Result<(), ScoreError>) -> Result<(), ScoreError> {
        self.pass_captures(&mut |captures| {
            let blocks = captures.iter().map(Capture::gradients).collect();
            let layout: Vec<Block> = captures.into_iter().map(|capture| capture.block).collect();
            visit(Gradients { layout: layout.into(), blocks })
        })
    }

    fn pass_captures(&self, visit: &mut dyn FnMut(Vec<Capture>) -> Result<(), ScoreError>) -> Result<(), ScoreError> {
        self.all.pass_captures(&mut |mut captures| {
            captures.retain(|capture| self.pattern.is_none_or(|pattern| pattern.fits(&capture.block.name)));
            visit(captures)?;
            let (done, progress) = &mut *self.done.borrow_mut();
            *done += 1;
            progress.at(*done, || "backward passes".into());
            Ok(())
        })
    }
}
