use std::error::Error;
use std::io::{self, ErrorKind};

use hyperinf::DeviceError;
use hyperinf::curvature::CurvatureError;
use hyperinf::data::{DataError, Existing, Reason, RunError, Stage};
use hyperinf::eval::TruthError;
use hyperinf::models::LoadError;
use hyperinf::scoring::{ScoreError, SpecError, TeamError};
use hyperinf::solvers::{SolveError, solvers};
use hyperinf::store::{ConvertError, FileError, IndexError, MANIFEST, StoreError, WriteError};
use hyperinf_report::ReportError;

use crate::models;

use super::{CliError, Input, Library, Numbers, Usage};

/// The hint for most failures of an inverse.
const LARGER_DAMPING: &str = "a larger --damping makes the inverse easier";

impl CliError {
    /// How to fix it.
    pub(super) fn hint(&self) -> Option<String> {
        if self.is_full() {
            return Some("make room, or choose another folder; what is finished stays".into());
        }
        match self {
            Self::Usage(error) => usage_hint(error),
            Self::Input(error) => match &**error {
                Input::Report(ReportError::NoRows { .. }) => Some("name them: --train FILE or --query FILE".into()),
                Input::Report(ReportError::NoSummary { nested: Some(folder), .. }) => {
                    Some(format!("several methods have a folder each: hyperinf report {folder}"))
                }
                Input::Report(ReportError::Command { command, .. }) if command == "sweep" => {
                    Some("a sweep is a part of a report: --sweep DIR".into())
                }
                Input::Report(_) => None,
                Input::File { .. } | Input::Checks { .. } | Input::Questions { .. } => None,
                Input::Faults { .. } => {
                    Some("hyperinf verify DIR --repair computes them again from the model and the rows".into())
                }
                Input::Library(error) => library_hint(error),
            },
            Self::Numbers(error) => match &**error {
                Numbers::LeftOut { .. } | Numbers::NoneComputed { .. } => {
                    Some("allow more with --memory, or name the methods that fit: --methods hyperinf,datainf".into())
                }
                Numbers::Converge(_) => None,
                Numbers::NotConverged { .. } => Some(LARGER_DAMPING.into()),
                Numbers::Library(error) => library_hint(error),
            },
            Self::Stopped(error) => library_hint(error),
        }
    }
}

impl CliError {
    /// Whether a disk has no room left.
    fn is_full(&self) -> bool {
        let full = |error: &io::Error| matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded);
        let of = |cause: &(dyn Error + 'static)| match cause.downcast_ref::<WriteError>() {
            Some(error) => error.is_full(),
            None => cause.downcast_ref().is_some_and(full),
        };
        std::iter::successors(self.source(), |&cause| cause.source()).any(of)
    }
}

fn usage_hint(error: &Usage) -> Option<String> {
    Some(match error {
        Usage::Spec(SpecError::Unknown { what: "solver", .. }) => {
            let names: Vec<&str> = solvers().iter().map(|solver| solver.name()).collect();
            format!("there are {}", names.join(", "))
        }
        Usage::Spec(_) => "`hyperinf methods` lists all methods and their choices".into(),
        Usage::Damping { flag: "--damping", .. } => "0.1 is the usual factor".into(),
        Usage::Damping { .. } => "leave it out for 0.1 × the mean square of each block's gradients".into(),
        Usage::Noise { .. } => "0.2 gives every fifth mail the wrong label".into(),
        Usage::Amount { .. } => "ask for at least one row and at most all of them".into(),
        Usage::Precision { .. } => "compute in f32: --precision f32".into(),
        Usage::Device(DeviceError::WrongResults { .. }) => {
            "take another --device, or a newer driver; --no-device-check uses this one all the same".into()
        }
        Usage::UnknownKey { nearest: Some(name), .. } | Usage::UnknownCommand { nearest: Some(name), .. } => {
            format!("did you mean `{name}`?")
        }
        Usage::UnknownKey { command, .. } => format!("`hyperinf schema {command}` has all keys"),
        Usage::UnknownCommand { .. } => "`hyperinf --help` lists the commands".into(),
        Usage::LogLevel { .. } => "error, warn, info or debug".into(),
        Usage::NoCommand => "command = \"attribute\", say".into(),
        Usage::Library(error) => return library_hint(error),
        Usage::Value { .. }
        | Usage::Combination { .. }
        | Usage::Device(_)
        | Usage::Stdout(_)
        | Usage::Set { .. }
        | Usage::Key { .. }
        | Usage::OtherCommand { .. } => return None,
    })
}

fn library_hint(error: &Library) -> Option<String> {
    Some(match error {
        Library::Store(error) => return store_hint(error).map(Into::into),
        Library::Index(error) => return index_hint(error).map(Into::into),
        Library::Run(error) => return run_hint(error),
        Library::Score(ScoreError::Solve { source: SolveError::Unsupported { .. }, .. }) => {
            "leave --solver out for the method's own, or take exact, auto or cg, which invert every curvature".into()
        }
        Library::Score(ScoreError::NoCaptures) => {
            "`hyperinf methods` lists the methods that need no activations; shampoo is the nearest".into()
        }
        Library::Score(ScoreError::Curvature(CurvatureError::TooSmall { .. })) => {
            "scale all gradients of both files up by the same factor".into()
        }
        Library::Score(ScoreError::Curvature(_)) => {
            "give the block two sides, take --structure per-block, or another method".into()
        }
        Library::Score(ScoreError::Pool { wanted, .. }) => format!("compare more rows: --pool {}", 2 * wanted),
        Library::Score(ScoreError::Underflow { .. }) => return None,
        Library::Score(ScoreError::Divisor { value, .. }) if *value == f64::INFINITY => {
            "scale all gradients of both files down by the same factor".into()
        }
        Library::Score(ScoreError::Divisor { value, .. }) if *value > 0.0 => {
            "scale all gradients of both files up by the same factor".into()
        }
        Library::Score(_) => LARGER_DAMPING.into(),
        Library::Truth(TruthError::OtherTask { .. }) => "give this task a bank of its own: --bank FILE.jsonl".into(),
        Library::Truth(TruthError::Memory { .. }) => "smaller --hidden layers or other --methods need less".into(),
        Library::Truth(TruthError::Diverged { .. }) => {
            "give a larger --damping, which keeps the model nearer to the trained one".into()
        }
        Library::Convert(ConvertError::Read { source, .. }) => return file_hint(source).map(Into::into),
        Library::Convert(_)
        | Library::Truth(_)
        | Library::Model(_)
        | Library::Gradients(_)
        | Library::Losses(_)
        | Library::Solve(_)
        | Library::Eval(_)
        | Library::Demo(_) => return None,
    })
}

/// The hint for gradient files and outputs.
fn store_hint(error: &StoreError) -> Option<&'static str> {
    Some(match error {
        StoreError::Output { .. } => "choose a folder that exists and can be written",
        StoreError::OutputIsInput { .. } => "choose another name",
        StoreError::OtherSummary { .. } => "choose another folder",
        StoreError::File { source, .. } => return file_hint(source),
        StoreError::Blocks { .. } | StoreError::Sides { .. } => {
            "write both files from the same layers of the same model"
        }
        StoreError::Checkpoint { .. } => "write the same samples in the same order at every checkpoint",
        StoreError::NonFinite { .. } => "leave the sample out, or find out why its loss overflowed",
        StoreError::TooLarge { .. } => "scale all gradients of both files down by the same factor",
        StoreError::Matrix { .. } => {
            "take one of these with --method or --structure per-block, or shrink the gradients with --project RANK"
        }
        StoreError::Memory { .. } => {
            "take one of these with --method, shrink the gradients with --project RANK, or allow more with --memory GIB"
        }
        StoreError::TooSmall { .. } => "a smaller damping or larger gradients give larger scores",
        StoreError::Range { .. } => "a larger damping or smaller gradients give smaller scores",
        _ => return None,
    })
}

/// The hint for a file of gradients.
fn file_hint(error: &FileError) -> Option<&'static str> {
    Some(match error {
        FileError::Type { .. } => "leave out tensors that are not gradients, convert those that are",
        FileError::Rank { .. } => "write one tensor per layer, its first dimension the samples",
        FileError::SampleCount { .. } => "row i of every block must be sample i",
        FileError::Changed => "run again once nothing writes to the file",
        FileError::Index(error) => return index_hint(error),
        FileError::Damaged { .. } | FileError::DamagedRow { .. } => {
            "hyperinf verify DIR --repair computes damaged leaves again"
        }
        FileError::Truncated { .. } | FileError::Read { .. } => "write or copy the file again",
        FileError::NoSamples { .. } | FileError::NoBlocks => "check the program that wrote the file",
        _ => return None,
    })
}

/// The hint for an index.
fn index_hint(error: &IndexError) -> Option<&'static str> {
    Some(match error {
        IndexError::Write(error) => return store_hint(error),
        IndexError::Newer { .. } => "take the version that wrote it, or a newer one",
        IndexError::Differs { .. } => {
            "give what it was built with (its manifest.json says it), add rows of another file with --append, or build \
             another index"
        }
        IndexError::Rows { .. } => "restore the rows, add other rows with --append, or build another index",
        IndexError::Incomplete { .. } => "the same `hyperinf index` finishes it",
        IndexError::NoIndex { .. } => "build one: hyperinf index --model … --train … --out DIR",
        IndexError::Damaged { path, .. } if path.ends_with(MANIFEST) => {
            "the same `hyperinf index` writes it again, and keeps the leaves that are intact"
        }
        IndexError::Damaged { .. } | IndexError::Gradients { .. } | IndexError::Read { .. } => {
            "hyperinf verify DIR --repair computes damaged leaves again"
        }
        _ => return None,
    })
}

/// The hint for a run over rows.
fn run_hint(error: &RunError) -> Option<String> {
    Some(match error {
        RunError::Dataset { source, .. } => return data_hint(source),
        RunError::Load { source, .. } => return load_hint(source),
        RunError::NoAdapter { .. } => {
            "give --adapter, or train one first: hyperinf finetune --model … --train … --out ADAPTER".into()
        }
        RunError::NoRecording { .. } => {
            "train it with --record: hyperinf finetune --model … --train … --out ADAPTER --record".into()
        }
        RunError::NoGroups { .. } => "name it: --group-column COLUMN".into(),
        RunError::NotFromIndex { .. } => "use hyperinf attribute, which runs the model on the training rows".into(),
        RunError::NoBlock { .. } => "`*` stands for any characters: --blocks '*lora_B*'".into(),
        RunError::Stopped { kept: None, .. } => "the same command starts again".into(),
        RunError::Stopped { stage: Stage::Finetuning, kept: Some(path), .. } => {
            format!("the same command with --resume continues from {}", path.display())
        }
        RunError::Stopped { kept: Some(path), .. } => {
            format!("the same command resumes from the gradients in {}", path.display())
        }
        RunError::Team(TeamError::Late { .. }) => {
            "if that rank is alive and slow: --deadline SECONDS; the same command goes on from finished work".into()
        }
        RunError::Team(_) => "the same command goes on from finished work, with any number of ranks".into(),
        RunError::Changed { .. } => "run again once nothing writes to the file".into(),
        RunError::NotFinite { .. } => "leave the row out, or look for a damaged model".into(),
        RunError::NoTokenizer { .. } => "give its vocabulary: --tokenizer tokenizer.bin".into(),
        RunError::MaxLength { asked, .. } => {
            format!("leave --max-length {asked} out, and cut longer rows with --truncate")
        }
        RunError::Exists { what: Existing::Adapter, .. } => {
            "choose another folder, or replace it with --overwrite".into()
        }
        RunError::Exists { what: Existing::Checkpoints, .. } => {
            "resume from them with --resume, or replace them with --overwrite".into()
        }
        _ => return None,
    })
}

/// The hint for a data set.
fn data_hint(error: &DataError) -> Option<String> {
    Some(match error {
        DataError::Rows { bad, of } => match bad.first().map(|bad| &bad.reason) {
            // Leaving all rows out would leave nothing.
            Some(Reason::TooLong { .. }) if bad.len() == *of => {
                "cut long texts with --truncate, or take a larger --max-length".into()
            }
            _ if bad.len() == *of => return None,
            Some(Reason::TooLong { .. }) => "cut long texts with --truncate, take a larger --max-length, or leave \
                                             such rows out with --skip-bad-rows"
                .into(),
            _ => "correct the rows, or leave such rows out with --skip-bad-rows".into(),
        },
        DataError::Columns { found, .. }
            if ["chosen", "rejected"].iter().all(|name| found.iter().any(|f| f == name)) =>
        {
            "rows that are pairs of answers need their loss: --pairs dpo or --pairs reward".into()
        }
        DataError::Columns { .. } => "name the columns: --text-column, --label-column, --prompt-column, …".into(),
        DataError::NoColumn { role, .. } => {
            format!("--{role}-column names it; names are compared exactly, capitals included")
        }
        DataError::UnusedColumn { role, .. } => format!("leave --{role}-column out"),
        DataError::UnnamedLabel { classes, .. } => {
            format!("write labels as class numbers, 0 to {}", classes.saturating_sub(1))
        }
        DataError::Codec { .. } => "write the file again with another compression".into(),
        DataError::Unpacked { .. } => "allow more with --unpack-limit if you trust the file".into(),
        DataError::Changed => "run again once nothing writes to the file".into(),
        _ => return None,
    })
}

/// The hint for a model that cannot be loaded.
fn load_hint(error: &LoadError) -> Option<String> {
    Some(match error {
        LoadError::AdapterShape { .. } => {
            "give the model that the adapter was trained on: `base_model_name_or_path` in its adapter_config.json"
                .into()
        }
        LoadError::AdapterTensors { unused, .. } if unused.iter().any(|name| name.contains(".lora_")) => {
            "give the model that the adapter was trained on: `base_model_name_or_path` in its adapter_config.json"
                .into()
        }
        LoadError::AdapterPart { .. } | LoadError::AdapterFeature { .. } => {
            "merge the adapter into its base with PEFT (`merge_and_unload`), and train an adapter without it".into()
        }
        LoadError::OwnHead(_) => "train a head: hyperinf finetune --model … --train … --out ADAPTER".into(),
        LoadError::Hub { name, .. } => return models::hint(name),
        LoadError::NoHead { .. } => "train one: hyperinf finetune --model … --train … --out ADAPTER".into(),
        LoadError::IsAdapter { .. } => "give the adapter's folder as --adapter, and its base as --model".into(),
        LoadError::Missing { what: "tokenizer", .. } => {
            "save the tokenizer into the model's folder: AutoTokenizer.from_pretrained(…).save_pretrained(FOLDER)"
                .into()
        }
        _ => return None,
    })
}
