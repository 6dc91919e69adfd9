//! Short names of models.

use std::env;
use std::path::{Path, PathBuf};

/// Models that `cargo xtask assets` installs under a short name: where they are among the assets, a file without which
/// they are not whole, and their names on the hub.
const SHORT: [(&str, &str, &str, &str); 2] = [
    ("minilm", "minilm", "model.safetensors", "sentence-transformers/all-MiniLM-L6-v2"),
    ("smollm2", "smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", "", "HuggingFaceTB/SmolLM2-135M-Instruct"),
];

/// The model that was named: a path stays one. A short name is the folder of `cargo xtask assets`, where that was
/// installed, or else the name on the hub.
pub(crate) fn model(name: &str) -> String {
    let Some((_, path, file, on_hub)) = SHORT.iter().find(|(short, ..)| *short == name && !Path::new(name).exists())
    else {
        return name.to_owned();
    };
    let installed = cache().map(|folder| folder.join(path));
    let installed = installed.filter(|path| if file.is_empty() { path.is_file() } else { path.join(file).is_file() });
    installed.map_or_else(|| (*on_hub).to_owned(), |path| path.display().to_string())
}

/// Where to get a model that the hub did not give, if it has a short name.
pub(crate) fn hint(name: &str) -> Option<String> {
    let (short, ..) = SHORT.iter().find(|(.., on_hub)| name == *on_hub)?;
    Some(format!("`cargo xtask assets {short}` in hyperinf's repository installs it; then --model {short} finds it"))
}

/// The program's cache, which is also the folder of `cargo xtask assets`: `$HYPERINF_CACHE`, else `hyperinf` in the user's cache folder.
pub(crate) fn cache() -> Option<PathBuf> {
    let set = |name: &str| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let user = || {
        let user = set("XDG_CACHE_HOME").filter(|path| path.is_absolute());
        user.or_else(|| set("HOME").map(|home| home.join(".cache"))).or_else(|| set("LOCALAPPDATA"))
    };
    set("HYPERINF_CACHE").or_else(|| user().map(|user| user.join("hyperinf")))
}
