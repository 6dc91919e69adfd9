//! Training as a few segments, in each of which the curvature stays as it is.

use burn::tensor::Tensor;
use hyperinf_curvature::{BlockCurvature, Core, Curvature};
use hyperinf_gradients::{Gradients, same_layout};
use hyperinf_linalg::{host, precise, tensor_from_host};

use crate::{ScoreError, Set};

/// A part of a training whose steps are followed as a gradient flow in a metric with a constant curvature.
///
/// | field | purpose | range |
/// |---|---|---|
/// | `duration` | the sum of the learning rates of its steps, `c` | finite, > 0 |
/// | `decay` | the decoupled weight decay, `ω` | finite, ≥ 0 |
/// | `metric` | what a step divides gradients by, entry by entry: AdamW's `√v̂ + ε`; `None` for 1 | one row, > 0 |
/// | `curvature` | that of the gradients divided by `√metric`, one per block; none for 0 | eigenvectors are known |
#[derive(Clone)]
pub struct Segment {
    /// The sum of the learning rates.
    pub duration: f64,
    /// The weight decay.
    pub decay: f64,
    /// The metric `[1, rows, cols]` of each block.
    pub metric: Option<Gradients>,
    /// The curvature `H` of each block in the metric.
    pub curvature: Vec<BlockCurvature>,
}

/// What each segment's training gradients are multiplied with, for queries at the end of the training: `X` of every
/// segment, in their order (SOURCE, arXiv 2405.12186, eq. 12, with a metric).
///
/// From the last segment to the first, with `D` the metric, `v` the queries after the later segments, and functions of
/// `H` by its eigenvalues:
///
/// ```text
/// X = D^(−1/2) (1 − exp(−c (H + ω))) (H + ω)⁻¹ D^(−1/2) v
/// v ← D^(1/2) exp(−c (H + ω)) D^(−1/2) v
/// ```
///
/// Without curvature and decay it is `X = c D⁻¹ v`, and `v` stays. The score of a training sample is the sum over the
/// segments of `⟨X, g⟩`, with `g` the mean of its gradients in the segment; over the number of samples it is what the
/// queries' loss rises by without the sample. It needs structures with known eigenvectors: K-FAC, EK-FAC, two-sided,
/// diagonal, low-rank.
///
/// # Errors
///
/// [`ScoreError::Amount`] if a duration, decay or metric is out of range, [`ScoreError::NoEigenvalues`] for another
/// structure, or if blocks differ.
pub fn through_segments(queries: &Gradients, segments: &[Segment]) -> Result<Vec<Gradients>, ScoreError> {
    let flat = |rows: &Tensor<3>| precise(rows.clone().flatten::<2>(1, 2));
    let mut v: Vec<Tensor<2>> = queries.blocks.iter().map(flat).collect();
    let mut found = Vec::with_capacity(segments.len());
    for segment in segments.iter().rev() {
        let roots = segment.check(queries)?;
        let (mut x, mut later) = (Vec::with_capacity(v.len()), Vec::with_capacity(v.len()));
        for (block, rows) in v.into_iter().enumerate() {
            let root = roots.as_ref().map(|roots| &roots[block]);
            let over = |rows: Tensor<2>| root.map_or(rows.clone(), |root| rows / root.clone());
            let scaled = over(rows);
            let curvature = segment.curvature.get(block);
            let (passed, kept) = segment.flow(curvature, scaled)?;
            x.push(over(passed));
            later.push(root.map_or(kept.clone(), |root| kept * root.clone()));
        }
        let blocks = x.into_iter().zip(queries.layout.iter());
        let blocks = blocks.map(|(rows, block)| {
            let [q, _] = rows.dims();
            rows.reshape([q, block.rows, block.cols])
        });
        found.push(Gradients { layout: queries.layout.clone(), blocks: blocks.collect() });
        v = later;
    }
    found.reverse();
    Ok(found)
}

impl Segment {
    /// The roots of the metric, `[1, D]` of each block.
    fn check(&self, queries: &Gradients) -> Result<Option<Vec<Tensor<2>>>, ScoreError> {
        let refused = |what, expected: &str, value| Err(ScoreError::Amount { what, expected: expected.into(), value });
        if !(self.duration > 0.0 && self.duration.is_finite()) {
            return refused("the duration of a segment", "positive and finite", self.duration);
        }
        if !(self.decay >= 0.0 && self.decay.is_finite()) {
            return refused("the decay of a segment", "finite and not negative", self.decay);
        }
        if !self.curvature.is_empty() {
            let layout: Vec<_> = self.curvature.iter().map(|found| found.block.clone()).collect();
            same_layout(&queries.layout, &layout).map_err(ScoreError::gradients(Set::Curvature))?;
        }
        let Some(metric) = &self.metric else { return Ok(None) };
        queries.same_layout(metric).map_err(ScoreError::gradients(Set::Curvature))?;
        let mut roots = Vec::with_capacity(metric.blocks.len());
        for block in &metric.blocks {
            let least = host(block.clone().min())?.first().copied().unwrap_or(1.0);
            if metric.samples() != 1 || !(least > 0.0 && least.is_finite()) {
                return refused("the metric of a segment", "one row of positive numbers", least);
            }
            roots.push(precise(block.clone().flatten::<2>(1, 2)).sqrt());
        }
        Ok(Some(roots))
    }

    /// `(1 − exp(−c (H + ω))) (H + ω)⁻¹ v` and `exp(−c (H + ω)) v`.
    fn flow(&self, h: Option<&BlockCurvature>, v: Tensor<2>) -> Result<(Tensor<2>, Tensor<2>), ScoreError> {
        let (c, decay) = (self.duration, self.decay);
        let passed = |mu: f64| {
            let rate = mu.max(0.0) + decay;
            // 1 − e⁻ᶻ over z, where both are small.
            if c * rate < 1e-12 { c } else { -(-c * rate).exp_m1() / rate }
        };
        let kept = |mu: f64| (-c * (mu.max(0.0) + decay)).exp();
        let Some(BlockCurvature { block, curvature, .. }) = h else {
            return Ok((v.clone().mul_scalar(passed(0.0)), v.mul_scalar(kept(0.0))));
        };
        let curvature = curvature.precise();
        let Core::Eigenvalues { values, complete } = curvature.core() else {
            return Err(ScoreError::NoEigenvalues { block: block.name.clone() });
        };
        Ok((of(&curvature, &values, complete, &v, passed)?, of(&curvature, &values, complete, &v, kept)?))
    }
}

/// `f(H) v`.
fn of(
    h: &Curvature,
    values: &Tensor<2>,
    complete: bool,
    v: &Tensor<2>,
    f: impl Fn(f64) -> f64,
) -> Result<Tensor<2>, ScoreError> {
    // Outside of the eigenvectors the curvature is 0.
    let outside = if complete { 0.0 } else { f(0.0) };
    let (dims, device, dtype) = (values.dims(), values.device(), values.dtype());
    let values = host(values.clone())?.into_iter().map(|mu| f(mu) - outside).collect();
    let changed = h.with_core(tensor_from_host(values, dims, &device, dtype));
    Ok(changed.apply(v.clone()) + v.clone().mul_scalar(outside))
}
