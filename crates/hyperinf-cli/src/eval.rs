//! `hyperinf eval`: scores compared with ground truths, of an adapter or on a small built-in task.

mod adapter;
mod adapter_effects;
mod adapter_report;
mod candidate;
mod report;

use std::fs::canonicalize;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use hyperinf::eval::{EvalConfig, Progress, Stage, evaluate};
use hyperinf::store::{StoreError, available};
use serde_json::json;

use crate::args::{EvalArgs, ResultArgs, Task};
use crate::device::open_device;
use crate::error::CliError;
use crate::progress::Progress as Bar;
use candidate::{candidates, dampings};
use report::{OUTPUTS, Report};

/// Computes the ground truth, scores with every method, and reports how well they agree.
///
/// # Errors
///
/// See [`CliError`]. Finished trainings stay in the bank; other outputs are written whole or not at all.
pub(crate) fn run(args: &EvalArgs) -> Result<(), CliError> {
    let (truth, shared, bank) = match args.truth.parts()? {
        Task::Digits(parts) => parts,
        Task::Adapter(truth) => return adapter::run(truth),
    };
    let (judged, result) = (&shared.judged, &shared.result);
    let rule = truth.damping();
    let candidates = candidates(judged, rule.needed)?;
    let dampings = dampings(judged, rule.default)?;
    let task = shared.task.config()?;
    let folder = report::folder(result, truth.name())?;
    let bank = bank.map(|bank| bank_file(bank.bank.as_deref(), result, truth.name())).transpose()?;
    let (device_name, device) = open_device(&judged.device)?;
    let config = EvalConfig { task, candidates, dampings, models: judged.models, bank, memory: available() };
    let bars = Bars::default();
    let mut found = evaluate(truth.as_ref(), &config, &device, &|progress| bars.show(progress))?;
    bars.finish();
    if let Some(bank) = &config.bank {
        found.findings.details.insert("bank".to_owned(), json!(bank));
    }
    Report { found: &found, device: &device_name, judged }.write(&folder, result)
}

/// The file of `--bank`, or `bank.jsonl` in the output folder; it must not be one of the outputs.
fn bank_file(asked: Option<&Path>, result: &ResultArgs, truth: &str) -> Result<PathBuf, CliError> {
    let folder = result.folder(truth);
    let path = asked.map_or_else(|| folder.join("bank.jsonl"), Path::to_owned);
    match OUTPUTS.map(|name| folder.join(name)).into_iter().find(|output| real(output) == real(&path)) {
        Some(path) => Err(StoreError::OutputIsInput { path }.into()),
        None => Ok(path),
    }
}

/// The canonical path of a file that may not exist yet.
fn real(path: &Path) -> PathBuf {
    let folder = path.parent().filter(|folder| *folder != Path::new("")).unwrap_or(Path::new("."));
    let placed = || Some(canonicalize(folder).ok()?.join(path.file_name()?));
    canonicalize(path).ok().or_else(placed).unwrap_or_else(|| path.to_owned())
}

/// One progress bar per stage.
#[derive(Default)]
struct Bars(Mutex<Option<(Stage, usize, Bar)>>);

impl Bars {
    fn show(&self, Progress { stage, done, of, step }: Progress<'_>) {
        let mut current = self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let bar = match current.take() {
            Some((shown, last, bar)) if shown == stage && last <= done => bar,
            other => {
                other.into_iter().for_each(|(.., bar)| bar.finish());
                Bar::new(label(stage), of as u64)
            }
        };
        current.insert((stage, done, bar)).2.at(done as u64, || step.to_owned());
    }

    fn finish(self) {
        let current = self.0.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
        current.into_iter().for_each(|(.., bar)| bar.finish());
    }
}

fn label(stage: Stage) -> &'static str {
    match stage {
        Stage::Trainings => "trainings",
        Stage::Responses => "responses",
        Stage::Methods => "methods",
    }
}
