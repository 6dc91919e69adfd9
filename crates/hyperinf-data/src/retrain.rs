//! Trainings without some of the rows: what scores are compared with.

use std::path::PathBuf;

use burn::tensor::Device;
use hyperinf_scoring::Amount;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};

use crate::dataset::Dataset;
use crate::event::Event;
use crate::influence::{RowText, Rows};
use crate::model_files::ModelFiles;
use crate::run::Run;
use crate::selected::check_amount;
use crate::{Choice, RunError};

/// What a training without some rows is to tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Question {
    /// What would *this* training have led to without the rows? The same first parameters, seeds, order and batches, in
    /// which the losses of these rows have the weight 0.
    #[default]
    Same,
    /// What does *another* training without the rows lead to? Fresh seeds for the first parameters, the order and dropout,
    /// and a file that does not have the rows, so that there are fewer steps.
    Fresh,
}

impl Question {
    /// All, with their names.
    pub const NAMES: [(&'static str, Self); 2] = [("same", Self::Same), ("fresh", Self::Fresh)];

    /// That of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::NAMES.iter().find(|(known, _)| *known == name).map(|(_, question)| *question)
    }

    /// The name, as in [`NAMES`](Self::NAMES).
    pub fn name(self) -> &'static str {
        match self {
            Self::Same => "same",
            Self::Fresh => "fresh",
        }
    }

    /// What was done, in one line.
    pub fn summary(self) -> &'static str {
        match self {
            Self::Same => "the same training with weight 0 for the rows: same first parameters, seeds, order and steps",
            Self::Fresh => "another training without the rows: fresh seeds and order, as many epochs",
        }
    }
}

/// Which rows trainings leave out, by the numbers of their samples.
#[derive(Clone, Debug, PartialEq)]
pub enum Removals {
    /// Random rows, drawn for each training.
    Random {
        /// The number of draws.
        subsets: usize,
        /// How many rows each leaves out.
        drop: Amount,
    },
    /// One row each: so many random rows, none twice.
    Single {
        /// The number of rows.
        rows: usize,
    },
    /// These, ascending.
    Given(Vec<Vec<usize>>),
}

/// One training.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Removal {
    /// The samples that it leaves out, ascending.
    pub rows: Vec<usize>,
    /// Its seed.
    pub seed: u64,
}

/// Trainings of a recorded adapter without some of the rows.
///
/// | field | default | purpose | range |
/// |---|---|---|---|
/// | `question` | the same training | what the trainings are to tell | |
/// | `removals` | 100 times 50 % | the rows that they leave out | some rows, not all |
/// | `repeats` | 1 | trainings on each, with other seeds | ≥ 1; 1 for the same training |
/// | `draw` | 0 | the seed of the rows and of fresh seeds | |
/// | `bank` | `bank` | the folder that keeps the results | |
/// | `part` | `None` | of several processes that fill a bank at once: which, from 1, of how many | |
#[derive(Clone, Debug, PartialEq)]
pub struct Retraining {
    /// What the trainings are to tell.
    pub question: Question,
    /// The rows that they leave out.
    pub removals: Removals,
    /// Trainings on each.
    pub repeats: usize,
    /// The seed of the rows and of fresh seeds.
    pub draw: u64,
    /// The folder that keeps the results.
    pub bank: PathBuf,
    /// Which part of the trainings to take.
    pub part: Option<(usize, usize)>,
}

impl Default for Retraining {
    fn default() -> Self {
        Self {
            question: Question::default(),
            removals: Removals::Random { subsets: 100, drop: Amount::Share(0.5) },
            repeats: 1,
            draw: 0,
            bank: PathBuf::from("bank"),
            part: None,
        }
    }
}

/// The losses of the queries after trainings without some rows.
pub struct Retrained {
    /// The kind of the model.
    pub kind: &'static str,
    /// The training rows.
    pub train: Dataset<RowText>,
    /// The queries; their predictions are those of the adapter, which was trained on all rows.
    pub query: Rows,
    /// The files of the model and its adapter.
    pub files: ModelFiles,
    /// The samples that each training leaves out, ascending.
    pub removed: Vec<Vec<usize>>,
    /// The seed of each training, `[trainings][repeats]`.
    pub seeds: Vec<Vec<u64>>,
    /// The losses of the queries, `[trainings][repeats][queries]`; `None` for those of other parts that are not there yet.
    pub losses: Vec<Vec<Option<Vec<f64>>>>,
    /// The steps of a training on all rows.
    pub steps: usize,
    /// Results that the bank had.
    pub found: usize,
    /// Trainings of this run.
    pub trained: usize,
    /// Seconds of a training, the mean over those of this run.
    pub seconds: Option<f64>,
}

impl Retrained {
    /// The losses if all are there.
    pub fn complete(&self) -> Option<Vec<Vec<Vec<f64>>>> {
        self.losses.iter().map(|repeats| repeats.iter().cloned().collect()).collect()
    }

    /// Results that are missing: those of other parts.
    pub fn missing(&self) -> usize {
        self.losses.iter().flatten().filter(|losses| losses.is_none()).count()
    }
}

impl Run {
    /// Trains the adapter again without some of its rows, and measures the losses of the queries. The adapter must have
    /// been trained with [`Finetune::record`](crate::Finetune::record), on the same rows: the recording has all settings
    /// of its training. Results are kept in a bank: finished trainings are not repeated, whatever is asked next.
    ///
    /// For [`Question::Same`] the training is first taken again with all rows, and must lead to the adapter, bit for bit.
    ///
    /// # Errors
    ///
    /// As [`Run::unrolled`]; [`RunError::Bank`] for a bank of other settings, or a damaged one; [`RunError::Part`], [`RunError::Amount`], or [`RunError::Conflict`] for choices out of range. Results of
    /// finished trainings are kept.
    pub fn retrain(
        &self,
        retraining: &Retraining,
        device: &Device,
        observe: &mut dyn FnMut(Event),
    ) -> Result<Retrained, RunError> {
        retraining.validate()?;
        let files = self.files()?;
        let kind = files.kind();
        kind.retrain(self, retraining, files, device, observe)
    }
}

impl Retraining {
    /// Checks the choices, without a look at any file; the run does so itself.
    ///
    /// # Errors
    ///
    /// [`RunError::Part`], [`RunError::Selection`] or [`RunError::Conflict`].
    pub fn validate(&self) -> Result<(), RunError> {
        if let Some((part, of)) = self.part
            && !(1..=of).contains(&part)
        {
            return Err(RunError::Part { part, of });
        }
        if self.repeats == 0 {
            let (what, expected) = ("the number of trainings on each subset", "at least 1");
            return Err(RunError::Selection { what, expected, value: 0.0 });
        }
        if self.repeats > 1 && self.question == Question::Same {
            let (first, second) = (Choice::Repeats, Choice::SameTraining);
            let reason = "it has one seed, and the same training leads to the same parameters";
            return Err(RunError::Conflict { first, second, reason });
        }
        Ok(())
    }

    /// The samples that each training leaves out, of so many. Those of a draw do not depend on how many draws there are.
    pub(crate) fn rows(&self, samples: usize) -> Result<Vec<Vec<usize>>, RunError> {
        match &self.removals {
            Removals::Random { subsets, drop } => {
                check_amount(Some(*drop), samples)?;
                let count = match *drop {
                    Amount::Count(count) => count,
                    Amount::Share(share) => (share * samples as f64).round() as usize,
                };
                if count == samples {
                    return Err(RunError::Amount { asked: count, rows: samples.saturating_sub(1) });
                }
                let subset = |subset: usize| {
                    let mut all: Vec<usize> = (0..samples).collect();
                    let (drawn, _) = all.partial_shuffle(&mut self.random(subset, 0), count);
                    let mut drawn = drawn.to_vec();
                    drawn.sort_unstable();
                    drawn
                };
                Ok((0..*subsets).map(subset).collect())
            }
            Removals::Single { rows } => {
                check_amount(Some(Amount::Count(*rows)), samples)?;
                let mut all: Vec<usize> = (0..samples).collect();
                all.shuffle(&mut self.random(0, 0));
                all.truncate(*rows);
                Ok(all.into_iter().map(|row| vec![row]).collect())
            }
            Removals::Given(given) => Ok(given.clone()),
        }
    }

    /// The trainings of a subset; the recorded one has this seed.
    pub(crate) fn trainings(&self, subset: usize, rows: &[usize], recorded: u64) -> Vec<Removal> {
        // Rows that were chosen are compared with each other: their trainings differ in nothing else.
        let subset = if matches!(self.removals, Removals::Given(_)) { 0 } else { subset };
        let seed = |repeat: usize| match self.question {
            Question::Same => recorded,
            // A step's dropout is seeded by the seed plus the step: seeds must be far from each other.
            Question::Fresh => self.random(subset, 1 + repeat).random::<u64>(),
        };
        (0..self.repeats).map(|repeat| Removal { rows: rows.to_vec(), seed: seed(repeat) }).collect()
    }

    /// A generator for each subset and purpose.
    fn random(&self, subset: usize, purpose: usize) -> StdRng {
        const ODD: u64 = 0x9e37_79b9_7f4a_7c15;
        let place = (subset as u64 + 1).wrapping_mul(ODD) ^ (purpose as u64).wrapping_mul(ODD.rotate_left(32));
        StdRng::seed_from_u64(self.draw.wrapping_mul(ODD.rotate_left(16) | 1) ^ place)
    }
}
