use std::path::{Path, PathBuf};

use burn::tensor::Device;
use hyperinf_models::{Adapter, GenerateConfig, Hub, Picture, load_pipeline};

use crate::RunError;
use crate::model_files::load_error;

/// Pictures of a text-to-image model, so that people see what it knows.
///
/// | field | default | purpose | range |
/// |---|---|---|---|
/// | `model` | empty | diffusers' folder, or a name on the hub | |
/// | `adapter` | `None` | a LoRA file, or an adapter's folder | |
/// | `prompts` | none | what to draw; picture `i` depends on prompt `i`, `i` and the seed alone | at least one |
/// | `config` | see [`GenerateConfig`] | steps, guidance, seed, size | |
#[derive(Clone, Debug, Default)]
pub struct Generate {
    /// The model.
    pub model: String,
    /// A LoRA file, or an adapter's folder.
    pub adapter: Option<PathBuf>,
    /// What to draw.
    pub prompts: Vec<String>,
    /// How to draw.
    pub config: GenerateConfig,
}

impl Generate {
    /// Draws a picture for each prompt.
    ///
    /// # Errors
    ///
    /// [`RunError::Load`] or [`RunError::Generate`].
    pub fn run(&self, device: &Device) -> Result<Vec<Picture>, RunError> {
        let of_model = load_error("model", &self.model);
        let path = Hub::from_env().resolve(&self.model).map_err(&of_model)?;
        let mut pipeline = load_pipeline(&path, device).map_err(&of_model)?.model;
        if let Some(path) = &self.adapter {
            let apply = |path: &Path| Adapter::read_any(path, &pipeline.model)?.apply(pipeline.model.clone());
            pipeline.model = apply(path).map_err(load_error("adapter", path.display()))?;
        }
        let prompts: Vec<&str> = self.prompts.iter().map(String::as_str).collect();
        Ok(pipeline.generate(&prompts, &self.config)?)
    }
}
