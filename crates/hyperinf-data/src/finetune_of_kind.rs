//! [`Finetune`] of one kind of model.

use std::io::{BufWriter, Seek, Write};
use std::ops::ControlFlow;
use std::path::PathBuf;

use burn::tensor::Device;
use hyperinf_models::{
    Adapter, Limit, ModelError, PieceTeam, Recording, TextTokenizer, adapt, finetune_shared as train, training_digest,
};
use hyperinf_scoring::Set;
use hyperinf_store::{Staged, WriteError, publish, stage_json};

use crate::RunError;
use crate::crew_training::{Pieces, common_key};
use crate::dataset::Dataset;
use crate::event::{Detail, Event, Notice, Progress};
use crate::finetune::{Finetune, Finetuned, SUMMARY};
use crate::kind::{Kind, Prepared};
use crate::model_files::{ModelFiles, Note, load_error};
use crate::plan_tuning::NUMBER;
use crate::prediction::measure;
use crate::resumption::Earlier;
use crate::run::unchanged;
use crate::samples::{Samples, notify};
use crate::stage::Stage;
use crate::training_log::TrainingLog;
use crate::tuning::{TuningQuality, TuningSummary, size};

/// Files of an earlier tokenizer, which the new one may lack.
const EARLIER: [&str; 4] =
    ["chat_template.jinja", "chat_template.json", "special_tokens_map.json", "added_tokens.json"];
/// The most training rows on which the trained model is measured.
pub(crate) const MEASURED: usize = 1000;

/// A model with new adapters, and the samples of all rows.
pub(crate) struct Ready<'a, K: Kind> {
    pub(crate) prepared: Prepared<K>,
    pub(crate) rows: Samples<K>,
    pub(crate) validation: Option<Samples<K>>,
    pub(crate) limit: Limit,
    /// The adapted layers.
    pub(crate) targets: Vec<&'a str>,
}

/// Reads the rows, loads the model and adds the adapters.
pub(crate) fn ready<'a, K: Kind>(
    run: &'a Finetune,
    files: &ModelFiles,
    device: &Device,
    observe: &mut dyn FnMut(Event),
) -> Result<Ready<'a, K>, RunError> {
    let read = |set, path: &PathBuf| {
        unchanged(path, || Dataset::<K::Content>::read(set, path, &run.read).map_err(RunError::of_rows(set, path)))
    };
    let rows = read(Set::Train, &run.train)?;
    let validation = run.validation.as_ref().map(|path| read(Set::Query, path)).transpose()?;
    let seed = run.recipe.seed;
    let mut prepared = K::load_base(files, &rows, seed, device, &mut |notice| observe(Event::Notice(notice)))?;
    files.check_unchanged()?;
    prepared.notify_of_tokenizer(observe);
    let given: Vec<&str> = run.targets.iter().map(String::as_str).collect();
    let targets = if given.is_empty() { K::ADAPTED.to_vec() } else { given };
    prepared.model = adapt(prepared.model, &targets, &run.lora, seed)?;
    // Before rows become samples: what is stored of their images depends on the layers that are trained.
    K::changed(&mut prepared, files)?;
    let limit = run.length.limit::<K>(&prepared.model, None)?;
    let samples = |data| Samples::<K>::new(&prepared, data, limit, run.read.skip_bad_rows);
    let rows = samples(rows)?;
    let validation = validation.map(samples).transpose()?;
    for set in std::iter::once(&rows).chain(&validation) {
        notify(&prepared.processor, set, observe);
    }
    Ok(Ready { prepared, rows, validation, limit, targets })
}

/// [`Finetune::run`] of one kind of model.
pub(crate) fn finetune<K: Kind>(
    run: &Finetune,
    files: &ModelFiles,
    device: &Device,
    observe: &mut dyn FnMut(Event),
) -> Result<Finetuned, RunError> {
    let Ready { prepared, rows, validation, limit, targets } = ready::<K>(run, files, device, observe)?;
    let Prepared { model, processor } = prepared;
    let labels = K::labels(&processor).cloned();

    let mut settings = run.settings(files, &targets, labels.as_ref(), limit.tokens(), device);
    let loss_settings = K::settings(&model);
    settings.extend(loss_settings.iter().map(|found| ("loss".to_owned(), found.to_string())));
    let crew = run.crew.as_ref().filter(|crew| crew.size() > 1);
    if let Some(crew) = crew {
        crew.meet(&common_key(run, settings.clone(), &rows))?;
    }
    let pieces = crew.map(Pieces::new);
    let config = run.config(&K::training(), rows.samples.len(), settings);
    let evaluated = validation.as_ref().map(|set| set.samples.as_slice());
    config.validate(evaluated.map(<[_]>::len))?;
    run.warn_of_room::<K>(&model, &rows, config.schedule, device, observe)?;
    let digest = training_digest(&model, &rows.samples, evaluated, &config)?;
    let total = config.schedule.steps(rows.samples.len());
    let batch = run.micro_batch.unwrap_or(config.schedule.batch_size);
    let earlier = run.resumption(&config, || Ok(digest.clone()), observe)?;
    if let Earlier::Adapter(adapter) = earlier {
        run.remove_checkpoints()?;
        drop(TrainingLog::new(&run.out));
        let (parameters, tensors) = size(&adapter);
        let model = adapter.apply(model).map_err(load_error("adapter", run.out.display()))?;
        let mut quality = |set, most| measure(&model, set, labels.as_ref(), most, batch, observe);
        let train = quality(&rows, MEASURED)?;
        let validation = validation.as_ref().map(|set| quality(set, usize::MAX)).transpose()?;
        return Ok(Finetuned {
            parameters,
            tensors,
            rows: rows.samples.len(),
            labels,
            steps: total,
            resumed_at: Some(total),
            stopped_early: false,
            loss: None,
            best: None,
            recording: None,
            quality: TuningQuality { train_before: None, train, validation },
        });
    }
    if let Some(checkpoints) = config.checkpoints.as_ref().filter(|checkpoints| checkpoints.record) {
        let bytes = Recording::bytes(run.trained(&model)?.0 as u64 * NUMBER, total, checkpoints.every);
        let (states, path) = (total.div_ceil(checkpoints.every), run.out.join(Recording::FILE));
        observe(Event::Notice(Notice::Recording { path, states, bytes }));
    }
    let mut log = match earlier {
        Earlier::Steps(steps) => TrainingLog::resumed(&run.out, steps)?,
        _ => TrainingLog::new(&run.out),
    };
    if log.lost() > 0 {
        observe(Event::Notice(Notice::LostLog { steps: log.lost(), path: log.path() }));
    }
    if run.overwrite {
        run.remove_checkpoints()?;
    }
    let before = match &labels {
        // A language model can be good before; a new head knows nothing.
        None => Some(measure(&model, &rows, None, MEASURED, batch, observe)?),
        Some(_) => None,
    };
    let mut unwritten = None;
    // To the end: what is trained is measured and written even if the run is to stop.
    let _listening = run.stop.listen();
    let team = pieces.as_ref().map(|pieces| pieces as &dyn PieceTeam);
    let tuned = train(model, &rows.samples, evaluated, &config, team, |step| {
        if let Err(error) = log.step(step) {
            unwritten.get_or_insert(error);
        }
        let (loss, speed) = (log.mean().unwrap_or(step.loss), log.speed(step));
        let detail = Detail::Training { loss, validation: step.validation, speed, unit: K::UNIT };
        observe(Event::Progress(Progress { stage: Stage::Finetuning, done: step.step + 1, total, detail }));
        if run.stop.is_requested() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    let tuned = tuned.map_err(|error| match error {
        ModelError::Stopped { step: done, steps: total, checkpoint: kept } => {
            RunError::Stopped { stage: Stage::Finetuning, done, total, kept }
        }
        error => match &pieces {
            Some(pieces) => pieces.explain(error),
            None => error.into(),
        },
    })?;
    unwritten.map_or(Ok(()), Err)?;
    let mut quality = |set, most| measure(&tuned.model, set, labels.as_ref(), most, batch, observe);
    let quality = TuningQuality {
        train_before: before,
        train: quality(&rows, MEASURED)?,
        validation: validation.as_ref().map(|set| quality(set, usize::MAX)).transpose()?,
    };
    quality.warn(run, observe);

    let failed = load_error("adapter", run.out.display());
    let adapter = Adapter::from_model(&tuned.model, &run.lora, Some(&files.name)).map_err(&failed)?;
    let note = Note::new(labels.clone(), limit.tokens(), files.one_tile, digest);
    let (parameters, tensors) = size(&adapter);
    let (model, xxh3_128) = TuningSummary::model(files);
    let summary = TuningSummary {
        command: "finetune",
        hyperinf_version: env!("CARGO_PKG_VERSION"),
        task: K::NAME,
        model,
        xxh3_128,
        train: TuningSummary::rows(&rows.data),
        validation: validation.as_ref().map(|set| TuningSummary::rows(&set.data)),
        lora: TuningSummary::lora(&run.lora, &targets),
        training: TuningSummary::training(&config.schedule, config.micro_batch),
        loss: loss_settings,
        parameters,
        steps: tuned.steps,
        quality: &quality,
    };
    // The rows were tokenized with it, and later ones must be too.
    let tokenizer = K::tokenizer(&processor).map(TextTokenizer::to_files).transpose();
    let tokenizer = tokenizer.map_err(|source| failed(source.into()))?.unwrap_or_default();
    let tokenizer: Vec<(PathBuf, Vec<u8>)> =
        tokenizer.into_iter().map(|(name, bytes)| (run.out.join(name), bytes)).collect();
    let (note_path, summary_path, log_path) = (Note::path(&run.out), run.out.join(SUMMARY), log.path());
    let more = K::more_files(&tuned.model, &adapter).map_err(&failed)?;
    let mut files: Vec<_> = more.into_iter().map(|(name, bytes)| (run.out.join(name), bytes)).collect();
    files.extend(run.more_files.iter().map(|(name, bytes)| (run.out.join(name), bytes.clone())));
    files.extend(adapter.files(&run.out).map_err(&failed)?);
    let mut staged = vec![stage_json(&note_path, &note)?, stage_json(&summary_path, &summary)?, log.stage(&log_path)?];
    let recording = run.out.join(Recording::FILE);
    let mut recorded = None;
    if let Some(checkpoints) = config.checkpoints.as_ref().filter(|checkpoints| checkpoints.record) {
        // What else fails than writing is an error of the checkpoints.
        let mut failed = None;
        let whole = Staged::new(&recording, |file| {
            let mut out = BufWriter::new(file);
            let written = Recording::write(&tuned, checkpoints, &recording, &mut out);
            match written {
                Ok(states) => recorded = Some((states, out.stream_position().map_err(WriteError::Io)?)),
                Err(ModelError::CheckpointWrite { source, .. }) => return Err(WriteError::Io(source)),
                Err(error) => failed = Some(error),
            }
            out.flush().map_err(WriteError::Io)
        })?;
        failed.map_or(Ok(()), Err)?;
        staged.push(whole);
    }
    // The adapter comes last: it makes the folder an adapter.
    for (path, bytes) in &files {
        staged.push(Staged::new(path, |file| file.write_all(bytes).map_err(WriteError::Io))?);
    }
    for (path, bytes) in &tokenizer {
        staged.insert(0, Staged::new(path, |file| file.write_all(bytes).map_err(WriteError::Io))?);
    }
    let stale =
        EARLIER.iter().map(|name| run.out.join(name)).filter(|path| tokenizer.iter().all(|(new, _)| new != path));
    // A recording of another training must not stay next to this adapter.
    let stale = stale.chain(recorded.is_none().then(|| recording.clone()).filter(|path| path.exists()));
    let loss = log.mean();
    publish(staged, &stale.collect::<Vec<_>>())?;
    // The log's hidden file goes last: as long as there are checkpoints, the lines before them are needed.
    run.remove_checkpoints()?;
    drop(log);
    Ok(Finetuned {
        parameters,
        tensors,
        rows: rows.samples.len(),
        labels,
        steps: tuned.steps,
        resumed_at: tuned.resumed_at,
        stopped_early: tuned.stopped_early,
        loss,
        best: tuned.best,
        recording: recorded,
        quality,
    })
}
