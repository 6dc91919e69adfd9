use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use hyperinf_models::{
    Adapter, Hub, LoadError, ModelKind, PairLoss, TOKENIZER_FILES, TextTokenizer, TokenizerNotice, model_kind,
    open_regular, read_regular,
};
use hyperinf_store::FileStamp;
use serde::{Deserialize, Serialize};
use twox_hash::XxHash3_128;

use crate::RunError;
use crate::any_kind::AnyKind;
use crate::dataset::ReadOptions;
use crate::diffusion_options::DiffusionOptions;
use crate::finetune::{ADAPTER, FEATURES};
use crate::kinds::KINDS;
use crate::labels::Labels;

/// The file in an adapter's folder with settings that PEFT's format has no place for.
const NOTE: &str = "hyperinf.json";

/// Files of a tokenizer that are not enough without `tokenizer.json`.
const TOKENIZER_PARTS: [&str; 7] = [
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "vocab.txt",
    "tokenizer.model",
];

/// Files of a folder that decide what a model computes.
const DECISIVE: [&str; 6] = [".safetensors", ".json", ".jinja", ".bin", "vocab.txt", "merges.txt"];
/// The file that makes a folder a pipeline of diffusers, and the folders of its parts.
const PIPELINE: &str = "model_index.json";
const PARTS: [&str; 6] = ["scheduler/", "text_encoder/", PIPELINE_TOKENIZER, "transformer/", "unet/", "vae/"];
const PIPELINE_TOKENIZER: &str = "tokenizer/";
/// The folder within a model's folder whose files are read as well.
const TEMPLATES: &str = "additional_chat_templates/";

/// `hyperinf.json`, which an adapter's folder contains next to PEFT's files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    /// The version that wrote it.
    pub hyperinf_version: String,
    /// The labels of a classifier.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub labels: Option<Labels>,
    /// The most tokens of a training row.
    pub max_length: usize,
    /// Whether the adapter was trained on images of one tile each.
    #[serde(skip_serializing_if = "is_false", default)]
    pub one_tile: bool,
    /// The digest of the training that the adapter came from, by which the same training is recognised.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub training: Option<String>,
}

/// The files of a model, its tokenizer and its adapter, with their hashes.
pub struct ModelFiles {
    /// The model as the user named it: a path or a name on the hub.
    pub name: String,
    path: PathBuf,
    tokenizer: Option<PathBuf>,
    /// The folder of the adapter.
    pub adapter: Option<PathBuf>,
    adapter_name: String,
    note: Option<Note>,
    architecture: ModelKind,
    kind: &'static dyn AnyKind,
    /// A folder for what frozen parts of the model compute of images; `None`: it is held in memory.
    pub features: Option<PathBuf>,
    /// Whether an image is one tile, whatever its size.
    pub one_tile: bool,
    /// The loss of a diffusion model.
    pub diffusion: DiffusionOptions,
    pairs: Option<PairLoss>,
    /// XXH3 of each of the model's files, by name.
    pub model_hashes: BTreeMap<String, String>,
    /// XXH3 of each of the adapter's files, by name.
    pub adapter_hashes: BTreeMap<String, String>,
    /// The state of each file when it was hashed.
    stamps: Vec<(PathBuf, FileStamp)>,
}

impl ModelFiles {
    /// Finds a model by its path or its name on the hub, and reads the `hyperinf.json` of its adapter's folder.
    ///
    /// # Errors
    ///
    /// If there is no model, tokenizer or adapter of that name, or none of the kinds takes the model.
    pub fn find(model: &str, tokenizer: Option<&Path>, adapter: Option<&Path>) -> Result<Self, RunError> {
        let of_model = load_error("model", model);
        let path = Hub::from_env().resolve(model).map_err(&of_model)?;
        // Hashing takes long: a model of no kind is refused before.
        let architecture = model_kind(&path).map_err(&of_model)?;
        let kind = KINDS.into_iter().find(|kind| kind.accepts(architecture, false));
        let kind = kind.ok_or_else(|| RunError::NoKind { model: model.to_owned(), kind: architecture })?;
        let mut stamps = Vec::new();
        let mut model_hashes = hashes(&path, &mut stamps).map_err(&of_model)?;
        if let Some(tokenizer) = tokenizer {
            let hashes = hashes(tokenizer, &mut stamps).map_err(load_error("tokenizer", tokenizer.display()))?;
            // The model's folder may have files with the same names.
            let named = hashes.into_iter().map(|(name, hash)| (format!("tokenizer/{name}"), hash));
            model_hashes.extend(named);
        }
        let mut files = Self {
            name: model.to_owned(),
            path,
            tokenizer: tokenizer.map(Path::to_owned),
            adapter: None,
            adapter_name: String::new(),
            note: None,
            architecture,
            kind,
            features: None,
            one_tile: false,
            diffusion: DiffusionOptions::default(),
            pairs: None,
            model_hashes,
            adapter_hashes: BTreeMap::new(),
            stamps,
        };
        if let Some(given) = adapter {
            let of_adapter = load_error("adapter", given.display());
            let folder = Hub::from_env().resolve(&given.to_string_lossy()).map_err(&of_adapter)?;
            files.adapter_hashes = hashes(&folder, &mut files.stamps).map_err(&of_adapter)?;
            files.note = if folder.is_dir() { Note::read(&folder).map_err(&of_adapter)? } else { None };
            files.adapter_name = folder.display().to_string();
            files.adapter = Some(folder);
        }
        Ok(files)
    }

    pub(crate) fn kind(&self) -> &'static dyn AnyKind {
        self.kind
    }

    /// Follows the options on images. Features are stored in the folder that was given, else with the adapter's
    /// training, whose features are those of this run, else in the run's own folder, if it has one.
    pub(crate) fn read_images(&mut self, options: &ReadOptions, own: Option<&Path>) -> Result<(), RunError> {
        let tiled = self.architecture == ModelKind::VisionLanguage;
        if options.one_tile && !tiled {
            return Err(RunError::NoTiles { model: self.name.clone() });
        }
        let named = options.features.is_some() || options.images.is_some() || options.columns.image.is_some();
        if named && !tiled && !self.is_diffusion() {
            return Err(RunError::NoImages { model: self.name.clone() });
        }
        self.one_tile = options.one_tile || self.note.as_ref().is_some_and(|note| note.one_tile);
        let of_adapter = self.adapter.as_ref().map(|folder| folder.join(FEATURES));
        let writable = |folder: &PathBuf| fs::metadata(folder).is_ok_and(|found| !found.permissions().readonly());
        let own = || own.map(|folder| folder.join(FEATURES));
        self.features = options.features.clone().or(of_adapter.filter(writable)).or_else(own);
        Ok(())
    }

    /// Sets the loss of a diffusion model.
    ///
    /// # Errors
    ///
    /// [`RunError::NotDiffusion`] if the model is of another kind.
    pub fn set_diffusion(&mut self, options: Option<&DiffusionOptions>) -> Result<(), RunError> {
        let Some(options) = options else { return Ok(()) };
        if !self.is_diffusion() {
            return Err(RunError::NotDiffusion { model: self.name.clone() });
        }
        self.diffusion = options.clone();
        Ok(())
    }

    /// Makes rows pairs of answers, where there is a loss of them.
    ///
    /// # Errors
    ///
    /// [`RunError::NotLanguageModel`] if no kind takes pairs for this model, [`RunError::Model`] for a `β` out of range.
    pub fn set_pairs(&mut self, pairs: Option<PairLoss>) -> Result<(), RunError> {
        if let Some(loss) = pairs {
            loss.validate()?;
            let kind = KINDS.into_iter().find(|kind| kind.accepts(self.architecture, true));
            self.kind = kind.ok_or_else(|| RunError::NotLanguageModel { model: self.name.clone() })?;
        }
        self.pairs = pairs;
        Ok(())
    }

    /// The loss of pairs.
    pub(crate) fn pair_loss(&self) -> PairLoss {
        self.pairs.unwrap_or(PairLoss::Reward)
    }

    fn is_diffusion(&self) -> bool {
        self.kind.accepts(ModelKind::TextToImage, false)
    }

    /// Whether a tokenizer was given that is not the model's own.
    pub fn has_own_tokenizer(&self) -> bool {
        self.tokenizer.is_some()
    }

    /// The adapter of a diffusion model if it is one file rather than PEFT's folder.
    pub fn lora_file(&self) -> Option<PathBuf> {
        let given = self.adapter.as_ref().filter(|_| self.is_diffusion())?;
        let inside = given.join(Adapter::LORA_FILE);
        match given.is_file() {
            true => Some(given.clone()),
            false => Some(inside).filter(|inside| inside.exists() && !given.join(ADAPTER).exists()),
        }
    }

    /// The adapter in PEFT's folder, if there is one.
    pub(crate) fn read_adapter(&self) -> Result<Option<Adapter>, RunError> {
        let folder = self.adapter.as_deref().filter(|_| self.lora_file().is_none());
        folder.map(Adapter::read).transpose().map_err(self.of_adapter())
    }

    /// Where the model is on disk.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The adapter folder's `hyperinf.json`.
    pub fn note(&self) -> Option<&Note> {
        self.note.as_ref()
    }

    /// The tokenizer: the one that was given, else the one in the adapter's folder, else the model's own.
    ///
    /// Its notices say whether it differs from one that was left aside.
    ///
    /// # Errors
    ///
    /// If the file is missing or cannot be read.
    pub fn tokenizer(&self) -> Result<TextTokenizer, RunError> {
        let of_processor = self.architecture == ModelKind::VisionLanguage;
        let read_any = if of_processor { TextTokenizer::read_of_processor } else { TextTokenizer::read };
        let read = |path: &Path| read_any(path).map_err(load_error("tokenizer of", path.display()));
        let of_adapter = self.adapter.as_deref().filter(|folder| folder.join(TOKENIZER_FILES[0]).exists());
        let used = self.tokenizer.as_deref().or(of_adapter);
        // llama2.c keeps it in a file next to the model, whose name does not follow from the model's.
        let apart = self.path.is_file() && self.path.extension().is_some_and(|e| e == "bin");
        if used.is_none() && apart {
            return Err(RunError::NoTokenizer { model: self.name.clone() });
        }
        let of_pipeline = self.path.join(PIPELINE_TOKENIZER);
        let own = if self.is_diffusion() { &of_pipeline } else { &self.path };
        let used = used.unwrap_or(own);
        let mut tokenizer = read(used)?;
        let of_model = Some(own.as_path()).filter(|_| self.tokenizer.is_none() && !apart);
        let other = of_adapter.filter(|other| *other != used).or(of_model.filter(|other| *other != used));
        if let Some(folder) = self.adapter.as_deref().filter(|_| of_adapter.is_none() && self.tokenizer.is_none()) {
            let there = TOKENIZER_PARTS.into_iter().filter(|name| folder.join(name).exists());
            let files: Vec<String> = there.map(str::to_owned).collect();
            if !files.is_empty() {
                tokenizer.notice(TokenizerNotice::LeftAside { folder: folder.to_owned(), files });
            }
        }
        // A model's own may be missing or unusable where the adapter brings one.
        if let Some(other) = other.and_then(|other| read_any(other).ok()) {
            tokenizer.compare(&other).map_err(|source| load_error("tokenizer of", used.display())(source.into()))?;
        }
        Ok(tokenizer)
    }

    /// Names the model in an error of its files.
    pub fn of_model(&self) -> impl Fn(LoadError) -> RunError {
        load_error("model", &self.name)
    }

    /// Names the adapter in an error of its files.
    pub fn of_adapter(&self) -> impl Fn(LoadError) -> RunError {
        load_error("adapter", &self.adapter_name)
    }

    /// Fails if a file is no longer what it was when it was hashed: then the model need not be that of the hashes.
    ///
    /// # Errors
    ///
    /// [`RunError::Changed`] with the first such file.
    pub fn check_unchanged(&self) -> Result<(), RunError> {
        let changed = |(path, stamp): &&(PathBuf, FileStamp)| FileStamp::at(path).ok().as_ref() != Some(stamp);
        match self.stamps.iter().find(changed) {
            Some((path, _)) => Err(RunError::Changed { path: path.clone() }),
            None => Ok(()),
        }
    }

    /// A hash of everything that decides what the model computes.
    pub fn fingerprint(&self) -> String {
        of_hashes(self.model_hashes.iter().chain(&self.adapter_hashes))
    }

    /// A hash of everything that decides what the model computes without its adapter.
    pub fn model_fingerprint(&self) -> String {
        of_hashes(self.model_hashes.iter())
    }
}

fn is_false(value: &bool) -> bool {
    !value
}

fn of_hashes<'a>(hashes: impl Iterator<Item = (&'a String, &'a String)>) -> String {
    let mut hasher = XxHash3_128::new();
    for (name, hash) in hashes {
        hasher.write(format!("{name} {hash}\n").as_bytes());
    }
    format!("{:032x}", hasher.finish_128())
}

impl Note {
    pub(crate) fn new(labels: Option<Labels>, max_length: usize, one_tile: bool, training: String) -> Self {
        let hyperinf_version = env!("CARGO_PKG_VERSION").to_owned();
        Self { hyperinf_version, labels, max_length, one_tile, training: Some(training) }
    }

    /// The path of the note in an adapter's folder.
    pub fn path(folder: &Path) -> PathBuf {
        folder.join(NOTE)
    }

    pub(crate) fn read(folder: &Path) -> Result<Option<Self>, LoadError> {
        let path = Self::path(folder);
        match read_regular(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(|source| LoadError::Json { path, source }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(LoadError::File { path, source }),
        }
    }
}

pub(crate) fn load_error(what: &'static str, path: impl ToString) -> impl Fn(LoadError) -> RunError {
    let path = path.to_string();
    move |source| RunError::Load { what, path: path.clone(), source: Box::new(source) }
}

/// XXH3 (128 bits) of a file, or of each decisive file in a folder.
fn hashes(path: &Path, stamps: &mut Vec<(PathBuf, FileStamp)>) -> Result<BTreeMap<String, String>, LoadError> {
    let error = |path: &Path| {
        let path = path.to_owned();
        move |source| LoadError::File { path, source }
    };
    let mut hashes = BTreeMap::new();
    let name_of = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let mut add = |path: &Path, name: String| -> Result<(), LoadError> {
        stamps.push((path.to_owned(), FileStamp::at(path).map_err(error(path))?));
        hashes.insert(name, hash(path).map_err(error(path))?);
        Ok(())
    };
    if !path.is_dir() {
        open_regular(path).map_err(error(path))?;
        add(path, name_of(path))?;
        return Ok(hashes);
    }
    let index = path.join(PIPELINE);
    let pipeline = index.is_file();
    if pipeline {
        add(&index, PIPELINE.to_owned())?;
    }
    let prefixes = if pipeline { &PARTS[..] } else { &["", TEMPLATES] };
    for prefix in prefixes {
        let folder = &path.join(prefix);
        if !prefix.is_empty() && !folder.is_dir() {
            continue;
        }
        for entry in fs::read_dir(folder).map_err(error(folder))? {
            let file = entry.map_err(error(folder))?.path();
            let name = name_of(&file);
            if file.is_file() && !name.starts_with('.') && DECISIVE.iter().any(|ending| name.ends_with(ending)) {
                add(&file, format!("{prefix}{name}"))?;
            }
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
