//! The settings in a manifest: what a query or a repair needs to compute as the build did.

use std::path::{Path, PathBuf, absolute};

use hyperinf_models::{NoiseSharing, PairLoss, RecordedParts, TimestepsAs};
use hyperinf_store::{IndexError, IndexFolder, MANIFEST, StoredType};
use serde::{Deserialize, Serialize};

use super::Index;
use crate::RunError;
use crate::columns::ColumnOptions;
use crate::dataset::ReadOptions;
use crate::diffusion_options::{DiffusionOptions, Timesteps};
use crate::large_blocks::LargeBlocks;
use crate::pattern::Pattern;
use crate::samples::LengthOptions;

/// The choices of an [`Index`], resolved.
#[derive(Serialize, Deserialize)]
pub(super) struct Settings {
    model: String,
    adapter: Option<PathBuf>,
    tokenizer: Option<PathBuf>,
    columns: SavedColumns,
    skip_bad_rows: bool,
    unpacked: Option<u64>,
    images: Option<PathBuf>,
    one_tile: bool,
    max_length: usize,
    truncate: bool,
    layers: String,
    project_above: usize,
    project_rank: usize,
    project_seed: u64,
    project_adapters: bool,
    timesteps: Option<usize>,
    timesteps_list: Option<Vec<f64>>,
    timesteps_stacked: bool,
    own_noise: bool,
    noise_seed: u64,
    min_snr: Option<f64>,
    /// The loss of pairs of answers, and its β.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pairs: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pairs_beta: Option<f64>,
    blocks: Option<String>,
    batch_size: usize,
    leaf_batches: usize,
    stored: String,
    device: String,
}

#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
struct SavedColumns {
    text: Option<String>,
    pair: Option<String>,
    label: Option<String>,
    prompt: Option<String>,
    completion: Option<String>,
    messages: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    chosen: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rejected: Option<String>,
    image: Option<String>,
    id: Option<String>,
}

/// A path that means the same from every folder.
pub(super) fn anywhere(path: &Path) -> PathBuf {
    if path.exists() { absolute(path).unwrap_or_else(|_| path.to_owned()) } else { path.to_owned() }
}

impl Settings {
    pub(super) fn new(index: &Index, max_length: usize, device: String) -> Self {
        let ColumnOptions { text, pair, label, prompt, completion, messages, image, id, chosen, rejected } =
            index.read.columns.clone();
        let (pairs, pairs_beta) = match index.pairs {
            Some(loss @ PairLoss::Dpo { beta }) => (Some(loss.name().to_owned()), Some(beta)),
            Some(loss @ PairLoss::Reward) => (Some(loss.name().to_owned()), None),
            None => (None, None),
        };
        let some = |path: &Option<PathBuf>| path.as_deref().map(anywhere);
        let diffusion = index.diffusion.clone().unwrap_or_default();
        let (timesteps, timesteps_list) = match &diffusion.timesteps {
            Timesteps::Evenly(count) => (Some(*count), None),
            Timesteps::List(list) => (None, Some(list.clone())),
        };
        Self {
            model: anywhere(Path::new(&index.model)).display().to_string(),
            adapter: some(&index.adapter),
            tokenizer: some(&index.tokenizer),
            columns: SavedColumns { text, pair, label, prompt, completion, messages, chosen, rejected, image, id },
            skip_bad_rows: index.read.skip_bad_rows,
            unpacked: index.read.unpacked,
            images: some(&index.read.images),
            one_tile: index.read.one_tile,
            max_length,
            truncate: index.length.truncate,
            layers: index.layers.name().to_owned(),
            project_above: index.large_blocks.above,
            project_rank: index.large_blocks.rank,
            project_seed: index.large_blocks.seed,
            project_adapters: index.large_blocks.adapters,
            timesteps,
            timesteps_list,
            timesteps_stacked: diffusion.timesteps_as == TimestepsAs::Stacked,
            own_noise: diffusion.noise == NoiseSharing::PerSample,
            noise_seed: diffusion.seed,
            min_snr: diffusion.min_snr,
            pairs,
            pairs_beta,
            blocks: index.blocks.as_ref().map(|pattern| pattern.text().to_owned()),
            batch_size: index.batch_size,
            leaf_batches: index.leaf_batches,
            stored: index.stored.name().to_owned(),
            device,
        }
    }

    pub(super) fn read(index: &IndexFolder) -> Result<Self, RunError> {
        serde_json::from_value(index.manifest().settings.clone()).map_err(|error| {
            let reason = format!("its settings are not those of this version: {error}");
            IndexError::Damaged { path: index.path().join(MANIFEST), reason }.into()
        })
    }

    pub(super) fn index(self, folder: &Path, train: PathBuf) -> Index {
        let SavedColumns { text, pair, label, prompt, completion, messages, chosen, rejected, image, id } =
            self.columns;
        let pairs = self.pairs.map(|_| self.pairs_beta.map_or(PairLoss::Reward, |beta| PairLoss::Dpo { beta }));
        let timesteps = match (self.timesteps_list, self.timesteps) {
            (Some(list), _) => Timesteps::List(list),
            (None, Some(count)) => Timesteps::Evenly(count),
            (None, None) => DiffusionOptions::default().timesteps,
        };
        let layers = RecordedParts::NAMES.into_iter().find(|(name, _)| *name == self.layers);
        let stored = StoredType::NAMES.into_iter().find(|(name, _)| *name == self.stored);
        let diffusion = DiffusionOptions {
            timesteps,
            timesteps_as: if self.timesteps_stacked { TimestepsAs::Stacked } else { TimestepsAs::Sum },
            noise: if self.own_noise { NoiseSharing::PerSample } else { NoiseSharing::Shared },
            seed: self.noise_seed,
            min_snr: self.min_snr,
            ..DiffusionOptions::default()
        };
        Index {
            folder: folder.to_owned(),
            model: self.model,
            adapter: self.adapter,
            tokenizer: self.tokenizer,
            train,
            append: false,
            read: ReadOptions {
                columns: ColumnOptions { text, pair, label, prompt, completion, messages, chosen, rejected, image, id },
                skip_bad_rows: self.skip_bad_rows,
                unpacked: self.unpacked,
                images: self.images,
                one_tile: self.one_tile,
                features: None,
            },
            length: LengthOptions { max: Some(self.max_length), truncate: self.truncate },
            layers: layers.map(|(_, parts)| parts).unwrap_or_default(),
            large_blocks: LargeBlocks {
                above: self.project_above,
                rank: self.project_rank,
                seed: self.project_seed,
                adapters: self.project_adapters,
            },
            // Models of other kinds take none.
            diffusion: Some(diffusion).filter(|options| *options != DiffusionOptions::default()),
            pairs,
            blocks: self.blocks.map(Pattern::new),
            batch_size: self.batch_size,
            leaf_batches: self.leaf_batches,
            stored: stored.map(|(_, stored)| stored).unwrap_or_default(),
            device_name: self.device,
            ..Index::default()
        }
    }
}
