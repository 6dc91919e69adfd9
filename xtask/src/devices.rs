//! The integration suite on devices other than the processor: Vulkan in software, and a packed copy for a machine with
//! a graphics card.

use std::fs;
use std::path::{Path, PathBuf};

use crate::llvm;
use crate::run::{Failure, cache, cargo, output, program, root, status};

/// Where drivers of Vulkan register.
const DRIVERS: [&str; 3] = ["/usr/share/vulkan/icd.d", "/etc/vulkan/icd.d", "/usr/local/share/vulkan/icd.d"];

/// The environment of cases on Vulkan in software: fewer kernels are tried to choose one, and Mesa does not optimise
/// what runs for microseconds.
const SOFTWARE: [(&str, &str); 3] =
    [("HYPERINF_TEST_DEVICE", "wgpu"), ("CUBECL_AUTOTUNE_LEVEL", "minimal"), ("GALLIVM_PERF", "nopt")];

/// `cargo xtask matrix --vulkan [FILTER...]`: the cases that compute on a device, on Mesa's software device.
pub fn vulkan(filters: &[&str]) -> Result<(), String> {
    if !DRIVERS.iter().any(|folder| fs::read_dir(folder).is_ok_and(|mut found| found.next().is_some())) {
        install_mesa()?;
    }
    let args = ["test", "--workspace", "--release", "--features", "hyperinf-tests/wgpu", "--test", "integration", "--"];
    let mut command = cargo(&args);
    command.args(cases(filters)?).envs(SOFTWARE);
    if std::env::var_os("XDG_RUNTIME_DIR").is_none() {
        command.env("XDG_RUNTIME_DIR", cache("vulkan")?);
    }
    status(&mut command)
}

fn install_mesa() -> Result<(), String> {
    let apt = |args: &[&str]| {
        let mut apt = program("apt-get");
        status(apt.env("DEBIAN_FRONTEND", "noninteractive").args(args)).map_err(|e| {
            format!("no Vulkan driver could be installed ({e}): as root, install mesa-vulkan-drivers and libvulkan1")
        })
    };
    apt(&["update", "-qq"])?;
    apt(&["install", "-qq", "--yes", "--no-install-recommends", "mesa-vulkan-drivers", "libvulkan1"])
}

/// The filters given, or the modules of the suite with cases that compute on every device.
fn cases(filters: &[&str]) -> Result<Vec<String>, String> {
    if !filters.is_empty() {
        return Ok(filters.iter().map(|filter| (*filter).to_owned()).collect());
    }
    let folder = root().join("tests/integration");
    let entries = fs::read_dir(&folder).map_err(|e| format!("cannot read {}: {e}", folder.display()))?;
    let mut modules = Vec::new();
    for path in entries.flatten().map(|entry| entry.path()) {
        let computes = fs::read_to_string(&path).is_ok_and(|text| text.contains("devices()"));
        if let (true, Some(name)) = (computes, path.file_stem()) {
            modules.push(format!("{}::", name.to_string_lossy()));
        }
    }
    modules.sort();
    Ok(modules)
}

/// `cargo xtask gpu --out DIR [--device NAME]`: packs the suite, the program and the measurements, stripped and
/// compressed, with a script that runs them on a machine that has a card and nothing to compile with.
pub fn pack(args: &[&str]) -> Result<(), Failure> {
    let (out, device) = match args {
        ["--out", out] => (*out, "cuda"),
        ["--out", out, "--device", device] | ["--device", device, "--out", out] => (*out, *device),
        _ => return Err(Failure::Usage("gpu needs --out DIR, and takes --device cuda, rocm, wgpu, … (cuda)".into())),
    };
    pack_into(Path::new(out), device).map_err(Failure::Failed)
}

fn pack_into(out: &Path, device: &str) -> Result<(), String> {
    if device == "cuda" && !llvm::is_there() {
        return Err("Burn's build for CUDA needs LLVM: `cargo xtask llvm` prepares a system LLVM".into());
    }
    let out = std::path::absolute(out).map_err(|e| format!("{}: {e}", out.display()))?;
    fs::create_dir_all(&out).map_err(|e| format!("cannot make {}: {e}", out.display()))?;
    let features = format!("hyperinf-tests/{device},hyperinf-cli/{device},hyperinf-benches/{device}");
    let build = ["test", "--workspace", "--release", "--features", &features, "--no-run", "--message-format=json"];
    // The program's tests bring the program.
    let names = ["--test", "integration", "--test", "program", "--bench", "card"];
    let messages = output(cargo(&build).args(names))?;
    for (name, kind) in [("integration", "test"), ("hyperinf", "bin"), ("card", "bench")] {
        let built = executable(&messages, name, kind).ok_or_else(|| format!("cargo built no `{name}`"))?;
        let copy = out.join(name);
        fs::copy(&built, &copy).map_err(|e| format!("cannot copy {}: {e}", built.display()))?;
        status(program("strip").arg(&copy))?;
        status(program("xz").args(["--force", "--threads=0", "-6"]).arg(&copy))?;
    }
    let script = include_str!("gpu.sh").replace("@DEVICE@", device).replace("@CASES@", &cases(&[])?.join(" "));
    let path = out.join("run.sh");
    fs::write(&path, script).map_err(|e| format!("cannot write {}: {e}", path.display()))?;
    println!(
        "{}: copy it beside the repository's `tests` and run `sh {}/run.sh RESULTS`",
        out.display(),
        out.display()
    );
    Ok(())
}

/// The path of a target's program in cargo's messages, one JSON object a line.
fn executable(messages: &str, target: &str, kind: &str) -> Option<PathBuf> {
    let of = [format!("\"name\":\"{target}\""), format!("\"kind\":[\"{kind}\"]")];
    let mut lines = messages.lines().filter(|line| of.iter().all(|part| line.contains(part)));
    lines.find_map(|line| line.split_once("\"executable\":\"")?.1.split_once('"')).map(|(path, _)| path.into())
}
