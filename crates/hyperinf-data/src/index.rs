//! Indexes: training gradients that are computed once and asked often.

mod key;
mod of_kind;
mod query;
mod query_of_kind;
mod serve;
mod session;
mod settings;

use std::path::{Path, PathBuf};

use burn::tensor::Device;
use hyperinf_models::{ModelError, PairLoss, RecordedParts};
use hyperinf_store::{Fault, FaultKind, IndexError, IndexFolder, IndexWriter, StoreError, StoredType};

use crate::RunError;
use crate::crew::Crew;
use crate::dataset::ReadOptions;
use crate::diffusion_options::DiffusionOptions;
use crate::event::Event;
use crate::large_blocks::LargeBlocks;
use crate::model_files::ModelFiles;
use crate::pattern::Pattern;
use crate::plan::RunPlan;
use crate::run::Run;
use crate::samples::LengthOptions;
use crate::stop::Stop;

pub(crate) use of_kind::{Leaves, Rows as IndexedRows, assist, index, of_run};
pub use query::{Answer, AnsweredQuery, Asked, Hit, Query, QuerySeconds, Reading};
pub(crate) use query_of_kind::{query, serve};
pub use serve::{Questions, Reply};
use settings::Settings;

/// An index of training rows: their gradients in a folder, built once, extended by further rows, asked by [`Query`].
///
/// | field | default | purpose | range |
/// |---|---|---|---|
/// | `folder` | `hyperinf-index` | the index; created if missing | |
/// | `model`, `adapter`, `tokenizer` | as for [`Run`] | the model | |
/// | `train` | empty | the rows | |
/// | `append` | `false` | whether rows of another file are added | |
/// | `read`, `length`, `layers`, `diffusion`, `pairs`, `blocks` | as for [`Run`] | which rows and gradients | |
/// | `large_blocks` | see [`LargeBlocks`] | how gradients are projected as they are taken | |
/// | `batch_size` | 16 | rows of a backward pass | ≥ 1 |
/// | `leaf_batches` | 64 | batches of a leaf, which is one file and what is computed again if it is damaged | ≥ 1 |
/// | `stored` | `f32` | the type of the numbers | see [`StoredType`] |
/// | `device_name` | the device itself | the device's name, whose kind is part of the key | |
/// | `stop` | never | a request to stop between two batches | |
/// | `crew` | `None` | the ranks that share the work, of which this is rank 0 | see [`Crew`] |
///
/// Rows of the same file that follow those of the index become new leaves; its first rows must be those of the index.
#[derive(Clone)]
pub struct Index {
    /// The index.
    pub folder: PathBuf,
    /// The model.
    pub model: String,
    /// The folder of the adapter.
    pub adapter: Option<PathBuf>,
    /// The tokenizer, if it is not the model's own.
    pub tokenizer: Option<PathBuf>,
    /// The rows.
    pub train: PathBuf,
    /// Whether rows of another file are added.
    pub append: bool,
    /// How rows are read.
    pub read: ReadOptions,
    /// How long rows may be.
    pub length: LengthOptions,
    /// The layers whose gradients are taken.
    pub layers: RecordedParts,
    /// How gradients are projected as they are taken.
    pub large_blocks: LargeBlocks,
    /// The loss of a diffusion model; `None` for the usual one.
    pub diffusion: Option<DiffusionOptions>,
    /// The loss of rows that are pairs of answers.
    pub pairs: Option<PairLoss>,
    /// The blocks whose gradients are taken.
    pub blocks: Option<Pattern>,
    /// Rows of a backward pass.
    pub batch_size: usize,
    /// Batches of a leaf.
    pub leaf_batches: usize,
    /// The type of the numbers.
    pub stored: StoredType,
    /// The name of the device.
    pub device_name: String,
    /// A request to stop between two batches.
    pub stop: Stop,
    /// The ranks that share the work.
    pub crew: Option<Crew>,
}

impl Default for Index {
    fn default() -> Self {
        let Run { model, adapter, tokenizer, train, read, length, layers, large_blocks, diffusion, .. } =
            Run::default();
        Self {
            folder: PathBuf::from("hyperinf-index"),
            model,
            adapter,
            tokenizer,
            train,
            append: false,
            read,
            length,
            layers,
            large_blocks,
            diffusion,
            pairs: None,
            blocks: None,
            batch_size: 16,
            leaf_batches: 64,
            stored: StoredType::default(),
            device_name: String::new(),
            stop: Stop::default(),
            crew: None,
        }
    }
}

/// What a build or a repair did.
#[derive(Clone, Debug)]
pub struct Indexed {
    /// The index.
    pub index: IndexFolder,
    /// Rows whose gradients were there.
    pub kept: usize,
    /// Rows whose gradients were computed, or taken over from an unfinished leaf.
    pub computed: usize,
}

impl Index {
    /// Builds the index, resumes a build, or adds rows. Finished leaves are kept; the result is that of an undisturbed
    /// build, byte for byte.
    ///
    /// # Errors
    ///
    /// [`RunError::Index`] if the folder holds an index of another model, other settings or other rows, and see
    /// [`RunError`]. What is finished stays.
    pub fn build(&self, device: &Device, observe: &mut dyn FnMut(Event)) -> Result<Indexed, RunError> {
        self.work(None, device, observe)
    }

    /// What a build of all rows will take, from a measurement of a few seconds. The model is loaded and all rows are read;
    /// nothing is left behind.
    ///
    /// # Errors
    ///
    /// As [`Index::build`], but for memory and disk, which the plan shows.
    pub fn plan(&self, device: &Device, observe: &mut dyn FnMut(Event)) -> Result<RunPlan, RunError> {
        self.validate()?;
        let files = self.files(None)?;
        files.kind().plan_index(self, &files, device, observe)
    }

    /// Takes the gradients of every `of`-th leaf, beginning with the `part`-th, from 1: what one of several processes does
    /// that know nothing of each other. They stay in hidden files of the folder, which the processes must share;
    /// [`Index::build`] finds them there. Returns the rows of the part.
    ///
    /// # Errors
    ///
    /// [`RunError::Part`], or as [`Index::build`].
    pub fn take_part(
        &self,
        part: usize,
        of: usize,
        device: &Device,
        observe: &mut dyn FnMut(Event),
    ) -> Result<usize, RunError> {
        self.validate()?;
        if !(1..=of).contains(&part) {
            return Err(RunError::Part { part, of });
        }
        let (mut writer, files) = (IndexWriter::of_part(&self.folder)?, self.files(Some(&self.folder))?);
        let leaves = Leaves::Part { part: part - 1, of };
        Ok(files.kind().index(self, &files, &mut writer, leaves, device, observe)?.1)
    }

    /// What the other ranks of a crew do while rank 0 runs [`Index::build`]: batches of gradients, until there are no
    /// more.
    ///
    /// # Errors
    ///
    /// As [`Run::assist`].
    pub fn assist(&self, device: &Device) -> Result<(), RunError> {
        self.validate()?;
        let files = self.files(Some(&self.folder))?;
        files.kind().assist_index(self, &files, device)
    }

    fn validate(&self) -> Result<(), RunError> {
        for (name, value) in [("batch_size", self.batch_size), ("leaf_batches", self.leaf_batches)] {
            if value == 0 {
                return Err(ModelError::Setting { name, value: 0.0, expected: "at least 1" }.into());
            }
        }
        Ok(())
    }

    fn files(&self, folder: Option<&Path>) -> Result<ModelFiles, RunError> {
        let mut files = ModelFiles::find(&self.model, self.tokenizer.as_deref(), self.adapter.as_deref())?;
        files.read_images(&self.read, folder)?;
        files.set_diffusion(self.diffusion.as_ref())?;
        files.set_pairs(self.pairs)?;
        Ok(files)
    }

    /// Computes the leaves of these faults again, writes what else is wrong, and removes damaged curvature and sketches.
    ///
    /// # Errors
    ///
    /// As [`Index::build`]; [`RunError::Index`] also if the rows of a leaf are no longer in their file.
    pub fn repair(
        &self,
        faults: &[Fault],
        device: &Device,
        observe: &mut dyn FnMut(Event),
    ) -> Result<Indexed, RunError> {
        for fault in faults.iter().filter(|fault| matches!(fault.kind, FaultKind::Factors | FaultKind::Sketch)) {
            let path = self.folder.join(&fault.file);
            std::fs::remove_file(&path).map_err(|e| StoreError::output(&path, e))?;
        }
        let mut leaves: Vec<usize> = faults.iter().filter_map(|fault| fault.leaf).collect();
        leaves.dedup();
        self.work(Some(&leaves), device, observe)
    }

    /// The batch size of the index that is there: it answers for this one alone.
    pub fn earlier_batch_size(&self) -> Option<usize> {
        Self::of(&self.folder).ok().map(|there| there.batch_size)
    }

    /// The choices that an index was built with, from its manifest; the rows are those of its last file.
    ///
    /// # Errors
    ///
    /// [`RunError::Index`] if the folder is no index, or its settings are those of another version.
    pub fn of(folder: &Path) -> Result<Self, RunError> {
        let index = IndexFolder::open(folder)?;
        let settings = Settings::read(&index)?;
        let train = index.manifest().sources.last().map(|source| PathBuf::from(&source.path)).unwrap_or_default();
        Ok(settings.index(folder, train))
    }

    fn work(
        &self,
        repair: Option<&[usize]>,
        device: &Device,
        observe: &mut dyn FnMut(Event),
    ) -> Result<Indexed, RunError> {
        self.validate()?;
        let (mut writer, files) = (IndexWriter::open(&self.folder)?, self.files(Some(&self.folder))?);
        let Some(leaves) = repair else {
            let (kept, computed) = files.kind().index(self, &files, &mut writer, Leaves::Missing, device, observe)?;
            return Ok(Indexed { index: writer.finish()?, kept, computed });
        };
        let Some(manifest) = writer.earlier().cloned() else {
            return Err(IndexFolder::open(&self.folder).map_or_else(RunError::from, |_| unreadable(&self.folder)));
        };
        writer.begin(manifest.clone())?;
        leaves.iter().for_each(|&leaf| writer.forget(leaf));
        let mut computed = 0;
        for (number, source) in manifest.sources.iter().enumerate() {
            let of_source: Vec<usize> =
                leaves.iter().copied().filter(|&leaf| manifest.leaves[leaf].source == number).collect();
            if !of_source.is_empty() {
                let index = Self { train: PathBuf::from(&source.path), ..self.clone() };
                let leaves = Leaves::Again(&of_source);
                computed += files.kind().index(&index, &files, &mut writer, leaves, device, observe)?.1;
            }
        }
        let kept = manifest.rows() - computed;
        Ok(Indexed { index: writer.finish()?, kept, computed })
    }

    /// The index that a run takes its training gradients from; of one that is there the type and the projection of its
    /// numbers are taken as they are.
    pub(crate) fn of_training(run: &Run, folder: &Path) -> Self {
        let Self { large_blocks, leaf_batches, stored, .. } =
            Self::of(folder).unwrap_or_else(|_| Self { large_blocks: run.large_blocks, ..Self::default() });
        Self {
            folder: folder.to_owned(),
            model: run.model.clone(),
            adapter: run.adapter.clone(),
            tokenizer: run.tokenizer.clone(),
            train: run.train.clone(),
            append: false,
            read: run.read.clone(),
            length: run.length,
            layers: run.layers,
            large_blocks,
            diffusion: run.diffusion.clone(),
            pairs: run.pairs,
            blocks: run.blocks.clone(),
            batch_size: run.batch_size,
            leaf_batches,
            stored,
            device_name: run.device_name.clone(),
            stop: run.stop.clone(),
            crew: run.crew.clone(),
        }
    }

    /// The run whose gradients are taken.
    pub(crate) fn run(&self) -> Run {
        Run {
            model: self.model.clone(),
            adapter: self.adapter.clone(),
            tokenizer: self.tokenizer.clone(),
            train: self.train.clone(),
            read: self.read.clone(),
            length: self.length,
            layers: self.layers,
            large_blocks: self.large_blocks,
            diffusion: self.diffusion.clone(),
            pairs: self.pairs,
            blocks: self.blocks.clone(),
            batch_size: self.batch_size,
            out: self.folder.clone(),
            device_name: self.device_name.clone(),
            stop: self.stop.clone(),
            crew: self.crew.clone(),
            ..Run::default()
        }
    }
}

fn unreadable(folder: &Path) -> RunError {
    let reason = "its manifest cannot be read".to_owned();
    IndexError::Damaged { path: folder.to_owned(), reason }.into()
}
