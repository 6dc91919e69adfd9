//! `cargo xtask llvm`: a system LLVM in place of Burn's own.
//!
//! With the `cuda` feature, Burn's build needs LLVM as static libraries. The crate `tracel-llvm-bundler` downloads them
//! into the user's data folder, unless that folder has a marker file. Without access to the download page, an LLVM of
//! the system's packages works as well: the bundler learns everything from `bin/llvm-config` in that folder, so a script
//! of that name that forwards the questions is enough.

use std::path::{Path, PathBuf};
use std::{env, fs};

use crate::run::{output, program, root, status};

const BUNDLER: &str = "tracel-llvm-bundler";
const MARKER: &str = ".tracel-llvm-installed";
/// The oldest LLVM known to work; the newest to try is the version of the bundle.
const OLDEST: u32 = 22;

/// Puts a system LLVM where the bundler looks, and installs it if necessary. Does nothing if one is already there.
pub fn prepare() -> Result<(), String> {
    let version = bundle_version()?;
    let folder = bundle_folder(&version)?;
    if folder.join(MARKER).exists() {
        let found = output(program(folder.join("bin/llvm-config")).arg("--version"))?;
        println!("nothing to do: LLVM {found} is at {}", folder.display());
        return Ok(());
    }
    if !cfg!(target_os = "linux") {
        return Err(
            "a system LLVM can replace the bundle on Linux only; elsewhere the bundle must be downloaded".into()
        );
    }
    let newest = version.split('.').next().and_then(|major| major.parse().ok());
    let newest: u32 = newest.ok_or_else(|| format!("`{version}` is not a version of {BUNDLER}"))?;
    let majors: Vec<u32> = (OLDEST..=newest).rev().collect();
    let config = match installed(&majors) {
        Some(config) if missing(&config)?.is_empty() => config,
        _ => install(&majors)?,
    };
    stand_in(&folder, &config)?;
    println!("LLVM {} stands in for the bundle, at {}", output(program(&config).arg("--version"))?, folder.display());
    Ok(())
}

/// Whether Burn has an LLVM: the bundle or a system LLVM in its place.
pub fn is_there() -> bool {
    bundle_version().and_then(|version| bundle_folder(&version)).is_ok_and(|folder| folder.join(MARKER).exists())
}

/// The version of the bundle, which is that of the crate that downloads it.
fn bundle_version() -> Result<String, String> {
    let lock = fs::read_to_string(root().join("Cargo.lock")).map_err(|e| format!("cannot read Cargo.lock: {e}"))?;
    let mut lines = lock.lines().skip_while(|line| *line != format!("name = \"{BUNDLER}\"")).skip(1);
    let version = lines.next().and_then(|line| line.strip_prefix("version = \"")?.strip_suffix('"'));
    version.map(str::to_owned).ok_or_else(|| format!("Cargo.lock names no version of {BUNDLER}"))
}

/// `tracel/tracel-llvm-VERSION` in the user's data folder.
fn bundle_folder(version: &str) -> Result<PathBuf, String> {
    let set = |name: &str| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let data = if cfg!(windows) {
        set("LOCALAPPDATA")
    } else if cfg!(target_os = "macos") {
        set("HOME").map(|home| home.join("Library/Application Support"))
    } else {
        set("XDG_DATA_HOME").or_else(|| set("HOME").map(|home| home.join(".local/share")))
    };
    let data = data.ok_or("neither HOME nor a data folder is set")?;
    Ok(data.join("tracel").join(format!("tracel-llvm-{version}")))
}

/// The `llvm-config` of the first installed version.
fn installed(majors: &[u32]) -> Option<String> {
    let mut names = majors.iter().map(|major| format!("llvm-config-{major}"));
    names.find(|name| output(program(name).arg("--version")).is_ok())
}

/// Installs the newest of these versions that the package lists offer.
fn install(majors: &[u32]) -> Result<String, String> {
    let mut apt = program("apt-get");
    status(apt.args(["update", "-qq"])).map_err(|e| by_hand(majors, &e))?;
    let offered = |major: &&u32| output(program("apt-cache").args(["show", &format!("llvm-{major}-dev")])).is_ok();
    let Some(major) = majors.iter().find(offered) else {
        return Err(by_hand(majors, "no package of that name is offered here"));
    };
    let mut apt = program("apt-get");
    apt.env("DEBIAN_FRONTEND", "noninteractive").args([
        "install",
        "-qq",
        "-o=Dpkg::Use-Pty=0",
        "--yes",
        "--no-install-recommends",
    ]);
    status(apt.args(packages(*major))).map_err(|e| by_hand(majors, &e))?;
    installed(&[*major]).ok_or_else(|| format!("llvm-{major}-dev is installed, but llvm-config-{major} does not run"))
}

/// LLVM, Polly (which LLVM's configuration lists), the libraries that both link, and a compiler for Burn's few lines of
/// C++.
fn packages(major: u32) -> Vec<String> {
    let own = ["llvm-N-dev", "libpolly-N-dev"].map(|name| name.replace('N', &major.to_string()));
    let linked = ["libz3-dev", "libxml2-dev", "zlib1g-dev", "libzstd-dev", "g++"];
    own.into_iter().chain(linked.map(str::to_owned)).collect()
}

fn by_hand(majors: &[u32], why: &str) -> String {
    let choices: Vec<String> = majors.iter().map(|major| packages(*major).join(" ")).collect();
    format!(
        "LLVM could not be installed ({why}): as root, install {}; then run `cargo xtask llvm` again",
        choices.join(", or ")
    )
}

/// The static libraries that this LLVM lists but lacks.
fn missing(config: &str) -> Result<Vec<String>, String> {
    let ask = |what: &str| output(program(config).args(["--link-static", what]));
    let folder = PathBuf::from(ask("--libdir")?);
    let libraries = ask("--libs")?;
    let names = libraries.split_whitespace().map(|flag| format!("lib{}.a", flag.trim_start_matches("-l")));
    Ok(names.filter(|name| !folder.join(name).is_file()).collect())
}

/// Writes the script and, if this LLVM is complete, the marker.
fn stand_in(folder: &Path, config: &str) -> Result<(), String> {
    let bin = folder.join("bin");
    let script = bin.join("llvm-config");
    let wrong = |e: std::io::Error| format!("cannot write into {}: {e}", folder.display());
    fs::create_dir_all(&bin).map_err(wrong)?;
    fs::write(&script, script_text(config)).map_err(wrong)?;
    executable(&script).map_err(wrong)?;
    output(program(&script).arg("--version"))?;
    let missing = missing(config)?;
    if !missing.is_empty() {
        return Err(format!("{config} lists static libraries that are not installed: {}", missing.join(", ")));
    }
    fs::write(folder.join(MARKER), "").map_err(wrong)
}

/// Debian's `llvm-config` prints some system libraries as paths of shared objects, which the bundler would take for names
/// of static libraries. The script turns them into `-lNAME`.
fn script_text(config: &str) -> String {
    format!(
        "#!/bin/sh\n\
         set -e\n\
         answer=$({config} \"$@\")\n\
         printf '%s\\n' \"$answer\" | sed 's#/[^ ]*/lib\\([^/ ]*\\)\\.so#-l\\1#g'\n"
    )
}

#[cfg(unix)]
fn executable(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))
}

#[cfg(not(unix))]
fn executable(_: &Path) -> std::io::Result<()> {
    Ok(())
}
