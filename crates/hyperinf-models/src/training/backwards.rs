//! One step of a training after the other, backwards.

use std::collections::{BTreeMap, BTreeSet};

use burn::module::ParamId;
use burn::tensor::{DType, Tensor};
use hyperinf_gradients::hyperinf_linalg::{epsilon, host, precise};
use hyperinf_gradients::{Capture, GradientError, Target, capture};

use super::optimizer::{Adjoint, Flat, Moments, Stepped};
use super::pieces::{losses_of, seed_piece};
use super::train::{Advanced, Run};
use crate::arch::parameters::{Change, map_parameters, visit_parameters};
use crate::{ModelError, SampleModel};

/// The derivatives of a query's measure.
pub(super) type Adjoints = BTreeMap<String, Adjoint>;

/// A step of a replay: the state before it and what it did.
pub(super) struct Step {
    pub(super) rows: Vec<usize>,
    pub(super) parameters: Flat,
    pub(super) advanced: Advanced,
    /// What the optimizer kept after it.
    pub(super) moments: BTreeMap<String, Moments>,
    pub(super) seed: u64,
    pub(super) learning_rate: f64,
}

/// Steps of a run on these samples, and what is known of their errors.
pub(super) struct Backwards<'a, M: SampleModel> {
    run: &'a Run<'a>,
    train: &'a [M::Sample],
    length: Option<f64>,
    steps: usize,
    /// Squares of what the sums over samples miss, and of their magnitudes.
    missed: [f64; 2],
    /// The sum of squared relative changes of derivatives, and their number.
    changed: (f64, usize),
}

/// The steps whose differences are taken twice.
const PROBES: usize = 4;

struct Displaced {
    losses: Vec<f64>,
    gradients: Flat,
}

/// A direction of all trained parameters and its norm.
struct Direction {
    c: Flat,
    norm: f64,
}

impl<'a, M: SampleModel> Backwards<'a, M> {
    pub(super) fn new(run: &'a Run<'a>, train: &'a [M::Sample], length: Option<f64>, steps: usize) -> Self {
        Self { run, train, length, steps, missed: [0.0; 2], changed: (0.0, 0) }
    }

    /// [`Unrolled::error`](super::unroll::Unrolled::error).
    pub(super) fn error(&self) -> f64 {
        let ([missed, of], (changed, probes)) = (self.missed, self.changed);
        let sums = if of > 0.0 { missed / of } else { 0.0 };
        let differences = if probes > 0 { self.steps as f64 * changed / probes as f64 } else { 0.0 };
        (sums + differences).sqrt()
    }

    /// The derivatives before a step from those after it; adds what the step says of its samples.
    pub(super) fn follow(
        &mut self,
        module: &M,
        step: &Step,
        at: usize,
        adjoints: &mut [Adjoints],
        derivatives: &mut [Vec<f64>],
    ) -> Result<(), ModelError> {
        let directions: Vec<Direction> =
            adjoints.iter_mut().map(|adjoint| self.direction(step, at, adjoint)).collect::<Result<_, _>>()?;
        let place = displaced(module, &step.parameters, None);
        let products = self.products(&place, step, &directions)?;
        for (query, (direction, adjoint)) in directions.iter().zip(adjoints).enumerate() {
            if direction.norm == 0.0 {
                continue;
            }
            // Nothing is before the first step.
            let pair = if at > 0 || products.is_none() { Some(self.pair(module, step, direction, 1.0)?) } else { None };
            let slopes: Vec<f64> = match (&products, &pair) {
                (Some(products), _) => products[query].clone(),
                (None, Some((ahead, behind, scale))) => {
                    ahead.losses.iter().zip(&behind.losses).map(|(ahead, behind)| (ahead - behind) * scale).collect()
                }
                (None, None) => Vec::new(),
            };
            let (mut sum, mut magnitude) = (0.0, 0.0);
            for (&row, slope) in step.rows.iter().zip(slopes) {
                let slope = slope / step.rows.len() as f64;
                derivatives[query][row] += slope;
                let weighted = self.run.weights.map_or(1.0, |weights| weights[row]) * slope;
                (sum, magnitude) = (sum + weighted, magnitude + weighted.abs());
            }
            if !magnitude.is_finite() {
                return Err(ModelError::Unrolled { step: at, value: magnitude });
            }
            self.missed[0] += (sum - product(&direction.c, &step.advanced.gradients)?).powi(2);
            self.missed[1] += magnitude.powi(2);
            let Some(pair) = pair.filter(|_| at > 0) else { continue };
            let curved = curved(&pair);
            let probed = query == 0 && at.is_multiple_of((self.steps / PROBES).max(1));
            let change = if probed {
                let further = self::curved(&self.pair(module, step, direction, 2.0)?);
                let change = curved.iter().map(|(path, c)| (path.clone(), c.clone() - further[path].clone())).collect();
                Some(product(&change, &change)?)
            } else {
                None
            };
            for (path, curved) in curved {
                if let Some(adjoint) = adjoint.get_mut(&path) {
                    adjoint.parameter = adjoint.parameter.clone() + curved;
                }
            }
            if let Some(change) = change {
                let size: Flat = adjoint.iter().map(|(path, found)| (path.clone(), found.parameter.clone())).collect();
                let size = product(&size, &size)?;
                self.changed = (self.changed.0 + if size > 0.0 { change / size } else { 0.0 }, self.changed.1 + 1);
            }
        }
        Ok(())
    }

    /// The derivative with respect to the gradient of a step; `adjoint` becomes that before the step, but for what the
    /// gradient passes on.
    fn direction(&self, step: &Step, at: usize, adjoint: &mut Adjoints) -> Result<Direction, ModelError> {
        let Advanced { gradients, norm, .. } = &step.advanced;
        let shrunk = self.run.clip_norm.filter(|limit| norm > limit).map(|limit| limit / norm);
        let mut c = Flat::new();
        for (path, gradient) in gradients {
            let Some(moments) = step.moments.get(path).cloned() else { continue };
            let Some(after) = adjoint.remove(path) else { continue };
            let gradient = precise(gradient.clone()).mul_scalar(shrunk.unwrap_or(1.0));
            let Moments { first, second, time } = moments;
            let (before, of_gradient) = after.before(Stepped {
                gradient,
                moments: Moments { first: precise(first), second: second.map(precise), time },
                optimizer: self.run.config.optimizer,
                learning_rate: step.learning_rate,
                weight_decay: self.run.config.weight_decay,
            });
            adjoint.insert(path.clone(), before);
            c.insert(path.clone(), of_gradient);
        }
        if let Some(shrunk) = shrunk {
            // The clipped gradient is `limit g / ‖g‖`.
            let along = product(&c, gradients)? / (norm * norm);
            for (path, c) in &mut c {
                *c = (c.clone() - precise(gradients[path].clone()).mul_scalar(along)).mul_scalar(shrunk);
            }
        }
        let norm = product(&c, &c)?.sqrt();
        if norm.is_finite() { Ok(Direction { c, norm }) } else { Err(ModelError::Unrolled { step: at, value: norm }) }
    }

    /// `⟨c, ∇ℓ_i⟩` of every sample of a step for each direction, from one pass with a tape; `None` if not every trained
    /// parameter is in a block of it.
    fn products(&self, module: &M, step: &Step, directions: &[Direction]) -> Result<Option<Vec<Vec<f64>>>, ModelError> {
        let mut paths: BTreeMap<ParamId, String> = BTreeMap::new();
        visit_parameters(module, |parameter| drop(paths.insert(parameter.id, parameter.path.clone())));
        let mut found: Vec<Vec<f64>> = vec![Vec::with_capacity(step.rows.len()); directions.len()];
        let pieces = step.rows.chunks(self.run.micro_batch.unwrap_or(step.rows.len()));
        for (place, piece) in pieces.enumerate() {
            seed_piece(module, step.seed, place);
            let samples: Vec<&M::Sample> = piece.iter().map(|&row| &self.train[row]).collect();
            let captures = match capture(module, &module.collate(&samples)?, Target::Loss) {
                Ok(captures) => captures,
                Err(GradientError::Read(error)) => return Err(ModelError::Read(error.to_string())),
                Err(_) => return Ok(None),
            };
            let of_block = |capture: &Capture| -> Option<Vec<&str>> {
                let ids = captures.parameters.get(&capture.block.name)?;
                ids.iter().map(|id| paths.get(id).map(String::as_str)).collect()
            };
            let blocks: Option<Vec<Vec<&str>>> = captures.blocks.iter().map(of_block).collect();
            let Some(blocks) = blocks else { return Ok(None) };
            let c = |path: &str| directions.iter().all(|direction| direction.c.contains_key(path));
            let known = blocks.iter().flatten().collect::<BTreeSet<_>>();
            if !step.advanced.gradients.keys().all(|path| known.contains(&path.as_str()) && c(path)) {
                return Ok(None);
            }
            let mut sums: Option<Tensor<2>> = None;
            for (capture, paths) in captures.blocks.iter().zip(&blocks) {
                // What is recorded and not trained has no direction.
                if !paths.iter().any(|path| c(path)) {
                    continue;
                }
                let Some(x) = rows_of(capture, paths, directions) else { return Ok(None) };
                let dots = capture.dots(x);
                sums = Some(match sums {
                    None => dots,
                    Some(sums) => sums + dots,
                });
            }
            let Some(sums) = sums else { return Ok(None) };
            let sums = host(sums).map_err(|error| ModelError::Read(error.to_string()))?;
            found.iter_mut().zip(sums.chunks(piece.len())).for_each(|(all, of_piece)| all.extend(of_piece));
        }
        Ok(Some(found))
    }

    /// Both sides of a step's place along a direction, `times` as far as usual, and what their difference is multiplied
    /// by.
    fn pair(
        &self,
        module: &M,
        step: &Step,
        direction: &Direction,
        times: f64,
    ) -> Result<(Displaced, Displaced, f64), ModelError> {
        let parameters = &step.parameters;
        let size = product(parameters, parameters)?.sqrt();
        let dtype = parameters.values().next().map_or(DType::F32, |first| first.dtype());
        let h = times * self.length.unwrap_or(epsilon(dtype).cbrt() * size.max(1.0));
        let at = |h: f64| {
            let moved = displaced(module, parameters, Some((&direction.c, h / direction.norm)));
            self.losses(&moved, &step.rows, step.seed)
        };
        Ok((at(h)?, at(-h)?, direction.norm / (2.0 * h)))
    }

    /// The losses of a batch's samples and the gradients of their weighted mean.
    fn losses(&self, module: &M, rows: &[usize], seed: u64) -> Result<Displaced, ModelError> {
        let mut each = Vec::with_capacity(rows.len());
        let mut losses = |model: &M, rows: &[usize]| {
            let found = losses_of(model, self.train, rows)?;
            each.extend(read_values(found.clone().without_autodiff())?);
            Ok(found)
        };
        let (_, gradients) = self.run.gradients(module, rows, seed, &mut losses)?;
        if each.len() != rows.len() && each.iter().all(|loss| loss.is_finite()) {
            return Err(ModelError::Weights { weights: each.len(), samples: rows.len() });
        }
        // Where a loss is not finite, the pieces after it were not computed.
        each.resize(rows.len(), f64::NAN);
        Ok(Displaced { losses: each, gradients })
    }
}

/// The part of each direction that belongs to a block, `[q, rows, cols]`; `None` if the block is not its layer's
/// parameters.
fn rows_of(capture: &Capture, paths: &[&str], directions: &[Direction]) -> Option<Tensor<3>> {
    let (rows, cols) = (capture.block.rows, capture.block.cols);
    let of_one = |direction: &Direction| {
        let parts: Option<Vec<Tensor<1>>> = paths.iter().map(|path| direction.c.get(*path).cloned()).collect();
        let parts = Tensor::cat(parts?, 0);
        (parts.dims() == [rows * cols]).then(|| parts.reshape([1, rows, cols]))
    };
    Some(Tensor::cat(directions.iter().map(of_one).collect::<Option<Vec<_>>>()?, 0))
}

/// A module with these parameters, moved along a direction times a factor.
fn displaced<M: SampleModel>(module: &M, parameters: &Flat, along: Option<(&Flat, f64)>) -> M {
    map_parameters(module.clone(), |parameter| {
        let Some(value) = parameters.get(&parameter.path).filter(|_| parameter.is_trained()) else {
            return Change::Keep;
        };
        let step = along.and_then(|(c, factor)| Some(c.get(&parameter.path)?.clone().mul_scalar(factor)));
        Change::Flat(match step {
            Some(step) => value.clone() + step.cast(value.dtype()),
            None => value.clone(),
        })
    })
}

/// `H c` from both sides.
fn curved((ahead, behind, scale): &(Displaced, Displaced, f64)) -> Flat {
    let both = ahead.gradients.iter().filter_map(|(path, ahead)| Some((path, ahead, behind.gradients.get(path)?)));
    both.map(|(path, ahead, behind)| {
        (path.clone(), (precise(ahead.clone()) - precise(behind.clone())).mul_scalar(*scale))
    })
    .collect()
}

/// `⟨a, b⟩` over all parameters of both, in f64.
fn product(a: &Flat, b: &Flat) -> Result<f64, ModelError> {
    let both = a.iter().filter_map(|(path, a)| Some((a, b.get(path)?)));
    let sums = both.map(|(a, b)| (precise(a.clone()) * precise(b.clone())).sum());
    Ok(sums.map(read_values).collect::<Result<Vec<_>, _>>()?.into_iter().flatten().sum())
}

pub(super) fn read_values(values: Tensor<1>) -> Result<Vec<f64>, ModelError> {
    host(values).map_err(|error| ModelError::Read(error.to_string()))
}
