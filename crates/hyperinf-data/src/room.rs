//! Whether batches have room in memory, by what a few of the longest rows take.

use burn::tensor::Device;
use hyperinf_linalg::reserve_for_products;
use hyperinf_store::{available, peak_resident, reset_peak, resident};

use crate::RunError;
use crate::plan::Shortage;

/// How memory grows with the rows of a batch, in bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Growth {
    /// The most with one of the longest rows.
    one: f64,
    /// Of each further row.
    row: f64,
    /// What the process may hold in all.
    limit: f64,
}

impl Growth {
    /// Computes a batch of one row and one of two, for batches of `rows`. `None` where memory is not counted or is that of
    /// a graphics card, and for batches of one row.
    ///
    /// Memory that was freed earlier is used first, so the true growth may be larger. It may also be smaller, since some
    /// memory is taken once and not for each row: batches that seem to have no room are tried with twice as many rows as
    /// long as these seem to fit.
    pub(crate) fn of(
        device: &Device,
        rows: usize,
        batch: &mut dyn FnMut(usize) -> Result<(), RunError>,
    ) -> Result<Option<Self>, RunError> {
        if device.memory_pool_usage().is_some() || rows < 2 || resident().and(available()).is_none() {
            return Ok(None);
        }
        reset_peak();
        batch(1)?;
        let one = peak_resident();
        reserve_for_products();
        let (Some(held), Some(free)) = (resident(), available()) else { return Ok(None) };
        batch(2)?;
        let (Some(one), Some(two)) = (one, peak_resident()) else { return Ok(None) };
        let mut growth = Self { one, row: (two - one).max(0.0), limit: held + free };
        let mut tried = 2;
        while growth.needed(rows) > growth.limit {
            let next = (2 * tried).min(rows);
            if next == tried || growth.needed(next) > growth.limit {
                break;
            }
            batch(next)?;
            tried = next;
            let Some(most) = peak_resident() else { return Ok(None) };
            growth.row = (most - one).max(0.0) / (tried - 1) as f64;
        }
        Ok(Some(growth))
    }

    /// The most that a batch of the longest rows will hold.
    pub(crate) fn needed(&self, rows: usize) -> f64 {
        self.one + self.row * rows.saturating_sub(1) as f64
    }

    /// The rows of a batch that fits, at most so many; at least one.
    pub(crate) fn fitting(&self, rows: usize) -> usize {
        if self.needed(rows) <= self.limit {
            return rows;
        }
        let further = (self.limit - self.one) / self.row;
        (1.0 + further.max(0.0)).min(rows as f64) as usize
    }

    /// What is missing for batches of so many rows. Where even one row fills the memory, nothing is known of batches.
    pub(crate) fn shortage(&self, rows: usize) -> Option<Shortage> {
        let (needed, available) = (self.needed(rows), self.limit);
        (self.row > 0.0 && needed > available).then_some(Shortage::Batches { rows, needed, available })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_grow_and_fit() {
        let growth = Growth { one: 100.0, row: 10.0, limit: 150.0 };
        assert_eq!((growth.needed(1), growth.needed(6)), (100.0, 150.0));
        assert_eq!([1, 6, 7, 100].map(|rows| growth.fitting(rows)), [1, 6, 6, 6]);
        assert!(growth.shortage(6).is_none());
        assert_eq!(growth.shortage(7), Some(Shortage::Batches { rows: 7, needed: 160.0, available: 150.0 }));
        let full = Growth { limit: 50.0, ..growth };
        assert_eq!(full.fitting(4), 1);
    }
}
