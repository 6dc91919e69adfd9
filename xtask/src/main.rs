//! The workspace's own commands: `cargo xtask COMMAND`.

mod assets;
mod ci;
mod devices;
mod experiments;
mod fixtures;
mod fuzz;
mod guide;
mod licences;
mod llvm;
mod matrix;
mod mpi;
mod package;
mod run;
mod steps;

use std::process::ExitCode;

use run::Failure;

const USAGE: &str = include_str!("usage.txt");

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match dispatch(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Failed(message)) => {
            eprintln!("xtask: {message}");
            ExitCode::FAILURE
        }
        Err(Failure::Usage(message)) => {
            eprint!("xtask: {message}\n\n{USAGE}");
            ExitCode::from(2)
        }
    }
}

fn dispatch(args: &[&str]) -> Result<(), Failure> {
    match args {
        ["fuzz", rest @ ..] => return fuzz::run(rest),
        ["ci", rest @ ..] => return ci::run(&ci::skipped_steps(rest)?),
        ["test", rest @ ..] => run::status(&mut ci::test_command(rest)),
        ["gpu", rest @ ..] => return devices::pack(rest),
        ["matrix"] => matrix::run(),
        ["matrix", "--vulkan", filters @ ..] => devices::vulkan(filters),
        ["mpi"] => mpi::check(),
        ["package"] => package::pack(),
        ["licences"] => licences::check(),
        ["bench", filters @ ..] => run::status(&mut ci::bench_command(filters)),
        ["fixtures", rest @ ..] => fixtures::run(rest),
        ["guide"] => guide::run(),
        ["assets", names @ ..] => assets::install(names),
        ["experiments", rest @ ..] => experiments::run(rest),
        ["demo-assets"] => experiments::demo_assets(),
        ["llvm"] => llvm::prepare(),
        ["help" | "--help" | "-h"] => {
            print!("{USAGE}");
            Ok(())
        }
        [] => return Err(Failure::Usage("a command is missing".into())),
        words => return Err(Failure::Usage(format!("there is no command `{}`", words.join(" ")))),
    }
    .map_err(Failure::Failed)
}
