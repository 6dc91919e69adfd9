use std::path::Path;

use hyperinf_scoring::{Amount, Picks};
use hyperinf_store::{Column, Staged, Table, stage_csv};

use crate::RunError;
use crate::influence::Selection;
use crate::ranking::Board;

impl Selection {
    /// Stages all training rows as CSV, the most helpful first (by magnitude the most
    /// influential): rank, id, whether the row is selected, score, training loss, label and text; of a diverse selection
    /// also the place in it and the gain, of several targets the score for each.
    ///
    /// # Errors
    ///
    /// If the file cannot be written.
    pub fn stage_table<'a>(&self, path: &'a Path) -> Result<Staged<'a>, RunError> {
        self.influence.board().stage_selection(&self.picks, &self.targets, path)
    }
}

impl Board<'_> {
    /// Stages all training rows as CSV, the highest score first, with those that were picked.
    pub(crate) fn stage_selection<'p>(
        &self,
        picks: &Picks,
        targets: &[Vec<f64>],
        path: &'p Path,
    ) -> Result<Staged<'p>, RunError> {
        let (train, scores, ids) = (self.train, &self.scores.rows[0], self.train.ids());
        let order = self.rank_by.ranking(scores);
        let mut places = vec![0; order.len()];
        picks.order.iter().enumerate().for_each(|(place, &sample)| places[sample] = place + 1);
        let real = |values: &[f64]| Column::Real(order.iter().map(|&sample| values[sample] as f32).collect());
        // Both are empty for rows that are not selected.
        let place = |&sample: &usize| match places[sample] {
            0 => Default::default(),
            place => (place.to_string(), (picks.gains[place - 1] as f32).to_string()),
        };
        let of_place: Vec<(String, String)> = order.iter().map(place).collect();
        let mut columns = vec![
            ("rank", Column::Whole((1..=order.len() as i64).collect())),
            ("id", ids.column(order.iter().copied())),
            ("selected", Column::Truth(order.iter().map(|sample| places[*sample] > 0).collect())),
            ("score", real(scores)),
            ("training_loss", real(&train.losses())),
        ];
        if picks.step.is_some() {
            columns.push(("place", Column::Text(of_place.iter().map(|(place, _)| place.as_str()).collect())));
            columns.push(("gain", Column::Text(of_place.iter().map(|(_, gain)| gain.as_str()).collect())));
        }
        let names: Vec<String> = (1..=targets.len()).map(|target| format!("score_{target}")).collect();
        columns.extend(names.iter().zip(targets).map(|(name, scores)| (name.as_str(), real(scores))));
        if self.labels.is_some() {
            let labels = order.iter().map(|&sample| train.content(sample).1.unwrap_or_default());
            columns.push(("label", Column::Text(labels.collect())));
        }
        columns.push(("text", Column::Text(order.iter().map(|&sample| train.content(sample).0).collect())));
        Ok(stage_csv(path, &Table::new(columns))?)
    }
}

/// Fails if the amount is no rows, or more than there are.
pub(crate) fn check_amount(amount: Option<Amount>, rows: usize) -> Result<(), RunError> {
    let asked = match amount {
        None => return Ok(()),
        Some(Amount::Count(count)) => count,
        Some(Amount::Share(share)) => (share * rows as f64).round() as usize,
    };
    if (1..=rows).contains(&asked) { Ok(()) } else { Err(RunError::Amount { asked, rows }) }
}
