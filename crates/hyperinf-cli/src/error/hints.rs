use hyperinf::curvature::CurvatureError;
use hyperinf::data::{DataError, Existing, Reason, RunError};
use hyperinf::eval::TruthError;
use hyperinf::models::{LoadError, ModelError};
use hyperinf::scoring::{ScoreError, SpecError};
use hyperinf::solvers::{SolveError, solvers};
use hyperinf::store::{FileError, StoreError};

use super::CliError;

impl CliError {
    /// 2: a flag, a name, the device or an output path is wrong; 3: an input file is wrong; 4: the numbers allow no
    /// answer.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Spec(_)
            | Self::Score(ScoreError::Solve { source: SolveError::Unsupported { .. }, .. })
            | Self::Damping { .. }
            | Self::Combination { .. }
            | Self::Noise { .. }
            | Self::Value { .. }
            | Self::Precision { .. }
            | Self::Device(_)
            | Self::Store(StoreError::Format { .. } | StoreError::OutputIsInput { .. } | StoreError::Output { .. })
            | Self::Stdout(_)
            | Self::Amount { .. }
            | Self::Truth(TruthError::Setting { .. } | TruthError::Bank { .. } | TruthError::Subset { .. })
            | Self::Model(ModelError::Setting { .. } | ModelError::Target { .. })
            | Self::Model(ModelError::Checkpoint { .. })
            | Self::Model(ModelError::CheckpointExists { .. } | ModelError::CheckpointDiffers { .. }) => 2,
            Self::Score(ScoreError::NoCaptures) => 2,
            Self::Store(StoreError::Score(_) | StoreError::Range { .. }) => 4,
            Self::Store(_)
            | Self::Input { .. }
            | Self::Truth(TruthError::OtherTask { .. } | TruthError::BankLine { .. }) => 3,
            Self::Run(error) => run_code(error),
            Self::Score(_)
            | Self::LeftOut { .. }
            | Self::NoneComputed { .. }
            | Self::Solve(_)
            | Self::NotConverged { .. }
            | Self::Data(_)
            | Self::Model(_)
            | Self::Gradients(_)
            | Self::Losses(_)
            | Self::Eval(_)
            | Self::Truth(_) => 4,
        }
    }

    /// How to fix it.
    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Spec(SpecError::Unknown { what: "solver", .. }) => {
                let names: Vec<&str> = solvers().iter().map(|solver| solver.name()).collect();
                format!("there are {}", names.join(", "))
            }
            Self::Spec(_) => "`hyperinf methods` lists all methods and their choices".into(),
            Self::Damping { flag: "--damping", .. } => "0.1 is the usual factor, and the default".into(),
            Self::Damping { .. } => "leave it out for 0.1 × the mean square of each block's gradients".into(),
            Self::Noise { .. } => "0.2 gives every fifth mail the wrong label".into(),
            Self::Store(error) => return store_hint(error).map(Into::into),
            Self::Score(ScoreError::Solve { source: SolveError::Unsupported { .. }, .. }) => {
                "leave --solver out for the method's own, or take exact, auto or cg, which invert every curvature"
                    .into()
            }
            Self::Score(ScoreError::NoCaptures) => {
                "`hyperinf methods` lists what needs no activations; of these shampoo is the most like it".into()
            }
            Self::Score(ScoreError::Curvature(CurvatureError::TooSmall { .. })) => {
                "scale all gradients of both files up by the same factor".into()
            }
            Self::Score(ScoreError::Curvature(_)) => {
                "give the block two sides, take --structure per-block, or another method".into()
            }
            Self::Score(_) | Self::NotConverged { .. } => "a larger --damping makes the inverse easier".into(),
            Self::Run(error) => return run_hint(error),
            Self::Amount { .. } => "ask for at least one row and at most all of them".into(),
            Self::Truth(TruthError::OtherTask { .. }) => "give this task a bank of its own: --bank FILE.jsonl".into(),
            Self::Truth(TruthError::Diverged { .. }) => {
                "give a larger --damping, which keeps the model nearer to the trained one".into()
            }
            Self::LeftOut { .. } | Self::NoneComputed { .. } => {
                "allow more with --memory, or name the methods that fit: --methods hyperinf,datainf".into()
            }
            Self::Precision { .. } => "compute in f32: --precision f32".into(),
            Self::Value { .. }
            | Self::Solve(_)
            | Self::Combination { .. }
            | Self::Input { .. }
            | Self::Truth(_)
            | Self::Device(_)
            | Self::Stdout(_)
            | Self::Data(_)
            | Self::Model(_)
            | Self::Gradients(_)
            | Self::Losses(_)
            | Self::Eval(_) => return None,
        })
    }

    /// The causes, the first cause last, without the message itself.
    pub(crate) fn causes(&self) -> String {
        let mut texts: Vec<String> = Vec::new();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            let message = error.to_string();
            // Some messages end in their cause.
            if !texts.last().is_some_and(|last| last.ends_with(&message)) {
                texts.push(message);
            }
            cause = error.source();
        }
        if texts.is_empty() { self.to_string() } else { texts.join(": ") }
    }

    /// The message, its causes and a hint.
    pub fn report(&self) -> String {
        let mut text = format!("error: {self}");
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            // Some messages end in their cause.
            let message = error.to_string();
            if !text.ends_with(&message) {
                text.push_str(&format!("\n  because: {message}"));
            }
            cause = error.source();
        }
        if let Some(hint) = self.hint() {
            text.push_str(&format!("\n  hint: {hint}"));
        }
        text
    }
}

/// The hint for gradient files and outputs.
fn store_hint(error: &StoreError) -> Option<&'static str> {
    Some(match error {
        StoreError::Output { .. } => "choose a folder that exists and can be written",
        StoreError::OutputIsInput { .. } => "choose another name",
        StoreError::File { source, .. } => match source {
            FileError::Type { .. } => "leave out tensors that are not gradients, convert those that are",
            FileError::Rank { .. } => "write one tensor per layer, its first dimension the samples",
            FileError::SampleCount { .. } => "row i of every block must be sample i",
            FileError::Truncated { .. } | FileError::Read { .. } => "write or copy the file again",
            FileError::NoSamples { .. } | FileError::NoBlocks => "check the program that wrote the file",
            _ => return None,
        },
        StoreError::Blocks { .. } | StoreError::Sides { .. } => {
            "write both files from the same layers of the same model"
        }
        StoreError::Checkpoint { .. } => "write the same samples in the same order at every checkpoint",
        StoreError::NonFinite { .. } => "leave the sample out, or find out why its loss overflowed",
        StoreError::TooLarge { .. } => "scale all gradients of both files down by the same factor",
        StoreError::Range { .. } => "a larger damping or smaller gradients give smaller scores",
        _ => return None,
    })
}

/// The exit code of a run over rows.
fn run_code(error: &RunError) -> u8 {
    match error {
        RunError::Dataset { source: DataError::Ending, .. }
        | RunError::NoAdapter { .. }
        | RunError::NoBlock { .. }
        | RunError::Amount { .. }
        | RunError::Exists { .. }
        | RunError::MaxLength { .. }
        | RunError::Seeds { .. }
        | RunError::Conflict { .. }
        | RunError::NoTokenizer { .. } => 2,
        RunError::Dataset { .. } | RunError::NoKind { .. } | RunError::Load { .. } => 3,
        _ => 4,
    }
}

/// The hint for a run over rows.
fn run_hint(error: &RunError) -> Option<String> {
    Some(match error {
        RunError::Dataset { source, .. } => return data_hint(source),
        RunError::Load { source, .. } => return load_hint(source),
        RunError::NoAdapter { .. } => {
            "give --adapter, or train one first: hyperinf finetune --model … --train … --out ADAPTER".into()
        }
        RunError::NoBlock { .. } => "`*` stands for any characters: --blocks '*lora_B*'".into(),
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
        DataError::Rows { bad, .. } => match bad.first().map(|bad| &bad.reason) {
            Some(Reason::TooLong { .. }) => "cut long texts with --truncate, take a larger --max-length, or leave \
                                             such rows out with --skip-bad-rows"
                .into(),
            _ => "correct the rows, or leave such rows out with --skip-bad-rows".into(),
        },
        DataError::Columns { .. } => "name the columns: --text-column, --label-column, --prompt-column, …".into(),
        DataError::NoColumn { role, .. } => {
            format!("--{role}-column names it; names are compared exactly, capitals included")
        }
        DataError::UnnamedLabel { classes, .. } => {
            format!("write labels as class numbers, 0 to {}", classes.saturating_sub(1))
        }
        DataError::Codec { .. } => "write the file again with another compression".into(),
        DataError::Changed => "run again once nothing writes to the file".into(),
        _ => return None,
    })
}

/// The hint for a model that cannot be loaded.
fn load_hint(error: &LoadError) -> Option<String> {
    Some(match error {
        LoadError::AdapterShape { .. } | LoadError::AdapterTensors { .. } => {
            "give the model that the adapter was trained on: `base_model_name_or_path` in its adapter_config.json"
                .into()
        }
        LoadError::NoHead { .. } => "train one: hyperinf finetune --model … --train … --out ADAPTER".into(),
        LoadError::IsAdapter { .. } => "give the adapter's folder as --adapter, and its base as --model".into(),
        LoadError::Missing { what: "tokenizer", .. } => {
            "save the tokenizer into the model's folder: AutoTokenizer.from_pretrained(…).save_pretrained(FOLDER)"
                .into()
        }
        _ => return None,
    })
}
