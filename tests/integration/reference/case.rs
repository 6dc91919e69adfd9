//! One adapter of a tiny model with what is expected of it.

use std::collections::BTreeMap;
use std::path::PathBuf;

use burn::tensor::Device;
use hyperinf::models::{
    CausalLm, ClassifierOptions, EncoderClassifier, LmSample, Sample, load_causal_lm, load_classifier,
};
use hyperinf_tests::fixtures::{self, Array, Arrays};

/// The folder of a tiny model.
pub(super) fn folder(model: &str) -> PathBuf {
    fixtures::path(&format!("transformers/{model}"))
}

/// The classifier of a folder with its own head.
pub(super) fn classifier(model: &str, device: &Device) -> EncoderClassifier {
    let loaded = load_classifier(&folder(model), &ClassifierOptions::default(), device);
    let loaded = loaded.unwrap_or_else(|error| panic!("{model}: {error}"));
    assert!(loaded.report.ignored.is_empty() && loaded.report.created.is_empty(), "{model}: {:?}", loaded.report);
    loaded.model
}

/// The language model of a folder.
pub(super) fn causal_lm(model: &str, device: &Device) -> CausalLm {
    let loaded = load_causal_lm(&folder(model), device).unwrap_or_else(|error| panic!("{model}: {error}"));
    assert!(loaded.report.ignored.is_empty() && loaded.report.created.is_empty(), "{model}: {:?}", loaded.report);
    loaded.model
}

/// What `expected.safetensors` holds for one adapter.
pub(super) struct Case {
    pub(super) name: String,
    pub(super) folder: PathBuf,
    arrays: Arrays,
}

impl Case {
    pub(super) fn load(model: &str, adapter: &str) -> Self {
        let name = format!("{model}/{adapter}");
        let arrays = fixtures::load(&format!("transformers/{name}/expected.safetensors"));
        Self { folder: folder(&name), name, arrays }
    }

    pub(super) fn array(&self, name: &str) -> Option<&Array> {
        self.arrays.get(name)
    }

    pub(super) fn values(&self, name: &str) -> &[f64] {
        &self.array(name).unwrap_or_else(|| panic!("{}: no `{name}`", self.name)).values
    }

    /// The samples of a classifier's batch, without padding.
    pub(super) fn samples(&self) -> Vec<Sample> {
        let segments = self.arrays.contains_key("token_type_ids").then(|| self.rows("token_type_ids"));
        let labels = self.values("labels").iter().map(|&label| label as usize);
        let rows = self.rows("input_ids").into_iter().zip(labels).enumerate();
        rows.map(|(i, (tokens, label))| {
            let segments = segments.as_ref().map(|rows| rows[i].clone()).unwrap_or_default();
            Sample { tokens, segments, label }
        })
        .collect()
    }

    /// The samples of a language model's batch, without padding.
    pub(super) fn lm_samples(&self) -> Vec<LmSample> {
        let lengths = self.values("prompt_lengths").iter().map(|&length| length as usize);
        let rows = self.rows("input_ids").into_iter().zip(lengths);
        rows.map(|(tokens, prompt)| LmSample { scored: (0..tokens.len()).map(|i| i >= prompt).collect(), tokens })
            .collect()
    }

    fn rows(&self, name: &str) -> Vec<Vec<u32>> {
        let mask = self.values("attention_mask");
        let t = mask.len() / self.arrays["attention_mask"].shape[0];
        let values: Vec<(f64, f64)> = self.values(name).iter().copied().zip(mask.iter().copied()).collect();
        values.chunks(t).map(|row| row.iter().filter(|(_, m)| *m != 0.0).map(|(v, _)| *v as u32).collect()).collect()
    }

    /// The gradients of every block, `[n, rows, cols]` in row-major order: PyTorch's `[n, out, in]` transposed, with
    /// the bias as the last row.
    pub(super) fn gradients(&self) -> BTreeMap<String, Vec<f64>> {
        fixtures::blocks(&self.arrays, "gradients.")
    }
}
