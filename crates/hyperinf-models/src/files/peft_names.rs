//! The names of tensors in adapters.

use super::peft::{A, B, PREFIX, without_prefix};
use super::peft_config::ends_in;

/// A name as PEFT writes it today.
///
/// Files of other programs leave out the prefix `base_model.model.`, or keep the adapter's name and the wrapper of a
/// saved module: `….lora_A.default.weight`, `….modules_to_save.default.weight`.
pub(crate) fn standard(name: &str) -> String {
    let mut name = name.strip_prefix(PREFIX).unwrap_or(name).to_owned();
    if let Some((module, rest)) = name.split_once(".modules_to_save.") {
        name = format!("{module}.{}", rest.strip_prefix("default.").unwrap_or(rest));
    }
    // PEFT keeps the base's weights of an adapted embedding or output layer with the adapter.
    if let Some((module, rest)) = name.split_once(".base_layer.") {
        name = format!("{module}.{rest}");
    }
    for (start, end) in [(".lora_A.", A), (".lora_B.", B)] {
        if let Some((layer, rest)) = name.rsplit_once(start)
            && rest.strip_suffix(".weight").is_some_and(|adapter| !adapter.contains('.'))
        {
            name = format!("{layer}{end}");
        }
    }
    format!("{PREFIX}{}", of_llava(name))
}

/// Today's names of LLaVA's parts, instead of earlier ones.
fn of_llava(name: String) -> String {
    let renamed = [
        ("language_model.model.", "model.language_model."),
        ("language_model.lm_head.", "lm_head."),
        ("model.vision_tower.vision_model.", "model.vision_tower."),
        ("vision_tower.vision_model.", "model.vision_tower."),
        ("multi_modal_projector.", "model.multi_modal_projector."),
    ];
    let found = renamed.iter().find_map(|(old, new)| name.strip_prefix(old).map(|rest| format!("{new}{rest}")));
    found.unwrap_or(name)
}

/// What a tensor belongs to that is not supported.
pub(super) fn feature(name: &str) -> Option<&'static str> {
    let parts = [
        (".lora_embedding_", "LoRA on an embedding"),
        (".lora_magnitude_vector", "the magnitudes of DoRA"),
        (".token_adapter.", "rows of an embedding that its settings do not name (`trainable_token_indices`)"),
        (".original_module.", "weights of the base model"),
        (".lora_B.bias", "biases of LoRA (`lora_bias`)"),
        (".lora_diag", "the singular values of KaSA"),
        (".experts.", "layers of experts"),
        ("lm_head.lora_", "LoRA on an output layer that the model lacks or its settings leave out"),
        ("classifier.lora_", "LoRA on the classification head"),
        ("out_proj.lora_", "LoRA on the classification head"),
        ("score.lora_", "LoRA on the classification head"),
    ];
    parts.iter().find(|(part, _)| name.contains(part)).map(|(_, what)| *what)
}

/// The shortest ends of names that match exactly the adapted layers.
///
/// `dense`, `proj` and numbers are never used alone: they would also match layers that cannot be adapted here.
pub(super) fn targets(layers: &[(String, bool)]) -> Vec<String> {
    let mut targets: Vec<String> = Vec::new();
    for (name, _) in layers.iter().filter(|(_, adapted)| *adapted) {
        let name = without_prefix(name);
        if targets.iter().any(|end| ends_in(name, end)) {
            continue;
        }
        let starts = std::iter::once(0).chain(name.match_indices('.').map(|(at, _)| at + 1));
        let ends: Vec<&str> = starts.map(|start| &name[start..]).collect();
        let exact = |end: &&str| !common(end) && layers.iter().all(|(other, adapted)| *adapted || !ends_in(other, end));
        targets.push(ends.into_iter().rev().find(exact).unwrap_or(name).to_owned());
    }
    targets.sort_unstable();
    targets
}

fn common(end: &str) -> bool {
    ["dense", "proj"].contains(&end) || end.bytes().all(|byte| byte.is_ascii_digit())
}
