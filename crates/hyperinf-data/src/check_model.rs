//! Checks of a model with its adapter on a few rows: per-sample gradients against other batches and against differences
//! of losses.

use burn::tensor::{DType, Device, TensorData};
use hyperinf_gradients::{Block, Target, capture};
use hyperinf_linalg::host;
use hyperinf_models::{Adapter, Limit, SampleModel};

use crate::RunError;
use crate::check::Check;
use crate::dataset::Dataset;
use crate::findings::{Finding, named, told};
use crate::gradients::numbers;
use crate::kind::{Kind, Prepared};
use crate::model_files::ModelFiles;

/// The rows among which the few are chosen.
const POOL: usize = 64;
/// The relative difference of gradients from which batches matter.
const TOLERANCE: f64 = 1e-3;
/// The relative difference between gradients and differences of losses from which the tape is wrong.
const DIFFERENCES: f64 = 0.02;
/// How far the losses are moved: this share of them, and for a second try a quarter.
const MOVED: [f64; 2] = [1e-2, 2.5e-3];

/// The gradient of a row over all blocks, and its loss.
struct Taken {
    loss: f64,
    gradient: Vec<f32>,
}

type SampleOf<K> = <<K as Kind>::Model as SampleModel>::Sample;

pub(crate) fn findings<K: Kind>(
    check: &Check,
    files: &ModelFiles,
    data: &Dataset<K::Content>,
    device: &Device,
) -> Result<Vec<Finding>, RunError> {
    let damaged = "give the adapter of this model, and look for what the message names";
    let adapter = match files.read_adapter() {
        Ok(adapter) => adapter.map(|mut adapter| {
            adapter.config.lora.dropout = 0.0;
            adapter
        }),
        Err(error) => return Ok(vec![Finding::fail("adapter", told(&error), damaged)]),
    };
    let prepared = match K::load(files, adapter.as_ref(), data, device) {
        Ok(prepared) => prepared,
        Err(error) => return Ok(vec![Finding::fail("adapter", told(&error), damaged)]),
    };
    let tensors = adapter.as_ref().map_or(0, |adapter| adapter.tensors.len());
    let mut all = vec![Finding::pass("adapter", format!("{tensors} tensors, all of layers of the model"))];
    let limit = check.length.limit::<K>(&prepared.model, files.note().map(|note| note.max_length))?;
    let rows = chosen::<K>(&prepared, data, limit, check.gradients);
    let numbers: Vec<usize> = rows.iter().map(|(row, _)| *row).collect();
    let samples: Vec<&SampleOf<K>> = rows.iter().map(|(_, sample)| sample).collect();
    let Some(longest) = samples.last() else { return Ok(all) };
    let model = &prepared.model;

    let mut blocks = Vec::new();
    let mut alone = Vec::with_capacity(samples.len());
    for &sample in &samples {
        let (of, taken) = gradients::<K>(model, &[sample])?;
        blocks = of;
        alone.extend(taken);
    }
    let is_bad = |taken: &Taken| !taken.loss.is_finite() || taken.gradient.iter().any(|value| !value.is_finite());
    let bad: Vec<usize> = numbers.iter().zip(&alone).filter(|(_, taken)| is_bad(taken)).map(|(row, _)| *row).collect();
    if !bad.is_empty() {
        let found = format!("the loss or gradient of {} is NaN or infinite", named(&bad));
        all.push(Finding::fail("finite", found, "leave these rows out, or look for a damaged model"));
        return Ok(all);
    }
    let zero = |taken: &Taken| taken.gradient.iter().all(|value| *value == 0.0);
    let zeros: Vec<usize> = numbers.iter().zip(&alone).filter(|(_, taken)| zero(taken)).map(|(row, _)| *row).collect();
    all.push(match zeros.len() {
        0 => Finding::pass("finite", format!("losses and gradients of {}", named(&numbers))),
        _ => {
            let found = format!("the gradient of {} is zero", named(&zeros));
            Finding::warn("finite", found, "such rows have no influence: nothing is left to learn from them")
        }
    });
    let (_, copies) = gradients::<K>(model, &[longest, longest, longest])?;
    let apart = copies.iter().map(|copy| difference(&copy.gradient, &alone[alone.len() - 1].gradient));
    all.push(compared("batch size", apart.fold(0.0, f64::max)));
    if samples.len() > 1 {
        let (_, together) = gradients::<K>(model, &samples)?;
        let pairs = together.iter().zip(&alone);
        let apart = pairs.map(|(one, other)| difference(&one.gradient, &other.gradient));
        all.push(compared("padding", apart.fold(0.0, f64::max)));
    }
    if let Some(adapter) = &adapter {
        let moved = Moved { files, adapter, blocks: &blocks, samples: &samples, alone: &alone };
        all.push(moved.finding::<K>(data, device)?);
    }
    Ok(all)
}

/// Rows of different lengths, the shortest first, with their samples.
fn chosen<K: Kind>(
    prepared: &Prepared<K>,
    data: &Dataset<K::Content>,
    limit: Limit,
    count: usize,
) -> Vec<(usize, SampleOf<K>)> {
    let of_row = |row: &crate::Row<K::Content>| {
        let found = K::sample(prepared, &row.content, limit).ok()?;
        Some((row.row, found.sample))
    };
    let mut pool: Vec<(usize, SampleOf<K>)> = data.rows.iter().take(POOL).filter_map(of_row).collect();
    pool.sort_by_key(|(_, sample)| K::Model::length(sample));
    let (last, count) = (pool.len().saturating_sub(1), count.max(1).min(pool.len()));
    let places: Vec<usize> = (0..count).map(|place| place * last / (count - 1).max(1)).collect();
    let mut place = 0;
    pool.retain(|_| {
        place += 1;
        places.contains(&(place - 1))
    });
    pool
}

fn gradients<K: Kind>(model: &K::Model, samples: &[&SampleOf<K>]) -> Result<(Vec<Block>, Vec<Taken>), RunError> {
    let captures = capture(model, &model.collate(samples)?, Target::Loss)?;
    let losses = host(captures.values)?;
    let mut taken: Vec<Taken> = losses.into_iter().map(|loss| Taken { loss, gradient: Vec::new() }).collect();
    for captured in &captures.blocks {
        let values = numbers(captured)?;
        for (taken, values) in taken.iter_mut().zip(values.chunks(captured.block.parameters())) {
            taken.gradient.extend_from_slice(values);
        }
    }
    Ok((captures.blocks.into_iter().map(|captured| captured.block).collect(), taken))
}

fn norm(values: impl Iterator<Item = f64>) -> f64 {
    values.map(|value| value * value).sum::<f64>().sqrt()
}

/// `||a − b|| / ||b||`.
fn difference(a: &[f32], b: &[f32]) -> f64 {
    let apart = norm(a.iter().zip(b).map(|(a, b)| f64::from(*a) - f64::from(*b)));
    apart / norm(b.iter().map(|b| f64::from(*b))).max(f64::MIN_POSITIVE)
}

fn compared(name: &'static str, apart: f64) -> Finding {
    let found = format!("gradients differ by {apart:.1e} of their norm");
    if apart <= TOLERANCE {
        return Finding::pass(name, found);
    }
    Finding::fail(name, found, "a row's gradient depends on its batch: report the model, and use batches of one row")
}

/// An adapter that is moved along the gradients, to see whether the losses follow.
struct Moved<'a, S> {
    files: &'a ModelFiles,
    adapter: &'a Adapter,
    blocks: &'a [Block],
    samples: &'a [&'a S],
    alone: &'a [Taken],
}

impl<S> Moved<'_, S> {
    /// Compares `⟨g_i, d⟩` with `(L_i(w + h d) − L_i(w − h d)) / 2h`, where `d` is the direction of the sum of the
    /// gradients in all blocks that are matrices of the adapter's file.
    fn finding<K: Kind>(&self, data: &Dataset<K::Content>, device: &Device) -> Result<Finding, RunError>
    where
        K::Model: SampleModel<Sample = S>,
    {
        const NAME: &str = "finite differences";
        let mut direction = Vec::with_capacity(self.alone[0].gradient.len());
        let mut moved = 0;
        for block in self.blocks {
            let (begin, count) = (direction.len(), block.parameters());
            let there = self.matrix(block).is_some();
            moved += if there { count } else { 0 };
            let sum = |at: usize| self.alone.iter().map(|taken| f64::from(taken.gradient[at])).sum::<f64>();
            direction.extend((begin..begin + count).map(|at| if there { sum(at) } else { 0.0 }));
        }
        let size = norm(direction.iter().copied());
        if size == 0.0 {
            let found = "not compared: no gradient of a matrix of the adapter's file";
            return Ok(Finding::warn(NAME, found.into(), ""));
        }
        direction.iter_mut().for_each(|value| *value /= size);
        let along = |taken: &Taken| taken.gradient.iter().zip(&direction).map(|(g, d)| f64::from(*g) * d).sum();
        let expected: Vec<f64> = self.alone.iter().map(along).collect();
        let largest = expected.iter().fold(0.0_f64, |most, value| most.max(value.abs()));
        let loss = self.alone.iter().map(|taken| taken.loss.abs()).sum::<f64>() / self.alone.len() as f64;
        let mut best = f64::INFINITY;
        for share in MOVED {
            let step = share * loss.max(0.1) / largest;
            let mut losses = Vec::new();
            for step in [step, -step] {
                let prepared = K::load(self.files, Some(&self.moved(&direction, step)), data, device)?;
                let found = K::predict(&prepared.model, self.samples)?;
                losses.push(found.into_iter().map(|prediction| prediction.loss).collect::<Vec<f64>>());
            }
            let found = losses[0].iter().zip(&losses[1]).map(|(up, down)| (up - down) / (2.0 * step));
            let apart = norm(found.zip(&expected).map(|(found, expected)| found - expected));
            best = best.min(apart / norm(expected.iter().copied()));
            if best <= DIFFERENCES / 10.0 {
                break;
            }
        }
        let found = format!("of {} rows derivatives by {moved} numbers differ by {best:.1e}", self.alone.len());
        Ok(match best <= DIFFERENCES {
            true => Finding::pass(NAME, found),
            false => Finding::fail(NAME, found, "the gradients are not those of the loss: report the model"),
        })
    }

    /// The matrix of a block in the adapter's file, outputs × inputs. `None` for a block whose last
    /// row is a bias.
    fn matrix(&self, block: &Block) -> Option<Vec<f32>> {
        let tensor = self.adapter.tensors.get(&block.name)?;
        let fits = tensor.shape().to_vec() == [block.cols, block.rows];
        fits.then(|| tensor.clone().convert_dtype(DType::F32).try_into_vec::<f32>().ok()).flatten()
    }

    /// The adapter `step` further along the direction.
    fn moved(&self, direction: &[f64], step: f64) -> Adapter {
        let mut adapter = self.adapter.clone();
        let mut begin = 0;
        for block in self.blocks {
            if let Some(mut values) = self.matrix(block) {
                for row in 0..block.rows {
                    for col in 0..block.cols {
                        values[col * block.rows + row] += (step * direction[begin + row * block.cols + col]) as f32;
                    }
                }
                adapter.tensors.insert(block.name.clone(), TensorData::new(values, [block.cols, block.rows]));
            }
            begin += block.parameters();
        }
        adapter
    }
}
