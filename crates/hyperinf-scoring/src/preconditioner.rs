use hyperinf_curvature::BlockCurvature;
use hyperinf_linalg::host;

use crate::passes::queries;
use crate::precondition::{BlockInverse, invert};
use crate::{BlockReport, CurvatureFrom, Options, ScoreError, Source};

/// The inverse of each block, prepared once for many queries: `x = v (H + λI)⁻¹`, whose inner product with a training
/// gradient is the score.
pub struct Preconditioner {
    options: Options,
    /// Until the first queries.
    curvature: Vec<BlockCurvature>,
    inverses: Vec<BlockInverse>,
}

/// Queries after the inverse.
#[derive(Clone, Debug, Default)]
pub struct PreconditionedQueries {
    /// `[q, D]`: the blocks one after the other.
    pub rows: Vec<Vec<f64>>,
    /// One report per block that was inverted.
    pub blocks: Vec<BlockReport>,
}

impl Preconditioner {
    /// From the curvature of the training gradients, one per block, as [`curvature`](crate::curvature) gives it; not from
    /// one that holds samples. A method without curvature takes none.
    ///
    /// # Errors
    ///
    /// If the damping is not positive and finite.
    pub fn new(curvature: Vec<BlockCurvature>, options: &Options) -> Result<Self, ScoreError> {
        options.damping.validate()?;
        Ok(Self { options: options.clone(), curvature, inverses: Vec::new() })
    }

    /// The queries of a source, or their mean, after the inverse. The first call prepares the inverses.
    ///
    /// # Errors
    ///
    /// If there are no queries, a gradient is not finite, the blocks are not those of the curvature, or a block cannot be
    /// inverted.
    pub fn apply(&mut self, query: &dyn Source) -> Result<PreconditionedQueries, ScoreError> {
        let options = &self.options;
        let queries = queries(query, options)?;
        if self.inverses.is_empty() {
            let known = CurvatureFrom::KnownTraining(std::mem::take(&mut self.curvature));
            let all = invert(query, known, Some(&queries), options, options.damping)?;
            self.inverses = all.collect::<Result<_, _>>()?;
        }
        let mut found = PreconditionedQueries { rows: vec![Vec::new(); queries.samples()], blocks: Vec::new() };
        for (inverted, v) in self.inverses.iter_mut().zip(&queries.blocks) {
            // The report is that of these queries.
            if let Some(report) = &mut inverted.report {
                (report.iterations, report.residual) = (0, 0.0);
            }
            let x = inverted.queries(v.clone().flatten(1, 2))?.0.restored();
            let [_, d] = x.dims();
            let values = host(x)?;
            found.rows.iter_mut().zip(values.chunks(d)).for_each(|(row, values)| row.extend_from_slice(values));
            found.blocks.extend(inverted.report.clone());
        }
        Ok(found)
    }
}
