//! The folder of a fine-tuning: what may be replaced in it, and what a run resumes from.

use std::fs::{canonicalize, read_dir, remove_dir, remove_file, symlink_metadata};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use hyperinf_models::{
    Adapter, FinetuneConfig, FoundCheckpoints, ModelError, Recording, TOKENIZER_FILES, is_checkpoint,
};
use hyperinf_store::{OutputFolder, StoreError};

use crate::event::{Event, Notice};
use crate::finetune::{ADAPTER, CHECKPOINTS, Finetune, OUTPUTS};
use crate::model_files::{Note, load_error};
use crate::{Existing, RunError};

/// What there is to resume from.
pub(crate) enum Earlier {
    Nothing,
    /// A checkpoint after this many steps.
    Steps(usize),
    /// The adapter that this training has written already.
    Adapter(Box<Adapter>),
}

impl Finetune {
    /// Creates the folder, and makes sure that no input and nothing in it is lost.
    pub(crate) fn prepare_folder(&self) -> Result<OutputFolder, RunError> {
        let folder = &self.out;
        let optional = [self.validation.as_deref(), self.tokenizer.as_deref()];
        let inputs: Vec<&Path> =
            [self.train.as_path(), Path::new(&self.model)].into_iter().chain(optional.into_iter().flatten()).collect();
        let read: Vec<PathBuf> = inputs.iter().flat_map(|input| TOKENIZER_FILES.map(|name| input.join(name))).collect();
        let all: Vec<&Path> = inputs.iter().copied().chain(read.iter().map(PathBuf::as_path)).collect();
        let outputs: Vec<&str> = self.more_files.iter().map(|(name, _)| name.as_str()).chain(OUTPUTS).collect();
        let locked = OutputFolder::of_command("finetune", folder, &outputs, &all)?;
        let checkpoints = folder.join(CHECKPOINTS);
        // The folder is removed at the end with everything in it.
        if let Ok(real) = canonicalize(&checkpoints)
            && inputs.iter().any(|input| canonicalize(input).is_ok_and(|input| input.starts_with(&real)))
        {
            return Err(StoreError::OutputIsInput { path: checkpoints }.into());
        }
        if symlink_metadata(&checkpoints).is_ok_and(|found| found.is_symlink()) {
            let link =
                io::Error::new(ErrorKind::InvalidInput, "it is a symbolic link, and the folder is removed at the end");
            return Err(StoreError::output(&checkpoints, link).into());
        }
        let exists = |what| Err(RunError::Exists { path: folder.clone(), what });
        // Whether an adapter is that of the run to resume is known when the rows are.
        if self.overwrite || self.resume {
            return Ok(locked);
        }
        if folder.join(ADAPTER).exists() {
            return exists(Existing::Adapter);
        }
        if read_dir(checkpoints).is_ok_and(|mut files| files.next().is_some()) {
            return exists(Existing::Checkpoints);
        }
        Ok(locked)
    }

    /// What there is to resume from, reported.
    pub(crate) fn resumption(
        &self,
        config: &FinetuneConfig,
        digest: impl FnOnce() -> Result<String, ModelError>,
        observe: &mut dyn FnMut(Event),
    ) -> Result<Earlier, RunError> {
        let Some(checkpoints) = config.checkpoints.as_ref().filter(|_| self.resume) else {
            return Ok(Earlier::Nothing);
        };
        let FoundCheckpoints { newest, damaged } = checkpoints.find()?;
        for (path, reason) in damaged {
            observe(Event::Notice(Notice::DamagedCheckpoint { path, reason }));
        }
        if let Some((step, path)) = newest {
            observe(Event::Notice(Notice::ResumedTraining { step, path }));
            return Ok(Earlier::Steps(step));
        }
        let folder = self.out.clone();
        if !folder.join(ADAPTER).exists() {
            observe(Event::Notice(Notice::NoCheckpoint { folder: checkpoints.folder.clone() }));
            return Ok(Earlier::Nothing);
        }
        let failed = load_error("adapter", self.out.display());
        let earlier = Note::read(&folder).map_err(&failed)?.and_then(|note| note.training);
        // An adapter without the recording that was asked for is that of another run.
        let lacks = self.record && !folder.join(Recording::FILE).exists();
        if lacks || earlier != Some(digest()?) {
            return Err(RunError::Exists { path: folder, what: Existing::Adapter });
        }
        let adapter = Adapter::read(&folder).map_err(&failed)?;
        observe(Event::Notice(Notice::AlreadyTrained { folder }));
        Ok(Earlier::Adapter(Box::new(adapter)))
    }

    /// Removes the checkpoints, and their folder unless something else is in it.
    pub(crate) fn remove_checkpoints(&self) -> Result<(), RunError> {
        let folder = self.out.join(CHECKPOINTS);
        let entries = match read_dir(&folder) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            entries => entries.map_err(|e| StoreError::output(&folder, e))?,
        };
        for entry in entries {
            let path = entry.map_err(|e| StoreError::output(&folder, e))?.path();
            if is_checkpoint(&path) {
                remove_file(&path).map_err(|e| StoreError::output(&path, e))?;
            }
        }
        match remove_dir(&folder) {
            Err(error) if error.kind() != ErrorKind::DirectoryNotEmpty => {
                Err(StoreError::output(&folder, error).into())
            }
            _ => Ok(()),
        }
    }
}
