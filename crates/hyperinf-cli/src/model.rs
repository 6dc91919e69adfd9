//! Models, adapters and tokenizers by what the user gave.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use burn::tensor::Device;
use hyperinf::models::{
    Adapter, CausalLm, ClassifierOptions, EncoderClassifier, Hub, LoadError, ModelKind, TextTokenizer, load_causal_lm,
    load_classifier, model_kind,
};
use serde::{Deserialize, Serialize};
use twox_hash::XxHash3_128;

use crate::args::ModelArgs;
use crate::data::{Labels, TextTask, listed};
use crate::error::CliError;
use crate::progress::warn;

/// What we note in an adapter's folder beyond what PEFT does.
const NOTE: &str = "hyperinf.json";

/// Files of a folder that decide what a model computes.
const DECISIVE: [&str; 4] = [".safetensors", ".json", ".jinja", ".bin"];

/// What an adapter's folder says beyond what PEFT writes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Note {
    pub(crate) hyperinf_version: String,
    /// The classes, for a classifier.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) labels: Option<Labels>,
    /// The most tokens of a training row.
    pub(crate) max_length: usize,
}

/// A model with its adapter, ready to be asked.
pub(crate) enum LoadedModel {
    /// With its classes.
    Encoder(Box<EncoderClassifier>, Labels),
    Decoder(Box<CausalLm>),
}

/// Where a model is, and what its files are.
pub(crate) struct ModelFiles {
    /// As the user gave it.
    pub(crate) name: String,
    path: PathBuf,
    tokenizer: Option<PathBuf>,
    pub(crate) adapter: Option<PathBuf>,
    /// What the adapter's folder says.
    note: Option<Note>,
    /// XXH3 of each file by its name.
    pub(crate) model_hashes: BTreeMap<String, String>,
    pub(crate) adapter_hashes: BTreeMap<String, String>,
}

fn failed(what: &'static str, path: impl ToString) -> impl Fn(LoadError) -> CliError {
    let path = path.to_string();
    move |source| CliError::Load { what, path: path.clone(), source: Box::new(source) }
}

impl ModelFiles {
    /// Finds a model by its path or name, and reads what its adapter's folder says.
    pub(crate) fn find(args: &ModelArgs, adapter: Option<&Path>) -> Result<Self, CliError> {
        let path = Hub::from_env().resolve(&args.model).map_err(failed("model", &args.model))?;
        let mut files = Self {
            name: args.model.clone(),
            path,
            tokenizer: args.tokenizer.clone(),
            adapter: None,
            note: None,
            model_hashes: BTreeMap::new(),
            adapter_hashes: BTreeMap::new(),
        };
        // A model that cannot be one is told before its files are read.
        files.task()?;
        files.model_hashes = hashes(&files.path).map_err(failed("model", &args.model))?;
        if let Some(tokenizer) = &args.tokenizer {
            let hashes = hashes(tokenizer).map_err(failed("tokenizer", tokenizer.display()))?;
            // A folder of its own may have files of the same names as the model's.
            let named = hashes.into_iter().map(|(name, hash)| (format!("tokenizer/{name}"), hash));
            files.model_hashes.extend(named);
        }
        if let Some(given) = adapter {
            let name = given.display();
            let folder = Hub::from_env().resolve(&given.to_string_lossy()).map_err(failed("adapter", &name))?;
            files.adapter_hashes = hashes(&folder).map_err(failed("adapter", &name))?;
            files.note = note(&folder).map_err(failed("adapter", &name))?;
            files.adapter = Some(folder);
        }
        Ok(files)
    }

    /// What the model makes of texts.
    pub(crate) fn task(&self) -> Result<TextTask, CliError> {
        Ok(match model_kind(&self.path).map_err(failed("model", &self.name))? {
            ModelKind::Encoder => TextTask::Classification,
            ModelKind::CausalLm => TextTask::LanguageModel,
        })
    }

    /// The most tokens of the rows that the adapter was trained with.
    pub(crate) fn trained_length(&self) -> Option<usize> {
        self.note.as_ref().map(|note| note.max_length)
    }

    /// The tokenizer that was given, or the model's own.
    pub(crate) fn tokenizer(&self) -> Result<TextTokenizer, CliError> {
        // llama2.c keeps it in a file beside the model, whose name does not follow from the model's.
        if self.tokenizer.is_none() && self.path.is_file() && self.path.extension().is_some_and(|e| e == "bin") {
            return Err(CliError::NoTokenizer { model: self.name.clone() });
        }
        let path = self.tokenizer.as_ref().unwrap_or(&self.path);
        TextTokenizer::read(path).map_err(failed("tokenizer of", path.display()))
    }

    /// The model with its adapter.
    pub(crate) fn load_adapted(&self, folder: &Path, device: &Device) -> Result<LoadedModel, CliError> {
        let (of_model, of_adapter) = (failed("model", &self.name), failed("adapter", folder.display()));
        let mut adapter = Adapter::read(folder).map_err(&of_adapter)?;
        // Nothing is trained any more.
        adapter.config.lora.dropout = 0.0;
        match self.task()? {
            TextTask::Classification => {
                let options = ClassifierOptions { classes: adapter.classes(), ..ClassifierOptions::default() };
                let loaded = load_classifier(&self.path, &options, device).map_err(&of_model)?;
                let model = adapter.apply(loaded.model).map_err(&of_adapter)?;
                let labels = self.labels(model.classes(), loaded.report.labels);
                Ok(LoadedModel::Encoder(Box::new(model), labels))
            }
            TextTask::LanguageModel => {
                let model = load_causal_lm(&self.path, device).map_err(&of_model)?.model;
                Ok(LoadedModel::Decoder(Box::new(adapter.apply(model).map_err(&of_adapter)?)))
            }
        }
    }

    /// A classifier to be trained: with the checkpoint's own head if it is one for these labels, else a new one.
    ///
    /// Returns the classes, too: the checkpoint's, or the training data's.
    pub(crate) fn load_classifier(
        &self,
        found: Labels,
        seed: u64,
        device: &Device,
    ) -> Result<(EncoderClassifier, Labels), CliError> {
        let load = |classes| load_classifier(&self.path, &ClassifierOptions { classes, head: None, seed }, device);
        match load(None) {
            Err(LoadError::NoHead { .. }) => {}
            loaded => {
                let loaded = loaded.map_err(failed("model", &self.name))?;
                let (model, report) = (loaded.model, loaded.report);
                let own = report.labels.map_or_else(|| Labels::numbered(model.classes()), Labels::of_model);
                if found.names.iter().all(|name| own.class(name).is_some()) {
                    return Ok((model, own));
                }
                warn(&format!(
                    "the labels of the data ({}) are not those of the model's head ({}): the head is trained anew",
                    listed(&found.names),
                    listed(&own.names)
                ));
            }
        }
        let loaded = load(Some(found.names.len())).map_err(failed("model", &self.name))?;
        Ok((loaded.model, found))
    }

    /// A language model to be trained.
    pub(crate) fn load_decoder(&self, device: &Device) -> Result<CausalLm, CliError> {
        Ok(load_causal_lm(&self.path, device).map_err(failed("model", &self.name))?.model)
    }

    /// The classes by what the adapter's folder says, or else the model.
    fn labels(&self, classes: usize, of_model: Option<Vec<String>>) -> Labels {
        let noted = self.note.as_ref().and_then(|note| note.labels.clone());
        let fitting = |labels: &Labels| labels.names.len() == classes;
        let named = noted.filter(fitting).or_else(|| of_model.map(Labels::of_model).filter(fitting));
        named.unwrap_or_else(|| Labels::numbered(classes))
    }

    /// A hash of everything that decides what the model computes.
    pub(crate) fn fingerprint(&self) -> String {
        let mut hasher = XxHash3_128::new();
        for (name, hash) in self.model_hashes.iter().chain(&self.adapter_hashes) {
            hasher.write(format!("{name} {hash}\n").as_bytes());
        }
        format!("{:032x}", hasher.finish_128())
    }
}

impl Note {
    /// The name of its file in the folder of an adapter.
    pub(crate) fn path(folder: &Path) -> PathBuf {
        folder.join(NOTE)
    }
}

fn note(folder: &Path) -> Result<Option<Note>, LoadError> {
    let path = Note::path(folder);
    match fs::read(&path) {
        Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(|source| LoadError::Json { path, source }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(LoadError::File { path, source }),
    }
}

/// The XXH3 hash (128 bits) of a file, or of each decisive file in a folder.
fn hashes(path: &Path) -> Result<BTreeMap<String, String>, LoadError> {
    let error = |path: &Path| {
        let path = path.to_owned();
        move |source| LoadError::File { path, source }
    };
    let mut hashes = BTreeMap::new();
    let mut add = |path: &Path| -> Result<(), LoadError> {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        hashes.insert(name, hash(path).map_err(error(path))?);
        Ok(())
    };
    if path.is_file() {
        add(path)?;
        return Ok(hashes);
    }
    for entry in fs::read_dir(path).map_err(error(path))? {
        let file = entry.map_err(error(path))?.path();
        let name = file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        if file.is_file() && !name.starts_with('.') && DECISIVE.iter().any(|ending| name.ends_with(ending)) {
            add(&file)?;
        }
    }
    Ok(hashes)
}

fn hash(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let (mut hasher, mut buffer) = (XxHash3_128::new(), vec![0; 1 << 18]);
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(format!("{:032x}", hasher.finish_128())),
            read => hasher.write(&buffer[..read]),
        }
    }
}
