//! [`Run::retrain`] of one kind of model.

use std::ops::ControlFlow;
use std::time::Instant;

use burn::tensor::Device;
use hyperinf_models::{FinetuneConfig, ModelError, Recording, finetune_until, without_dropout};
use hyperinf_store::RunKey;
use twox_hash::XxHash3_128;

use crate::bank::Bank;
use crate::event::{Detail, Event, Progress};
use crate::finetune::Finetune;
use crate::finetune_of_kind::{Ready, ready};
use crate::influence::{RowText, Rows};
use crate::kind::Kind;
use crate::model_files::ModelFiles;
use crate::prediction::predict;
use crate::recipe::Recipe;
use crate::recorded::{Recorded, recorded, same_adapter};
use crate::retrain::{Question, Removal, Retrained, Retraining};
use crate::run::Run;
use crate::samples::Samples;
use crate::stage::Stage;
use crate::{Choice, RunError};

/// The training that was recorded, ready to be taken again.
struct Trained<'a, K: Kind> {
    run: &'a Run,
    device: &'a Device,
    recording: Recording,
    tuning: &'a Finetune,
    base: &'a ModelFiles,
    /// With adapters as they were before the training.
    model: &'a K::Model,
    train: &'a Samples<K>,
    query: &'a Samples<K>,
}

/// [`Run::retrain`] of one kind of model.
pub(crate) fn retrain<K: Kind>(
    run: &Run,
    retraining: &Retraining,
    files: ModelFiles,
    device: &Device,
    observe: &mut dyn FnMut(Event),
) -> Result<Retrained, RunError> {
    let Recorded { path, recording, tuning, base, prepared, train, query, ended, .. } =
        recorded::<K>(run, &files, device, observe)?;
    let (steps, seed) = (recording.steps(), recording.config()?.schedule.seed);
    if retraining.question == Question::Fresh && steps < recording.config()?.schedule.steps(train.samples.len()) {
        let reason = "the adapter is that of the best evaluation, and fresh trainings have none to choose by";
        return Err(RunError::Conflict { first: Choice::FreshSeeds, second: Choice::BestStep, reason });
    }
    let of_query = predict(&ended, &query, &all(&query), run.batch_size, None, observe)?;

    let mut key = recording.settings().clone();
    key.insert("queries".to_owned(), digest(&query));
    key.insert("rows of a forward pass".to_owned(), run.batch_size.to_string());
    let bank = Bank::open(&retraining.bank, RunKey(key), query.samples.len())?;
    let removed = retraining.rows(train.samples.len())?;
    let subsets = removed.iter().enumerate();
    let jobs: Vec<Removal> = subsets.flat_map(|(place, rows)| retraining.trainings(place, rows, seed)).collect();
    let mut losses = jobs.iter().map(|job| bank.get(retraining.question, job)).collect::<Result<Vec<_>, _>>()?;
    let missing: Vec<usize> = (0..jobs.len()).filter(|&place| losses[place].is_none()).collect();
    let found = jobs.len() - missing.len();
    let own = |place: &usize| retraining.part.is_none_or(|(part, of)| place % of == part - 1);
    let mine: Vec<usize> = missing.iter().copied().filter(own).collect();

    let _listening = run.stop.listen();
    let trained = Trained::<K> {
        run,
        device,
        recording,
        tuning: &tuning,
        base: &base,
        model: &prepared.model,
        train: &train,
        query: &query,
    };
    let tokens = train.lengths().iter().sum::<usize>() * trained.recording.config()?.schedule.epochs;
    let (began, mut done) = (Instant::now(), 0);
    let stopped = |done| RunError::Stopped {
        stage: Stage::Retraining,
        done,
        total: mine.len(),
        kept: Some(retraining.bank.clone()),
    };
    if !mine.is_empty() && retraining.question == Question::Same {
        let whole = trained.same(&[]).map_err(|error| or_stopped(error, || stopped(0)))?;
        same_adapter::<K>(&whole, &tuning.lora, &files, &path)?;
    }
    for &place in &mine {
        let job = &jobs[place];
        // A process of another part, or an earlier command, may have come first.
        let found = match bank.get(retraining.question, job)? {
            Some(found) => found,
            None => {
                let found = trained.losses(retraining.question, job);
                let found = found.map_err(|error| or_stopped(error, || stopped(done)))?;
                bank.keep(retraining.question, job, &found)?;
                found
            }
        };
        losses[place] = Some(found);
        done += 1;
        let detail = Detail::Speed((done * tokens) as f64 / began.elapsed().as_secs_f64().max(1e-9), K::UNIT);
        observe(Event::Progress(Progress { stage: Stage::Retraining, done, total: mine.len(), detail }));
    }
    let seconds = (done > 0).then(|| began.elapsed().as_secs_f64() / done as f64);
    let facts = query.facts();
    Ok(Retrained {
        kind: K::NAME,
        train: train.data.map(|content| RowText::new(&content)),
        query: Rows::new(query, facts, of_query),
        files,
        seeds: jobs.chunks(retraining.repeats).map(|jobs| jobs.iter().map(|job| job.seed).collect()).collect(),
        losses: losses.chunks(retraining.repeats).map(<[_]>::to_vec).collect(),
        removed,
        steps,
        found,
        trained: done,
        seconds,
    })
}

impl<K: Kind> Trained<'_, K> {
    /// The losses of the queries after a training.
    fn losses(&self, question: Question, job: &Removal) -> Result<Vec<f64>, RunError> {
        let model = match question {
            Question::Same => self.same(&job.rows)?,
            Question::Fresh => self.fresh(job)?,
        };
        let (query, silent) = (self.query, &mut |_| ());
        let predictions = predict(&model, query, &all(query), self.run.batch_size, None, silent)?;
        Ok(predictions.iter().map(|prediction| prediction.loss).collect())
    }

    /// The model after the same training without these rows.
    fn same(&self, rows: &[usize]) -> Result<K::Model, RunError> {
        let mut weights = vec![1.0; self.train.samples.len()];
        rows.iter().for_each(|&row| weights[row] = 0.0);
        let again = self.recording.reweighted(self.model, &self.train.samples, weights, |_| self.stop())?;
        Ok(again.apply(without_dropout(self.model.clone()))?)
    }

    /// The model after a fresh training without these rows.
    fn fresh(&self, Removal { rows, seed }: &Removal) -> Result<K::Model, RunError> {
        let recipe = Recipe { seed: *seed, ..self.tuning.recipe };
        let tuning = Finetune { recipe, ..self.tuning.clone() };
        let Ready { prepared, rows: train, .. } = ready::<K>(&tuning, self.base, self.device, &mut |_| ())?;
        if train.data.xxh3_128 != self.train.data.xxh3_128 {
            return Err(RunError::Changed { path: train.data.path });
        }
        let all = train.samples.into_iter().enumerate();
        let kept: Vec<_> = all.filter(|(place, _)| rows.binary_search(place).is_err()).map(|(_, kept)| kept).collect();
        let mut config: FinetuneConfig = self.recording.config()?;
        config.schedule.seed = *seed;
        let tuned = finetune_until(prepared.model, &kept, None, &config, |_| self.stop())?;
        Ok(without_dropout(tuned.model))
    }

    fn stop(&self) -> ControlFlow<()> {
        if self.run.stop.is_requested() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}

fn or_stopped(error: RunError, stopped: impl FnOnce() -> RunError) -> RunError {
    match error {
        RunError::Model(ModelError::Stopped { .. }) => stopped(),
        error => error,
    }
}

fn all<K: Kind>(set: &Samples<K>) -> Vec<usize> {
    (0..set.samples.len()).collect()
}

/// The samples as a short text.
fn digest<K: Kind>(set: &Samples<K>) -> String {
    let digests = set.facts().digests;
    let bytes: Vec<u8> = digests.iter().flat_map(|digest| digest.to_le_bytes()).collect();
    format!("{} with digest {:032x}", digests.len(), XxHash3_128::oneshot(&bytes))
}
