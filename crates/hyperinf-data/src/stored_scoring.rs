use burn::tensor::Device;
use hyperinf_scoring::{Attribution, Options, QueryMode, TeamError};
use hyperinf_store::{Checkpoint, GradientPair, ProjectionSpec, RunKey, tracin_by};

use crate::RunError;
use crate::crew::{Crew, METHOD};
use crate::crew_blocks::{self, Job};
use crate::crew_orders::Work;
use crate::crew_rows;
use crate::crew_work::{agreed, method, several};
use crate::run::Run;
use crate::run_of_kind::{GENERATION, device_name};

/// Scores of gradients that lie in files, [`hyperinf_store::tracin`], by all ranks of a crew or by this process.
///
/// | field | default | purpose |
/// |---|---|---|
/// | `options` | HyperINF, each query | method, damping, normalisation, partition |
/// | `projections` | one scoring, unprojected | the projection of each scoring; several for error bars |
/// | `device_name` | the device itself | the device's name, in which the ranks must agree but for its number |
/// | `crew` | `None` | the ranks that share the work, of which this is one |
#[derive(Clone)]
pub struct StoredScoring {
    /// How samples are scored.
    pub options: Options,
    /// The projection of each scoring.
    pub projections: Vec<Option<ProjectionSpec>>,
    /// The name of the device.
    pub device_name: String,
    /// The ranks that share the work.
    pub crew: Option<Crew>,
}

impl Default for StoredScoring {
    fn default() -> Self {
        Self { options: Options::default(), projections: vec![None], device_name: String::new(), crew: None }
    }
}

impl StoredScoring {
    /// The scores with one of the projections; `check` sees the result of each checkpoint. With several ranks the files
    /// are also hashed meanwhile, so that [`GradientFile::fingerprint`](hyperinf_store::GradientFile::fingerprint) has
    /// nothing left to do.
    ///
    /// # Errors
    ///
    /// As [`hyperinf_store::tracin`], those of `check`, or [`RunError::Team`].
    ///
    /// # Panics
    ///
    /// If there is no such projection.
    pub fn score<E: From<RunError>>(
        &self,
        scoring: usize,
        checkpoints: &mut [Checkpoint],
        device: &Device,
        mut check: impl FnMut(&Attribution) -> Result<(), E>,
    ) -> Result<Attribution, E> {
        let runs = self.runs(checkpoints);
        let run = &runs[scoring];
        if let Some(crew) = several(run) {
            crew.meet(&self.key(checkpoints, device)?)?;
        }
        // An error of `check` is of another type than those of the scores.
        let mut failed = None;
        let score = |pair: &GradientPair| {
            Job { run, pair, known: None, options: &run.options, draw: 0, device }.score_with(true)
        };
        let found = tracin_by(checkpoints, run.projection, device, score, |found| {
            check(found).map_err(|error| {
                failed = Some(error);
                RunError::Team(TeamError::OutOfStep)
            })
        });
        match failed {
            Some(error) => Err(error),
            None => Ok(found?),
        }
    }

    /// What the other ranks do while rank 0 scores, until it has no more work. `checkpoints` are the same as there.
    ///
    /// # Errors
    ///
    /// See [`RunError`]; [`RunError::Team`] if rank 0 has ended, or scores other gradients or by other settings.
    pub fn assist(&self, checkpoints: &[Checkpoint], device: &Device) -> Result<(), RunError> {
        let runs = self.runs(checkpoints);
        let Some(crew) = self.crew.as_ref().filter(|crew| crew.size() > 1) else { return Ok(()) };
        crew.meet(&self.key(checkpoints, device)?)?;
        loop {
            match crew.next()? {
                Work::End => return crew.leave(),
                Work::Blocks(work) => {
                    crew_blocks::serve(crew, agreed(crew, &runs, work.scoring.of.clone())?, work, device)?;
                }
                Work::Rows(work) => {
                    crew_rows::serve(crew, agreed(crew, &runs, work.scoring.of.clone())?, &work, device)?;
                }
                Work::Check(_)
                | Work::Gradients { .. }
                | Work::Predictions { .. }
                | Work::Tokens { .. }
                | Work::Curvature { .. }
                | Work::Products { .. }
                | Work::Pieces { .. } => {
                    let reason = "its work is not that of scores from files".to_owned();
                    return Err(TeamError::Garbled { rank: 0, reason }.into());
                }
            }
        }
    }

    /// Each scoring as a run, of which the ranks need no more than how it scores.
    fn runs(&self, checkpoints: &[Checkpoint]) -> Vec<Run> {
        let first = checkpoints.first().map(|checkpoint| &checkpoint.pair);
        let run = |(place, &projection): (usize, &Option<ProjectionSpec>)| {
            let crew = self.crew.as_ref().map(|crew| crew.for_method(place));
            let (options, device_name) = (self.options.clone(), self.device_name.clone());
            let run = Run { options, projection, device_name, crew, ..Run::default() };
            match first {
                Some(pair) => Run { memory: pair.memory, batch_bytes: pair.batch_bytes, ..run },
                None => run,
            }
        };
        self.projections.iter().enumerate().map(run).collect()
    }

    /// What all ranks must agree on: each rank opens the files by itself.
    fn key(&self, checkpoints: &[Checkpoint], device: &Device) -> Result<RunKey, RunError> {
        let mut key = RunKey::from([("program", format!("{}/{GENERATION}", env!("CARGO_PKG_VERSION")))]);
        let runs = self.runs(checkpoints);
        let mut add = |name: String, value: String| drop(key.0.insert(name, value));
        for (place, run) in runs.iter().enumerate() {
            add("device".to_owned(), device_name(run, device));
            if let Some(crew) = &run.crew {
                add(format!("{METHOD} {}", place + 1), method(crew, run).settings);
            }
        }
        add("queries one by one".to_owned(), (self.options.query == QueryMode::Each).to_string());
        for (place, Checkpoint { pair, rate }) in checkpoints.iter().enumerate() {
            add(format!("learning rate {}", place + 1), format!("{rate:?}"));
            for set in pair.sets() {
                add(format!("content of the {set} gradients {}", place + 1), pair.excerpt(set)?);
            }
        }
        Ok(key)
    }
}
