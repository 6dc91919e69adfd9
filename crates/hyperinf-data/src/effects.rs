//! What the rows that a method points at do to the losses, by training again without them or on them alone.

use std::path::Path;

use burn::tensor::Device;
use hyperinf_scoring::{Amount, Set};

use crate::RunError;
use crate::compared::{MethodRun, NamedMethod};
use crate::event::Event;
use crate::retrain::{Removals, Retrained, Retraining};
use crate::run::Run;
use crate::selected::check_amount;

/// Which rows a training leaves out.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Choosing {
    /// Of each query its most helpful rows, in a training of its own: does its loss rise? (Ilyas et al. 2022)
    MostHelpful(usize),
    /// All but the best rows for the mean of the first, third, fifth … query: how do the losses of the others change?
    AllBut(Amount),
}

/// A method's choice of rows, and what it led to.
pub struct Effect {
    /// The method with its scores.
    pub run: MethodRun,
    /// The change of the loss of each of [`Effects::measured`] against trainings on all rows, the mean over repeats;
    /// `None` if the method has no scores, or trainings of other parts are missing.
    pub changes: Option<Vec<f64>>,
}

/// The choices of several methods, and what they led to.
pub struct Effects {
    /// The trainings; the first one leaves nothing out.
    pub retrained: Retrained,
    /// The methods, in the order that they were given.
    pub methods: Vec<Effect>,
    /// The queries whose losses are compared, by their places.
    pub measured: Vec<usize>,
}

impl Choosing {
    /// The queries that scores are for, and those whose losses are compared.
    fn queries(self, count: usize) -> [Vec<usize>; 2] {
        match self {
            Self::MostHelpful(_) => [(0..count).collect(), (0..count).collect()],
            Self::AllBut(_) => [(0..count).step_by(2).collect(), (1..count).step_by(2).collect()],
        }
    }

    /// Refuses a choice of no row or of all, and too few queries.
    fn check(self, rows: usize, queries: usize) -> Result<(), RunError> {
        let count = match self {
            Self::MostHelpful(count) => count,
            Self::AllBut(keep) => {
                check_amount(Some(keep), rows)?;
                amount(keep, rows)
            }
        };
        if count == 0 || count >= rows {
            return Err(RunError::Amount { asked: count, rows: rows.saturating_sub(1) });
        }
        if self.queries(queries)[1].is_empty() {
            let (what, expected) = ("the number of queries", "at least 2: every other one is measured");
            return Err(RunError::Selection { what, expected, value: queries as f64 });
        }
        Ok(())
    }

    /// The rows that each training of a method leaves out, ascending.
    fn left_out(self, scores: &[Vec<f64>]) -> Vec<Vec<usize>> {
        let best = |row: &[f64]| {
            let mut order: Vec<usize> = (0..row.len()).collect();
            order.sort_by(|&a, &b| row[b].total_cmp(&row[a]).then(a.cmp(&b)));
            order
        };
        let ascending = |mut rows: Vec<usize>| {
            rows.sort_unstable();
            rows
        };
        match self {
            Self::MostHelpful(count) => {
                scores.iter().map(|row| ascending(best(row).into_iter().take(count).collect())).collect()
            }
            Self::AllBut(keep) => {
                let [of, _] = self.queries(scores.len());
                let rows = scores.first().map_or(0, Vec::len);
                let mean: Vec<f64> =
                    (0..rows).map(|row| of.iter().map(|&query| scores[query][row]).sum::<f64>()).collect();
                vec![ascending(best(&mean).split_off(amount(keep, rows)))]
            }
        }
    }
}

fn amount(of: Amount, rows: usize) -> usize {
    match of {
        Amount::Count(count) => count,
        Amount::Share(share) => (share * rows as f64).round() as usize,
    }
}

impl Run {
    /// Scores all rows for each query by several methods, lets each choose rows, and trains again without them: all of
    /// `retraining` but its `removals` is used. Trainings of all methods have the same seeds, so that those of equal
    /// rows are one.
    ///
    /// # Errors
    ///
    /// As [`Run::scores_by`] and [`Run::retrain`]; [`RunError::Amount`] if no row would be left, or none left out;
    /// [`RunError::Selection`] for fewer than two queries where some are scored for and others measured.
    pub fn effects(
        &self,
        methods: &[NamedMethod],
        choosing: Choosing,
        retraining: &Retraining,
        device: &Device,
        observe: &mut dyn FnMut(Event),
    ) -> Result<Effects, RunError> {
        // Before hours of scores.
        let kind = self.files()?.kind();
        let rows_of = |set, path: &Path| {
            let rows = kind.texts(set, path, &self.read).map_err(RunError::of_rows(set, path))?;
            Ok::<_, RunError>(rows.rows.len())
        };
        choosing.check(rows_of(Set::Train, &self.train)?, rows_of(Set::Query, &self.query)?)?;
        let runs = self.scores_by(methods, retraining.draw, Some(&retraining.bank), device, observe)?;
        let found = runs.iter().find_map(|run| run.scores.as_ref().ok());
        let (queries, rows) = found.map_or((0, 0), |scores| (scores.len(), scores.first().map_or(0, Vec::len)));
        let [_, measured] = choosing.queries(queries);
        if found.is_some() {
            // Bad rows may have been skipped since.
            choosing.check(rows, queries)?;
        }
        let mut removed = vec![Vec::new()];
        let places: Vec<Option<usize>> = runs
            .iter()
            .map(|run| {
                let scores = run.scores.as_ref().ok()?;
                let first = removed.len();
                removed.extend(choosing.left_out(scores));
                Some(first)
            })
            .collect();
        let retraining = Retraining { removals: Removals::Given(removed), ..retraining.clone() };
        let retrained = self.retrain(&retraining, device, observe)?;
        let losses = retrained.complete();
        let change = |first: usize, at: usize, query: usize| {
            let losses = losses.as_ref()?;
            let place = match choosing {
                Choosing::MostHelpful(_) => first + at,
                Choosing::AllBut(_) => first,
            };
            let pairs = losses[place].iter().zip(&losses[0]);
            let changes: Vec<f64> = pairs.map(|(after, before)| after[query] - before[query]).collect();
            Some(changes.iter().sum::<f64>() / changes.len() as f64)
        };
        let of = |first: usize| measured.iter().enumerate().map(|(at, &query)| change(first, at, query)).collect();
        let methods = runs.into_iter().zip(places).map(|(run, first)| Effect { run, changes: first.and_then(of) });
        Ok(Effects { methods: methods.collect(), measured, retrained })
    }
}
