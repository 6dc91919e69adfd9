use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use burn::tensor::TensorData;
use safetensors::Dtype;
use safetensors::tensor::TensorView;

use super::{Adapter, AdapterConfig};
use crate::load::LoadError;
use crate::shards::Shards;

const TENSORS: &str = "adapter_model.safetensors";
const CONFIG: &str = "adapter_config.json";

impl Adapter {
    /// The adapter in a folder: `adapter_config.json` and `adapter_model.safetensors`, as PEFT writes them.
    ///
    /// # Errors
    ///
    /// If a file is missing or damaged, or a setting asks for what is not computed here.
    pub fn read(folder: &Path) -> Result<Self, LoadError> {
        let config = AdapterConfig::read(folder)?;
        let path = folder.join(TENSORS);
        if !path.exists() {
            let looked_for = "`adapter_model.safetensors`";
            return Err(LoadError::Missing { path: folder.to_owned(), what: "adapter's tensors", looked_for });
        }
        let mut shards = Shards::open(&[path])?;
        let names: Vec<String> = shards.names().map(str::to_owned).collect();
        let mut tensors = BTreeMap::new();
        for name in names {
            let shape = shards.shape(&name).unwrap_or_default().to_vec();
            if let Some(values) = shards.read(&name)? {
                tensors.insert(name, TensorData::new(values, shape));
            }
        }
        Ok(Self { config, tensors })
    }

    /// Writes the adapter into a folder, which is made if it is not there. What is written can be read by PEFT.
    ///
    /// The files get their names when they are complete; files of the same names are replaced.
    ///
    /// # Errors
    ///
    /// If a file cannot be written.
    pub fn write(&self, folder: &Path) -> Result<(), LoadError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| LoadError::File { path, source }
        };
        std::fs::create_dir_all(folder).map_err(failed(folder))?;
        let mut json = serde_json::to_vec_pretty(&self.config.to_json())
            .map_err(|source| LoadError::Json { path: folder.join(CONFIG), source })?;
        json.push(b'\n');
        let mut written: Vec<(PathBuf, PathBuf)> = Vec::new();
        for (name, bytes) in [(TENSORS, self.bytes(&folder.join(TENSORS))?), (CONFIG, json)] {
            let path = folder.join(name);
            let partial = folder.join(format!(".{name}.{}.partial", std::process::id()));
            std::fs::write(&partial, bytes).map_err(failed(&partial))?;
            written.push((partial, path));
        }
        for (partial, path) in written {
            std::fs::rename(&partial, &path).map_err(failed(&path))?;
        }
        Ok(())
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
        // As PyTorch's own files have it; PEFT asks for it.
        let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
        safetensors::serialize(views, Some(metadata)).map_err(wrong)
    }
}
