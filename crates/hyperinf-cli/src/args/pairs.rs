use clap::Args;
use clap::builder::PossibleValuesParser;
use hyperinf::data::ReadOptions;
use hyperinf::models::PairLoss;

use super::ColumnArgs;
use crate::error::{CliError, Usage};

/// Rows that are pairs of answers.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct PairArgs {
    /// Rows are pairs of answers, with prompt, chosen and rejected, and this is their loss: dpo against the model
    /// without its adapter, or that of a reward head.
    #[arg(long, value_name = "LOSS", value_parser = PossibleValuesParser::new(["dpo", "reward"]), help_heading = "Pairs")]
    pub pairs: Option<String>,
    /// β of dpo: the larger, the less the model may move from its base [default: 0.1].
    #[arg(long, value_name = "BETA", requires = "pairs", allow_hyphen_values = true, help_heading = "Pairs")]
    pub beta: Option<f64>,
    /// The column of chosen answers, texts or lists of messages [default: chosen].
    #[arg(long, value_name = "COLUMN", requires = "pairs", help_heading = "Pairs")]
    pub chosen_column: Option<String>,
    /// The column of rejected answers [default: rejected].
    #[arg(long, value_name = "COLUMN", requires = "pairs", help_heading = "Pairs")]
    pub rejected_column: Option<String>,
}

/// The usual β.
const BETA: f64 = 0.1;

impl PairArgs {
    /// The loss of pairs, if rows are pairs.
    pub(crate) fn loss(&self) -> Result<Option<PairLoss>, CliError> {
        match (self.pairs.as_deref(), self.beta) {
            (None, _) => Ok(None),
            (Some("dpo"), beta) => Ok(Some(PairLoss::Dpo { beta: beta.unwrap_or(BETA) })),
            (Some(_), None) => Ok(Some(PairLoss::Reward)),
            (Some(_), Some(_)) => {
                let (first, reason) = ("--pairs reward".into(), "a reward head has no reference to stay near to");
                Err(Usage::Combination { first, second: "--beta", reason }.into())
            }
        }
    }

    /// How rows are read.
    pub(crate) fn read(&self, columns: &ColumnArgs) -> ReadOptions {
        let mut read: ReadOptions = columns.into();
        (read.columns.chosen, read.columns.rejected) = (self.chosen_column.clone(), self.rejected_column.clone());
        read
    }
}
