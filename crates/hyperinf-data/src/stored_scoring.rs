use std::ops::Range;

use burn::tensor::Device;
use hyperinf_scoring::{Attribution, Options, QueryMode, ScoreError, Scores, Set, TeamError, TracIn};
use hyperinf_store::{Checkpoint, GradientPair, ProjectionSpec, RunKey};

use crate::RunError;
use crate::crew::{Crew, METHOD};
use crate::crew_blocks::{self, Job, of_query};
use crate::crew_orders::Work;
use crate::crew_rows;
use crate::crew_work::{agreed, method, several};
use crate::run::Run;
use crate::run_of_kind::{GENERATION, device_name};

/// Scores that are computed at once.
const AT_ONCE: usize = 1 << 27;

/// Scores of gradients that lie in files, [`hyperinf_store::tracin`], by all ranks of a crew or by this process.
///
/// | field | default | purpose |
/// |---|---|---|
/// | `options` | HyperINF, each query | method, damping, normalisation, partition |
/// | `projections` | one scoring, unprojected | the projection of each scoring; several for error bars |
/// | `device_name` | the device itself | the device's name, in which the ranks must agree but for its number |
/// | `at_once` | 2²⁷, 1 GiB | scores that are computed at once, those of one query at least |
/// | `crew` | `None` | the ranks that share the work, of which this is one |
#[derive(Clone)]
pub struct StoredScoring {
    /// How samples are scored.
    pub options: Options,
    /// The projection of each scoring.
    pub projections: Vec<Option<ProjectionSpec>>,
    /// The name of the device.
    pub device_name: String,
    /// The scores that are computed at once: with more, single queries are scored in parts. The last bits of products may
    /// depend on it.
    pub at_once: usize,
    /// The ranks that share the work.
    pub crew: Option<Crew>,
}

impl Default for StoredScoring {
    fn default() -> Self {
        let (options, projections, device_name) = (Options::default(), vec![None], String::new());
        Self { options, projections, device_name, at_once: AT_ONCE, crew: None }
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
        check: impl FnMut(&Attribution) -> Result<(), E>,
    ) -> Result<Attribution, E> {
        let mut scores = Scores::default();
        // All are held: there is nothing to gain from parts.
        let whole = Self { at_once: usize::MAX, ..self.clone() };
        let mut found = whole.score_in_parts(scoring, checkpoints, device, check, |more| {
            scores = more;
            Ok(())
        })?;
        found.scores = scores;
        Ok(found)
    }

    /// [`StoredScoring::score`] whose scores are handed to `visit` in the order of the queries, a part of them at a time
    /// if there are more than [`StoredScoring::at_once`]: the result has none. The curvature is computed once where it
    /// can be held ([`GradientPair::can_hold_curvature`]), else for every part.
    ///
    /// # Errors
    ///
    /// As [`StoredScoring::score`], and those of `visit`.
    ///
    /// # Panics
    ///
    /// If there is no such projection.
    pub fn score_in_parts<E: From<RunError>>(
        &self,
        scoring: usize,
        checkpoints: &mut [Checkpoint],
        device: &Device,
        mut check: impl FnMut(&Attribution) -> Result<(), E>,
        mut visit: impl FnMut(Scores) -> Result<(), E>,
    ) -> Result<Attribution, E> {
        let runs = self.runs(checkpoints);
        let run = &runs[scoring];
        if let Some(crew) = several(run) {
            crew.meet(&self.key(checkpoints, device)?)?;
        }
        let asked: Vec<Option<Range<usize>>> = checkpoints.iter().map(|checkpoint| checkpoint.pair.asked()).collect();
        let found = self.of_parts(run, checkpoints, device, &mut check, &mut visit);
        // Whatever became of it.
        checkpoints.iter_mut().zip(asked).for_each(|(checkpoint, asked)| checkpoint.pair.ask_some(asked));
        found
    }

    /// The scores of all parts by a run.
    fn of_parts<E: From<RunError>>(
        &self,
        run: &Run,
        checkpoints: &mut [Checkpoint],
        device: &Device,
        check: &mut dyn FnMut(&Attribution) -> Result<(), E>,
        visit: &mut dyn FnMut(Scores) -> Result<(), E>,
    ) -> Result<Attribution, E> {
        let (parts, pairs) = (self.parts(checkpoints), checkpoints.len());
        let mut all: Option<Attribution> = None;
        for part in &parts {
            let mut total = TracIn::default();
            for Checkpoint { pair, rate } in checkpoints.iter_mut() {
                if all.is_none() {
                    pair.project(run.projection, device).map_err(RunError::from)?;
                }
                if part.is_some() {
                    pair.ask_some(part.clone());
                }
                if parts.len() > 1 && all.is_none() && pair.can_hold_curvature(&run.options, pairs, device) {
                    let found = job(run, pair, device).curvature()?;
                    pair.take_curvature(&run.options, found);
                }
                let first = pair.samples(Set::Query).start;
                let found = job(run, pair, device).score_with(true).map_err(|error| of_query(error, first))?;
                check(&found)?;
                total.add(rate.unwrap_or(1.0), found).map_err(RunError::from)?;
            }
            let mut found = total.finish().map_err(RunError::from)?;
            visit(std::mem::take(&mut found.scores))?;
            match &mut all {
                None => all = Some(found),
                Some(all) => {
                    all.magnitudes.iter_mut().zip(found.magnitudes).for_each(|((_, sum), (_, more))| *sum += more);
                    all.keep_worst(found.blocks);
                }
            }
        }
        all.ok_or_else(|| RunError::from(ScoreError::NoCheckpoints).into())
    }

    /// The queries of each part; `None` for all at once.
    fn parts(&self, checkpoints: &[Checkpoint]) -> Vec<Option<Range<usize>>> {
        let Some(Checkpoint { pair, .. }) = checkpoints.first() else { return vec![None] };
        let (asked, samples) = (pair.samples(Set::Query), pair.train.samples().max(1));
        let each = (self.at_once / samples).max(1);
        let whole = self.options.query == QueryMode::Mean || self.options.block_scores || pair.contrast.is_some();
        if whole || asked.len() <= each {
            return vec![None];
        }
        let end = asked.end;
        asked.step_by(each).map(|first| Some(first..end.min(first + each))).collect()
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

/// The scores of a pair by a run.
fn job<'a>(run: &'a Run, pair: &'a GradientPair, device: &'a Device) -> Job<'a> {
    Job { run, pair, known: None, options: &run.options, draw: 0, device }
}
