//! The training that a recording is of, found by its adapter.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use burn::tensor::{Device, TensorData};
use hyperinf_models::{
    Adapter, Limit, LoraConfig, LoraScaling, ModelError, Recording, RunDifference, TOKENIZER_FILES, without_dropout,
};
use hyperinf_scoring::{Scores, Set};
use serde_json::Value;

use crate::RunError;
use crate::baseline::{Ranked, RowMethod};
use crate::dataset::Dataset;
use crate::diffusion_options::DiffusionOptions;
use crate::event::Event;
use crate::finetune::Finetune;
use crate::finetune_of_kind::{Ready, ready};
use crate::influence::Rows;
use crate::kind::{Kind, Prepared};
use crate::model_files::{ModelFiles, load_error};
use crate::prediction::{Prediction, predict};
use crate::recipe::Recipe;
use crate::run::{Run, unchanged};
use crate::samples::{LengthOptions, Samples, notify};

/// A recorded training with its rows, and the queries of a run.
pub(crate) struct Recorded<K: Kind> {
    /// The file.
    pub(crate) path: PathBuf,
    pub(crate) recording: Recording,
    pub(crate) tuning: Finetune,
    /// The files of the model as the training found it: without its adapter.
    pub(crate) base: ModelFiles,
    /// The model with adapters as they were before the training.
    pub(crate) prepared: Prepared<K>,
    pub(crate) train: Samples<K>,
    pub(crate) query: Samples<K>,
    pub(crate) limit: Limit,
    /// The model at the end of the training, without dropout.
    pub(crate) ended: K::Model,
}

/// Reads the recording of a run's adapter, the rows and the model, and checks that they belong together.
pub(crate) fn recorded<K: Kind>(
    run: &Run,
    files: &ModelFiles,
    device: &Device,
    observe: &mut dyn FnMut(Event),
) -> Result<Recorded<K>, RunError> {
    let folder = files.adapter.clone().ok_or_else(|| RunError::NoAdapter { model: run.model.clone() })?;
    let path = folder.join(Recording::FILE);
    if !path.is_file() {
        return Err(RunError::NoRecording { folder });
    }
    let recording = Recording::open(&path)?;
    let tuning = tuning(run, &recording, &folder)?;
    let mut base = ModelFiles::find(&tuning.model, tuning.tokenizer.as_deref(), None)?;
    base.read_images(&run.read, Some(&run.out))?;
    base.set_diffusion(tuning.diffusion.as_ref())?;
    base.set_pairs(tuning.pairs)?;
    base.one_tile = files.one_tile;
    let Ready { prepared, rows: train, limit, .. } = ready::<K>(&tuning, &base, device, observe)?;

    let mut settings = BTreeMap::from([("device".to_owned(), format!("{device:?}"))]);
    settings.extend(K::settings(&prepared.model).map(|found| ("loss".to_owned(), found.to_string())));
    recording.check(&prepared.model, &train.samples, settings)?;
    let ended = recording.apply(without_dropout(prepared.model.clone()))?;
    same_adapter::<K>(&ended, &tuning.lora, files, &path)?;

    let read = || Dataset::<K::Content>::read(Set::Query, &run.query, &run.read);
    let query = unchanged(&run.query, || read().map_err(RunError::of_rows(Set::Query, &run.query)))?;
    let query = Samples::<K>::new(&prepared, query, limit, run.read.skip_bad_rows)?;
    notify(&prepared.processor, &query, observe);
    Ok(Recorded { path, recording, tuning, base, prepared, train, query, limit, ended })
}

impl<K: Kind> Recorded<K> {
    /// What the model at the end of the training predicts for the training rows and the queries.
    pub(crate) fn predictions(
        &self,
        run: &Run,
        observe: &mut dyn FnMut(Event),
    ) -> Result<[Vec<Prediction>; 2], RunError> {
        let mut of = |set: &Samples<K>| {
            predict(&self.ended, set, &(0..set.samples.len()).collect::<Vec<_>>(), run.batch_size, None, observe)
        };
        Ok([of(&self.train)?, of(&self.query)?])
    }

    /// The rows with scores of a method.
    pub(crate) fn ranked(
        self,
        run: &Run,
        method: RowMethod,
        predictions: [Vec<Prediction>; 2],
        scores: Scores,
        files: ModelFiles,
    ) -> Ranked {
        let Self { prepared, train, query, limit, .. } = self;
        let [of_train, of_query] = predictions;
        let (labels, settings) = (K::labels(&prepared.processor).cloned(), K::settings(&prepared.model));
        let (facts, query_facts) = (train.facts(), query.facts());
        Ranked {
            method,
            derivative: None,
            trajectory: None,
            ensemble: Vec::new(),
            kind: K::NAME,
            train: Rows::new(train, facts, of_train),
            query: Rows::new(query, query_facts, of_query),
            scores,
            query_mode: run.options.query,
            labels,
            max_length: limit.tokens(),
            settings,
            files,
        }
    }
}

/// The fine-tuning that was recorded, on the rows of a run.
fn tuning(run: &Run, recording: &Recording, folder: &Path) -> Result<Finetune, RunError> {
    let bad = |what: &str| {
        let reason = format!("its setting `{what}` cannot be read");
        RunError::Model(ModelError::Recording { path: recording.path().to_owned(), reason })
    };
    let settings = recording.settings();
    let text = |what: &str| settings.get(what).map(String::as_str).ok_or_else(|| bad(what));
    let number = |what: &str| text(what)?.parse::<f64>().map_err(|_| bad(what));
    let whole = |what: &str| text(what)?.parse::<usize>().map_err(|_| bad(what));
    let scaling = [LoraScaling::Standard, LoraScaling::RankStabilized];
    let scaling = scaling.into_iter().find(|known| settings.get("lora scaling") == Some(&format!("{known:?}")));
    let config = recording.config()?;
    // Of a diffusion model, the share of captions that its training left out.
    let loss = settings.get("loss").and_then(|text| serde_json::from_str::<Value>(text).ok());
    let left_out = loss.as_ref().and_then(|loss| loss.get("prompt_dropout"));
    let diffusion = left_out.map(|share| DiffusionOptions {
        prompt_dropout: share.as_f64().unwrap_or(0.0),
        ..run.diffusion.clone().unwrap_or_default()
    });
    // The tokenizer of the training is in the adapter's folder.
    let own = folder.join(TOKENIZER_FILES[0]).is_file().then(|| folder.to_owned());
    Ok(Finetune {
        model: run.model.clone(),
        tokenizer: run.tokenizer.clone().or(own),
        train: run.train.clone(),
        out: PathBuf::new(),
        read: run.read.clone(),
        length: LengthOptions { max: Some(run.length.max.unwrap_or(whole("maximum length")?)), ..run.length },
        lora: LoraConfig {
            rank: whole("lora rank")?,
            alpha: number("lora alpha")?,
            scaling: scaling.ok_or_else(|| bad("lora scaling"))?,
            dropout: number("lora dropout")?,
        },
        targets: text("lora targets")?.split(", ").map(str::to_owned).collect(),
        diffusion: diffusion.or_else(|| run.diffusion.clone()),
        pairs: run.pairs,
        recipe: Recipe { seed: config.schedule.seed, ..Recipe::default() },
        ..Finetune::default()
    })
}

/// Fails unless the adapter in the folder is the one that the training ended with.
pub(crate) fn same_adapter<K: Kind>(
    model: &K::Model,
    lora: &LoraConfig,
    files: &ModelFiles,
    path: &Path,
) -> Result<(), RunError> {
    let failed = load_error("adapter", files.adapter.as_deref().unwrap_or(path).display());
    let Some(adapter) = files.read_adapter()? else { return Ok(()) };
    let recorded = Adapter::from_model(model, lora, None).map_err(failed)?;
    let differs = |(name, tensor): &(&String, &TensorData)| adapter.tensors.get(*name) != Some(*tensor);
    let names = recorded.tensors.keys().eq(adapter.tensors.keys());
    let first = recorded.tensors.iter().find(differs).map(|(name, _)| name.clone());
    if names && first.is_none() {
        return Ok(());
    }
    let difference = RunDifference {
        what: first.unwrap_or_else(|| "the adapter's tensors".to_owned()),
        checkpoint: "what the recorded training ended with".to_owned(),
        run: "another one in the adapter's file".to_owned(),
    };
    let differences = vec![difference];
    Err(RunError::Model(ModelError::RecordingDiffers { path: path.to_owned(), differences }))
}
