use std::collections::BTreeMap;

use burn::module::ParamId;
use burn::tensor::Tensor;

use crate::{Capture, GradientError, Gradients, Likelihood, Tape};

/// A model with its loss: the trait to implement for attributing its training data.
///
/// Samples of a batch must not influence each other, and positions that are padding must not influence the loss.
pub trait Task {
    /// A batch of samples on the model's device.
    type Batch;

    /// The model's outputs, one row per sample (or per sample and position, samples outermost).
    fn forward(&self, batch: &Self::Batch, tape: &mut Tape) -> Tensor<2>;

    /// The training loss of each sample, `[n]`, not averaged.
    fn loss(&self, outputs: Tensor<2>, batch: &Self::Batch) -> Tensor<1>;

    /// The quantity that a query measures, `[n]`: the loss, unless overridden (with a logit margin, for instance).
    fn measure(&self, outputs: Tensor<2>, batch: &Self::Batch) -> Tensor<1> {
        self.loss(outputs, batch)
    }

    /// The loss as a likelihood of the outputs, if it is one: needed by every [`Estimate`](crate::Estimate) but the
    /// empirical one.
    fn likelihood(&self, batch: &Self::Batch) -> Option<Likelihood> {
        let _ = batch;
        None
    }
}

/// The scalar of a sample that is differentiated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// [`Task::loss`]: for training samples.
    Loss,
    /// [`Task::measure`]: for queries.
    Measure,
}

/// The captures of one batch, and the losses or measures that were differentiated.
#[derive(Clone, Debug)]
pub struct Captures {
    /// One per block, in order of first use.
    pub blocks: Vec<Capture>,
    /// The per-sample losses or measures, `[n]`.
    pub values: Tensor<1>,
    /// The parameters that a block consists of, row by row: the weight and the bias of a linear layer, by the block's
    /// name. Other blocks are not there, and one that stands for several layers has none.
    pub parameters: BTreeMap<String, Vec<ParamId>>,
}

/// Runs a batch once, forward and backward, and returns a capture per block.
///
/// # Errors
///
/// If nothing was recorded, one name has two shapes, the sample counts disagree, or a layer does not reach the loss.
pub fn capture<T: Task>(task: &T, batch: &T::Batch, target: Target) -> Result<Captures, GradientError> {
    let mut tape = Tape::recording();
    let outputs = task.forward(batch, &mut tape);
    let values = match target {
        Target::Loss => task.loss(outputs, batch),
        Target::Measure => task.measure(outputs, batch),
    };
    let (kept, [n]) = (values.clone().without_autodiff(), values.dims());
    let parameters = tape.take_parameters();
    Ok(Captures { blocks: tape.finish(values.sum(), n)?, values: kept, parameters })
}

/// Per-sample gradients of a batch from one backward pass: `g_i = a_iᵀ δ_i` for each block, `[n, rows, cols]`.
///
/// # Errors
///
/// As [`capture`].
pub fn gradients<T: Task>(task: &T, batch: &T::Batch, target: Target) -> Result<Gradients, GradientError> {
    let captures = capture(task, batch, target)?.blocks;
    let blocks = captures.iter().map(Capture::gradients).collect();
    Ok(Gradients { layout: captures.into_iter().map(|c| c.block).collect(), blocks })
}
