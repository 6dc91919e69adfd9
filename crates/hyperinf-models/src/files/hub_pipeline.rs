//! The files of diffusers' repositories that are needed.

use std::path::Path;

use serde_json::Value;

use super::open::read_regular;

/// The file that makes a repository one of diffusers'.
pub(super) const PIPELINE: &str = "model_index.json";
/// The parts with weights, and these in the order of preference.
const WEIGHTS: [(&str, [&str; 2]); 4] = [
    ("transformer", DENOISER),
    ("unet", DENOISER),
    ("vae", DENOISER),
    ("text_encoder", ["model.safetensors", "model.fp16.safetensors"]),
];
const DENOISER: [&str; 2] = ["diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.fp16.safetensors"];
/// The parts without.
const SMALL: [&str; 2] = ["scheduler", "tokenizer"];

/// The files to download, weights last.
pub(super) fn wanted(there: &[String]) -> Result<Vec<String>, String> {
    let parts = || WEIGHTS.iter().map(|(part, _)| *part).chain(SMALL);
    let small = |file: &&String| {
        let inside = parts().find_map(|part| file.strip_prefix(part)?.strip_prefix('/'));
        *file == PIPELINE
            || inside.is_some_and(|name| !name.contains('/') && (name.ends_with(".json") || name.ends_with(".txt")))
    };
    let mut wanted: Vec<String> = there.iter().filter(small).cloned().collect();
    for (part, names) in WEIGHTS {
        if !there.contains(&format!("{part}/config.json")) {
            continue;
        }
        let files = names.map(|name| format!("{part}/{name}"));
        let found = files.iter().find(|file| there.contains(file));
        wanted.push(found.cloned().ok_or_else(|| format!("it has no `{}`", files[0]))?);
    }
    Ok(wanted)
}

/// Whether a folder has every part that its index names.
pub(super) fn complete(folder: &Path) -> bool {
    let has = |name: String| folder.join(name).exists();
    let index: Option<Value> =
        read_regular(&folder.join(PIPELINE)).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
    let Some(index) = index else { return false };
    let named = |part: &str| index[part][1].is_string();
    let weights = WEIGHTS.iter().filter(|(part, _)| named(part)).all(|(part, names)| {
        has(format!("{part}/config.json")) && names.iter().any(|name| has(format!("{part}/{name}")))
    });
    let tokenizer = ["tokenizer.json", "vocab.json"].iter().any(|name| has(format!("tokenizer/{name}")));
    weights && (tokenizer || !named("tokenizer")) && has("scheduler/scheduler_config.json".to_owned())
}
