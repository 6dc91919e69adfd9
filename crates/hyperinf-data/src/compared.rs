//! The scores of several methods for the same rows, with what they cost.

use std::path::Path;
use std::time::Instant;

use burn::tensor::Device;
use hyperinf_gradients::Estimate;
use hyperinf_models::Recording;
use hyperinf_scoring::{Method, Options};
use hyperinf_store::StoreError;

use crate::RunError;
use crate::baseline::RowMethod;
use crate::event::{Event, Notice};
use crate::influence::Influence;
use crate::kept_runs::KeptRuns;
use crate::refined::Refine;
use crate::run::Run;

/// A method with its name in results.
#[derive(Clone)]
pub struct NamedMethod {
    /// The name.
    pub name: String,
    /// What scores rows.
    pub method: AnyMethod,
}

/// What scores rows.
#[derive(Clone)]
pub enum AnyMethod {
    /// Gradients at the end of the training.
    Gradients {
        /// How they are scored.
        options: Box<Options>,
        /// The estimate of the curvature.
        estimate: Estimate,
        /// How the inverse is refined.
        refine: Option<Refine>,
    },
    /// A baseline, or the derivative through the training.
    Rows(RowMethod),
}

/// A method's scores, or why there are none, with its cost.
pub struct MethodRun {
    /// The name.
    pub name: String,
    /// `[queries, training rows]` or one row for their mean, positive = helpful; or why the method cannot be computed here.
    pub scores: Result<Vec<Vec<f64>>, RunError>,
    /// Seconds of this method alone: loading the model, gradients or other passes, and scores.
    pub seconds: f64,
    /// Bytes on disk that it works on: gradients of all rows, or the recording; 0 for baselines.
    pub bytes: u64,
    /// The largest relative residual over blocks, of a refined inverse that over all blocks together; `None` for methods
    /// without curvature.
    pub residual: Option<f64>,
    /// Whether every solver reached its tolerance.
    pub converged: bool,
}

impl Run {
    /// Scores all training rows for each query, or for their mean, by several methods. Gradients are computed once; their time counts for
    /// every method that needs them, so that [`seconds`](MethodRun::seconds) are those of [`Run::attribute`] with this
    /// method alone. Of this run's `options` only the query mode is used, `estimate`
    /// and `refine` are not; `seed` is for random baselines.
    ///
    /// The folder `kept` keeps the scores of each method as soon as it has them, and a later call with the same model,
    /// adapter, rows and settings reads them. It keeps none if the adapter has no recording, if rows have images, or if
    /// the gradients are those of an index. A solver counts by its name: give one with other parameters another name in
    /// [`NamedMethod`].
    ///
    /// # Errors
    ///
    /// As [`Run::attribute`], where no method could be computed: rows, files, or a stop; or if `kept` cannot be written. A
    /// method that refuses this model
    /// or fails by its numbers has the reason in [`MethodRun::scores`].
    pub fn scores_by(
        &self,
        methods: &[NamedMethod],
        seed: u64,
        kept: Option<&Path>,
        device: &Device,
        observe: &mut dyn FnMut(Event),
    ) -> Result<Vec<MethodRun>, RunError> {
        let kept =
            kept.map(|folder| Ok::<_, RunError>(KeptRuns::open(folder, self, device)?.map(|kept| (kept, folder))));
        let kept = kept.transpose()?.flatten();
        let earlier = |named: &NamedMethod| kept.as_ref().and_then(|(kept, _)| kept.get(self, named, seed));
        let mut all: Vec<Option<MethodRun>> = methods.iter().map(earlier).collect();
        let found = all.iter().flatten().count();
        if let Some((_, folder)) = kept.as_ref().filter(|_| found > 0) {
            let (of, folder) = (methods.len(), (*folder).to_owned());
            observe(Event::Notice(Notice::Kept { methods: found, of, folder }));
        }
        let mut shared: Option<(Influence, f64)> = None;
        for (named, run) in methods.iter().zip(&mut all).filter(|(_, run)| run.is_none()) {
            let name = named.name.clone();
            let found = match &named.method {
                AnyMethod::Rows(rows) => self.by_rows(name, *rows, seed, device, observe)?,
                AnyMethod::Gradients { options, estimate, refine } => {
                    if shared.is_none() {
                        shared = Some(self.gradients(device, observe)?);
                    }
                    let (influence, gradients) = shared.as_mut().expect("it was just made");
                    let options = Options { query: self.options.query, ..(**options).clone() };
                    let run = Self { options, estimate: *estimate, refine: *refine, ..self.clone() };
                    let began = Instant::now();
                    let outcome = run.score_again(influence, device, observe);
                    let failed = outcome.err().map(of_method).transpose()?;
                    let seconds = *gradients + began.elapsed().as_secs_f64();
                    let bytes = influence.pair.train.length() + influence.pair.query.file.length();
                    let found = &influence.attribution;
                    // Of a refined inverse against the matrix over all blocks.
                    let refined = influence.refinement.as_ref().map(|refined| refined.residual_after);
                    let (scores, residual, converged) = match failed {
                        None => (Ok(found.scores.rows.clone()), refined.or(found.residual()), found.converged()),
                        Some(error) => (Err(error), None, true),
                    };
                    MethodRun { name, scores, seconds, bytes, residual, converged }
                }
            };
            if let Some((kept, _)) = &kept {
                kept.keep(self, named, seed, &found)?;
            }
            *run = Some(found);
        }
        shared.map_or(Ok(()), |(influence, _)| influence.discard_gradients())?;
        Ok(all.into_iter().flatten().collect())
    }

    /// The gradients, scored by the dot product, and the seconds that they took.
    fn gradients(&self, device: &Device, observe: &mut dyn FnMut(Event)) -> Result<(Influence, f64), RunError> {
        let options = Options { method: Method::Identity, query: self.options.query, ..Options::default() };
        let run = Self { options, estimate: Estimate::Empirical, ..self.clone() };
        let began = Instant::now();
        let influence = run.attribute(device, observe)?;
        Ok((influence, began.elapsed().as_secs_f64()))
    }

    fn by_rows(
        &self,
        name: String,
        rows: RowMethod,
        seed: u64,
        device: &Device,
        observe: &mut dyn FnMut(Event),
    ) -> Result<MethodRun, RunError> {
        let options = Options { query: self.options.query, ..Options::default() };
        let run = Self { options, ..self.clone() };
        let recording = self.adapter.as_ref().filter(|_| rows.is_recorded()).map(|folder| folder.join(Recording::FILE));
        let bytes = recording.and_then(|path| path.metadata().ok()).map_or(0, |file| file.len());
        let began = Instant::now();
        let found = match rows {
            RowMethod::Baseline(baseline) => run.baseline(baseline, seed, device, observe),
            RowMethod::Unrolled => run.unrolled(None, device, observe),
            RowMethod::Trajectory(trajectory) => run.trajectory(trajectory, seed, device, observe),
        };
        let seconds = began.elapsed().as_secs_f64();
        let scores = match found {
            Ok(found) => Ok(found.scores.rows),
            Err(error) => Err(of_method(error)?),
        };
        Ok(MethodRun { name, scores, seconds, bytes, residual: None, converged: true })
    }
}

/// The error of a method that cannot be computed; those that concern all methods are returned as such.
fn of_method(error: RunError) -> Result<RunError, RunError> {
    match error {
        RunError::Conflict { .. }
        | RunError::NoStates { .. }
        | RunError::NoRecording { .. }
        | RunError::Score(_)
        | RunError::Store(StoreError::Score(_) | StoreError::Range { .. } | StoreError::Memory { .. })
        | RunError::Store(StoreError::TooSmall { .. } | StoreError::Matrix { .. })
        | RunError::Gradients(_)
        | RunError::Model(_) => Ok(error),
        _ => Err(error),
    }
}
