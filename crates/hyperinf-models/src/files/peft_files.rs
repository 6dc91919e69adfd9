use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::Write;
use std::path::Path;

use burn::tensor::TensorData;
use safetensors::Dtype;
use safetensors::tensor::TensorView;

use super::peft_names::standard;
use super::shards::Shards;
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
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| LoadError::File { path, source }
        };
        std::fs::create_dir_all(folder).map_err(failed(folder))?;
        let mut json = serde_json::to_vec_pretty(&self.config.to_json())
            .map_err(|source| LoadError::Json { path: folder.join(CONFIG), source })?;
        json.push(b'\n');
        let files = [(TENSORS, self.bytes(&folder.join(TENSORS))?), (CONFIG, json)].map(|(name, bytes)| {
            (folder.join(format!(".{name}.{}.partial", std::process::id())), folder.join(name), bytes)
        });
        // Both files are complete on disk before either gets its name.
        let complete = files
            .iter()
            .try_for_each(|(partial, _, bytes)| {
                let mut file = File::create(partial).map_err(failed(partial))?;
                file.write_all(bytes).and_then(|()| file.sync_all()).map_err(failed(partial))
            })
            .and_then(|()| {
                files.iter().try_for_each(|(partial, path, _)| std::fs::rename(partial, path).map_err(failed(path)))
            });
        if complete.is_err() {
            for (partial, ..) in &files {
                // The error to report is that of writing; one of the two files may not exist.
                let _ = std::fs::remove_file(partial);
            }
        }
        complete
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
