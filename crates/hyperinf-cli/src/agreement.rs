//! The flag `--top-k`.

use hyperinf::eval::default_top;

use crate::error::{CliError, Usage};

/// The number of most helpful samples to compare.
pub(crate) fn top_k(asked: Option<usize>, samples: usize) -> Result<usize, CliError> {
    match asked {
        None => Ok(default_top(samples)),
        Some(asked) if (1..=samples).contains(&asked) => Ok(asked),
        Some(asked) => Err(Usage::Amount { flag: "--top-k", asked, rows: samples }.into()),
    }
}
