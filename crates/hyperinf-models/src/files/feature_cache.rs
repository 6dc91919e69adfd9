use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use twox_hash::XxHash3_128;

use super::open::read_regular;
use super::whole::write_whole;
use crate::{FeatureStage, Images, ModelError, VisionLanguage};

const TENSOR: &str = "features";
const HASH: &str = "xxh3_128";

/// Features of images on disk, so that a frozen vision encoder runs once for each image and every epoch and pass reads
/// its result.
///
/// One safetensors file per image: the tensor `features`, `[tiles · t, d]` in f32, and its hash, without which nothing
/// is read. Files have the name of the image in a folder of the model, so equal images share one, and several programs
/// may write at a time.
#[derive(Clone, Debug)]
pub struct FeatureCache {
    folder: PathBuf,
    stage: FeatureStage,
}

impl FeatureCache {
    /// The cache in a folder; `model` names everything that the features depend on besides the image, such as the
    /// hash of the model's files and of its image processor's settings.
    ///
    /// # Errors
    ///
    /// If the folder cannot be made, or it or the model's folder in it is a link or no folder.
    pub fn open(folder: &Path, model: &str, stage: FeatureStage) -> Result<Self, ModelError> {
        let part = match stage {
            FeatureStage::Encoder => "encoder",
            FeatureStage::Connector => "connector",
        };
        let of_model = folder.join(format!("{model}-{part}"));
        // No run makes links of these names: whoever did means another folder.
        for folder in [folder, &of_model] {
            if fs::symlink_metadata(folder).is_ok_and(|found| !found.is_dir()) {
                return Err(failed(folder)("it is a link or a file, not a folder"));
            }
        }
        let folder = of_model;
        fs::create_dir_all(&folder).map_err(failed(&folder))?;
        Ok(Self { folder, stage })
    }

    /// The features of an image with this many tiles by its name, such as the hash of its file: read if they are there,
    /// else computed from its pixels and written. A damaged file, and one of other tiles, is replaced.
    ///
    /// # Errors
    ///
    /// If the pixels are not those of whole tiles, a device fails or the file cannot be written.
    pub fn features(
        &self,
        model: &VisionLanguage,
        image: &str,
        tiles: usize,
        pixels: impl FnOnce() -> Result<Vec<f32>, ModelError>,
    ) -> Result<Images, ModelError> {
        let path = self.folder.join(format!("{image}.safetensors"));
        let [vectors, width] = model.feature_shape(self.stage);
        if Self::read(&path).is_ok_and(|values| values.len() == tiles * vectors * width) {
            return Ok(Images::Stored(self.stage, path));
        }
        let values = model.features(&pixels()?, self.stage)?;
        write(&path, &values, width)?;
        Ok(Images::Stored(self.stage, path))
    }

    /// The features in a file.
    pub(crate) fn read(path: &Path) -> Result<Vec<f32>, ModelError> {
        let bytes = read_regular(path).map_err(failed(path))?;
        let (_, header) = SafeTensors::read_metadata(&bytes).map_err(failed(path))?;
        let file = SafeTensors::deserialize(&bytes).map_err(failed(path))?;
        let tensor = file.tensor(TENSOR).map_err(failed(path))?;
        let noted = header.metadata().as_ref().and_then(|notes| notes.get(HASH));
        if noted != Some(&hash(tensor.data())) || tensor.dtype() != Dtype::F32 {
            return Err(failed(path)("its hash is not that of its numbers"));
        }
        Ok(tensor.data().as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect())
    }
}

/// Writes values in rows of `width`.
pub(super) fn write(path: &Path, values: &[f32], width: usize) -> Result<(), ModelError> {
    let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    let note = HashMap::from([(HASH.to_owned(), hash(&bytes))]);
    let view = TensorView::new(Dtype::F32, vec![values.len() / width, width], &bytes);
    let file = view.and_then(|view| safetensors::serialize([(TENSOR, view)], Some(note)));
    write_whole(&[(path.to_owned(), file.map_err(failed(path))?)]).map_err(|(path, error)| failed(&path)(error))
}

fn hash(bytes: &[u8]) -> String {
    format!("{:032x}", XxHash3_128::oneshot(bytes))
}

pub(super) fn failed<E: ToString>(path: &Path) -> impl Fn(E) -> ModelError {
    move |error| ModelError::Features { path: path.to_owned(), reason: error.to_string() }
}
