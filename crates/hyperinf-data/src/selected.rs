use std::collections::BTreeSet;
use std::path::Path;

use hyperinf_scoring::Amount;
use hyperinf_store::{Column, Staged, Table, stage_csv};

use crate::RunError;
use crate::influence::{Influence, Selection};

impl Selection {
    /// Stages all training rows as CSV, the most helpful first (by magnitude the most
    /// influential): rank, id, whether the row is selected, score, training
    /// loss, label and text.
    ///
    /// # Errors
    ///
    /// If the file cannot be written.
    pub fn stage_table<'a>(&self, path: &'a Path) -> Result<Staged<'a>, RunError> {
        let Influence { train, attribution, labels, .. } = &self.influence;
        let (scores, ids) = (&attribution.scores.rows[0], train.ids());
        let order = self.influence.rank_by.ranking(scores);
        let selected: BTreeSet<usize> = self.selected.iter().copied().collect();
        let real = |values: &[f64]| Column::Real(order.iter().map(|&sample| values[sample] as f32).collect());
        let mut columns = vec![
            ("rank", Column::Whole((1..=order.len() as i64).collect())),
            ("id", ids.column(order.iter().copied())),
            ("selected", Column::Truth(order.iter().map(|sample| selected.contains(sample)).collect())),
            ("score", real(scores)),
            ("training_loss", real(&train.losses())),
        ];
        if labels.is_some() {
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
