use ciborium::{from_reader, into_writer};
use hyperinf_gradients::Block;
use hyperinf_solvers::Plan;
use serde::{Deserialize, Serialize};

use crate::part::{Divisors, Part};
use crate::{BlockReport, CurvatureFrom, Options, ScoreError, Scores, Source};

/// The scores of one block before those of all blocks are added, for another process or thread: see
/// [`Scorer::merge`](crate::Scorer::merge).
pub struct BlockScores(pub(crate) Part);

/// What is sent before the numbers.
#[derive(Serialize, Deserialize)]
struct Head {
    report: Option<Report>,
    queries: usize,
    samples: usize,
    divisors: [usize; 2],
    block_scores: bool,
    magnitude: Option<f64>,
}

/// A [`BlockReport`] without its block, which the receiver knows.
#[derive(Serialize, Deserialize)]
struct Report {
    lambda: Option<f64>,
    mean_square: f64,
    plan: Plan,
    iterations: usize,
    residual: f64,
    tolerance: Option<f64>,
    rounding: f64,
}

impl BlockScores {
    /// Scores one block, as [`Scorer::add`](crate::Scorer::add) does.
    ///
    /// # Errors
    ///
    /// As [`Scorer::add`](crate::Scorer::add).
    pub fn new(
        train: &dyn Source,
        query: &dyn Source,
        curvature: CurvatureFrom<'_>,
        options: &Options,
    ) -> Result<Self, ScoreError> {
        options.damping.validate()?;
        let parts = Part::at_each(&[options.damping], train, curvature, query, options)?;
        Ok(Self(parts.into_iter().next().expect("one damping has one part")))
    }

    /// As bytes, with all digits.
    ///
    /// # Panics
    ///
    /// If they are the scores of several blocks.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let Part { scores, blocks, block_scores, magnitudes, divisors } = &self.0;
        assert!(blocks.len() <= 1 && block_scores.len() <= 1, "the scores of one block");
        let report = blocks.first().cloned().map(|report| {
            let BlockReport { block: _, lambda, mean_square, plan, iterations, residual, tolerance, rounding } = report;
            Report { lambda, mean_square, plan, iterations, residual, tolerance, rounding }
        });
        let head = Head {
            report,
            queries: scores.queries(),
            samples: scores.samples(),
            divisors: [divisors.query.len(), divisors.train.len()],
            block_scores: !block_scores.is_empty(),
            magnitude: magnitudes.first().map(|(_, magnitude)| *magnitude),
        };
        let mut bytes = Vec::new();
        into_writer(&head, &mut bytes).expect("memory takes bytes");
        let numbers = scores.rows.iter().flatten().chain(&divisors.query).chain(&divisors.train);
        bytes.extend(numbers.flat_map(|number| number.to_le_bytes()));
        bytes
    }

    /// From [`BlockScores::to_bytes`]; `block` is the block.
    ///
    /// # Errors
    ///
    /// A text that says why they cannot be read.
    pub fn from_bytes(bytes: &[u8], block: &Block) -> Result<Self, String> {
        let mut rest = bytes;
        let head: Head = from_reader(&mut rest).map_err(|error| error.to_string())?;
        let [query, train] = head.divisors;
        let count = head.queries * head.samples + query + train;
        if rest.len() != count * size_of::<f64>() {
            return Err(format!("{} bytes follow, not those of {count} numbers", rest.len()));
        }
        let mut numbers = rest.as_chunks::<8>().0.iter().map(|bytes| f64::from_le_bytes(*bytes));
        let rows = (0..head.queries).map(|_| numbers.by_ref().take(head.samples).collect()).collect();
        let scores = Scores { rows };
        let divisors = Divisors { query: numbers.by_ref().take(query).collect(), train: numbers.collect() };
        let block_scores = head.block_scores.then(|| (block.clone(), scores.clone())).into_iter().collect();
        let report = head.report.map(|report| {
            let Report { lambda, mean_square, plan, iterations, residual, tolerance, rounding } = report;
            let block = block.clone();
            BlockReport { block, lambda, mean_square, plan, iterations, residual, tolerance, rounding }
        });
        let magnitudes = head.magnitude.map(|magnitude| (block.clone(), magnitude)).into_iter().collect();
        Ok(Self(Part { scores, blocks: report.into_iter().collect(), block_scores, magnitudes, divisors }))
    }
}
