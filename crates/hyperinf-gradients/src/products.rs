//! Products with the Hessian and the Gauss-Newton matrix of a model, from first derivatives at displaced parameters.

use std::collections::BTreeMap;

use burn::tensor::{DType, Tensor};
use hyperinf_linalg::{dots_precise, epsilon, host, precise};

use crate::estimate::Rows;
use crate::{Block, Capture, GradientError, Gradients, Tape, Task, same_layout};

/// How far parameters are displaced for a central difference.
///
/// | field | default | purpose | range |
/// |---|---|---|---|
/// | `length` | `ε^(1/3) · max(1, ‖θ‖)` | the norm of the displacement over all blocks | finite, > 0 |
/// | `measured` | true | whether the first product is taken twice, for [`Products::error`] | |
///
/// The error of a product falls with the square of the length, and grows with `ε` over the length: the default balances
/// both, at some 1e-10 of the product in f64 and 1e-4 in f32. [`Products::error`] says what it is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Difference {
    /// The norm of the displacement; `None` for the default.
    pub length: Option<f64>,
    /// Whether the error is measured.
    pub measured: bool,
}

impl Default for Difference {
    fn default() -> Self {
        Self { length: None, measured: true }
    }
}

/// Products of a matrix with directions, and how far they can be trusted.
#[derive(Clone, Debug)]
pub struct Products {
    /// Row `k` is the product with direction `k`, in the layout and type of the directions.
    pub rows: Gradients,
    /// `⟨c, H c⟩ / ⟨c, c⟩` of each direction `c`; 0 for a direction of zeros. Negative values are those of an indefinite
    /// matrix, or of rounding.
    pub rayleigh: Vec<f64>,
    /// How far the first product moves when its displacement is twice as long, relative to its norm: about three times
    /// the error of the difference itself, or as large as that of rounding; `None` where it is not measured.
    pub error: Option<f64>,
    /// The largest `|⟨u, H v⟩ − ⟨v, H u⟩|` of two directions, relative to the largest product of two; `None` for one
    /// direction. Both matrices are symmetric.
    pub asymmetry: Option<f64>,
    /// The norm of the displacement.
    pub length: f64,
}

/// Products with the Hessian of the mean loss of all samples, `H c ≈ (∇L(θ + h c) − ∇L(θ − h c)) / 2h`, over the blocks
/// that the tape records, jointly.
///
/// `directions` has one row per direction and the blocks of the task's tape. Each takes two forward and backward passes
/// over the batches, the first one four if the error is measured. Batches are taken one after the other. A product is
/// exact up to [`Products::error`] where the loss is twice differentiable: kinks (ReLU) that a displacement crosses count
/// as curvature.
///
/// # Errors
///
/// As [`capture`](crate::capture); if the blocks are not those of the directions, there are no batches or directions,
/// the length is not positive, or a product is not finite.
pub fn hessian_products<'a, T: Task>(
    task: &T,
    batches: impl IntoIterator<Item = &'a T::Batch>,
    directions: &Gradients,
    difference: Difference,
) -> Result<Products, GradientError>
where
    T::Batch: 'a,
{
    let mut batches = batches.into_iter().peekable();
    let first = *batches.peek().ok_or(GradientError::Empty { what: "batches" })?;
    let all = Displacements::new(task, first, directions, difference)?;
    let product = |batch: &T::Batch, step: &Step<'_>| {
        let at = |sign| {
            let mut tape = step.tape(sign);
            let losses = task.loss(task.forward(batch, &mut tape), batch);
            let [n] = losses.dims();
            Ok::<_, GradientError>((step.sums(tape.finish(losses.sum(), n)?)?, n))
        };
        let ((ahead, n), (behind, _)) = (at(1.0)?, at(-1.0)?);
        let slope = |(ahead, behind)| (precise::<3>(ahead) - precise(behind)).div_scalar(2.0 * step.length);
        Ok((ahead.into_iter().zip(behind).map(slope).collect(), n))
    };
    let mut total = BatchSums::default();
    for batch in batches {
        total.add(all.of_batch(batch, product)?);
    }
    all.finish(total)
}

/// Products with the generalised Gauss-Newton matrix of all samples, `(1/n) Σ_rows w Jᵀ H J`, over the blocks that the
/// tape records, jointly: the exact matrix of [`Estimate::GaussNewton`](crate::Estimate::GaussNewton).
///
/// `z = J c ≈ (f(θ + h c) − f(θ − h c)) / 2h` at the outputs, `H z` in closed form, and one pass back. Each direction takes
/// three forward passes and one backward pass over the batches, the first one twice as many if the error is measured. The
/// matrix is positive semi-definite, up to [`Products::error`].
///
/// # Errors
///
/// As [`hessian_products`], or if the task has no likelihood or it does not fit the outputs.
pub fn gauss_newton_products<'a, T: Task>(
    task: &T,
    batches: impl IntoIterator<Item = &'a T::Batch>,
    directions: &Gradients,
    difference: Difference,
) -> Result<Products, GradientError>
where
    T::Batch: 'a,
{
    let mut batches = batches.into_iter().peekable();
    let first = *batches.peek().ok_or(GradientError::Empty { what: "batches" })?;
    let all = GaussNewton::new(task, first, directions, difference)?;
    let mut total = BatchSums::default();
    for batch in batches {
        total.add(all.of_batch(task, batch)?);
    }
    all.finish(total)
}

/// [`gauss_newton_products`] batch by batch, for sums that are not computed in one place.
///
/// The sums of all batches, added in one order, give the bits of that function.
pub struct GaussNewton<'a>(Displacements<'a>);

/// What a batch gives to each product: `n_batch` times the product with the batch's matrix, for directions of length 1.
#[derive(Clone, Debug, Default)]
pub struct BatchSums {
    /// One for each displacement, each with the sums of all blocks, `[1, rows, cols]`.
    pub displacements: Vec<Vec<Tensor<3>>>,
    /// The samples of the batch.
    pub samples: usize,
}

impl BatchSums {
    /// Adds a further batch.
    ///
    /// # Panics
    ///
    /// If the blocks have other sides.
    pub fn add(&mut self, next: Self) {
        self.samples += next.samples;
        if self.displacements.is_empty() {
            self.displacements = next.displacements;
            return;
        }
        for (sums, next) in self.displacements.iter_mut().zip(next.displacements) {
            sums.iter_mut().zip(next).for_each(|(sum, next)| *sum = sum.clone() + next);
        }
    }
}

impl<'a> GaussNewton<'a> {
    /// The displacements, whose length follows from the task's parameters; `first` is any batch.
    ///
    /// # Errors
    ///
    /// As [`gauss_newton_products`].
    pub fn new<T: Task>(
        task: &T,
        first: &T::Batch,
        directions: &'a Gradients,
        difference: Difference,
    ) -> Result<Self, GradientError> {
        Displacements::new(task, first, directions, difference).map(Self)
    }

    /// What a batch gives.
    ///
    /// # Errors
    ///
    /// As [`gauss_newton_products`].
    pub fn of_batch<T: Task>(&self, task: &T, batch: &T::Batch) -> Result<BatchSums, GradientError> {
        self.0.of_batch(batch, |batch, step| {
            let likelihood = task.likelihood(batch).ok_or(GradientError::NoLikelihood)?;
            let at = |sign| precise(task.forward(batch, &mut step.tape(sign)).without_autodiff());
            let slope = (at(1.0) - at(-1.0)).div_scalar(2.0 * step.length);
            let mut tape = Tape::recording();
            let outputs = task.forward(batch, &mut tape);
            let rows = Rows::new(&likelihood, outputs.clone().without_autodiff())?;
            let sent = rows.hessian_times(slope.cast(outputs.dtype()));
            let n = rows.samples;
            let captures = tape.finish((outputs * sent).sum(), n)?;
            Ok((step.sums(captures)?.into_iter().map(precise).collect(), n))
        })
    }

    /// The sides of the sums of a batch: for each displacement those of all blocks.
    pub fn sides(&self) -> Vec<Vec<[usize; 3]>> {
        let blocks: Vec<[usize; 3]> =
            self.0.directions.layout.iter().map(|block| [1, block.rows, block.cols]).collect();
        vec![blocks; self.0.steps.len()]
    }

    /// The products, from the sums of all batches.
    ///
    /// # Errors
    ///
    /// As [`gauss_newton_products`].
    pub fn finish(self, total: BatchSums) -> Result<Products, GradientError> {
        self.0.finish(total)
    }
}

/// A displacement along a direction of length 1.
struct Step<'a> {
    layout: &'a [Block],
    unit: Vec<Tensor<2>>,
    length: f64,
}

impl Step<'_> {
    fn tape(&self, sign: f64) -> Tape {
        let by = self.layout.iter().zip(&self.unit);
        Tape::moving(by.map(|(b, unit)| (b.name.clone(), unit.clone().mul_scalar(sign * self.length))).collect())
    }

    /// The sum over samples of each block, `[1, rows, cols]`.
    fn sums(&self, captures: Vec<Capture>) -> Result<Vec<Tensor<3>>, GradientError> {
        let found: Vec<Block> = captures.iter().map(|capture| capture.block.clone()).collect();
        same_layout(self.layout, &found)?;
        Ok(captures.iter().map(Capture::sum).collect())
    }
}

/// All displacements of some products: of every direction that is not zero, and perhaps the first one again, twice as far.
struct Displacements<'a> {
    directions: &'a Gradients,
    norms: Vec<f64>,
    length: f64,
    measured: bool,
    steps: Vec<(usize, Step<'a>)>,
}

impl<'a> Displacements<'a> {
    fn new<T: Task>(
        task: &T,
        first: &T::Batch,
        directions: &'a Gradients,
        difference: Difference,
    ) -> Result<Self, GradientError> {
        if directions.samples() == 0 {
            return Err(GradientError::Empty { what: "directions" });
        }
        let mut tape = Tape::measuring();
        // For the tape alone.
        let _outputs = task.forward(first, &mut tape);
        let (blocks, squares) = tape.measured()?;
        same_layout(&blocks, &directions.layout)?;
        let mut size = 0.0;
        for sum in squares {
            size += host(sum)?.iter().sum::<f64>();
        }
        let dtype = directions.blocks.first().map_or(DType::F32, |block| block.dtype());
        let length = difference.length.unwrap_or(epsilon(dtype).cbrt() * size.sqrt().max(1.0));
        if !(length.is_finite() && length > 0.0) {
            return Err(GradientError::Length { length });
        }
        let norms: Vec<f64> = directions.squared_norms()?.into_iter().map(f64::sqrt).collect();
        let unit = |b: &Tensor<3>, row: usize| b.clone().narrow(0, row, 1).squeeze_dim::<2>(0) / norms[row];
        let step = |row: usize, length| Step {
            layout: &directions.layout,
            unit: directions.blocks.iter().map(|b| unit(b, row)).collect(),
            length,
        };
        let probe = norms.iter().position(|norm| *norm > 0.0).filter(|_| difference.measured);
        let moved = (0..norms.len()).map(|row| (row, length)).chain(probe.map(|row| (row, 2.0 * length)));
        let steps = moved.filter(|(row, _)| norms[*row] > 0.0).map(|(row, length)| (row, step(row, length))).collect();
        Ok(Self { directions, norms, length, measured: difference.measured, steps })
    }

    /// `product` gives the sum over a batch's samples of the matrix times the step's direction, and their number.
    fn of_batch<B>(
        &self,
        batch: &B,
        product: impl Fn(&B, &Step<'_>) -> Result<(Vec<Tensor<3>>, usize), GradientError>,
    ) -> Result<BatchSums, GradientError> {
        let mut found = BatchSums::default();
        for (_, step) in &self.steps {
            let (sums, samples) = product(batch, step)?;
            found.displacements.push(sums);
            found.samples = samples;
        }
        Ok(found)
    }

    fn finish(self, total: BatchSums) -> Result<Products, GradientError> {
        let Self { directions, norms, length, measured, steps } = self;
        let mut found: BTreeMap<usize, Vec<Vec<Tensor<3>>>> = BTreeMap::new();
        for ((row, _), sum) in steps.iter().zip(total.displacements) {
            let scale = norms[*row] / total.samples.max(1) as f64;
            let sum = sum.into_iter().map(|block| block.mul_scalar(scale)).collect();
            found.entry(*row).or_default().push(sum);
        }
        checked(found, directions, &norms, length, measured)
    }
}

/// The products of each row, once or twice, with the figures that say how far they can be trusted.
fn checked(
    mut found: BTreeMap<usize, Vec<Vec<Tensor<3>>>>,
    directions: &Gradients,
    norms: &[f64],
    length: f64,
    measured: bool,
) -> Result<Products, GradientError> {
    let twice = found.iter_mut().find(|(_, products)| products.len() > 1);
    let again = twice.and_then(|(&row, products)| Some((row, products.pop()?)));
    let mut blocks = Vec::with_capacity(directions.blocks.len());
    for (place, (block, like)) in directions.layout.iter().zip(&directions.blocks).enumerate() {
        let zeros = || Tensor::<3>::zeros([1, block.rows, block.cols], (&like.device(), like.dtype()));
        let row = |row: usize| found.get(&row).and_then(|once| once.first()).map(|once| once[place].clone());
        let rows: Vec<Tensor<3>> = (0..norms.len()).map(|k| row(k).unwrap_or_else(|| precise(zeros()))).collect();
        blocks.push(Tensor::cat(rows, 0));
    }
    for (block, rows) in directions.layout.iter().zip(&blocks) {
        let sums = host(rows.clone().flatten::<2>(1, 2).sum_dim(1))?;
        if let Some(direction) = sums.iter().position(|sum| !sum.is_finite()) {
            let (block, value) = (block.name.clone(), sums[direction]);
            return Err(GradientError::Product { direction, block, value, step: length });
        }
    }
    let flat = |rows: &Tensor<3>| rows.clone().flatten::<2>(1, 2);
    let mut products = vec![0.0; norms.len() * norms.len()];
    let (mut change, mut size) = (0.0, 0.0);
    for (place, rows) in blocks.iter().enumerate() {
        let of_block = host(dots_precise(precise(flat(&directions.blocks[place])), flat(rows)))?;
        products.iter_mut().zip(of_block).for_each(|(sum, value)| *sum += value);
        if let Some((row, again)) = &again {
            let first = rows.clone().narrow(0, *row, 1);
            size += host(first.clone().square().sum())?.iter().sum::<f64>();
            change += host((again[place].clone() - first).square().sum())?.iter().sum::<f64>();
        }
    }
    let q = norms.len();
    let largest = products.iter().fold(0.0_f64, |most, value| most.max(value.abs()));
    let pairs = (0..q).flat_map(|a| (0..a).map(move |b| (a, b)));
    let apart = pairs.map(|(a, b)| (products[a * q + b] - products[b * q + a]).abs()).fold(0.0, f64::max);
    let ratio = |value: f64, of: f64| if of > 0.0 { value / of } else { 0.0 };
    let rayleigh = (0..q).map(|k| ratio(products[k * q + k], norms[k] * norms[k])).collect();
    let rows = blocks.into_iter().zip(&directions.blocks).map(|(rows, like)| rows.cast(like.dtype())).collect();
    Ok(Products {
        rows: Gradients::new(directions.layout.clone(), rows)?,
        rayleigh,
        error: measured.then(|| ratio(change.sqrt(), size.sqrt())),
        asymmetry: (q > 1).then(|| ratio(apart, largest)),
        length,
    })
}
