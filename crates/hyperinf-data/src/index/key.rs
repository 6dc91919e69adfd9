//! What the numbers of an index depend on.

use burn::tensor::Device;
use hyperinf_models::Limit;
use hyperinf_store::RunKey;
use twox_hash::XxHash3_128;

use crate::kind::Kind;
use crate::model_files::ModelFiles;
use crate::pattern::Pattern;
use crate::run::Run;
use crate::run_of_kind::{GENERATION, device_kind, layers};

/// Fields that need not be the same for queries as for training rows: they change the last bits only.
pub(super) const LAST_BITS: [&str; 2] = ["batch size", "device kind"];

/// Everything that changes a number, by name. Rows are not in it: each leaf has the hash of its own.
pub(super) fn key_of<K: Kind>(
    run: &Run,
    files: &ModelFiles,
    model: &K::Model,
    limit: Limit,
    device: &Device,
) -> RunKey {
    let kind = device_kind(run, device);
    let mut key = RunKey::from([
        ("generation of gradients", GENERATION.to_owned()),
        ("kind of model", K::NAME.to_owned()),
        ("device kind", kind),
        ("batch size", run.batch_size.to_string()),
        ("maximum length", limit.tokens().to_string()),
        ("layers and projection", layers(run).unwrap_or_else(|| run.layers.name().to_owned())),
        ("blocks", run.blocks.as_ref().map_or("all", Pattern::text).to_owned()),
    ]);
    key.0.extend(hashes(files).map(|(name, hash)| (name.to_owned(), hash)));
    key.0.extend(K::settings(model).map(|settings| ("loss".to_owned(), settings.to_string())));
    key
}

/// The hashes of the model, the adapter, the tokenizer and the chat template.
fn hashes(files: &ModelFiles) -> impl Iterator<Item = (&'static str, String)> {
    const TEMPLATE: [&str; 2] = [".jinja", "chat_template"];
    const TOKENIZER: [&str; 5] = ["tokenizer", "vocab", "merges", "special_tokens_map", "added_tokens"];
    let parts = ["model", "adapter", "tokenizer", "chat template"];
    let mut hashers = parts.map(|_| XxHash3_128::new());
    for (own, hashes) in [&files.model_hashes, &files.adapter_hashes].into_iter().enumerate() {
        for (name, hash) in hashes {
            let part = match name {
                name if TEMPLATE.iter().any(|part| name.contains(part)) => 3,
                name if TOKENIZER.iter().any(|begin| name.starts_with(begin)) => 2,
                _ => own,
            };
            hashers[part].write(format!("{own} {name} {hash}\n").as_bytes());
        }
    }
    parts.into_iter().zip(hashers).map(|(name, hasher)| (name, format!("{:032x}", hasher.finish_128())))
}
