use ciborium::{from_reader, into_writer};
use hyperinf_gradients::Block;
use hyperinf_solvers::{Plan, Work};
use serde::{Deserialize, Serialize};

use crate::part::Part;
use crate::{BlockReport, CurvatureFrom, Options, ScoreError, Scores, Source};

/// The scores of one block before those of all blocks are added: of this process for
/// [`Scorer::merge`](crate::Scorer::merge), of another one in pieces for [`Scorer::begin`](crate::Scorer::begin).
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

    /// One number for each training sample, such as its influence on itself, as the scores for one query.
    #[must_use]
    pub fn of_values(values: Vec<f64>) -> Self {
        Self(Part::of_scores(Scores { rows: vec![values] }))
    }

    /// The memory that the numbers take, in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        size_of::<f64>() * self.numbers().count()
    }

    /// What is sent first: what [`Scorer::begin`](crate::Scorer::begin) takes.
    ///
    /// # Panics
    ///
    /// If they are the scores of several blocks.
    #[must_use]
    pub fn head(&self) -> Vec<u8> {
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
        bytes
    }

    /// The numbers, with all digits, in pieces of at most `most` bytes (one number at least): what
    /// [`Scorer::take`](crate::Scorer::take) takes one after the other.
    pub fn pieces(&self, most: usize) -> impl Iterator<Item = Vec<u8>> + '_ {
        let (mut numbers, length) = (self.numbers(), (most / size_of::<f64>()).max(1));
        std::iter::from_fn(move || {
            let piece: Vec<u8> = numbers.by_ref().take(length).flat_map(f64::to_le_bytes).collect();
            (!piece.is_empty()).then_some(piece)
        })
    }

    /// Adds the scores of the training samples that follow, by the same queries and the same inverse. Each rank may score
    /// the batches of its own; they are appended in the order of one process.
    ///
    /// # Panics
    ///
    /// If the numbers of queries differ.
    pub fn append(&mut self, later: Self) {
        let (own, later) = (&mut self.0, later.0);
        assert_eq!(own.scores.queries(), later.scores.queries(), "scores of the same queries");
        own.scores.extend(&later.scores);
        own.divisors.train.extend(later.divisors.train);
        own.blocks.iter_mut().zip(later.blocks).for_each(|(own, later)| follow(own, later));
        for ((_, own), (_, later)) in own.block_scores.iter_mut().zip(&later.block_scores) {
            own.extend(later);
        }
        for ((_, own), (_, later)) in own.magnitudes.iter_mut().zip(later.magnitudes) {
            *own = (*own + later).min(f64::MAX);
        }
    }

    fn numbers(&self) -> impl Iterator<Item = f64> + '_ {
        let Part { scores, divisors, .. } = &self.0;
        scores.rows.iter().flatten().chain(&divisors.query).chain(&divisors.train).copied()
    }
}

/// The report of an inverse that was applied to more rows elsewhere, as divisors do that need the inverse.
fn follow(own: &mut BlockReport, later: BlockReport) {
    own.iterations = own.iterations.max(later.iterations);
    own.residual = own.residual.max(later.residual);
    own.tolerance = later.tolerance;
    // A second attempt that one row needs is part of the plan for all.
    if !matches!(own.plan.work, Some(Work::Matrix { second: Some(_), .. })) {
        own.plan = later.plan;
    }
}

/// The scores of a block that arrive in pieces: [`Scorer::take`](crate::Scorer::take) adds each to the sum, so that they
/// are never held besides it.
pub struct ArrivingScores {
    head: Head,
    block: Block,
    /// Numbers that have arrived.
    seen: usize,
    /// Whether they are the first block's, which are taken as they are.
    first: bool,
    /// If each block's scores are kept.
    kept: Option<Scores>,
}

impl ArrivingScores {
    /// From [`BlockScores::head`], for a sum of the blocks before.
    pub(crate) fn new(head: &[u8], block: &Block, total: &mut Option<Part>) -> Result<Self, String> {
        let head: Head = from_reader(head).map_err(|error| error.to_string())?;
        let Head { queries, samples, divisors: [of_queries, of_train], .. } = head;
        let all = queries.checked_mul(samples).and_then(|all| all.checked_add(of_queries)?.checked_add(of_train));
        if queries == 0 || samples == 0 || all.is_none() {
            return Err(format!("{samples} samples and {queries} queries have no scores"));
        }
        if ![0, queries].contains(&of_queries) || ![0, samples].contains(&of_train) {
            return Err(format!(
                "{of_queries} and {of_train} divisors are not those of {queries} queries and {samples} samples"
            ));
        }
        let first = total.is_none();
        let empty = || Scores { rows: vec![Vec::new(); queries] };
        let part = total.get_or_insert_with(|| Part::of_scores(empty()));
        if !first {
            let (found, expected) = ([queries, samples], [part.scores.queries(), part.scores.samples()]);
            if found != expected {
                return Err(format!("scores {found:?} do not fit those before, {expected:?}"));
            }
            let (found, expected) = (head.divisors, [part.divisors.query.len(), part.divisors.train.len()]);
            if found != expected {
                return Err(format!("{found:?} divisors do not fit those before, {expected:?}"));
            }
        }
        let kept = head.block_scores.then(empty);
        Ok(Self { head, block: block.clone(), seen: 0, first, kept })
    }

    /// Adds a piece; whether it was the last one.
    pub(crate) fn take(&mut self, piece: &[u8], total: &mut Part) -> Result<bool, String> {
        let Head { queries, samples, divisors: [of_queries, of_train], .. } = self.head;
        let (scores, all) = (queries * samples, queries * samples + of_queries + of_train);
        let (mut numbers, rest) = piece.as_chunks::<8>();
        if !rest.is_empty() || numbers.is_empty() || numbers.len() > all - self.seen {
            return Err(format!("{} bytes are no part of {} numbers", piece.len(), all - self.seen));
        }
        while !numbers.is_empty() {
            let at = self.seen;
            // The numbers up to the end of a row.
            let (place, begin, end) = match at {
                _ if at < scores => (Some(at / samples), at / samples * samples, (at / samples + 1) * samples),
                _ if at < scores + of_queries => (None, scores, scores + of_queries),
                _ => (None, scores + of_queries, all),
            };
            let (now, later) = numbers.split_at(numbers.len().min(end - at));
            let values = now.iter().map(|bytes| f64::from_le_bytes(*bytes));
            let sums = match place {
                Some(query) => &mut total.scores.rows[query],
                None if begin == scores && at < scores + of_queries => &mut total.divisors.query,
                None => &mut total.divisors.train,
            };
            if self.first {
                sums.extend(values.clone());
            } else {
                sums[at - begin..].iter_mut().zip(values.clone()).for_each(|(sum, more)| *sum += more);
            }
            if let (Some(kept), Some(query)) = (&mut self.kept, place) {
                kept.rows[query].extend(values);
            }
            (self.seen, numbers) = (at + now.len(), later);
        }
        if self.seen < all {
            return Ok(false);
        }
        total.blocks.extend(self.head.report.take().map(|report| {
            let Report { lambda, mean_square, plan, iterations, residual, tolerance, rounding } = report;
            let block = self.block.clone();
            BlockReport { block, lambda, mean_square, plan, iterations, residual, tolerance, rounding }
        }));
        total.block_scores.extend(self.kept.take().map(|scores| (self.block.clone(), scores)));
        total.magnitudes.extend(self.head.magnitude.map(|magnitude| (self.block.clone(), magnitude)));
        Ok(true)
    }
}
