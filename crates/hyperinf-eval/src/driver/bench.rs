use std::ops::Range;
use std::time::Instant;

use burn::tensor::{DType, Device};
use hyperinf_scoring::{Options, QueryMode, Scores};

use super::{Candidate, Ensemble, EvalConfig, Evaluation, Figure, Findings, Row};
use crate::digits::DigitsTask;
use crate::{Bank, Retrain, Truth, TruthError};

/// The part of an evaluation that is running.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Retrainings, each kept in the bank when it ends.
    Trainings,
    /// Minimisations that start from the trained model.
    Responses,
    /// Scores of the candidates.
    Methods,
}

/// The progress of a stage.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Progress<'a> {
    /// The stage.
    pub stage: Stage,
    /// Steps done.
    pub done: usize,
    /// Steps of the stage.
    pub of: usize,
    /// The current step: a method's name, say.
    pub step: &'a str,
}

/// The workbench of a [`Truth`]: settings, candidates, retraining, scoring, and the rows so far.
pub struct Bench<'a> {
    config: &'a EvalConfig,
    dampings: Vec<f64>,
    candidates: Vec<Candidate>,
    device: &'a Device,
    precision: DType,
    progress: &'a (dyn Fn(Progress<'_>) + Sync),
    bank: Option<Bank>,
    rows: Vec<Row>,
    began: Instant,
}

impl<'a> Bench<'a> {
    pub(super) fn new(
        config: &'a EvalConfig,
        dampings: Vec<f64>,
        device: &'a Device,
        precision: DType,
        progress: &'a (dyn Fn(Progress<'_>) + Sync),
    ) -> Self {
        let candidates = config.candidates.iter().flat_map(|candidate| candidate.at(&dampings)).collect();
        let (bank, rows, began) = (None, Vec::new(), Instant::now());
        Self { config, dampings, candidates, device, precision, progress, bank, rows, began }
    }

    /// The settings of the evaluation.
    pub fn config(&self) -> &'a EvalConfig {
        self.config
    }

    /// The damping factors, at least one.
    pub fn dampings(&self) -> &[f64] {
        &self.dampings
    }

    /// The candidates: methods with curvature once per damping, relative, all others once.
    pub fn candidates(&self) -> &[Candidate] {
        &self.candidates
    }

    /// The seeds of the models whose scores are averaged.
    pub fn seeds(&self) -> Range<u64> {
        0..self.config.models as u64
    }

    /// Seconds since the evaluation began.
    pub fn seconds(&self) -> f64 {
        self.began.elapsed().as_secs_f64()
    }

    /// Reports progress.
    pub fn report(&self, stage: Stage, done: usize, of: usize, step: &str) {
        (self.progress)(Progress { stage, done, of, step });
    }

    /// Hands the bank to a computation that retrains; it is opened on the first call.
    ///
    /// # Errors
    ///
    /// If the bank cannot be opened or belongs to another task, or as `compute`.
    pub fn retrain<T>(
        &mut self,
        task: &dyn Retrain,
        compute: impl FnOnce(&mut Bank, &(dyn Fn(usize, usize) + Sync)) -> Result<T, TruthError>,
    ) -> Result<T, TruthError> {
        let mut bank = match (self.bank.take(), &self.config.bank) {
            (Some(bank), _) => bank,
            (None, Some(path)) => Bank::open(path, task)?,
            (None, None) => Bank::memory(task),
        };
        let progress = self.progress;
        let found = compute(&mut bank, &|done, of| {
            progress(Progress { stage: Stage::Trainings, done, of, step: "each kept in the bank" });
        });
        self.bank = Some(bank);
        found
    }

    /// Trains the models whose scores are compared.
    ///
    /// # Errors
    ///
    /// As [`Ensemble::train`].
    pub fn train(&self, task: &DigitsTask, seeds: impl IntoIterator<Item = u64>) -> Result<Ensemble, TruthError> {
        Ensemble::train(task, seeds, self.device, self.precision)
    }

    /// Adds a row.
    pub fn add(&mut self, row: Row) {
        self.rows.push(row);
    }

    /// Scores with every candidate and adds a row of figures for each. `figures` receives the scores, `[q, n]`, or
    /// `[1, n]` with [`QueryMode::Mean`].
    ///
    /// # Errors
    ///
    /// If a candidate's scores cannot be computed, or as `figures`.
    pub fn judge(
        &mut self,
        ensemble: &Ensemble,
        query: QueryMode,
        mut figures: impl FnMut(&mut Self, &Scores) -> Result<Vec<Figure>, TruthError>,
    ) -> Result<(), TruthError> {
        let candidates = self.candidates.clone();
        for (done, candidate) in candidates.iter().enumerate() {
            self.report(Stage::Methods, done, candidates.len(), &candidate.name);
            let options = Options { query, ..candidate.options.clone() };
            let found = ensemble.score(candidate, &options)?;
            let figures = figures(self, &found.scores)?;
            self.add(Row::of(candidate, &found, figures));
        }
        Ok(())
    }

    pub(super) fn finish(self, truth: &dyn Truth, findings: Findings) -> Evaluation {
        Evaluation {
            truth: truth.name(),
            figure: truth.figure(),
            damping_kind: truth.damping().kind,
            precision: self.precision.name(),
            findings,
            seconds: self.seconds(),
            rows: self.rows,
        }
    }
}
