use std::fs;
use std::path::{Path, PathBuf};

use super::feature_cache::{FeatureCache, failed, write};
use crate::ModelError;

/// Values that a frozen model computed, on disk: states of captions, latents of pictures.
///
/// Files are those of a [`FeatureCache`]: one for each name, with the hash of its numbers.
#[derive(Clone, Debug)]
pub struct ValueCache {
    folder: PathBuf,
}

impl ValueCache {
    /// The cache in a folder; `model` names everything that values depend on besides their own names.
    ///
    /// # Errors
    ///
    /// If the folder cannot be made.
    pub fn open(folder: &Path, model: &str) -> Result<Self, ModelError> {
        let folder = folder.join(model);
        fs::create_dir_all(&folder).map_err(failed(&folder))?;
        Ok(Self { folder })
    }

    /// The values of a name, in rows of `width`: read if they are there, else computed and written. A damaged file is
    /// replaced.
    ///
    /// # Errors
    ///
    /// If they cannot be computed or written.
    pub fn values(
        &self,
        name: &str,
        width: usize,
        compute: impl FnOnce() -> Result<Vec<f32>, ModelError>,
    ) -> Result<Vec<f32>, ModelError> {
        let path = self.folder.join(format!("{name}.safetensors"));
        if let Ok(values) = FeatureCache::read(&path) {
            return Ok(values);
        }
        let values = compute()?;
        write(&path, &values, width)?;
        Ok(values)
    }
}
