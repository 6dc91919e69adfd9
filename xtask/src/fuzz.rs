//! `cargo xtask fuzz`: libFuzzer on the readers of files, one after another.

use std::path::PathBuf;
use std::process::Command;

use crate::run::{Failure, cache, output, program, status};

/// Seconds of each reader, unless `--seconds` says otherwise.
const SECONDS: u64 = 60;

/// What an input may take. The process itself, with the tiny models it reads, takes some 200 MB.
const LIMITS: [&str; 4] = ["-timeout=20", "-rss_limit_mb=800", "-max_len=65536", "-print_final_stats=1"];

/// Fuzzes the readers of these names, or all.
pub fn run(args: &[&str]) -> Result<(), Failure> {
    let (seconds, names) = parsed(args)?;
    fuzz(seconds, &names).map_err(Failure::Failed)
}

fn parsed<'a>(args: &[&'a str]) -> Result<(u64, Vec<&'a str>), Failure> {
    let (mut seconds, mut names, mut rest) = (SECONDS, Vec::new(), args.iter());
    while let Some(&arg) = rest.next() {
        if arg != "--seconds" {
            names.push(arg);
            continue;
        }
        let given = rest.next().and_then(|text| text.parse().ok()).filter(|&seconds| seconds > 0);
        seconds = given.ok_or_else(|| Failure::Usage("--seconds needs a whole number above 0".into()))?;
    }
    Ok((seconds, names))
}

fn fuzz(seconds: u64, names: &[&str]) -> Result<(), String> {
    let reader = built()?;
    let known = output(&mut program(&reader))?;
    let known: Vec<&str> = known.lines().collect();
    if let Some(name) = names.iter().find(|name| !known.contains(name)) {
        return Err(format!("there is no reader `{name}`; there are {}", known.join(", ")));
    }
    let mut faults = Vec::new();
    for &name in if names.is_empty() { &known[..] } else { names } {
        println!("== {name}, {seconds} s");
        let folder = |what: &str| cache(&format!("fuzz/{what}/{name}"));
        let (corpus, found) = (folder("corpus")?, folder("found")?);
        let mut command = program(&reader);
        command
            .env("HYPERINF_TEST_DEVICE", "ndarray")
            .env("HYPERINF_READER", name)
            .env("HYPERINF_CORPUS", &corpus)
            .arg(&corpus)
            .args(LIMITS);
        command.arg(format!("-max_total_time={seconds}")).arg(format!("-artifact_prefix={}/", found.display()));
        if status(&mut command).is_err() {
            faults.push(format!("{name} ({})", found.display()));
        }
    }
    if faults.is_empty() {
        return Ok(());
    }
    Err(format!(
        "faults in {}; once one is mended, keep its input as fuzz/seeds/READER/WORDS so that it stays mended",
        faults.join(", ")
    ))
}

/// The fuzzer, compiled with coverage counters in a folder of its own.
fn built() -> Result<PathBuf, String> {
    let missing = |_| "install it with `cargo install cargo-fuzz` and `rustup toolchain install nightly`".to_owned();
    output(toolchain().args(["fuzz", "--version"])).map_err(missing)?;
    let target = cache("fuzz/target")?;
    let mut command = toolchain();
    // Nothing here is `unsafe`, so the sanitizers would only cost time.
    command.args(["fuzz", "build", "--sanitizer", "none", "--target-dir"]).arg(&target).arg("reader");
    status(&mut command)?;
    let host = output(program("rustc").arg("-vV"))?;
    let host = host.lines().find_map(|line| line.strip_prefix("host: ")).ok_or("rustc names no host")?.to_owned();
    Ok(target.join(host).join("release/reader"))
}

/// The nightly cargo: `cargo xtask` runs under a toolchain, which must not be inherited.
fn toolchain() -> Command {
    let mut command = program("cargo");
    for variable in ["CARGO", "RUSTC", "RUSTDOC", "RUSTUP_TOOLCHAIN"] {
        command.env_remove(variable);
    }
    command.arg("+nightly");
    command
}
