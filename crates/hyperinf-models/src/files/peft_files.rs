use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use burn::tensor::TensorData;
use safetensors::Dtype;
use safetensors::tensor::TensorView;

use super::peft_names::standard;
use super::shards::Shards;
use super::whole::write_whole;
use crate::{Adapter, AdapterConfig, LoadError};

const TENSORS: &str = "adapter_model.safetensors";
pub(super) const CONFIG: &str = "adapter_config.json";

impl Adapter {
    /// The adapter in a folder: `adapter_config.json` and `adapter_model.safetensors`, as PEFT writes them.
    ///
    /// # Errors
    ///
    /// If a file is missing or damaged, or a setting asks for something unsupported.
    pub fn read(folder: &Path) -> Result<Self, LoadError> {
        let config = AdapterConfig::read(folder)?;
        let path = folder.join(TENSORS);
        if !path.exists() {
            let looked_for = "`adapter_model.safetensors`";
            return Err(LoadError::Missing { path: folder.to_owned(), what: "adapter's tensors", looked_for });
        }
        let mut shards = Shards::open(std::slice::from_ref(&path))?;
        let names: Vec<String> = shards.names().map(str::to_owned).collect();
        let mut tensors = BTreeMap::new();
        for name in names {
            let shape = shards.shape(&name).unwrap_or_default().to_vec();
            if let Some(values) = shards.read(&name)? {
                let name = standard(&name);
                if tensors.contains_key(&name) {
                    return Err(LoadError::Twice { name, first: path.clone(), second: path });
                }
                tensors.insert(name, TensorData::new(values, shape));
            }
        }
        Ok(Self { config, tensors })
    }

    /// Writes the adapter into a folder in PEFT's format. The folder is created if necessary.
    ///
    /// Files get their final names once they are complete, and replace earlier files with these names.
    ///
    /// # Errors
    ///
    /// If a file cannot be written.
    pub fn write(&self, folder: &Path) -> Result<(), LoadError> {
        let failed = |(path, source): (PathBuf, _)| LoadError::File { path, source };
        std::fs::create_dir_all(folder).map_err(|e| failed((folder.to_owned(), e)))?;
        write_whole(&self.files(folder)?).map_err(failed)
    }

    /// The files of [`Adapter::write`] in a folder, with their contents; the one that makes it an adapter is the last.
    ///
    /// # Errors
    ///
    /// If the tensors cannot be written in the format.
    pub fn files(&self, folder: &Path) -> Result<Vec<(PathBuf, Vec<u8>)>, LoadError> {
        let (tensors, config) = (folder.join(TENSORS), folder.join(CONFIG));
        let mut json = serde_json::to_vec_pretty(&self.config.to_json())
            .map_err(|source| LoadError::Json { path: config.clone(), source })?;
        json.push(b'\n');
        let bytes = self.bytes(&tensors)?;
        Ok(vec![(tensors, bytes), (config, json)])
    }

    fn bytes(&self, path: &Path) -> Result<Vec<u8>, LoadError> {
        let wrong = |source: safetensors::SafeTensorError| LoadError::Header {
            path: path.to_owned(),
            source: Box::new(source),
        };
        let numbers: Vec<(&String, Vec<u8>, Vec<usize>)> = self
            .tensors
            .iter()
            .map(|(name, data)| (name, data.iter::<f32>().flat_map(f32::to_le_bytes).collect(), data.shape().to_vec()))
            .collect();
        let views = numbers
            .iter()
            .map(|(name, bytes, shape)| Ok((name.as_str(), TensorView::new(Dtype::F32, shape.clone(), bytes)?)))
            .collect::<Result<Vec<_>, _>>()
            .map_err(wrong)?;
        // PEFT requires this mark of PyTorch's files.
        let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
        safetensors::serialize(views, Some(metadata)).map_err(wrong)
    }
}
